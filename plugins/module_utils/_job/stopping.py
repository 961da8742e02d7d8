# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stopping a job: asking its keeper, or ending what a dead keeper has left."""

from __future__ import annotations

import json
import os
import signal
import time

from . import cgroup, host, processes, schema, status, unit
from .errors import JobError
from .record_io import DamagedRecord, MissingRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .schema import Record
    from .store import Job

ASK_INTERVAL = 0.5  # seconds between two requests to a keeper that has not ended its job yet
VERDICT = 3.0  # seconds that a keeper may need for its final record after grace and SIGKILL


def parse(line: bytes) -> Record:
    """Read what :meth:`Stop.request` has written. :raises ValueError: it is something else."""
    try:
        request = json.loads(line)
        parsed = {
            "signal": int(signal.Signals(request["signal"])),
            "grace": float(request["grace"]),
            "reason": str(request["reason"]),
            "by": schema.requester(request.get("by")),
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(line) from error
    return parsed


class Stop:
    """A stop of one job that is live. Press it again and again until the job has finished.

    :param number: the signal that asks the processes to end.
    :param grace: seconds until SIGKILL.
    :param reason: for the record: who asked, or what for.
    :param by: who asked, see ``schema.requester``.
    """

    def __init__(
        self, job: Job, *, number: int, grace: float, reason: str, by: Record | None = None
    ) -> None:
        self.job = job
        self._how: Record = {"signal": number, "grace": grace, "reason": reason, "by": by}
        self.until = time.monotonic() + grace + processes.KILL_PATIENCE + VERDICT

    def request(self) -> None:
        """Ask the keeper, which may die with our mail unread; without keeper and runner, end what is left.

        The second takes as long as it takes, the first no time. A keeper that is ending the job already, for whatever
        reason, takes the shorter grace.
        """
        try:
            if any(self.job.is_held(role) for role in ("keeper", "runner", "standby")):
                self._ask()
            else:
                self._end_orphans(self.job.lock("keeper"))
        except (
            FileNotFoundError
        ):  # somebody has removed the job's folder, and its keeper cannot be asked
            self._end_marked([], [], None)

    def unanswered(self) -> JobError:
        """Return what to tell when the time is over and the job has not finished."""
        return JobError("cannot stop job %s: its keeper does not answer" % self.job.jid)

    def _ask(self) -> None:
        """Tell the keeper through its FIFO."""
        try:
            fd = self.job.open_fifo("keeper", os.O_WRONLY)
        except OSError:  # there is none: the runner will give the job a new one
            return
        try:
            os.write(fd, json.dumps(self._how).encode() + b"\n")
        except OSError:  # it has just died, or its mailbox is full
            pass
        finally:
            os.close(fd)

    def _end_orphans(self, lock: int | None) -> None:
        """Be the keeper of a job that has lost its own, for as long as it takes to end it.

        :param lock: the keeper's; None if somebody else has become its keeper meanwhile.
        """
        if lock is None:
            return
        try:
            host.require_proc()
            record = self.job.read_record()
            if record["finished"]:
                return
            ending: Record = {**self._how, "state": schema.STOPPED, "survivors": []}
            self._note(ending)
            private = record[schema.PRIVATE]
            runner = [private["runner"]] if self.job.is_held("runner") else []
            left = self._end_marked(runner, unit.groups(private), private["command"])
            ending["survivors"] = [one.described() for one in left]
            ending["unseen"] = processes.is_blind()
            self._note(ending)  # for the next look, if the disk refuses the final record
            final = status.reported(self.job, record)
            final.update(status.streams(self.job, record, schema.EMBED_LIMIT))
            exited = self.job.exit()
            self.job.conclude(
                status.finish(
                    self.job, final, state=schema.LOST, reason=None, exited=exited, ending=ending
                )
            )
        except OSError:  # the disk is broken, or the folder has been removed: every look comes to a verdict by itself
            pass
        except DamagedRecord:  # nothing tells more than the mark
            self._end_marked([], [], None)
        except MissingRecord:  # cleaned up at this moment: it had finished
            pass
        finally:
            os.close(lock)

    def _note(self, ending: Record) -> None:
        try:
            self.job.fill("ending", ending)
        except OSError:
            pass  # the disk is broken: the final record is the next chance to say it

    def _end_marked(
        self, runner: list[int], groups: list[str], command: Record | None
    ) -> list[processes.Process]:
        """End what carries the job's mark, descends from its runner, is in its groups or in its command's session.

        :param command: pid and start of the command; None if that is unknown.
        :return: what survives.
        """
        host.require_proc()
        session = None
        # Without the command nobody can tell whose session it is now.
        if command is not None and processes.is_command(command["pid"], command["started"]):
            session = (command["pid"], command["started"])

        def find() -> list[processes.Process]:
            spared = {os.getpid(), *runner}
            found = processes.members(
                self.job.jid, roots=runner, session=session, spared=spared, marked=True
            )
            return cgroup.joined(found, groups, self.job.jid)

        def pause(seconds: float) -> bool:
            time.sleep(seconds)
            return True

        how = self._how
        return processes.end(
            find,
            number=how["signal"],
            grace=how["grace"],
            pause=pause,
            at_once=lambda: cgroup.kill(groups, self.job.jid),
        )


def stop(job: Job, *, number: int, grace: float, reason: str, by: Record | None = None) -> Record:
    """End a live job, every process of it, and return its final dictionary.

    A job that has finished before is returned as it is. Parameters are those of :class:`Stop`.

    :raises JobError: something survives; ``survivors`` names it.
    """
    asked = Stop(job, number=number, grace=grace, reason=reason, by=by)
    while True:
        found = status.look(job)
        if found["finished"]:
            break
        if time.monotonic() >= asked.until:
            raise asked.unanswered()
        asked.request()
        status.wait(job, ASK_INTERVAL, show="none")
    if found.get("survivors"):
        raise JobError(
            "cannot stop job %s: %s" % (job.jid, found["msg"]), survivors=found["survivors"]
        )
    return found
