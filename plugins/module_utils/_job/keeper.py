# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper: launches a job through a runner, stays with it, ends it at its deadline and writes the final record."""

from __future__ import annotations

import json
import os
import select
import signal
import time

from . import (
    cgroup,
    kernel,
    notify_socket,
    output,
    processes,
    runner,
    schema,
    shutdown,
    status,
    stopping,
    unit,
)
from .errors import MISHAPS, JobError
from .job import Job, log_loss, output_error
from .spawn import Starter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from .runner import ProcessDefaults
    from .schema import Record
    from .standby import Adopt, Plan

MAX_SURVIVORS = 20  # are named in a record
# Seconds between two looks at a command that is nobody's child of ours any more.
ORPHAN_INTERVAL = 0.5
LONGEST_SLEEP = 86400.0  # seconds; poll(2) takes no more than a month


class Keeper:
    """Stays with a job that starts at once and is not tried again, see attempts for the others. One process each.

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
        self._began = 0.0  # the monotonic clock when the command was started
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
        return self._streams.fds + own + self._starter.opened()

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
        self._become_keeper()
        self.subreaper = kernel.become_subreaper()
        try:
            self._start(plan.defaults, plan.turn.ahead, borrowed, plan.adopt)
        except BaseException:
            self._starter.abandon()
            raise
        return self._written

    def _start(
        self, defaults: ProcessDefaults, ahead: list[str], borrowed: list[int], adopt: Adopt
    ) -> None:
        begun = self._starter.start(self._written, defaults, ahead, borrowed, adopt)
        self._streams.expect(self.job.fd)
        self._starter.open_gate()
        self._written, self.command, self.runner, self._began, self._report = begun
        self._poll.register(self._report, select.POLLIN)
        if not self.subreaper:  # else whatever leaves its parent becomes ours
            command = json.loads(self._written)[schema.PRIVATE]["command"]
            self._session = (self.command, command["started"])

    def _become_keeper(self) -> None:
        """Leave the launcher's session, and hear of our own children."""
        os.setsid()
        signal.set_wakeup_fd(self._wakeup[1])

    # -- adoption ---------------------------------------------------------------------------------------------------

    def take_over(self, record: Record) -> None:
        """Be the keeper of a job that has lost its own. Its processes are not our descendants."""
        self._written = json.dumps(record).encode()
        self.open(to_start=False)
        self._become_keeper()
        private = record[schema.PRIVATE]
        self.command, self._began = private["command"]["pid"], private["monotonic"]
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
        self.exited = self.job.exit()

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
                if not until or not self._is_decided():
                    until = time.monotonic() + runner.RECORD_PATIENCE
                if self._is_decided() and runner.is_final(error, until):
                    raise  # nobody can write the end down: every look comes to a verdict by itself
                time.sleep(runner.RECORD_INTERVAL)
        self._leave()

    def _stay(self) -> None:
        """Stay until the job has ended, and write its final record. It may be tried again if something goes wrong."""
        self._attend()
        self._conclude()

    def _is_decided(self) -> bool:
        """Tell whether nothing is left to do but to write the end down."""
        return self._over()

    def _attend(self) -> None:
        """Stay until the command has ended, or has been ended."""
        timeout = self.request["timeout"]
        deadline = self._began + timeout if timeout else None
        if self.request["watchdog"] or self.request.get("timeout_total"):
            deadline, _reason = self._next_limit()
        if self.ending is not None and self.command:  # a predecessor died while ending the tree
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
            self._limit_output()

    def _over(self) -> bool:
        return self.exited is not None or self.gone

    def _next_limit(self) -> tuple[float, str | None]:
        """Return when the job is to be ended (monotonic clock), as far as is known now, and for what reason."""
        hearing = self._hearing()
        # What has been reported counts, also if we could not read it before.
        hearing.take(notify_socket.BACKLOG)
        timeout, watchdog = self.request["timeout"], self.request["watchdog"]
        limits: list[tuple[float, str | None]] = [(float("inf"), None)]
        if timeout:
            limits.append((hearing.deadline(timeout), None))
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
            elif fd == self._report:
                self._read_report()
            elif fd == self._lock:
                self._read_mail()
            elif fd == self.job.inbox:
                self._read_reports()
            else:
                self._hear(fd)
        if self._reports is not None and self._reports.patience(None) == 0:
            self._reports.save(json.loads(self._written))
        if child_changed:  # after the report: who has told how the command ended need not be asked
            self._reap()
        if self.command and self.exited is None and not (self.subreaper and self.runner):
            self._look_for_end()

    def _patience(self, seconds: float | None) -> float | None:
        """Return how long to sleep at the most, and not beyond the moment at which there is something to do."""
        return seconds if self._reports is None else self._reports.patience(seconds)

    def _hear(self, fd: int) -> None:
        """Take note of what a further descriptor tells."""

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
            self._reports = notify_socket.Reports(self.job, self.request, self._began)
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
            received = os.read(self._lock, select.PIPE_BUF)
        except BlockingIOError:
            return
        for line in received.splitlines():
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
                self._reaped(pid)

    def _reaped(self, pid: int) -> None:
        """Take note of a further child that has been collected."""

    def _limit_output(self) -> None:
        """Keep the output within its limit; and if there is more, ask whether the disk has room for it."""
        try:
            if self._streams.check(self.job) and self._streams.error is None:
                self._streams.error = output_error(self.job, probe=False)
        except MISHAPS:
            pass  # tried again with the next look

    # -- end --------------------------------------------------------------------------------------------------------

    def _members(self) -> list[processes.Process]:
        return cgroup.joined(self._descendants(os.getpid()), self._groups, self.job.jid)

    def _descendants(self, keeper: int) -> list[processes.Process]:
        """Return the processes of the tree. A child of the keeper may ask, too."""
        # Orphans of the tree become the runner's children, or ours when it is dead. Who took over is its child.
        parent = [self.runner] if self.runner and self.runner == os.getppid() else []
        return processes.members(
            self.job.jid,
            roots=[keeper] if self.subreaper else parent,
            session=self._session,
            spared={keeper, os.getpid(), self.runner},
            marked=not self.subreaper,
        )

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
            record = schema.unstarted(record)
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
        final["msg"] += self._remark()
        error = self._streams.error or output_error(self.job, probe=True)
        if error and final["reason"] != schema.NOT_STARTED:
            final.update(truncated=True, output_error=error)
            final["msg"] += "; output may be missing, for the disk of %s said: %s" % (
                self.job.store.path,
                error,
            )
        self.job.conclude(final)
        self._hearing().close()

    def _remark(self) -> str:
        """Return what else is to be said of the end."""
        return ""

    def _leave(self) -> None:
        """Tell whoever waits that the job has ended, and leave nothing of ours."""
        deliver = self._claim_delivery()  # before the runner, which waits for our lock, does
        os.close(self._lock)  # wakes whoever waits for the end
        if self.runner and self._watch < 0:
            os.waitpid(self.runner, 0)
            self._reap()  # what it had not reaped, if it was killed just now
        cgroup.remove(self._groups)
        if deliver is not None:
            deliver()

    def _claim_delivery(self) -> Callable[[], None] | None:
        """Return what sends the notifications of the end; None if there are none, or somebody else sends them."""
        if not self.request.get("notify"):
            return None
        # Imported by the launcher already, if there are notifications.
        from . import delivery

        store = self.job.store
        duty = delivery.claim(store)
        return None if duty is None else lambda: delivery.stay(store, duty)

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
        # Twice: after a flush that failed only what is written again reaches the disk (fsync(2)).
        for _chance in range(2):
            try:
                self.job.fill(slot, content)
                return
            except MISHAPS:
                pass  # the disk is broken: the final record is the next chance to say it
