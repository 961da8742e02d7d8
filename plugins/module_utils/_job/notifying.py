# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Notifications: what the user asks for with ``notify``, and the event that is sent. Pure functions only."""

from __future__ import annotations

import os
import time
from urllib.parse import urlsplit

from . import quantities, schema
from .errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .schema import Record

FINISHED = "durable.jobs.finished"  # the type of the event at a job's end
ATTEMPT = "attempt"  # in `on`: each failed attempt that is tried again (type durable.jobs.attempt)
ON = (*(state for state in schema.STATES if state in schema.FINISHED_STATES), ATTEMPT)

MOST_SINKS = 16  # that a job may notify
LONGEST_ANSWER = 300  # seconds that a receiver may take; a deliverer waits for no longer
DEFAULT_TIMEOUT = 10  # seconds
KINDS = ("url", "argv", "journald")
FOR_URL = ("secret", "bearer", "ca_file", "client_cert", "client_key", "http_timeout")
PATHS = ("ca_file", "client_cert", "client_key")

# What has become of one notification. A sink that does not want the event is UNWANTED, and is not counted.
PENDING, DELIVERED, GIVEN_UP, UNWANTED = "pending", "delivered", "given_up", "unwanted"
COUNTED = (PENDING, DELIVERED, GIVEN_UP)

_WITHOUT = ("stdout", "stderr", "stdout_lines", "stderr_lines", "erased", "notifications")


def asked(params: dict[str, Any]) -> Record:
    """Return what a launch request says of notifications: ``notify`` and ``notify_for``; nothing without ``notify``.

    :raises JobError: naming the entry that is wrong. The message shows no value that may be secret.
    """
    entries = params["notify"]
    if not entries:
        return {}
    if len(entries) > MOST_SINKS:
        raise JobError("notify has %d entries, and may have %d" % (len(entries), MOST_SINKS))
    checked = []
    for number, entry in enumerate(entries):
        try:
            checked.append(_checked(entry))
        except JobError as error:
            raise JobError("notify[%d]: %s" % (number, error.msg)) from None
    return {"notify": checked, "notify_for": params["notify_for"]}


def _checked(entry: dict[str, Any]) -> Record:
    found: Record = {name: value for name, value in entry.items() if value is not None}
    kinds = [name for name in KINDS if found.get(name)]
    if len(kinds) != 1:
        raise JobError("give exactly one of url, argv and journald: true")
    if kinds != ["url"] and found.get("http_timeout") == DEFAULT_TIMEOUT:
        del found["http_timeout"]  # nobody has given it
    strange = [name for name in FOR_URL if name in found and kinds != ["url"]]
    if strange:
        raise JobError("%s can only be used with url" % ", ".join(strange))
    unknown = [state for state in found.get("on") or () if state not in ON]
    if unknown:
        told = (", ".join(ON), quantities.shown(unknown[0]))
        raise JobError("on must be a list of %s, and not hold %s" % told)
    if "argv" in kinds:
        _check_argv(found["argv"])
    if "url" in kinds:
        _check_url(found)
    return found


def _check_argv(argv: list[str]) -> None:
    if not argv[0] or any("\0" in word for word in argv):
        raise JobError("argv must name a program, and hold no null character")


def _is_http(url: str) -> bool:
    """Tell whether this is an absolute URL of HTTP or HTTPS, and nothing that could add a line to a request."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False
    return sound and url.isascii() and url.isprintable() and " " not in url


def _check_url(sink: Record) -> None:
    if not _is_http(sink["url"]):
        raise JobError(
            "url must be such as https://example.com:5000/endpoint, with %-escapes for what is not ASCII"
        )
    if "@" in urlsplit(sink["url"]).netloc:
        raise JobError("url must hold no user and password; use bearer or secret")
    if "client_key" in sink and "client_cert" not in sink:
        raise JobError("client_key needs client_cert")
    limit = quantities.seconds("http_timeout", sink.get("http_timeout", DEFAULT_TIMEOUT))
    if not 0 < limit <= LONGEST_ANSWER:
        raise JobError("http_timeout must be more than 0 and at most %d s" % LONGEST_ANSWER)
    sink["http_timeout"] = limit
    _check_credentials(sink)


def _check_credentials(sink: Record) -> None:
    for name in ("bearer", "secret"):
        text = sink.get(name, "x")
        if not text or (name == "bearer" and not (text.isascii() and text.isprintable())):
            raise JobError("%s must not be empty, and a bearer token is printable ASCII" % name)
    for name in PATHS:
        if name in sink:
            sink[name] = os.path.expanduser(os.path.expandvars(sink[name]))
            if not os.path.isabs(sink[name]):
                raise JobError("%s must be an absolute path" % name)


def described(sink: Record) -> str:
    """Name a sink for people. Path and query of a URL, and arguments of a program, may be secret."""
    if "url" in sink:
        parts = urlsplit(sink["url"])
        return "%s://%s" % (parts.scheme, parts.netloc)
    return "argv %s" % sink["argv"][0] if "argv" in sink else "journald"


def wants(sink: Record, record: Record) -> bool:
    """Tell whether a sink wants to hear of the end of a job."""
    on = sink.get("on")
    return on is None or record["state"] in on


def event(record: Record, source: str | None) -> Record:
    """Return the event of a job's end (CloudEvents 1.0, JSON format).

    An event of the type durable.jobs.attempt will differ in its type, the number in its id, and the data.

    :param record: the job's final record.
    :param source: the host's name in the inventory; None where nobody told.
    """
    shown = schema.present(record, "none")
    known = {*schema.present(schema.unknown("")), "module", "msg", "survivors"}.difference(_WITHOUT)
    data = {key: shown[key] for key in shown if key in known}
    data["msg"] = _message(record)
    return {
        "specversion": "1.0",
        "type": FINISHED,
        "id": "%s:%s:%s" % (record["ansible_job_id"], record.get("attempt") or 1, FINISHED),
        "source": source or os.uname().nodename,
        "time": _ended(record),
        "datacontenttype": "application/json",
        "data": data,
    }


def tail(record: Record) -> Record | None:
    """Return the end of each stream, for sinks that include output; None for a job that was launched with no_log."""
    if record.get(schema.PRIVATE, {}).get("no_log"):
        return None
    shown = schema.present(record, "tail")
    return {name: shown[name] for name in schema.STREAMS}


def _message(record: Record) -> str:
    """Return the job's message without any output, which also the last line of stderr would be."""
    hidden = record.get(schema.PRIVATE, {}).get("no_log")
    if hidden or "module" in record or record.get("stderr") or "msg" not in record:
        return schema.message(dict(record, stderr=""))
    return str(record["msg"])


def _ended(record: Record) -> str:
    """Return when a job ended, or else now: RFC 3339, UTC."""
    private, elapsed = record.get(schema.PRIVATE), record.get("elapsed")
    when = time.time() if private is None or elapsed is None else private["epoch"] + elapsed
    micros = round(when * 1000000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(micros // 1000000))
    return "%s.%06dZ" % (text, micros % 1000000)


def counts(sinks: list[Record]) -> Record:
    """Count what has become of the notifications of a job."""
    return {state: sum(one["state"] == state for one in sinks) for state in COUNTED}
