# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper: launches a job through a runner, stays with it, ends it at its deadline and writes the final record."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time

from . import (
    cgroup,
    host,
    kernel,
    notify_socket,
    output,
    processes,
    retrying,
    runner,
    schema,
    shutdown,
    standby,
    status,
    stopping,
    unit,
)
from .course import Course
from .errors import MISHAPS, JobError
from .job import Job, log_loss, output_error
from .record_io import DamagedRecord, MissingRecord
from .spawn import NothingRanError, Starter, refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .queueing import Turn
    from .schema import Record
    from .standby import Plan

MAX_SURVIVORS = 20  # are named in a record
# Seconds between two looks at a command that is nobody's child of ours any more.
ORPHAN_INTERVAL = 0.5
UNTIMED_SLEEP = 1.0  # seconds, where there is no clock to sleep by that also counts while the machine is suspended
LONGEST_SLEEP = 86400.0  # seconds; poll(2) takes no more than a month


class Keeper:
    """Stays with one job from its launch to its final record. One process each.

    :param job: the job; its folder has been furnished.
    :param request: what the user asked for, see launcher.
    :param lock: the keeper's lock, which we hold.
    """

    def __init__(self, job: Job, request: Record, lock: int) -> None:
        self.job = job
        self.request = request
        self.command = 0
        self.runner = 0
        self.exited: Record | None = None
        self.ending: Record | None = None
        self.gone = False  # is the command, and nobody can know its exit status; or it never was
        self.subreaper = False
        self._written = b""  # the record as we have written it, JSON
        self._lock = lock
        self._wakeup = (-1, -1)
        self._report = -1
        self._poll = select.poll()
        self._streams = output.Streams([], 0)
        self._starter = Starter(job, request, lock)
        # Made when something is reported. Most commands never do, and shall not cost more for it.
        self._reports: notify_socket.Reports | None = None
        self._stop: Record | None = None
        # The command's, where it must be asked and is sure: pid and start.
        self._session: tuple[int, int] | None = None
        self._watch = -1  # of the runner of an adopted job
        self._course = Course()

    @property
    def _groups(self) -> list[str]:
        return unit.groups(self.request)

    def open(self, *, to_start: bool) -> None:
        """Open what is needed until the end. Who forks the keeper does it, see ``launcher.SIDE_BY_SIDE``.

        :param to_start: open also what the runner needs, as the command starts at once.
        """
        self._wakeup = runner.wakeup_pipe()
        fds: list[int] = []
        for name in schema.STREAMS:
            fds.append(self._open_stream(name))
            self._streams = output.Streams(fds, self.request["output_limit"])
        self._poll.register(self._wakeup[0], select.POLLIN)
        self._poll.register(self._lock, select.POLLIN)
        if notify_socket.listen(self.job):
            self._poll.register(self.job.inbox, select.POLLIN)
        if to_start:
            self._starter.open()
        if self.request.get("standby"):
            self._course.open(self.job, self._poll)
            if self.request["start_in"] and not self._written:
                self._course.due = kernel.boottime() + self.request["start_in"]
                self._course.set_timer()

    def _open_stream(self, name: str) -> int:
        try:
            return self.job.open_stream(name, os.O_RDWR)
        except (FileNotFoundError, JobError):
            if not self._written:
                raise
            # The command has removed it, or put something else in its place: its deadline and its end matter still.
            return os.open("/dev/null", os.O_RDWR)

    def opened(self) -> list[int]:
        """Return the descriptors that :meth:`open` opened."""
        own = [fd for fd in (*self._wakeup, self.job.inbox) if fd >= 0]
        return self._streams.fds + own + self._course.opened() + self._starter.opened()

    def close(self) -> None:
        """Close them, and what :meth:`take_over` opened."""
        for fd in (*self.opened(), self._watch):
            if fd >= 0:
                os.close(fd)
        self.job.inbox = -1

    # -- launch -----------------------------------------------------------------------------------------------------

    def launch(self, plan: Plan, borrowed: list[int]) -> bytes:
        """Start the command and return the job's record, JSON.

        :param plan: what the job is to do.
        :param borrowed: descriptors of the launcher's, which the runner must not hold open.
        :raises JobError: it could not be started; nothing of the job is left behind.
        """
        self._course.plan = plan
        self._become_keeper()
        self.subreaper = kernel.become_subreaper()
        self._course.post_standby(self.job, self._poll, adopt)
        try:
            self._start(borrowed)
        except BaseException:
            self._starter.abandon()
            raise
        self._course.phase = retrying.RUNNING
        return self._written

    def enqueue(self, plan: Plan) -> bytes:
        """Let the job exist as a queued one and return its record, JSON. Errors are those of :meth:`launch`."""
        self._course.plan = plan
        self._become_keeper()
        self.subreaper = kernel.become_subreaper()
        self._course.post_standby(self.job, self._poll, adopt)
        try:
            self._written = self._starter.accept(self._course.due or None)
        except BaseException:
            self._starter.abandon()
            raise
        return self._written

    def _has_turn(self, turn: Turn) -> bool:
        """Tell whether a job's turn has come; if not, only when something has changed."""
        if turn.has_come(self.job.store):
            return True
        for bell in turn.bells:
            self._poll.register(bell, 0)
        try:
            self._wait(turn.patience())
        finally:
            for bell in turn.bells:
                self._poll.unregister(bell)
        return False

    def _start(self, borrowed: list[int]) -> None:
        """Start an attempt. :raises JobError: it could not be. What there is of it must be recalled."""
        plan = self._planned()
        self.request["attempt"] = 1 + self._course.over_before
        ahead = plan.turn.ahead
        if self._course.over_before:
            ahead = json.loads(self._written)[schema.PRIVATE]["ahead"]
        ours = [*self._course.opened(), *((plan.lock,) if plan.lock >= 0 else ())]
        begun = self._starter.start(
            self._written,
            plan.inheritance,
            ahead,
            [*borrowed, *ours],
            lambda job, fds: adopt(
                job, fds, plan.started() if self.request.get("standby") else None
            ),
        )
        self._streams.expect(self.job.fd)
        self._starter.open_gate()
        self._written, self.command, self.runner, self._course.began, self._report = begun
        self._course.first = self._course.first or self._course.began
        self._poll.register(self._report, select.POLLIN)
        if not self.subreaper:  # else whatever leaves its parent becomes ours
            command = json.loads(self._written)[schema.PRIVATE]["command"]
            self._session = (self.command, command["started"])

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
        """Leave the launcher's session, and hear of our own children."""
        self._course.pid = os.getpid()
        os.setsid()
        signal.set_wakeup_fd(self._wakeup[1])

    # -- adoption ---------------------------------------------------------------------------------------------------

    def take_over(self, record: Record, plan: Plan | None) -> None:
        """Be the keeper of a job that has lost its own. Its processes are not our descendants."""
        self._written, self._course.plan = json.dumps(record).encode(), plan
        self.open(to_start=False)
        self._become_keeper()
        private = record[schema.PRIVATE]
        self._course.first, self._course.over_before = (
            private.get("first", 0.0),
            len(record.get("attempts", ())),
        )
        self._course.post_standby(self.job, self._poll, adopt)
        if record["state"] == schema.QUEUED:
            self._course.phase = retrying.PAUSING if self._course.over_before else retrying.WAITING
            self._course.due = private["due"] or 0.0
            self._course.set_timer()
            self._clear_slots()
            return
        self._course.phase = retrying.RUNNING
        self.command, self._course.began = private["command"]["pid"], private["monotonic"]
        started = private["command"]["started"]
        # The session of a command that was gone before we came may be a stranger's.
        if processes.is_command(self.command, started):
            self._session = (self.command, started)
        self.ending = self.job.slot("ending")
        self._hearing().resume(self.job.slot(schema.PROGRESS))
        self._watch = self.job.watch("runner") or -1
        if self._watch >= 0:
            self.runner = private["runner"]
            self._poll.register(self._watch, 0)
        self._look_for_end()  # what is gone has not been ended by its deadline

    def _look_for_end(self) -> None:
        """Learn of an end that no child tells us: from the exit record, else by the command's absence."""
        self._read_exit()
        if not self._over() and not self.job.is_held("runner"):
            if self._watch >= 0:
                self._poll.unregister(self._watch)
                os.close(self._watch)
                self._watch = -1
            self.runner = 0
            command = json.loads(self._written)[schema.PRIVATE]["command"]
            self._read_exit()
            # What cannot be seen may be there.
            os.close(os.open("/proc/%d/stat" % os.getpid(), os.O_RDONLY))
            self.gone = not processes.is_command(command["pid"], command["started"])
            self._reap()  # if it has become our child, it may have ended since

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

    def supervise(self) -> None:
        """Stay until the job has ended, and write its final record, whatever the machine refuses meanwhile."""
        until = 0.0
        while True:
            try:
                self._stay()
                break
            except Exception as error:  # pylint: disable=broad-exception-caught  # we may be the only witness
                if not until:
                    log_loss(self.job)
                is_over = self._course.phase == retrying.OVER
                if not until or not is_over:
                    until = time.monotonic() + runner.RECORD_PATIENCE
                if is_over and runner.is_final(error, until):
                    raise  # nobody can write the end down: every look comes to a verdict by itself
                time.sleep(runner.RECORD_INTERVAL)
        self._leave()

    def _stay(self) -> None:
        """Stay until the job has ended, and write its final record. It may be tried again if something goes wrong."""
        steps = {
            retrying.WAITING: self._await_start,
            retrying.STARTING: self._begin,
            retrying.RUNNING: self._attend,
            retrying.CLEARING: self._clear,
            retrying.PAUSING: self._await_start,
        }
        while self._course.phase != retrying.OVER:
            event = steps[self._course.phase]()
            self._course.phase = retrying.TABLE[self._course.phase, event]
        self._conclude()

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
            self._start([])
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

    def _attend(self) -> str:
        """Stay with an attempt until it has ended."""
        self._leave_queue()  # whoever died before us may not have done it
        timeout, total = self.request["timeout"], self.request.get("timeout_total")
        deadline = self._course.began + timeout if timeout else None
        if self.request["watchdog"] or total:
            deadline, _reason = self._next_limit()
        if self.ending is not None and self.command and not self._over():
            # a predecessor died while ending the tree
            was = self.ending
            self._end_tree(was["state"], dict({"grace": self.request["grace"]}, **was))
        while not self._over():
            if self._stop is not None:
                self._end_tree(schema.STOPPED, self._stop)
                break
            if deadline is not None and time.monotonic() >= deadline:
                deadline, reason = self._next_limit()  # the command may have asked for more time
                if deadline <= time.monotonic():
                    how = {"signal": self.request["stop_signal"], "grace": self.request["grace"]}
                    self._end_tree(schema.TIMED_OUT, dict(how, reason=reason))
                    break
            self._wait(self._next_wake(deadline))
            if not self._over():
                self._limit_output()
        if self._course.nothing_ran:
            return self._start_again()
        return self._judge()

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
        return self.exited is not None or self.gone or self._course.nothing_ran

    def _next_limit(self) -> tuple[float, str | None]:
        """Return when the job is to be ended (monotonic clock), as far as is known now, and for what reason."""
        hearing = self._hearing()
        # What has been reported counts, also if we could not read it before.
        hearing.take(notify_socket.BACKLOG)
        timeout, watchdog = self.request["timeout"], self.request["watchdog"]
        limits: list[tuple[float, str | None]] = [(float("inf"), None)]
        if timeout:
            limits.append((hearing.deadline(timeout), None))
        if self.request.get("timeout_total"):
            limits.append((self._course.first + self.request["timeout_total"], schema.TOTAL))
        if watchdog and self.job.inbox >= 0:
            limits.append((hearing.heard + watchdog, schema.WATCHDOG))
        return min(limits, key=lambda limit: limit[0])

    def _next_wake(self, deadline: float | None) -> float | None:
        """Return how many seconds to sleep at the most; None for as long as nothing happens."""
        limits = [] if deadline is None else [max(0.0, deadline - time.monotonic())]
        if self.request["output_limit"] and not self._streams.is_quiet:
            limits.append(output.CHECK_INTERVAL)
        if not self.runner:
            limits.append(ORPHAN_INTERVAL)
        return min(limits) if limits else None

    def _wait(self, seconds: float | None) -> None:
        """Sleep until something happens to a child or the time is over, and take note of it."""
        # Only what poll found is read: exceptions of those that are empty would cost memory, see spawn.
        child_changed = False
        seconds = self._patience(seconds)
        milliseconds = None if seconds is None else int(min(seconds, LONGEST_SLEEP) * 1000) + 1
        for fd, _events in self._poll.poll(milliseconds):
            if fd == self._wakeup[0]:
                child_changed = self._woken(os.read(fd, 4096))
            else:
                self._hear(fd)
        if self._reports is not None and self._reports.patience(None) == 0:
            self._reports.save(json.loads(self._written))
        if child_changed:  # after the report: who has told how the command ended need not be asked
            self._reap()
        if self.command and self.exited is None and not (self.subreaper and self.runner):
            self._look_for_end()

    def _patience(self, seconds: float | None) -> float | None:
        """Return how long to sleep at the most, and not beyond the moment at which we have something to do."""
        if self._course.lacks_standby():
            self._course.post_standby(
                self.job, self._poll, adopt
            )  # it was killed, or could not be forked
            if self._course.lacks_standby():
                most = runner.ADOPT_INTERVAL
                seconds = most if seconds is None else min(seconds, most)
        return seconds if self._reports is None else self._reports.patience(seconds)

    def _hear(self, fd: int) -> None:
        """Read what others tell us through a descriptor."""
        if fd == self._report:
            self._read_report()
        elif fd == self._lock:
            self._read_mail()
        elif fd == self.job.inbox:
            self._read_reports()
        elif self._course.post is not None and fd == self._course.post.watch:
            self._close_polled(fd)
            self._course.post.watch = -1

    def _woken(self, signals: bytes) -> bool:
        """Take note of signals that have come; tell whether one of them tells of a child."""
        if signal.SIGIO in signals:
            self._streams.stir()
        return signal.SIGCHLD in signals

    def _read_reports(self) -> None:
        """Read what the command has reported; whatever comes before there is one is somebody else's."""
        if self.command:
            self._hearing().take()
        else:
            notify_socket.discard(self.job)
        time.sleep(notify_socket.REST)

    def _hearing(self) -> notify_socket.Reports:
        if self._reports is None:
            self._reports = notify_socket.Reports(self.job, self.request, self._course.began)
        return self._reports

    def _read_report(self) -> None:
        """Read how the command ended; the runner writes it in one piece (pipe(7))."""
        told = os.read(self._report, select.PIPE_BUF)
        if told:
            self.exited = runner.parsed(told)
        else:
            self._poll.unregister(self._report)
            os.close(self._report)
            self._report = -1

    def _read_mail(self) -> None:
        """Take note of what others have asked through the FIFO (see stopping)."""
        try:
            mail = os.read(self._lock, select.PIPE_BUF)
        except BlockingIOError:
            return
        for line in mail.splitlines():
            try:
                stop = stopping.parse(line)
            except ValueError:
                continue  # whoever may write here may also kill us; nonsense is not worth more
            stop["kill_at"] = min(self._kill_at(), time.monotonic() + stop["grace"])
            self._stop = stop

    def _kill_at(self) -> float:
        """Return when SIGKILL is due: what those want who have asked us to stop, and what has been begun says."""
        asked = float("inf") if self._stop is None else float(self._stop["kill_at"])
        return min(asked, self._grace_until())

    def _grace_until(self) -> float:
        return float((self.ending or {}).get("kill_at", float("inf")))

    def _reap(self) -> None:
        """Collect every dead child: the runner, orphans of the tree, and the command if its runner was killed."""
        while True:
            try:
                pid, code = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self.command and self.exited is None:
                self.exited = runner.ended(code, self._groups)
                self._note("exit", self.exited)
            elif pid == self.runner:
                self.runner = 0
            else:
                self._course.reaped(pid)

    def _limit_output(self) -> None:
        """Keep the output within its limit; and if there is more, ask whether the disk has room for it."""
        try:
            if self._streams.check(self.job) and self._streams.error is None:
                self._streams.error = output_error(self.job, probe=False)
        except MISHAPS:
            pass  # tried again with the next look

    # -- end --------------------------------------------------------------------------------------------------------

    def _members(self) -> list[processes.Process]:
        # Orphans of the tree become the runner's children, or ours when it is dead. Who took over is its child.
        parent = [self.runner] if self.runner and self.runner == os.getppid() else []
        found = processes.members(
            self.job.jid,
            roots=[self._course.pid] if self.subreaper else parent,
            session=self._session,
            spared={self._course.pid, os.getpid(), self.runner},  # a child of ours may ask, too
            marked=not self.subreaper,
        )
        if self.request.get("standby"):
            found = [one for one in found if not processes.serves(one.pid, self.job.jid)]
        return cgroup.joined(found, self._groups, self.job.jid)

    def _end_tree(self, state: str, how: Record) -> None:
        """End every process of the job, and note why before the first signal.

        :param how: ``signal`` and ``grace``; ``reason`` and ``by`` if somebody has asked for it.
        """
        # Whatever interrupts us, the grace does not begin anew.
        kill_at = min(self._grace_until(), time.monotonic() + how["grace"])
        self.ending = {"reason": None, **how, "state": state, "survivors": [], "kill_at": kill_at}
        self._note("ending", self.ending)
        left = processes.end(
            self._members,
            number=how["signal"],
            grace=how["grace"],
            pause=self._pause,
            kill_at=self._kill_at,
            at_once=lambda: cgroup.kill(self._groups, self.job.jid),
        )
        if left:
            self.ending["survivors"] = [one.described() for one in left[:MAX_SURVIVORS]]
            self._note("ending", self.ending)
        if not self.subreaper:  # else whatever leaves its parent becomes ours, hidden or not
            self.ending["unseen"] = processes.is_blind()

    def _pause(self, seconds: float) -> bool:
        self._wait(seconds)
        self._limit_output()
        return self._over()

    def _note_shutdown(self) -> None:
        """Note why the command has ended, if that is because the machine goes down and for no other reason."""
        if self.ending is not None:
            return
        number = self.exited["status"] & 0x7F if self.exited is not None else 0
        if (number in shutdown.SENT or shutdown.heard()) and shutdown.is_under_way():
            self.ending = schema.shut_down(number or signal.SIGTERM)
            self._note("ending", self.ending)

    def _final(self, streams: Record) -> Record:
        """Return the final record, as if this attempt were the last one.

        :param streams: what it shows of the output, as keys of the job dictionary.
        """
        record = json.loads(self._written)
        if self.ending is not None and self.ending.get("reason") == schema.NOT_STARTED:
            nothing = dict.fromkeys(("start", "end", "delta", "elapsed", "deadline"))
            record.update(nothing, attempt=1 + len(record["attempts"]))
        if self.command:
            hearing = self._hearing()
            end = float("inf") if self.exited is None else self.exited["monotonic"]
            record = schema.with_reports(record, hearing.shown(record, end))
        known = self.exited is not None
        return status.finish(
            self.job,
            dict(record, **streams),
            state="exited" if known else schema.LOST,
            reason=None if known else "killed",
            exited=self.exited,
            ending=self.ending,
        )

    def _shown(self) -> Record:
        """Return what a record shows of the output."""
        if self.request["no_log"]:
            return dict.fromkeys(schema.STREAMS, schema.HIDDEN)
        return self._excerpts()

    def _conclude(self) -> None:
        self._note_shutdown()
        self._limit_output()
        self._streams.renew(self.job)
        self._limit_output()
        if self.command:
            self._hearing().take(notify_socket.BACKLOG)
        final = self._final(self._shown())
        if self._course.why_no_more:
            final["msg"] += "; it was not tried again: " + self._course.why_no_more
        error = self._streams.error or output_error(self.job, probe=True)
        if error and final["reason"] != schema.NOT_STARTED:
            final.update(truncated=True, output_error=error)
            final["msg"] += "; output may be missing, for the disk of %s said: %s" % (
                self.job.store.path,
                error,
            )
        self.job.conclude(final)
        self._hearing().close()

    def _leave(self) -> None:
        """Tell whoever waits that the job has ended, and leave nothing of ours."""
        os.close(self._lock)  # wakes whoever waits for the end
        if self.runner and self._watch < 0:
            os.waitpid(self.runner, 0)
            self._reap()  # what it had not reaped, if it was killed just now
        if self._course.post is not None and self._course.post.pid:
            os.waitpid(self._course.post.pid, 0)  # it has seen that the job is over
        cgroup.remove(self._groups)

    def _excerpts(self) -> Record:
        found: Record = {"truncated": False}
        for name, (text, size, cut) in zip(
            schema.STREAMS, self._streams.excerpts(schema.EMBED_LIMIT)
        ):
            found.update({name: text, name + "_bytes": size})
            found["truncated"] = found["truncated"] or cut
        found["truncated"] = found["truncated"] or self._streams.is_replaced
        return found

    def _note(self, slot: str, content: Record) -> None:
        try:
            self.job.fill(slot, content)
        except MISHAPS:
            pass  # the disk is broken: the final record is the next chance to say it


def adopt(job: Job, borrowed: list[int], plan: Plan | None = None) -> None:
    """Become the keeper of a job that has lost its own, and stay until it is finished.

    Returns at once if there is a keeper, or nothing left to keep.

    :param borrowed: descriptors to close when the lock has been taken.
    :param plan: what the job is to do; None where nobody knows it.
    """
    try:
        private = job.read_record()[schema.PRIVATE]
    except (MissingRecord, DamagedRecord):
        notify_socket.discard(job)
        return  # nothing tells what to enforce; every look says so, and the runner will ask again
    if not _can_see(private) or (plan is None and job.is_held("standby")):
        return
    lock = job.lock("keeper")
    for fd in borrowed:
        os.close(fd)
    if lock is None:
        return
    keeper = _successor(job, lock, plan)
    if keeper is not None:
        keeper.supervise()


def _is_out_of_reach(record: Record, plan: Plan | None) -> bool:
    """Tell whether there is nothing to keep: the job is over, or nobody knows any more how to start it."""
    return bool(record["finished"]) or (plan is None and record["state"] == schema.QUEUED)


def _can_see(private: Record) -> bool:
    """Tell whether the pids in a record mean to us what they meant to who wrote it."""
    if private["boot_id"] != host.boot_id():
        return False  # after a reboot none of its processes is left: who has their pids now is a stranger
    # In another namespace we would not see its processes, or know them by other pids.
    return private.get("pid_namespace", 0) in (0, host.pid_namespace())


def _successor(job: Job, lock: int, plan: Plan | None) -> Keeper | None:
    """Return a keeper that has taken over; None if there is nothing left to keep. It tries for as long as it takes."""
    while True:
        try:
            record = job.read_record()
            if _is_out_of_reach(record, plan):
                return None
            if record["state"] != schema.QUEUED or not job.is_held("runner"):
                return _taken_over(job, record, lock, plan)
            time.sleep(
                standby.LOOK_INTERVAL
            )  # what was about to start may still write; it will not run
        except MISHAPS:
            log_loss(job)
            time.sleep(runner.RECORD_INTERVAL)


def _taken_over(job: Job, record: Record, lock: int, plan: Plan | None) -> Keeper:
    """Return a keeper that has taken over. If that fails, nothing of it is left open."""
    asked: Record = {"max_timeout": None, "watchdog": None, "timeout": record["timeout"]}
    asked.update(record[schema.PRIVATE], retry=None, timeout_total=record.get("timeout_total"))
    keeper = Keeper(job, asked if plan is None else plan.request, lock)
    try:
        keeper.take_over(record, plan)
    except BaseException:
        keeper.close()
        raise
    return keeper
