# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of the output of a job that is a module of Ansible: its result, beside the job dictionary.

Only jobs that are modules import this: the launcher before it forks their keepers, everybody else when needed.
"""

from __future__ import annotations

import json
import os

from . import output, schema, validation
from .errors import JobError
from .record_io import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from .job import Job
    from .schema import Record

RESULT_LIMIT = 32 * 1024 * 1024  # bytes of output in which a result is looked for
TAIL = 1000  # characters of its output that a message shows
# What a job dictionary may have, and the record of one that has just ended has not.
RESERVED = frozenset(
    (
        "attached",
        "erased",
        "output_error",
        "poll",
        "stdout_lines",
        "stderr_lines",
        "survivors",
        "module_result",
    )
)

# What is not shown a second time in module_result: it may be large, and is in its own place whatever it is.
ELSEWHERE = frozenset((*schema.STREAMS, "stdout_lines", "stderr_lines", "invocation"))


class NoResultError(Exception):
    """There is no result in what a module has written; the text says why."""


def merge(job: Job, final: Record, exited: Record | None) -> Record:
    """Return a final record with the result of the module, which is read from the job's output.

    :param final: the record as ``schema.finish`` has made it of a job that is a module.
    :param exited: how its process ended; None if nobody knows.
    """
    errors, cut = _excerpt(job, "stderr")
    told = dict(final, module_result=None, stdout="", stderr=errors, truncated=cut)
    judges = final["state"] in (schema.SUCCEEDED, schema.FAILED) and final["signal"] is None
    if exited is not None and judges:
        try:
            own, junk = parse(_whole_output(job))
        except NoResultError as problem:
            _give_up(job, told, exited, str(problem))
        else:
            _adopt(told, own, exited)
            if junk:
                told["warnings"] = [*told.get("warnings", []), *junk]
    else:
        _explain(told, errors or _excerpt(job, "stdout")[0])
    if final[schema.PRIVATE]["no_log"]:
        return _hidden(final, told)
    added = [key for key in told if key not in final]
    told[schema.PRIVATE] = dict(final[schema.PRIVATE], merged=added)
    return told


def again(job: Job, record: Record) -> Record:
    """Return the keys of the module's result that a final record had no room for, or hides (see ``schema.BARE``)."""
    plain = dict(record, **{schema.PRIVATE: dict(record[schema.PRIVATE], no_log=False)})
    for key in record[schema.PRIVATE].get("merged", []):
        plain.pop(key, None)
    told = merge(job, plain, _status_of(job))
    return {key: told[key] for key in told if key not in ("state", "rc", "failed", "signal")}


def parse(text: str) -> tuple[Record, list[str]]:
    """Return a module's result and warnings about what else it has written, as ansible-core finds and words them.

    The result begins with the first line that begins with a brace, and ends with the last line that ends with one.

    :raises NoResultError: there is none.
    """
    lines = text.splitlines()
    first = next((at for at, line in enumerate(lines) if line.strip().startswith("{")), None)
    ends = (at for at in range(len(lines), 0, -1) if lines[at - 1].strip().endswith("}"))
    last = next(ends, 0)
    if first is None or last <= first:
        raise NoResultError("there is no JSON in its output")
    try:
        result = loads("\n".join(lines[first:last]).encode("utf-8", "surrogatepass"))
    except ValueError:
        raise NoResultError("its output is not JSON") from None
    if not isinstance(result, dict):
        raise NoResultError("its output is not a JSON object")
    # One level for the record itself, two for module_result and what readers put around it.
    if validation.is_deep(result, validation.MAX_DEPTH - 3):
        raise NoResultError("its result is nested too deeply")
    before, after = "\n".join(lines[:first]).strip(), "\n".join(lines[last:])
    found = (("before", before), ("after", after))
    junk = [
        "Module invocation had junk %s the JSON data: %s" % one for one in found if one[1].strip()
    ]
    return result, junk


def result(job: Job) -> tuple[Record, list[str]]:
    """Return what a finished module has written as its result; see :func:`parse`."""
    return parse(_whole_output(job))


def errors(job: Job) -> str:
    """Return what a module has written to its standard error, to the letter."""
    try:
        fd = job.open_stream("stderr", os.O_RDONLY)
    except (OSError, JobError):
        return ""
    try:
        return os.pread(fd, schema.EMBED_LIMIT, 0).decode("utf-8", "replace")
    finally:
        os.close(fd)


def _adopt(told: Record, own: Record, exited: Record | None) -> None:
    """Take over a module's result: what it shares with a job, what a job does not know, and all of it in one place."""
    own = {key: value for key, value in own.items() if not key.startswith("_ansible_")}
    for key, plain in _PLAIN.items():
        if key in own:
            own[key] = plain(own[key])
    told["module_result"] = {key: own[key] for key in own if key not in ELSEWHERE}
    for key, value in own.items():
        if key not in told and key not in RESERVED:
            told[key] = value
    told["changed"] = bool(own.get("changed"))
    rc = own.get("rc")
    usable = validation.is_exit_code(rc)
    # As ansible-core's task executor: an rc decides where the module does not say.
    if own.get("failed", rc not in (None, 0, "0")):
        told.update(_failed(exited))
        if usable and rc:
            told["rc"] = rc
    else:
        told.update(state=schema.SUCCEEDED, failed=False, rc=0)
    for stream in schema.STREAMS:
        if isinstance(own.get(stream), str):
            told[stream] = _cut(told, own[stream])
    cmd = own.get("cmd")
    if isinstance(cmd, str) or (
        isinstance(cmd, list) and all(isinstance(word, str) for word in cmd)
    ):
        # One that is larger stays in module_result, where it may be left out of the record.
        told["cmd"] = cmd if len(json.dumps(cmd)) <= schema.EMBED_LIMIT else told["cmd"]
    _say(told, own.get("msg"))


def _say(told: Record, said: object) -> None:
    """Let the message be the module's own, if it has one."""
    if isinstance(said, str) and said:
        told["msg"] = output.shortened(said, schema.EMBED_LIMIT)[0]
    elif said:
        told["msg"] = output.shortened(json.dumps(said), schema.EMBED_LIMIT)[0]
    else:
        told["msg"] = schema.message(told)
        if told["failed"]:
            told["msg"] += "; it ran module %s" % told["module"]


def _failed(exited: Record | None) -> Record:
    """Return the outcome of a module that has failed, whatever its process says."""
    rc = schema.exit_outcome(exited["status"])[1] if exited else 0
    return {"state": schema.FAILED, "failed": True, "rc": rc or None}


def _hidden(final: Record, told: Record) -> Record:
    """Return of a module's result what may be told of a job that was launched with ``no_log``."""
    shown = {key: told[key] for key in ("state", "changed", "failed", "rc")}
    shown.update(dict.fromkeys(schema.STREAMS, schema.HIDDEN), module_result=None)
    found = dict(final, **shown)
    if found["state"] != final["state"]:
        found["msg"] = schema.message(found)
    return found


def _status_of(job: Job) -> Record | None:
    try:
        return job.exit()
    except JobError:
        return None


def _warnings(found: object) -> list[str]:
    """Return warnings as texts. Since ansible-core 2.19 modules write them as objects that only it understands."""
    return [
        one if isinstance(one, str) else str(_event(one).get("msg") or json.dumps(one))
        for one in _listed(found)
    ]


def _deprecations(found: object) -> list[Record]:
    """Return deprecations as ansible-core has always taken them."""
    plain = []
    for one in _listed(found):
        known = one if isinstance(one, dict) else {}
        said: Record = {"msg": one if isinstance(one, str) else str(_event(one).get("msg"))}
        for key in ("version", "date", "collection_name"):
            if isinstance(known.get(key), str):
                said[key] = known[key]
        plain.append(said)
    return plain


def _exception(found: object) -> str:
    """Return the traceback that a module tells of its own failure."""
    event = _event(found)
    return found if isinstance(found, str) else str(event.get("formatted_traceback") or event)


def _event(found: object) -> Record:
    if not isinstance(found, dict):
        return {}
    event = found.get("event")
    return event if isinstance(event, dict) else found


def _listed(found: object) -> list[object]:
    if found is None:
        return []
    return found if isinstance(found, list) else [found]


# What ansible-core's releases write in different ways, and how it is kept.
_PLAIN: dict[str, Callable[[object], object]] = {
    "warnings": _warnings,
    "deprecations": _deprecations,
    "exception": _exception,
}


def _give_up(job: Job, told: Record, exited: Record, problem: str) -> None:
    """Say of a module that has ended without a result what it has given instead."""
    raw, cut = _excerpt(job, "stdout")
    told.update(_failed(exited), truncated=told["truncated"] or cut)
    told.update(module_stdout=raw, module_stderr=told["stderr"])
    who = told["name"] or told["ansible_job_id"]
    msg = "job %s failed: module %s gave no result: %s (rc %s)"
    tail = told["stderr"] or raw
    told["msg"] = _with_tail(msg % (who, told["module"], problem, told["rc"]), tail)


def _explain(told: Record, text: str) -> None:
    """Say what became of a module that was not left to its own end."""
    why = told["msg"]
    if told["reason"] != schema.NOT_STARTED:
        why = schema.message(
            dict(told, stderr="")
        )  # without its last line: there is more of it here
    told["msg"] = _with_tail("%s; it ran module %s" % (why, told["module"]), text)


def _with_tail(msg: str, text: str) -> str:
    """Return a message with the end of what a module has written."""
    tail = text.rstrip()[-TAIL:]
    return "%s; the end of its output: %s" % (msg, tail) if tail else msg


def _cut(told: Record, text: str) -> str:
    """Return as much of a text as a job dictionary may hold; what is left out makes it ``truncated``."""
    kept, cut = output.shortened(text, schema.EMBED_LIMIT)
    told["truncated"] = told["truncated"] or cut
    return kept


def _excerpt(job: Job, stream: str) -> tuple[str, bool]:
    """Return as much of a stream as a job dictionary may hold, and whether anything is missing."""
    try:
        fd = job.open_stream(stream, os.O_RDONLY)
    except (OSError, JobError):
        return "", True
    try:
        text, _size, cut = output.excerpt(fd, schema.EMBED_LIMIT)
    finally:
        os.close(fd)
    return text, cut


def _whole_output(job: Job) -> str:
    """Return all that a module has written to its standard output. :raises NoResultError: that cannot be."""
    try:
        fd = job.open_stream("stdout", os.O_RDONLY)
    except (OSError, JobError) as error:
        raise NoResultError("its output cannot be read: %s" % error) from None
    try:
        size = os.fstat(fd).st_size
        if size > RESULT_LIMIT:
            raise NoResultError("its output has %d bytes, more than a result may have" % size)
        if output.hole(fd, size)[0] < size:
            raise NoResultError("output_limit has cut its output, of %d bytes" % size)
        return os.pread(fd, size, 0).decode("utf-8", "replace")
    finally:
        os.close(fd)
