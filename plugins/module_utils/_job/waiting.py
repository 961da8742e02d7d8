# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for many jobs at once, on the target. Private to the collection.

One poll(2) watches the hang-up descriptors of all jobs (see _job.status), so waiting costs no time of the processor.
Only a job that has hung up is looked at again.
"""

from __future__ import annotations

import os
import resource
import select
import time

from . import schema, status
from .call import why_absent
from .errors import JobError
from .names import latest_job
from .printable import make_printable
from .record_io import MissingRecord
from .references import Reference, references

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable

    from .call import Call
    from .schema import Record
    from .store import Job, Store

# Seconds between two looks at a job without a hang-up descriptor: the builtin's, one whose command has been orphaned,
# and those for which there are not enough descriptors.
RECHECK_INTERVAL = 0.5
# Seconds between two looks at who has reported progress. That causes no hang-up, so it costs a stat(2) for each
# running job.
PROGRESS_INTERVAL = 2.0
LONGEST_SLEEP = 3600.0  # seconds; poll(2) takes no more than a month
SPARE_DESCRIPTORS = 64
MISSING = "missing"  # in counts: there is no record


def goal(until: str) -> Callable[[list[Record]], bool]:
    """Return the condition that a parameter ``until`` names."""
    return {
        "all_finished": lambda jobs: all(job["finished"] for job in jobs),
        "any_finished": lambda jobs: any(job["finished"] for job in jobs) or not jobs,
        "first_failed": lambda jobs: (
            any(job["failed"] for job in jobs) or all(job["finished"] for job in jobs)
        ),
    }[until]


class Waiter:
    """Looks at jobs, and waits for what becomes of them.

    :param store: the async dir; None if there is none, and so no job.
    :param meant: the jobs.
    :param absent: says why a job cannot be found.
    :param settle: whether a final verdict may be written down.
    """

    def __init__(
        self,
        store: Store | None,
        meant: list[Reference],
        absent: Callable[[Reference], str],
        *,
        settle: bool,
    ) -> None:
        self.store = store
        self._settle = settle
        self._why_absent = absent
        self._meant: list[Reference] = []
        self._jobs: list[Job | None] = []  # None where there is none
        by_jid: dict[str, Reference] = {}  # a job may be given by its jid and by its name
        for reference in meant:
            job = _find(store, reference)
            if job is None or by_jid.setdefault(job.jid, reference) is reference:
                self._meant.append(reference)
                self._jobs.append(job)
            else:
                by_jid[job.jid].learn(reference)
        self._bells = _Bells(self._jobs)
        # In this order: a descriptor that was taken before a look misses nothing that happens after it.
        self._bells.hang(list(range(len(self._meant))))
        self._marks = _Marks(self._jobs)
        self.found: list[Record] = [self._look(number) for number in range(len(self._meant))]
        # Whether an end is a change that belongs to who waits: the play has launched the job, or the end was not known
        # before the first look.
        self._is_ours = [
            not job["finished"] if reference.is_ours is None else reference.is_ours
            for job, reference in zip(self.found, self._meant)
        ]

    def wait(
        self,
        is_reached: Callable[[list[Record]], bool],
        seconds: float,
        *,
        seen: list[Any] | None,
        gather: float,
    ) -> bool:
        """Return when a goal is reached, or so many seconds are over; and tell whether they are, by the clock.

        :param seen: what the caller knows of each job, see :func:`news`; None for nothing.
        :param gather: return also so many seconds after something else has been seen first. So one answer tells
            many changes.
        """
        until = end = time.monotonic() + seconds
        if seen is not None and seen != [news(job) for job in self.found]:
            until = min(until, time.monotonic() + gather)
        while not is_reached(self.found):
            left = until - time.monotonic()
            if left <= 0:
                break
            live = self._live()
            running = [number for number in live if self.found[number]["started"]]
            rung = self._bells.ring(live, min(left, PROGRESS_INTERVAL) if running else left)
            if self._look_again(sorted({*rung, *self._marks.moved(running)})):
                until = min(until, time.monotonic() + gather)
        return time.monotonic() >= end

    def look_at_live(self) -> None:
        """Look again at every job that has not finished. Its hang-up may be late: it comes when the keeper is gone."""
        self._look_again(self._live())

    def _live(self) -> list[int]:
        return [number for number, job in enumerate(self.found) if not job["finished"]]

    def close(self) -> None:
        """Close all hang-up descriptors."""
        self._bells.close()

    def chosen(self, is_meant: Callable[[Record], bool]) -> dict[int, Job]:
        """Return the jobs whose dictionaries are such, by their place."""
        return {
            number: job
            for number, job in enumerate(self._jobs)
            if job is not None and is_meant(self.found[number])
        }

    def look_again(self, numbers: Iterable[int]) -> None:
        """Look at some jobs that are not waited for."""
        self._look_again(list(numbers))

    def _look_again(self, numbers: list[int]) -> bool:
        changed = False
        for number in numbers:
            before = self.found[number]
            found = self.found[number] = self._look(number)
            changed = changed or news(before) != news(found)
        return changed

    def _look(self, number: int) -> Record:
        job, reference = self._jobs[number], self._meant[number]
        if job is not None:
            try:
                found = status.look(job, show="none", settle=self._settle)
                if found["finished"]:
                    self._bells.take_down(number)  # its keeper may still be there for a moment
                return found
            except MissingRecord:
                self._jobs[number] = None
            except JobError as error:
                return dict(_absent(reference), msg=error.msg)
            finally:
                job.close()
        if reference.failure is not None:
            return _not_launched(reference.failure)
        return dict(_absent(reference), msg=self._why_absent(reference))

    def news(self, seen: list[Any] | None) -> list[list[Any]]:
        """Return the place and the state of each job that is not as it has been seen."""
        keys = [
            "ansible_job_id",
            "name",
            "state",
            "reason",
            "progress",
            "finished",
            "elapsed",
            "timeout",
            "attempt",
            "max_attempts",
        ]
        return [
            [number, news(job), dict({key: job[key] for key in keys}, starts_in=_starts_in(job))]
            for number, job in enumerate(self.found)
            if seen is None or number >= len(seen) or seen[number] != news(job)
        ]

    def meant(self) -> list[object]:
        """Return what means the same jobs later, when names may mean others, and whether their ends are changes."""
        return [
            reference.plain() if job is None else self._known(number, job).plain()
            for number, (job, reference) in enumerate(zip(self._jobs, self._meant))
        ]

    def _known(self, number: int, job: Job) -> Reference:
        is_ours = self._is_ours[number]
        # Nothing needs to be said of one whose end is known already.
        is_told = is_ours or not self.found[number]["finished"]
        return Reference(jid=job.jid, is_ours=is_ours if is_told else None)

    def has_changed(self) -> bool:
        """Tell whether a job has changed something that is the play's own, or whose end was not known before."""
        return any(
            job["finished"] and job["changed"] and is_ours
            for job, is_ours in zip(self.found, self._is_ours)
        )

    def unsupervised(self) -> list[str]:
        """Return the jids of those that have lost their keeper and their runner."""
        return [job["ansible_job_id"] for job in self.found if job["reason"] == schema.UNSUPERVISED]

    def shown(self, show: str, total: int) -> list[Record]:
        """Return the job dictionaries with their output, which all together holds at most ``total`` bytes."""
        limit = max(schema.TAIL_BYTES, total // max(1, 2 * len(self.found)))
        return [self._with_output(number, show, limit) for number in range(len(self.found))]

    def _with_output(self, number: int, show: str, limit: int) -> Record:
        job, found = self._jobs[number], self.found[number]
        if job is None or show == "none":
            return found
        try:
            full = status.look(job, show=show, settle=self._settle)
        except (MissingRecord, JobError):
            return found
        job.close()
        schema.shorten(full, limit)
        return full


def news(job: Record) -> list[Any]:
    """Return what somebody who waits for a job wants to be told when it changes."""
    attempt = job["attempt"] if (job["max_attempts"] or 1) > 1 else None
    found = [job["state"], job["reason"], *([attempt] if attempt else [])]
    return [*found, schema.progress_text(job["progress"]) or None]


def _starts_in(job: Record) -> int | None:
    """Return in how many seconds a queued job starts, by the target's clock; None if nobody can say."""
    try:
        at = time.mktime(time.strptime(str(job["start_at"])[:19], "%Y-%m-%d %H:%M:%S"))
    except (ValueError, OverflowError):
        return None
    return max(0, round(at - time.time()))


def counts(jobs: list[Record]) -> dict[str, int]:
    """Return how many jobs there are of each state."""
    found = dict.fromkeys((*schema.STATES, MISSING), 0)
    for job in jobs:
        found[job["state"] or MISSING] += 1
    return found


class _Marks:
    """What shows that a job has reported progress, or that an attempt has ended or begun: a file is written anew."""

    def __init__(self, jobs: list[Job | None]) -> None:
        self._paths = [
            ("", "") if job is None else (job.path(schema.PROGRESS), job.results_file)
            for job in jobs
        ]
        self._seen = [_mark(path) for path in self._paths]
        self._due = time.monotonic() + PROGRESS_INTERVAL

    def moved(self, numbers: list[int]) -> list[int]:
        """Return which of these jobs have reported since they were last asked, if it is time to ask."""
        if time.monotonic() < self._due:
            return []
        self._due = time.monotonic() + PROGRESS_INTERVAL
        marks = {number: _mark(self._paths[number]) for number in numbers}
        moved = [number for number, mark in marks.items() if mark != self._seen[number]]
        for number in moved:
            self._seen[number] = marks[number]
        return moved


def _mark(paths: tuple[str, str]) -> list[tuple[int, int]]:
    marks = []
    for path in paths:
        try:
            found = os.stat(path, follow_symlinks=False)
            marks.append((found.st_ino, found.st_mtime_ns))
        except OSError:  # nothing has been reported
            marks.append((0, 0))
    return marks


class _Bells:
    """The hang-up descriptors of jobs that are waited for; as many as there may be open files."""

    def __init__(self, jobs: list[Job | None]) -> None:
        self._jobs = jobs
        self._poll = select.poll()
        self._numbers: dict[int, int] = {}  # by descriptor
        self._hung: dict[int, int] = {}  # descriptors, by number
        self._limits = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = len(jobs) + 2 * SPARE_DESCRIPTORS
        if soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self._room = soft - SPARE_DESCRIPTORS

    def hang(self, numbers: list[int]) -> list[int]:
        """Take the hang-up descriptors of jobs, and return these jobs: they may have changed before."""
        for number in numbers:
            job = self._jobs[number]
            if job is None or number in self._hung or len(self._hung) >= self._room:
                continue
            fd = status.hangup(job)
            job.close()
            if fd is not None:
                self._hung[number], self._numbers[fd] = fd, number
                self._poll.register(fd, 0)  # hang-ups are reported without being asked for
        return numbers

    def ring(self, live: list[int], seconds: float) -> list[int]:
        """Wait until a descriptor hangs up, and return which jobs must be looked at again."""
        silent = [number for number in live if number not in self._hung]
        if silent:
            seconds = min(seconds, RECHECK_INTERVAL)
        rung = []
        for fd, _event in self._poll.poll(int(min(seconds, LONGEST_SLEEP) * 1000) + 1):
            rung.append(self._numbers[fd])
            self.take_down(self._numbers[fd])
        return self.hang(rung) + self.hang(silent)

    def take_down(self, number: int) -> None:
        """Close the hang-up descriptor of a job, if it has been taken."""
        fd = self._hung.pop(number, None)
        if fd is not None:
            del self._numbers[fd]
            self._poll.unregister(fd)
            os.close(fd)

    def close(self) -> None:
        """Close all hang-up descriptors, and free the room that was made for them."""
        for number in list(self._hung):
            self.take_down(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)


def waiter(call: Call) -> Waiter:
    """Return who looks at the jobs that a call's parameter ``jobs`` means. It is closed with the call.

    :raises JobError: the parameter means no jobs, or the async dir cannot be used.
    """
    meant, path = references(call.params["jobs"]), call.async_dir
    found = Waiter(
        call.find_store(),
        meant,
        lambda one: why_absent(path, one.jid, one.name, one.launched),
        settle=not call.check_mode,
    )
    call.at_end(found.close)
    return found


def _find(store: Store | None, reference: Reference) -> Job | None:
    if store is None or reference.failure is not None:
        return None
    return store.job(reference.jid) if reference.jid else latest_job(store, str(reference.name))


def _absent(reference: Reference) -> Record:
    """Return the dictionary of a job of which nothing can be said."""
    found = schema.present(schema.unknown(reference.jid or ""))
    found.update(ansible_job_id=reference.jid, name=reference.name, failed=True)
    return found


def _not_launched(failure: Record) -> Record:
    """Return the dictionary of a job whose launch failed, given the result of that."""
    found = dict(_absent(Reference()), state=schema.FAILED, reason=schema.NOT_STARTED)
    found = dict(found, **dict({"msg": "its launch failed"}, **failure))
    make_printable(found)
    return found
