# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a job starts that comes after others, and in which order such jobs are launched. Pure functions only.

The table is in docs/design/attempts.md, and a test compares both. Another one walks through all that can be reached.
"""

from __future__ import annotations

from . import quantities, retrying, schema
from .errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .schema import Record

FINISHED = "finished"  # a value of after_state; the others are states too
WANTED = (schema.SUCCEEDED, FINISHED, schema.FAILED)
REFUSED = "refused"  # in place of a state: the other job was not launched, and nothing of it has failed either
MOST = 1000  # jobs that one job may come after
SHOWN = 5  # of them that a text names

_MET, _UNMET = retrying.MET, retrying.UNMET
_WRONG_ENDS = (schema.FAILED, schema.TIMED_OUT, schema.STOPPED, schema.LOST)
# By after_state: what the end of another job means for the job that comes after it.
TABLE: dict[str, dict[str, str]] = {
    schema.SUCCEEDED: {
        schema.SUCCEEDED: _MET,
        **dict.fromkeys(_WRONG_ENDS, _UNMET),
        schema.SKIPPED: _UNMET,
        REFUSED: _UNMET,
    },
    FINISHED: {
        schema.SUCCEEDED: _MET,
        **dict.fromkeys(_WRONG_ENDS, _MET),
        schema.SKIPPED: _MET,
        REFUSED: _UNMET,
    },
    schema.FAILED: {
        schema.SUCCEEDED: _UNMET,
        **dict.fromkeys(_WRONG_ENDS, _MET),
        schema.SKIPPED: _UNMET,
        REFUSED: _UNMET,
    },
}


def decide(wanted: str, states: list[str | None]) -> tuple[str | None, int]:
    """Say what the others have decided: the event for ``retrying.TABLE``, and the place of the job that decided it.

    :param wanted: a value of after_state, which all of them must reach.
    :param states: of each the state in which it has finished; None if it has not.
    :return: None as long as nothing is decided. The place means something only if a job is to be skipped.
    """
    row = TABLE[wanted]
    events = [None if state is None else row[state] for state in states]
    if _UNMET in events:
        return _UNMET, events.index(_UNMET)
    return (None if None in events else _MET), -1


def checked(params: dict[str, Any]) -> Record:
    """Return what a request says of the jobs that it comes after, see launcher.

    :param params: those of a launch.
    :raises JobError: naming the parameter that is wrong.
    """
    after, wanted = params.get("after"), params.get("after_state")
    if after is None:
        if wanted is not None:
            raise JobError("after_state is of no use without after: name the jobs to come after")
        return {}
    wanted = schema.SUCCEEDED if wanted is None else wanted
    if wanted not in WANTED:
        told = (", ".join(WANTED), quantities.shown(wanted))
        raise JobError("after_state must be one of %s, not %s" % told)
    found = list(dict.fromkeys(map(_reference, after)))
    if len(found) > MOST:
        raise JobError("after has %d jobs, and may have %d" % (len(found), MOST))
    if params.get("name") in found:
        raise JobError(
            "after has the job's own name, %s: a job cannot wait for itself" % params["name"]
        )
    return {"after": found, "after_state": wanted} if found else {}


def _reference(value: object) -> str:
    """Return what names one job."""
    if not isinstance(value, str) or not value:
        raise JobError(
            "after cannot hold %s: give names or jids of jobs, such as build"
            % quantities.shown(value)
        )
    if not schema.valid_jid(value):
        try:
            schema.check_name(value)
        except JobError as error:
            raise JobError("after cannot hold %s" % error.msg) from None
    return value


def levels(requests: list[Record]) -> list[int]:
    """Return of each job of one call how many jobs of the call come before it, one after the other.

    Names in ``after`` mean jobs of the same call where there are any of that name.

    :raises JobError: some of them wait for each other.
    """
    by_name: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        if request["name"] is not None:
            by_name.setdefault(request["name"], []).append(place)
    before = [
        {place for name in request.get("after") or () for place in by_name.get(name, ())}
        for request in requests
    ]
    followers: list[list[int]] = [[] for _request in requests]
    for place, others in enumerate(before):
        for other in others:
            followers[other].append(place)
    found = [0] * len(requests)
    left = [len(others) for others in before]
    ready = [place for place, number in enumerate(left) if number == 0]
    for place in ready:  # which grows
        for follower in followers[place]:
            found[follower] = max(found[follower], found[place] + 1)
            left[follower] -= 1
            if left[follower] == 0:
                ready.append(follower)
    if len(ready) < len(requests):
        raise _circle(requests, before, {place for place, number in enumerate(left) if number})
    return found


def _circle(requests: list[Record], before: list[set[int]], stuck: set[int]) -> JobError:
    """Return what to tell of jobs that wait for each other."""
    way = [min(stuck)]
    while way.count(way[-1]) < 2:
        way.append(min(before[way[-1]] & stuck))
    circle = [str(requests[place]["name"]) for place in way[way.index(way[-1]) :]]
    if len(circle) > 2 * SHOWN:
        circle = [*circle[:SHOWN], "...", *circle[-SHOWN:]]
    text = "after goes round in a circle: %s" % ", which waits for ".join(circle)
    return JobError(schema.NOTHING_LAUNCHED % (requests[way[-1]].get("place", way[-1]), text))


def skipped(wanted: str, other: str, state: str) -> Record:
    """Return the ending of a job that is not started because of another one.

    :param other: the name of that, or its jid.
    :param state: in which that has finished.
    """
    what = {REFUSED: "was not launched", schema.SUCCEEDED: "succeeded", schema.FAILED: "failed"}
    told = (other, what.get(state, "is " + state), wanted)
    why = "job %s %s, and it was to have %s" % told
    return {"state": schema.SKIPPED, "reason": schema.DEPENDENCY, "survivors": [], "why": why}


def longest(own: float, others: list[float]) -> float:
    """Return for how many seconds a job can be unfinished at the most that first waits for others; 0 for no limit.

    :param own: the same without the others.
    :param others: the same of each of the others.
    """
    if not own or not all(others):
        return 0
    return min(float(schema.LONGEST), own + max(others, default=0.0))
