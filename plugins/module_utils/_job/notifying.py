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
TRIED_AGAIN = (
    "durable.jobs.attempt"  # the type of the event of a failed attempt that is tried again,
)
ATTEMPT = "attempt"  # and what asks for it in `on`
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


def wants_attempts(sink: Record) -> bool:
    """Tell whether a sink wants to hear of failed attempts that are tried again."""
    return ATTEMPT in (sink.get("on") or ())


def event(record: Record, source: str | None) -> Record:
    """Return the event of a job's end (CloudEvents 1.0, JSON format).

    :param record: the job's final record.
    :param source: the host's name in the inventory; None where nobody told.
    """
    return _event(FINISHED, record, source, _ended(record), _message(record))


def attempt_event(record: Record, number: int, source: str | None) -> Record:
    """Return the event of a failed attempt that is tried again.

    :param record: the job's, that of the pause or any later one.
    :param number: of the attempt, from 1.
    """
    job = _after(record, number)
    text = schema.message(job) + "; it is tried again"
    is_latest = number == record["attempt"]
    when = _ended(record, job["elapsed"]) if is_latest else _moment(job["end"])
    return _event(TRIED_AGAIN, job, source, when, text)


def _event(kind: str, job: Record, source: str | None, when: str, text: str) -> Record:
    shown = schema.present(job, "none")
    known = {*schema.present(schema.unknown("")), "module", "survivors"}.difference(_WITHOUT)
    data = {key: shown[key] for key in shown if key in known}
    return {
        "specversion": "1.0",
        "type": kind,
        "id": "%s:%s:%s" % (job["ansible_job_id"], job.get("attempt") or 1, kind),
        "source": source or os.uname().nodename,
        "time": when,
        "datacontenttype": "application/json",
        "data": dict(data, msg=text),
    }


def _after(record: Record, number: int) -> Record:
    """Return the dictionary of a job as it was when an attempt had failed that was to be tried again.

    What is forgotten of an attempt when the next one runs is null, so the event is the same whenever it is made.
    """
    attempts = record["attempts"]
    if len(attempts) < number:
        raise JobError("nothing is known of attempt %d" % number)
    one, following = attempts[number - 1], attempts[number:]
    nothing = ("deadline", "progress", "stdout_bytes", "stderr_bytes", "stdout_file", "stderr_file")
    private = dict(record.get(schema.PRIVATE, {}))
    for key in ("extended", schema.FLAW):  # of a later attempt, or of no attempt at all
        private.pop(key, None)
    job = dict(record, **dict.fromkeys((*nothing, "truncated", "output_error", "stopped_by")))
    job.pop("survivors", None)
    job.update((key, one[key]) for key in ("state", "rc", "signal", "reason", "start", "end"))
    job.update(
        attempt=number,
        attempts=attempts[:number],
        started=one["start"] is not None,
        finished=False,
        changed=True,
        failed=True,
        elapsed=one["elapsed"],
        delta=None if one["elapsed"] is None else schema.duration(one["elapsed"]),
        start_at=following[0]["start"] if following else record["start_at"] or record["start"],
        **dict.fromkeys(schema.STREAMS, ""),
        **{schema.PRIVATE: private},
    )
    return job


def attempt_tail(record: Record, number: int) -> Record | None:
    """Return the end of each stream of an attempt, see :func:`tail`."""
    if record.get(schema.PRIVATE, {}).get("no_log"):
        return None
    one = record["attempts"][number - 1]
    return {name: one[name] for name in schema.STREAMS}


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


def _ended(record: Record, elapsed: float | None = None) -> str:
    """Return when a job, or its latest attempt, ended, or else now: RFC 3339, UTC."""
    private = record.get(schema.PRIVATE)
    elapsed = record.get("elapsed") if elapsed is None else elapsed
    return _utc(time.time() if private is None or elapsed is None else private["epoch"] + elapsed)


def _moment(text: str | None) -> str:
    """Return a moment that a record tells as ``schema.timestamp`` writes it, or else now: RFC 3339, UTC."""
    try:
        whole, _dot, micros = (text or "").partition(".")
        local = time.mktime(time.strptime(whole, "%Y-%m-%d %H:%M:%S"))
        return _utc(local + int(micros) / 1000000)
    except (ValueError, OverflowError):
        return _utc(time.time())


def _utc(when: float) -> str:
    micros = round(when * 1000000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(micros // 1000000))
    return "%s.%06dZ" % (text, micros % 1000000)


def counts(sinks: list[Record]) -> Record:
    """Count what has become of the notifications of a job."""
    return {state: sum(one["state"] == state for one in sinks) for state in COUNTED}
