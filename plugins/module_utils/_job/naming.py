# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a launch under a name compares, predicts and shows. Private to the collection."""

from __future__ import annotations

import json

from . import schema, status
from .errors import JobError
from .record_io import MissingRecord

try:
    from _sha2 import sha256  # type: ignore[import-not-found]  # hashlib, and so hmac, would load OpenSSL
except ImportError:
    from _sha256 import sha256  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .schema import Record
    from .store import Job, Store

HASH_BLOCK = 64  # bytes that SHA-256 takes at once (FIPS 180-4)
SHOWN_DIGITS = 8  # of a secret's digest: enough to see that it has changed


def specification(request: Record, key: bytes) -> Record:
    """Return what two launches of one name are compared by.

    It is what the user asked for. What may be secret is there as a digest that means nothing
    without the async dir's key.
    """

    def digest(value: object) -> str:
        return keyed_digest(key, json.dumps(value).encode())

    spec: Record = {name: request[name] for name in schema.SHOWN_SPEC}
    given = {**request, "retries": request.get("retry")}
    spec.update((name, given[name]) for name in schema.GIVEN_SPEC if given.get(name))
    if "args" in request:  # a module: its argv holds the path of the job's own folder
        spec["module"], spec["args"] = request["args"]["module"], digest(request["args"])
    else:
        spec["cmd"] = digest(request["argv"])
    spec["stdin"] = None if request["stdin"] is None else digest(request["stdin"])
    spec["env"] = {name: digest([name, value]) for name, value in request["env"].items()}
    return spec


def keyed_digest(key: bytes, data: bytes) -> str:
    """Return the HMAC-SHA256 of data (RFC 2104), as ``hmac.new(key, data, "sha256").hexdigest()`` would."""
    if len(key) > HASH_BLOCK:
        key = sha256(key).digest()
    block = key.ljust(HASH_BLOCK, b"\0")
    inner = sha256(bytes(byte ^ 0x36 for byte in block) + data).digest()
    found: str = sha256(bytes(byte ^ 0x5C for byte in block) + inner).hexdigest()
    return found


def key_of(store: Store, *, create: bool) -> bytes:
    """Return the async dir's key. Without one nothing has been launched under a name yet."""
    try:
        return store.secret(create=create)
    except FileNotFoundError:
        return b""


def predicted(store: Store | None, request: Record) -> Record:
    """Return what a launch would return, without changing anything. Parameters and errors: see :func:`predict`."""
    decision, job = predict(store, request)
    if job is not None and decision in (schema.ATTACH, schema.KEEP):
        try:
            return found(job, decision, settle=False)
        except MissingRecord:  # removed at this moment
            decision = schema.START
    nothing = schema.unknown(schema.PREDICTED_JID)
    nothing.update({key: request[key] for key in ("name", "cmd", "timeout")}, finished=False)
    text = "would %s the job" % decision
    return dict(schema.present(nothing), changed=True, msg=text)


def predict(store: Store | None, request: Record) -> tuple[str, Job | None]:
    """Say what a launch would do, see ``schema.decide``, and return the job that it would find.

    :param store: None if the async dir is not there yet.
    :raises JobError: the launch would be refused.
    """
    if store is None or request["name"] is None:
        return schema.START, None
    job, record = status.latest(store, request["name"], settle=False)
    if job is None or record is None:
        return schema.START, None
    spec = specification(request, key_of(store, create=False))
    decision = schema.decide(
        record, spec, on_conflict=request["on_conflict"], rerun=request["rerun"]
    )
    if decision == schema.CONFLICT:
        differs = schema.differing(record, spec)
        raise JobError(schema.conflict_message(record, spec), differs=differs)
    return decision, job


def found(job: Job, decision: str, *, settle: bool) -> Record:
    """Return the result of a launch that started nothing because there was a job already.

    :raises MissingRecord: it has been removed since.
    """
    result = dict(status.look(job, settle=settle), changed=False, attached=False)
    if decision == schema.ATTACH:
        text = "attached to job %s (%s)" % (result["name"], result["ansible_job_id"])
        result.update(attached=True, failed=False, msg=text)
    return result


def diff(store: Store, request: Record, *, create: bool) -> Record:
    """Return the specification of the latest job of a name, and the one that is asked for now.

    :param create: whether the async dir's key may be made, see ``key_of``.
    """
    _job, record = status.latest(store, request["name"], settle=False)
    before: Record = {"cmd": None}
    if record is not None:
        before = _shown(record.get(schema.PRIVATE, {}).get("spec") or {}, record["cmd"])
    cmd = schema.HIDDEN if request["no_log"] else request["cmd"]
    after = _shown(specification(request, key_of(store, create=create)), cmd)
    header = "job %s" % request["name"]
    return {"before": before, "after": after, "before_header": header, "after_header": header}


def _shown(spec: Record, cmd: object) -> Record:
    def masked(digest: str | None) -> str | None:
        return digest and "secret, digest %s" % digest[:SHOWN_DIGITS]

    shown = dict(spec, cmd=cmd, stdin=masked(spec.get("stdin")))
    shown["env"] = {name: masked(digest) for name, digest in (spec.get("env") or {}).items()}
    return shown
