# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with what lies in the place of a record or a slot. Pure functions only.

Whoever reads one asks here first, so nobody else has to expect a surprise.
"""

from __future__ import annotations

import os

from . import schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Iterator

    from .schema import Record

    Rules = Dict[str, Callable[[object], bool]]

MAX_DEPTH = 100  # of a record; what is nested deeper would end readers with a RecursionError
_LATEST = 253402300799.0  # the last second of the year 9999, and more seconds than any machine runs


def _integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_exit_code(value: object) -> bool:
    """Tell whether a value can be what a command's ``rc`` is."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**32


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _LATEST


def _amount(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= schema.LARGEST


def _counter(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 2**20


def _text(value: object) -> bool:
    return isinstance(value, str)


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _object(value: object) -> bool:
    return isinstance(value, dict)


def _specification(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _or_null(_text)(value.get("stdin"))
        and _or_null(_object)(value.get("env"))
        and all(map(_text, (value.get("env") or {}).values()))
    )


def _command_line(value: object) -> bool:
    return _text(value) or (isinstance(value, list) and all(map(_text, value)))


def _signal(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 64


def _wait_status(value: object) -> bool:
    return (
        isinstance(value, int)
        and not isinstance(value, bool)
        and 0 <= value <= 0xFFFF
        and (os.WIFEXITED(value) or os.WIFSIGNALED(value))
    )


def _finished_state(value: object) -> bool:
    return _text(value) and value in schema.FINISHED_STATES


def _survivors(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and _integer(one.get("pid")) and _text(one.get("name"))
        for one in value
    )


def _process(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _integer(value.get("pid"))
        and value["pid"] > 0
        and _integer(value.get("started"))
    )


def _percent(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100


def _progress(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _or_null(_percent)(value.get("percent"))
        and _or_null(_text)(value.get("status"))
        and _text(value.get("at"))
    )


def _unit(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _text(value.get("name"))
        and isinstance(value.get("limits"), dict)
        and isinstance(value.get("groups"), list)
        and all(map(_text, value["groups"]))
    )


def _or_null(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or is_right(value)


_ATTEMPT_RULES: Rules = {
    "attempt": _counter,
    "state": _finished_state,
    "rc": _or_null(_integer),
    "signal": _or_null(_text),
    "reason": _or_null(_text),
    "start": _or_null(_text),
    "end": _or_null(_text),
    "elapsed": _or_null(_number),
    "stdout": _text,
    "stderr": _text,
}


def _attempts(value: object) -> bool:
    return isinstance(value, list) and not any(_flaw(one, _ATTEMPT_RULES) for one in value)


def _policy(value: object) -> bool:
    numbers = dict.fromkeys(("delay", "backoff", "delay_max", "jitter"), _number)
    return not _flaw(value, {"retries": _counter, "on": lambda on: isinstance(on, list), **numbers})


# What readers and keepers rely on; whatever else lies in a record is passed on.
_RECORD_RULES: Rules = {
    "ansible_job_id": _text,
    "name": _or_null(_text),
    "state": lambda value: _text(value) and value in schema.STATES,
    "started": _flag,
    "finished": _flag,
    "changed": _flag,
    "failed": _flag,
    "rc": _or_null(_integer),
    "signal": _or_null(_text),
    "reason": _or_null(_text),
    "cmd": _command_line,
    "start": _or_null(_text),
    "end": _or_null(_text),
    "delta": _or_null(_text),
    "elapsed": _or_null(_number),
    "timeout": _number,
    "deadline": _or_null(_text),
    "stdout": _text,
    "stderr": _text,
    "stdout_bytes": _integer,
    "stderr_bytes": _integer,
    "truncated": _flag,
    "stdout_file": _text,
    "stderr_file": _text,
    "results_file": _text,
    "containment": _text,
    "user": _text,
    "progress": _or_null(_progress),
    "submitted": _text,
}
# Those of earlier releases have none of these.
_NEW_RULES: Rules = {
    "attempt": _counter,
    "max_attempts": _counter,
    "attempts": _attempts,
    "start_at": _or_null(_text),
    "timeout_total": _or_null(_number),
}
# Of a job that is a module of Ansible; a command's has none of it.
_MODULE_RULES: Rules = {"module": _text}
_PRIVATE_RULES: Rules = {
    "no_log": _flag,
    "boot_id": _text,
    "machine": lambda value: (
        isinstance(value, dict) and _text(value.get("id")) and _text(value.get("name"))
    ),
    "epoch": _number,
    "monotonic": _number,
    "grace": _number,
    "stop_signal": _signal,
    "output_limit": _amount,
    "spec": _or_null(_specification),
    "rerun": _text,
}
# Not every job has these, and those of earlier releases have none.
_OPTIONAL_RULES: Rules = {
    "max_timeout": _or_null(_number),
    "watchdog": _or_null(_number),
    "retry": _or_null(_policy),
    "due": _or_null(_number),
    "first": _number,
    "checksum": _integer,
    "reports": _flag,
    "pid_namespace": _integer,
    "notify": _integer,  # how many sinks, see outbox
    "extended": _number,
    "unit": _or_null(_unit),
    # The record holds a module's result.
    "merged": lambda value: isinstance(value, list) and all(map(_text, value)),
    # The keyword `async` has launched it.
    "keyword": lambda value: isinstance(value, dict) and _flag(value.get("check_mode")),
}
# A job that has never started has no processes.
_PROCESS_RULES: Rules = {
    "keeper": _integer,
    "runner": _integer,
    "command": _process,
    "ahead": lambda value: (
        isinstance(value, list) and all(_text(jid) and schema.valid_jid(jid) for jid in value)
    ),
}
_SLOT_RULES: dict[str, Rules] = {
    "exit": {"status": _wait_status, "epoch": _number, "monotonic": _number},
    "ending": {
        "state": _finished_state,
        "reason": _or_null(_text),
        "signal": _signal,
        "survivors": _survivors,
    },
    schema.PROGRESS: {
        "percent": _or_null(_percent),
        "status": _or_null(_text),
        "at": _or_null(_number),
        "extended": _or_null(_number),
    },
}


# The same in the result of any module, which may say anything: only what every reader can use.
_FOREIGN_RULES: Rules = {
    **_RECORD_RULES,
    **_NEW_RULES,
    "rc": is_exit_code,
    "stdout_bytes": _amount,
    "stderr_bytes": _amount,
    "output_error": _or_null(_text),
    "survivors": _survivors,
    "ansible_facts": lambda value: isinstance(value, dict),  # else ansible-core 2.17 crashes
}


def usable(result: Record) -> Record:
    """Return what a job dictionary may take from the result of any module: keys of ours that are wrong are left out."""
    return {
        key: value
        for key, value in result.items()
        if key not in _FOREIGN_RULES or _FOREIGN_RULES[key](value)
    }


def slot_flaw(slot: str, content: object) -> str | None:
    """Tell what is wrong with the content of a slot; None if nothing is."""
    return _flaw(content, _SLOT_RULES[slot])


def record_flaw(jid: str, record: object) -> str | None:
    """Tell what is wrong with what lies in a record's place; None if nothing is.

    A record without our private part is the builtin's: the result of any module, which may be any object.
    """
    if not isinstance(record, dict):
        return "it is not a JSON object"
    if is_deep(record, MAX_DEPTH):
        return "it is nested too deeply"
    if schema.PRIVATE not in record:
        return None
    private = record[schema.PRIVATE]
    version = private.get("version") if isinstance(private, dict) else None
    if not _integer(version):
        return "its format is unknown"
    if version != schema.VERSION:
        return "its format is version %s, and this version of durable.jobs knows %s" % (
            str(version)[:20],
            schema.VERSION,
        )
    processes = _PROCESS_RULES if record.get("started") else {}
    module = _MODULE_RULES if "module" in record else {}
    new = _NEW_RULES if "retry" in private else {}
    optional = {key: is_right for key, is_right in _OPTIONAL_RULES.items() if key in private}
    return (
        _flaw(record, dict(_RECORD_RULES, **module, **new))
        or _flaw(private, dict(_PRIVATE_RULES, **processes, **optional))
        or next(_contradictions(jid, record), None)
    )


def _flaw(content: object, rules: Rules) -> str | None:
    if not isinstance(content, dict):
        return "it is not a JSON object"
    for key, is_right in rules.items():
        if key not in content:
            return "it lacks %s" % key
        if not is_right(content[key]):
            return "it has an impossible %s" % key  # not the value: it may be output that is hidden
    return None


def _contradictions(jid: str, record: Record) -> Iterator[str]:
    state, rc = record["state"], record["rc"]
    if record["ansible_job_id"] != jid:
        yield "it is the record of job %s" % ascii(record["ansible_job_id"])[:100]
    if record["finished"] != (state in schema.FINISHED_STATES):
        yield "it says both %s and %s" % (state, "finished" if record["finished"] else "unfinished")
    if (rc == 0) != (state == schema.SUCCEEDED) or (rc is not None and not record["finished"]):
        yield "it says both %s and rc %s" % (state, ascii(rc)[:20])
    has_failed = record["finished"] and state != schema.SUCCEEDED
    if record["failed"] != has_failed:
        yield "it says both %s and %s" % (state, "failed" if record["failed"] else "not failed")
    if state == schema.LOST and (rc is not None or not record["reason"]):
        yield "it says lost, but has an rc or no reason"
    # What has never been started may also have failed, been stopped or been lost while it waited for its turn.
    if record["started"] and state == schema.QUEUED and not record.get("attempts"):
        yield "it says both queued and started"
    if not record["started"] and (state in (schema.RUNNING, schema.SUCCEEDED) or rc is not None):
        yield "it says both %s and never started" % state


def is_deep(value: object, limit: int) -> bool:
    """Tell whether a value is nested more than so many levels deep."""
    level = [value]
    for _depth in range(limit):
        level = [
            child
            for one in level
            if isinstance(one, (dict, list))
            for child in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True
