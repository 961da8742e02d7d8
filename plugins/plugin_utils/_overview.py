# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the table and the report have in common: the jobs of many hosts. Private to the collection."""

from __future__ import annotations

import math
import re
import typing as t

from ..module_utils._job import schema
from ..module_utils._job.errors import JobError

Job = t.Mapping[str, t.Any]

UNKNOWN = "unknown"  # the state of a job of which nothing can be said here
LIVE = (schema.RUNNING, schema.QUEUED)
SHOWN_STATES = (*LIVE, *(one for one in schema.STATES if one not in LIVE), UNKNOWN)


class Host(t.NamedTuple):
    """What one host has answered."""

    name: str
    jobs: list[Job]
    problem: str | None  # why there is no answer
    note: str  # where it has looked, as whom, and what else there is
    more: int  # so many jobs are asked for and not shown


def hosts(answers: object) -> list[Host]:
    """Return what each host has answered, in a natural order of their names.

    :param answers: a dictionary: for each host what ``job_info`` returned there, or why it did not.
    :raises JobError: it is something else.
    """
    if not isinstance(answers, t.Mapping):
        raise JobError(
            "the input must be a dictionary of hosts and results of job_info, not %s"
            % type(answers).__name__
        )
    return [_host(str(name), answers[name]) for name in sorted(answers, key=_natural)]


def _host(name: str, answer: object) -> Host:
    """:raises JobError: what should be jobs is something else."""
    if not isinstance(answer, t.Mapping) or answer.get("jobs") is None:
        found = answer if isinstance(answer, t.Mapping) else {}
        why = str(found.get("msg") or "it said nothing").strip()
        return Host(name, [], "unreachable: " + why if found.get("unreachable") else why, "", 0)
    for job in answer["jobs"]:
        if not isinstance(job, t.Mapping) or not isinstance(job.get("ansible_job_id"), str):
            raise JobError("jobs of host %s: %r is not a job dictionary" % (name, job))
    jobs = list(answer["jobs"])
    more = int(number(answer.get("total")) or 0) - len(jobs)
    return Host(name, jobs, None, str(answer.get("msg") or ""), max(0, more))


def _natural(name: object) -> list[tuple[int, str]]:
    """Return a key that sorts web10 behind web9."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in re.split("([0-9]+)", str(name))
    ]


def state(job: Job) -> str:
    """Return the state of a job as people are shown it."""
    found = job.get("state")
    return found if found in schema.STATES else UNKNOWN


def counts(found: list[Host]) -> dict[str, int]:
    """Return how many jobs there are in each state that occurs."""
    states = [state(job) for host in found for job in host.jobs]
    return {one: states.count(one) for one in SHOWN_STATES if one in states}


def number(value: object) -> float | None:
    """Return a number as such, and None for what is none: a job of the builtin may say anything."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def summary(found: list[Host]) -> str:
    """Tell in one line what there is."""
    by_state = counts(found)
    jobs = sum(by_state.values())
    text = "%s, %s" % (_many(len(found), "host"), _many(jobs, "job"))
    if by_state:
        text += ": " + ", ".join("%d %s" % (n, one) for one, n in by_state.items())
    more = sum(host.more for host in found)
    text += "; %d more not shown" % more if more else ""
    silent = [host.name for host in found if host.problem is not None]
    return text + ("; no answer from " + ", ".join(silent) if silent else "")


def _many(n: int, what: str) -> str:
    return "%d %s%s" % (n, what, "" if n == 1 else "s")
