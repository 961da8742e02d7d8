# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stopping many jobs at once, on the target. Private to the collection."""

from __future__ import annotations

import signal
import time

from . import host, processes, schema, stopping
from .errors import JobError
from .job import Job
from .poll_plan import DEFAULT_GRACE
from .record_io import DamagedRecord, MissingRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .schema import Record
    from .waiting import Waiter

DEFAULT_SIGNAL = schema.signal_number("TERM")  # of a job whose record does not name its own
LONGEST_INTERVAL = (
    5.0  # seconds between two requests to a keeper: beyond ASK_INTERVAL where a grace is long
)


class Stopping:
    """Stops all live jobs of a waiter.

    :param number: the signal that asks the jobs to end; None for each job's own.
    :param grace: seconds until SIGKILL; None for each job's own.
    :param by: who asks, see ``schema.requester``.
    """

    def __init__(
        self, waiter: Waiter, *, number: int | None, grace: float | None, by: Record
    ) -> None:
        self._waiter = waiter
        self._number = number
        self._grace = grace
        self._by = by
        self._reason = "requested by %s" % (by["user"] or "somebody")
        if by["via"] == "ansible":
            self._reason += " through ansible"
        self.refusals: dict[int, JobError] = {}  # by place, why a job has not been stopped
        self._stops: dict[int, stopping.Stop] = {}
        self._foreign: dict[int, Job] = {}
        for index, job in waiter.chosen(is_live).items():
            self._add(index, job)
        self._left = waiter.chosen(lambda found: bool(found["finished"] and found.get("survivors")))

    def _add(self, index: int, job: Job) -> None:
        try:
            private = job.read_record().get(schema.PRIVATE)
        except MissingRecord:  # cleaned up at this moment: it had finished
            return
        except DamagedRecord:
            private = {}  # of ours: what the builtin writes is never called damaged while it runs
        finally:
            job.close()
        if private is None:
            self._foreign[index] = job
            return
        number = self._number or private.get("stop_signal") or DEFAULT_SIGNAL
        grace = private.get("grace", DEFAULT_GRACE) if self._grace is None else self._grace
        self._stops[index] = stopping.Stop(
            job, number=number, grace=grace, reason=self._reason, by=self._by
        )

    def run(self) -> None:
        """Stop them, all at the same time; afterwards each has finished, or :attr:`refusals` says why not."""
        self._press()
        if self._foreign:
            self._end_foreign()
        if self._left:
            self._end_left()
        interval = stopping.ASK_INTERVAL
        while self._live():
            left = max(self._stops[index].until for index in self._live()) - time.monotonic()
            if left <= 0:
                break
            self._waiter.wait(
                lambda _jobs: not self._live(), min(interval, left), seen=None, gather=left
            )
            self._press()
            interval = min(LONGEST_INTERVAL, interval * 1.2)
        self._waiter.look_at_live()
        for index in self._live():
            self.refusals[index] = self._stops[index].unanswered()
        for index in (*self._stops, *self._foreign):
            found = self._waiter.found[index]
            if found.get("survivors"):
                text = "cannot stop job %s: %s" % (found["ansible_job_id"], found["msg"])
                self.refusals[index] = JobError(text)

    def _live(self) -> list[int]:
        """Return the places of the jobs of ours that have not finished.

        Queued ones come first, the last of them foremost: no end shall give its turn to a job that is to be stopped.
        """
        found = self._waiter.found
        places = [index for index in self._stops if not found[index]["finished"]]
        return sorted(places, key=lambda index: (found[index]["state"] != schema.QUEUED, -index))

    def _press(self) -> None:
        for index in self._live():
            stop = self._stops[index]
            stop.request()
            stop.job.close()

    def _end_foreign(self) -> None:
        # Imported here, and not by every stop: what a module imports is compiled in every run.
        from . import builtin

        proved, refused = builtin.prove(list(self._foreign.values()))
        number = self._number or DEFAULT_SIGNAL
        grace = DEFAULT_GRACE if self._grace is None else self._grace
        if proved:
            builtin.end(proved, number=number, grace=grace, by=self._by, reason=self._reason)
        self._waiter.look_again(self._foreign)
        for index, job in self._foreign.items():
            if job.jid in refused and not self._waiter.found[index]["finished"]:
                self.refusals[index] = refused[job.jid]

    def _end_left(self) -> None:
        """Try again to end what survived an earlier stop or deadline, and still carries its job's mark."""

        def alive() -> dict[int, list[processes.Process]]:
            found = {}
            for index, job in self._left.items():
                found[index] = processes.left(job.jid, self._waiter.found[index]["survivors"])
            return found

        def find() -> list[processes.Process]:
            # Only what is surely the job's is signalled.
            return [
                one
                for index, members in alive().items()
                for one in members
                if processes.is_marked(one.pid, self._left[index].jid)
            ]

        def pause(seconds: float) -> bool:
            time.sleep(seconds)
            return True

        host.require_proc()
        if find():
            processes.end(find, number=signal.SIGKILL, grace=0, pause=pause)
        for index, members in alive().items():
            if members:
                names = ", ".join("%s (pid %d)" % (one.name, one.pid) for one in members)
                text = "job %s was ended before, but of its processes are still alive: %s"
                self.refusals[index] = JobError(text % (self._left[index].jid, names))


def is_live(found: Record) -> bool:
    """Tell whether there is something to be stopped."""
    return not found["finished"]
