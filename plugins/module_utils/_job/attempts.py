# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper of a job that waits before it starts, or may be tried again: it follows the table of retrying.

Its code lies apart from that of the plain keeper: a page of memory that holds the code of both would be copied by both.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time

from . import (
    cgroup,
    kernel,
    notify_socket,
    output,
    processes,
    retrying,
    runner,
    schema,
    shutdown,
    standby,
)
from .course import Course
from .errors import MISHAPS, JobError
from .keeper import MAX_SURVIVORS, Keeper
from .spawn import NothingRanError, Starter, refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .job import Job
    from .queueing import Turn
    from .schema import Record
    from .standby import Plan

UNTIMED_SLEEP = 1.0  # seconds, where there is no clock to sleep by that also counts while the machine is suspended


class PatientKeeper(Keeper):
    """Stays with a job that waits for its slot or its time, and is tried again. Parameters are those of Keeper."""

    def __init__(self, job: Job, request: Record, lock: int) -> None:
        super().__init__(job, request, lock)
        self._course = Course()

    def open(self, *, to_start: bool) -> None:
        """Open also what is needed for the time between two attempts."""
        super().open(to_start=to_start)
        if self.request.get("standby"):
            self._course.open(self.job, self._poll)
        if self.request.get("start_in") and not self._written:
            self._course.due = kernel.boottime() + self.request["start_in"]
            self._course.set_timer()

    def opened(self) -> list[int]:
        """Return the descriptors that :meth:`open` opened."""
        return super().opened() + self._course.opened()

    # -- launch -----------------------------------------------------------------------------------------------------

    def launch(self, plan: Plan, borrowed: list[int]) -> bytes:
        """Start the command, or let the job exist as a queued one, and return the job's record, JSON.

        Parameters and errors are those of the plain keeper's.
        """
        self._course.plan = plan
        self._become_keeper()
        self.subreaper = kernel.become_subreaper()
        self._course.post_standby(self.job, self._poll)
        try:
            if plan.lock < 0:
                self._start_attempt(borrowed)
                self._course.phase = retrying.RUNNING
            else:
                self._written = self._starter.accept(self._course.due or None)
        except BaseException:
            self._starter.abandon()
            raise
        return self._written

    def _has_turn(self, turn: Turn) -> bool:
        """Tell whether a job's turn has come; if not, only when something has changed."""
        if turn.has_come(self.job.store):
            return True
        for hangup in turn.hangups:
            self._poll.register(hangup, 0)
        try:
            self._wait(turn.patience())
        finally:
            for hangup in turn.hangups:
                self._poll.unregister(hangup)
        return False

    def _start_attempt(self, borrowed: list[int]) -> None:
        """Start an attempt. :raises JobError: it could not be. What there is of it must be recalled."""
        plan = self._planned()
        self.request["attempt"] = 1 + self._course.over_before
        ahead = plan.turn.ahead
        if self._course.over_before:
            ahead = json.loads(self._written)[schema.PRIVATE]["ahead"]
        ours = [*self._course.opened(), *((plan.lock,) if plan.lock >= 0 else ())]
        later = plan.started() if self.request.get("standby") else None
        self._start(
            plan.defaults,
            ahead,
            [*borrowed, *ours],
            lambda job, fds: plan.adopt(job, fds, later),
        )
        self._course.first = self._course.first or self._began

    def _planned(self) -> Plan:
        if self._course.plan is None:
            raise JobError("nobody is left who knows how to start the command")
        return self._course.plan

    def _leave_queue(self) -> None:
        """Let the next job of the batch look whether its turn has come."""
        plan = self._course.plan
        if plan is not None and (plan.turn.must_wait() or self.request.get("start_in")):
            self.job.leave_queue(plan.lock)
            plan.lock = -1
            standby.tell_started(self.job)

    def _become_keeper(self) -> None:
        self._course.pid = os.getpid()
        super()._become_keeper()

    # -- adoption ---------------------------------------------------------------------------------------------------

    def resume(self, record: Record, plan: Plan | None) -> None:
        """Be the keeper of a job that has lost its own, whatever its phase.

        :param plan: what the job is to do; None if nobody knows it any more.
        """
        private = record[schema.PRIVATE]
        self._course.plan = plan
        self._course.first = private.get("first", 0.0)
        self._course.over_before = len(record.get("attempts", ()))
        if record["state"] == schema.QUEUED:
            self._written = json.dumps(record).encode()
            self.open(to_start=False)
            self._become_keeper()
            self._course.phase = retrying.PAUSING if self._course.over_before else retrying.WAITING
            self._course.due = private["due"] or 0.0
            self._course.set_timer()
            self._clear_slots()
        else:
            self._course.phase = retrying.RUNNING
            self.take_over(record)
        self._course.post_standby(self.job, self._poll)

    def _read_exit(self) -> None:
        """Read the exit record. It may also say that the command has never been exec'ed, and why."""
        told = self.job.slot("exit")
        if told is None or "refused" not in told:
            self.exited = told
        elif self._course.plan is not None and not told["refused"]:
            self._course.nothing_ran = True
        elif self._course.plan is not None:
            self.gone, self.ending = True, schema.not_started(refused(told["refused"]).msg)

    # -- stay -------------------------------------------------------------------------------------------------------

    def _stay(self) -> None:
        """Stay until the job has ended, and write its final record. It may be tried again if something goes wrong."""
        steps = {
            retrying.WAITING: self._await_start,
            retrying.STARTING: self._begin,
            retrying.RUNNING: self._attend_attempt,
            retrying.CLEARING: self._clear,
            retrying.PAUSING: self._await_start,
        }
        while self._course.phase != retrying.OVER:
            event = steps[self._course.phase]()
            self._course.phase = retrying.TABLE[self._course.phase, event]
        self._conclude()

    def _is_decided(self) -> bool:
        return self._course.phase == retrying.OVER

    def _await_start(self) -> str:
        """Wait until an attempt may be started, or is not to be any more."""
        while self._stop is None:
            left = self._course.due - kernel.boottime()
            if left <= 0:
                break
            self._wait(min(left, UNTIMED_SLEEP) if self._course.timer < 0 else None)
        turn = self._planned().turn
        while turn.must_wait() and not self._course.over_before and self._stop is None:
            try:
                if self._has_turn(turn):
                    break
            except MISHAPS:  # too many open files, for example: nobody can tell whose turn it is
                time.sleep(runner.RECORD_INTERVAL)
            turn.rest()
        self._wait(0)  # who stops many asks us before those whose end gives us our turn
        if self._stop is not None:
            self.gone, self.ending = True, dict(self._stop, state=schema.STOPPED)
            event = retrying.STOP
        elif shutdown.heard() and shutdown.is_under_way():
            # The end of another job, for the same reason, may have made it our turn.
            self.gone, self.ending = True, schema.shut_down(signal.SIGTERM)
            event = retrying.SHUTDOWN
        else:
            return retrying.DUE
        self._leave_queue()
        return event

    def _begin(self) -> str:
        """Start an attempt."""
        if self.ending is not None:  # it could not be started, and more than that could not be done
            return self._judge()
        try:
            if self._course.over_before:
                self._renew_streams(self._course.over_before)
                self.subreaper = kernel.become_subreaper()
            self._start_attempt([])
        except NothingRanError:
            self._starter.recall()
            return self._start_again()
        except (OSError, JobError) as error:
            return self._give_up(self._told(error))
        self._leave_queue()
        return retrying.BEGUN

    def _give_up(self, why: JobError) -> str:
        """Take note of an attempt that could not be started."""
        self._starter.recall()
        self._leave_queue()
        self.gone, self.ending = True, schema.not_started(why.msg)
        return self._judge()

    def _start_again(self) -> str:
        """Let the record say that an attempt of which nothing has run is still to come."""
        time.sleep(standby.LOOK_INTERVAL)  # something kills processes of ours: no storm
        try:
            self._await_runner()
            record = json.loads(self._written)
            record = schema.pause(record, record["attempts"], kernel.boottime(), 0.0)
            self._written = self._starter.by_hand(lambda: self._replaced(record))
            self._clear_slots()
        except (OSError, JobError) as error:
            return self._give_up(self._told(error))
        self._forget_attempt()
        return retrying.ABORTED

    def _renew_streams(self, over: int) -> None:
        """Put the output of the last attempt aside."""
        for fd in self._streams.fds:
            os.close(fd)
        limit = self.request["output_limit"]
        self._streams = output.Streams([], limit)
        self.job.renew_streams(over, limit)
        fds: list[int] = []
        for name in schema.STREAMS:
            fds.append(self._open_stream(name))
            self._streams = output.Streams(fds, limit)

    def _attend_attempt(self) -> str:
        """Stay with an attempt until it has ended."""
        self._leave_queue()  # whoever died before us may not have done it
        if not self._has_failed_to_start():
            self._attend()
        return self._start_again() if self._course.nothing_ran else self._judge()

    def _has_failed_to_start(self) -> bool:
        ending = self.ending or {}
        return self._course.nothing_ran or ending.get("reason") == schema.NOT_STARTED

    def _judge(self) -> str:
        """Say whether an attempt that has ended was the last one."""
        if self._course.plan is None or self.request.get("retry") is None:
            return retrying.ENDED
        if self._reports is not None:
            self._reports.take(notify_socket.BACKLOG)
        self._await_runner()
        answer = self._starter.by_hand(self._settled)
        if not answer:
            return retrying.ENDED
        due, _blank, record = answer.partition(b" ")
        self._course.due, self._course.paused = float(due), record
        return retrying.AGAIN

    def _settled(self) -> bytes:
        """Return when the next attempt is (CLOCK_BOOTTIME), and the record of the pause; nothing if there is none.

        The record is missing if something of the attempt is left, or if it could not be written.
        """
        total, now = self.request.get("timeout_total"), time.monotonic()
        self._note_shutdown()
        ended = self._final({})
        pause = retrying.pause_after(
            self.request["retry"],
            ended,
            number=ended["attempt"],
            left=self._course.first + total - now if total and self._course.first else None,
            chance=os.urandom(1)[0] / 255,
        )
        if pause is None:
            return b""
        since = now - self.exited["monotonic"] if self.exited is not None else 0.0
        self._course.due = kernel.boottime() - since + pause
        record = b""
        if not self._members():
            with contextlib.suppress(*MISHAPS):
                record = self._note_pause()
        return repr(self._course.due).encode() + b" " + record

    def _clear(self) -> str:
        """End what an attempt has left behind, and let the record say when the next one is."""
        left = [] if self._course.paused else self._end_rest()
        if left:
            names = ", ".join("%s (pid %d)" % (one.name, one.pid) for one in left[:MAX_SURVIVORS])
            self._course.why_no_more = "of it are still alive: " + names
            return retrying.LEFT
        until = time.monotonic() + runner.RECORD_PATIENCE
        while not self._course.paused:
            try:
                self._course.paused = self._starter.by_hand(self._note_pause)
                break
            except (OSError, JobError) as error:
                if self._stop is not None or time.monotonic() >= until:
                    self._course.why_no_more = self._told(error).msg
                    return retrying.LEFT
            self._wait(runner.RECORD_INTERVAL)
        self._written, self._course.paused = self._course.paused, b""
        self._course.over_before += 1
        self._forget_attempt()
        return retrying.CLEARED

    def _end_rest(self) -> list[processes.Process]:
        return processes.end(
            self._members,
            number=self.request["stop_signal"],
            grace=self.request["grace"],
            pause=self._pause,
            kill_at=self._kill_at,
            at_once=lambda: cgroup.kill(self._groups, self.job.jid),
        )

    def _told(self, error: OSError | JobError) -> JobError:
        return error if isinstance(error, JobError) else self.job.store.failure(error)

    def _note_pause(self) -> bytes:
        """Write the record of a job that pauses, and return it, JSON."""
        cgroup.remove(self._groups)
        self._limit_output()
        final = self._final(self._shown())
        wait = self._course.due - kernel.boottime()
        record = schema.pause(json.loads(self._written), final["attempts"], self._course.due, wait)
        answer = self._replaced(record)
        self._clear_slots()
        self._course.set_timer()
        return answer

    def _replaced(self, record: Record) -> bytes:
        self.job.replace(record)
        return json.dumps(record).encode()

    def _clear_slots(self) -> None:
        """Let nobody take the end of one attempt for that of the next."""
        for slot in ("exit", "ending"):
            self.job.clear(slot)

    def _await_runner(self) -> None:
        """Wait until the runner of an attempt has ended, which may be writing its exit record."""
        if self.runner and self._watch < 0:
            os.waitpid(self.runner, 0)
            self.runner = 0
        while self._watch >= 0:
            if self.job.is_held("runner"):
                self._wait(standby.LOOK_INTERVAL)
            else:
                self._close_polled(self._watch)
                self._watch = -1

    def _close_polled(self, fd: int) -> None:
        self._poll.unregister(fd)
        os.close(fd)

    def _forget_attempt(self) -> None:
        """Be ready for the next attempt."""
        if self._report >= 0:
            self._close_polled(self._report)
            self._report = -1
        self._starter.close()
        self._starter = Starter(self.job, self.request, self._lock)
        if self._reports is not None:
            self._reports.leave()
            self._reports = None
        notify_socket.discard(self.job)
        self.command = self.runner = 0
        self.exited = self.ending = self._session = None
        self.gone = self._course.nothing_ran = False

    def _over(self) -> bool:
        return super()._over() or self._course.nothing_ran

    def _next_limit(self) -> tuple[float, str | None]:
        limit, total = super()._next_limit(), self.request.get("timeout_total")
        if not total:
            return limit
        return min(limit, (self._course.first + total, schema.TOTAL), key=lambda one: one[0])

    def _patience(self, seconds: float | None) -> float | None:
        if self._course.lacks_standby():
            self._course.post_standby(self.job, self._poll)  # it was killed, or could not be forked
            if self._course.lacks_standby():
                most = runner.ADOPT_INTERVAL
                seconds = most if seconds is None else min(seconds, most)
        return super()._patience(seconds)

    def _hear(self, fd: int) -> None:
        post = self._course.post
        if fd == self._course.timer:
            os.read(fd, 8)  # else it would wake us for ever
        elif post is not None and fd == post.watch:
            self._close_polled(fd)
            post.watch = -1

    def _reaped(self, pid: int) -> None:
        self._course.reaped(pid)

    # -- end --------------------------------------------------------------------------------------------------------

    def _members(self) -> list[processes.Process]:
        found = self._descendants(self._course.pid)
        if self._course.post is not None:
            found = [one for one in found if not processes.serves(one.pid, self.job.jid)]
        return cgroup.joined(found, self._groups, self.job.jid)

    def _remark(self) -> str:
        why = self._course.why_no_more
        return "; it was not tried again: " + why if why else ""

    def _leave(self) -> None:
        super()._leave()
        if self._course.post is not None and self._course.post.pid:
            os.waitpid(self._course.post.pid, 0)  # it has seen that the job is over
