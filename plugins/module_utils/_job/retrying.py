# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a job starts, starts again and is over: the table that its keeper follows. Pure functions only.

The table is in docs/design/attempts.md, and a test compares both. Another test walks through all that can be reached.
"""

from __future__ import annotations

from . import quantities, schema
from .errors import JobError
from .poll_plan import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .schema import Record

# Phases of a job.
WAITING = "waiting"  # for its time, and for its slot
STARTING = "starting"
RUNNING = "running"
CLEARING = "clearing"  # an attempt has ended, and what is left of it is being ended
PAUSING = "pausing"
OVER = "over"

# What can happen.
DUE = "due"  # the time has come, and the slot is free
BEGUN = "begun"  # the command has been exec'ed
ABORTED = "aborted"  # a process of ours was killed before it could be exec'ed: nothing has run
ENDED = "ended"  # the attempt has, or could not be started, and it was the last one
AGAIN = "again"  # the same, and there is to be another one
CLEARED = "cleared"  # nothing is left of the attempt
LEFT = "left"  # something of it survives SIGKILL: a second attempt would run beside it
STOP = "stop"  # somebody wants it stopped
SHUTDOWN = "shutdown"  # the machine goes down

TABLE = {
    (WAITING, DUE): STARTING,
    (WAITING, STOP): OVER,
    (WAITING, SHUTDOWN): OVER,
    (STARTING, BEGUN): RUNNING,
    (STARTING, ABORTED): STARTING,
    (STARTING, AGAIN): CLEARING,
    (STARTING, ENDED): OVER,
    (RUNNING, ABORTED): STARTING,
    (RUNNING, AGAIN): CLEARING,
    (RUNNING, ENDED): OVER,
    (CLEARING, CLEARED): PAUSING,
    (CLEARING, LEFT): OVER,
    (PAUSING, DUE): STARTING,
    (PAUSING, STOP): OVER,
    (PAUSING, SHUTDOWN): OVER,
}

DEFAULT_ON = (schema.FAILED,)
DEFAULTS: dict[str, Any] = {
    "start_in": 0,
    "retries": 0,
    "retry_on": list(DEFAULT_ON),
    "retry_delay": 10,
    "retry_backoff": 2,
    "retry_delay_max": 300,
    "retry_jitter": 0.1,
    "timeout_total": 0,
}
# What the list retry_on may hold beside exit codes and signals.
_WORDS = (schema.FAILED, schema.TIMED_OUT, schema.OOM, schema.WATCHDOG, schema.LOST)
_NEVER = {
    schema.STOPPED: "what was stopped on request stays stopped",
    schema.SUCCEEDED: "what has succeeded is done",
}


def checked(params: dict[str, Any]) -> Record:
    """Return what a request says of starting later and again, see launcher.

    :param params: those of a launch, with durations in seconds.
    :raises JobError: naming the parameter that is wrong.
    """
    params = {
        **params,
        **{name: value for name, value in DEFAULTS.items() if params.get(name) is None},
    }
    total, timeout, retries = params["timeout_total"], params["timeout"], params["retries"]
    if total and timeout > total:
        raise JobError(
            "timeout_total is %s, which must not be less than timeout, %s: it covers all attempts and their pauses"
            % (plain(total), plain(timeout))
        )
    if retries and params["rerun"] == "never":
        raise JobError(
            "retries cannot be used with rerun=never, which keeps the first result of a name: use rerun=on_failure"
        )
    on = [_cause(value) for value in _listed(params["retry_on"])]
    if retries and not on:
        raise JobError(
            "retry_on is empty, so nothing would be tried again: give for example failed, or leave it out"
        )
    found: Record = {
        "start_in": plain(params["start_in"]),
        "timeout_total": plain(total) if total else None,
        "retry": None,
    }
    if retries:
        found["retry"] = {
            "retries": retries,
            "on": sorted(set(on), key=str),
            "delay": plain(params["retry_delay"]),
            "backoff": plain(params["retry_backoff"]),
            "delay_max": plain(max(params["retry_delay_max"], params["retry_delay"])),
            "jitter": plain(params["retry_jitter"]),
        }
    return found


def is_patient(request: Record) -> bool:
    """Tell whether a job that is launched may have to wait, or more than one attempt counts, see attempts."""
    return any(request.get(name) for name in ("start_in", "retry", "timeout_total"))


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _cause(value: object) -> int | str:
    """Return a value of retry_on in the one way in which it is kept: 75, ``SIGSEGV``, ``failed``."""
    text = str(value).strip()
    if text in _NEVER:
        raise JobError("retry_on cannot hold %s: %s" % (text, _NEVER[text]))
    if text in _WORDS:
        return text
    if text.isascii() and text.isdigit() and not isinstance(value, bool):
        if len(text) <= 3 and 1 <= int(text) <= 255:
            return int(text)
        raise JobError(
            "retry_on cannot hold %s: an exit code that is tried again is 1 to 255"
            % quantities.shown(value)
        )
    try:
        return schema.signal_name(schema.signal_number(text))
    except JobError:
        told = (quantities.shown(value), ", ".join(_WORDS))
        raise JobError(
            "retry_on cannot hold %s: give an exit code such as 75, a signal such as SIGSEGV, or one of %s"
            % told
        ) from None


def is_cause(on: list[int | str], ended: Record) -> bool:
    """Tell whether an attempt has ended in a way that is tried again.

    :param on: what ``checked`` has made of retry_on.
    :param ended: ``state``, ``rc``, ``signal`` and ``reason`` of the attempt.
    """
    state, reason = ended["state"], ended["reason"]
    if state in _NEVER or reason in (schema.REBOOTED, schema.TOTAL):
        return False
    if state in on or reason in on:
        return True
    by = ended["signal"] if ended["signal"] is not None else ended["rc"]
    return state == schema.FAILED and by is not None and by in on


def longest_pause(policy: Record, number: int) -> tuple[float, float]:
    """Return between how many seconds, the least and the most, the pause after an attempt lasts.

    It is never shorter than ``retry_delay`` and never longer than ``retry_delay_max``.

    :param number: of that attempt, from 1.
    """
    most, share = float(policy["delay_max"]), 1 + float(policy["jitter"])
    try:
        base = min(most, policy["delay"] * float(policy["backoff"]) ** (number - 1))
    except OverflowError:
        base = most if policy["delay"] else 0.0
    high = min(most, base * share)
    return max(float(policy["delay"]), min(base, high / share)), high


def pause_after(
    policy: Record | None, ended: Record, *, number: int, left: float | None, chance: float
) -> float | None:
    """Return how many seconds to pause after an attempt until the next one; None if there is to be none.

    :param policy: of the request, see ``checked``; None if nothing is tried again.
    :param ended: how the attempt ended, see ``is_cause``.
    :param number: of that attempt, from 1.
    :param left: seconds of ``timeout_total`` that are left; None for no limit.
    :param chance: a random number from 0 to 1.
    """
    if policy is None or number > policy["retries"] or not is_cause(policy["on"], ended):
        return None
    low, high = longest_pause(policy, number)
    pause = low + (high - low) * chance
    return None if left is not None and pause >= left else pause


def longest(request: Record) -> float:
    """Return for how many seconds a job can be unfinished at the most, its last grace apart; 0 for no limit.

    :param request: see launcher.
    """
    limit = request["max_timeout"] or request["timeout"]
    total, policy = request.get("timeout_total"), request.get("retry")
    if not (limit or total):
        return 0
    every = limit
    if policy is not None and limit:
        pauses = sum(longest_pause(policy, number)[1] for number in range(1, policy["retries"] + 1))
        every += pauses + policy["retries"] * (limit + request["grace"])
    every = min(every or total, total or every)
    return plain(min(float(schema.LONGEST), (request.get("start_in") or 0) + every))
