# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper: launches a job through a runner, stays with it, ends it at its deadline and writes the final record."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import time

from . import kernel, output, runner, schema, stopping, store, tree
from .errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .runner import Inheritance
    from .schema import Record

MAX_SURVIVORS = 20  # are named in a record
ORPHAN_INTERVAL = (
    0.5  # seconds between two looks at a command that is nobody's child of ours any more
)


class Keeper:
    """Stays with one job from its launch to its final record. One process each.

    :param job: the job; its folder has been made, and nothing else.
    :param request: what the user asked for, see launcher.
    """

    def __init__(self, job: store.Job, request: Record) -> None:
        self.job = job
        self.request = request
        self.record: Record = {}
        self.command = 0
        self.runner = 0
        self.exited: Record | None = None
        self.ending: Record | None = None
        self.gone = False  # the command is, and nobody can know its exit status
        self.subreaper = False
        self._lock = -1
        self._wakeup = -1
        self._gate = -1
        self._report = -1
        self._report_rest = b""
        self._poll = select.poll()
        self._limiters: list[output.Limiter] = []
        self._stop: Record | None = None
        self._watch = -1  # of the runner of an adopted job
        self._previous: str | None = None  # the jid that our name meant before; "" for none

    # -- launch -----------------------------------------------------------------------------------------------------

    def launch(self, inheritance: Inheritance, borrowed: list[int]) -> Record:
        """Start the command and return the job's record.

        :param inheritance: what the command must find unchanged.
        :param borrowed: descriptors of the launcher's, which the runner must not hold open.
        :raises JobError: it could not be started; nothing of the job is left behind.
        """
        try:
            self._launch(inheritance, borrowed)
        except OSError as error:
            self._abandon()
            raise self.job.store.failure(error) from None
        except JobError:
            self._abandon()
            raise
        return self.record

    def _launch(self, inheritance: Inheritance, borrowed: list[int]) -> None:
        self._become_keeper()
        self.subreaper = kernel.become_subreaper()
        self.job.furnish()
        limit = self.request["output_limit"]
        self._limiters = [
            output.Limiter(self.job.open_stream(name, os.O_RDWR), limit) for name in schema.STREAMS
        ]
        lock = self.job.lock("keeper")
        if lock is None:
            raise JobError("cannot launch the job: somebody holds the lock of its keeper")
        self._lock = lock
        self._poll.register(self._lock, select.POLLIN)
        pipes = runner.Pipes()
        self._fork_runner(pipes, inheritance, borrowed)
        os.chdir("/")
        command = self._first_report()
        self.command = command["pid"]
        self.record = schema.new_record(self.job.jid, self.request, self._place(command))
        self.job.publish(self.record)
        if self.request["name"] is not None:
            self._previous = self.job.store.set_latest(self.request["name"], self.job.jid)
        os.write(self._gate, b"g")
        with open(pipes.verdict_out, "rb") as verdict:
            refusal = verdict.read()
        if refusal:
            raise _refusal(json.loads(refusal))

    def _place(self, command: Record) -> Record:
        return {
            "epoch": time.time(),
            "monotonic": time.monotonic(),
            "boot_id": store.boot_id(),
            "user": store.user_name(os.geteuid()),
            "containment": "process",
            "keeper": os.getpid(),
            "runner": self.runner,
            "command": command,
            "results_file": self.job.results_file,
            "stdout_file": self.job.path("stdout"),
            "stderr_file": self.job.path("stderr"),
        }

    def _abandon(self) -> None:
        """Leave nothing of a launch that failed: no process, no file."""
        if self._gate >= 0:
            # A command that still waits at the gate ends, and its runner with it.
            os.close(self._gate)
        if self.runner:
            os.waitpid(self.runner, 0)
        if self._previous is not None:
            self.job.store.set_latest(self.request["name"], self._previous)
        self.job.remove()

    def _become_keeper(self) -> None:
        os.setsid()
        for number in runner.IGNORED:
            signal.signal(number, signal.SIG_IGN)
        self._wakeup = runner.wakeup_pipe()
        self._poll.register(self._wakeup, select.POLLIN)

    def _fork_runner(
        self, pipes: runner.Pipes, inheritance: Inheritance, borrowed: list[int]
    ) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for fd in (self._lock, *borrowed):
                    os.close(fd)
                runner.run(self.job, self.request, inheritance, pipes, adopt)
            finally:
                os._exit(0)
        for fd in (pipes.gate_out, pipes.verdict_in, pipes.report_in):
            os.close(fd)
        self.runner, self._gate, self._report = pid, pipes.gate_in, pipes.report_out

    def _first_report(self) -> Record:
        self._poll.register(self._report, select.POLLIN)
        while b"\n" not in self._report_rest:
            data = os.read(self._report, 4096)
            if not data:
                raise JobError(
                    "cannot start the command: its runner died; is the machine out of memory or processes?"
                )
            self._report_rest += data
        line, _newline, self._report_rest = self._report_rest.partition(b"\n")
        os.set_blocking(self._report, False)
        first: Record = json.loads(line)
        return first

    # -- adoption ---------------------------------------------------------------------------------------------------

    def take_over(self, lock: int) -> None:
        """Be the keeper of a job that has lost its own. Its processes are not our descendants.

        :param lock: the keeper's lock, which we hold.
        """
        self._become_keeper()
        self._lock = lock
        self._poll.register(lock, select.POLLIN)
        private = self.record[schema.PRIVATE]
        self.command = private["command"]["pid"]
        limit = self.request["output_limit"]
        self._limiters = [
            output.Limiter(self.job.open_stream(name, os.O_RDWR), limit) for name in schema.STREAMS
        ]
        self.ending = self.job.slot("ending")
        self._watch = self.job.watch("runner") or -1
        if self._watch >= 0:
            self.runner = private["runner"]
            self._poll.register(self._watch, 0)

    def _look_for_end(self) -> None:
        """Learn of an end that no child tells us: from the exit record, else by the command's absence."""
        self.exited = self.job.slot("exit")
        if self.exited is None and not self.job.is_held("runner"):
            if self._watch >= 0:
                self._poll.unregister(self._watch)
                os.close(self._watch)
                self._watch = -1
            self.runner = 0
            command = self.record[schema.PRIVATE]["command"]
            self.exited = self.job.slot("exit")
            self.gone = not tree.is_alive(command["pid"], command["started"])
            self._reap()  # if it has become our child, it may have ended since

    # -- stay -------------------------------------------------------------------------------------------------------

    def supervise(self) -> None:
        """Stay until the job has ended, and write its final record."""
        timeout = self.request["timeout"]
        deadline = self.record[schema.PRIVATE]["monotonic"] + timeout if timeout else None
        if self.ending is not None and not self._over():  # a predecessor died while ending the tree
            was = self.ending
            self._end_tree(was["state"], was["signal"], self.request["grace"], was["reason"])
        while not self._over():
            if self._stop is not None:
                stop = self._stop
                self._end_tree(schema.STOPPED, stop["signal"], stop["grace"], stop["reason"])
                break
            if deadline is not None and time.monotonic() >= deadline:
                self._end_tree(schema.TIMED_OUT, self.request["stop_signal"], self.request["grace"])
                break
            self._wait(self._next_wake(deadline))
            self._limit_output()
        self._conclude()

    def _over(self) -> bool:
        return self.exited is not None or self.gone

    def _next_wake(self, deadline: float | None) -> float | None:
        """Return how many seconds to sleep at the most; None for as long as nothing happens."""
        limits = [] if deadline is None else [max(0.0, deadline - time.monotonic())]
        if self.request["output_limit"]:
            limits.append(output.CHECK_INTERVAL)
        if not self.runner:
            limits.append(ORPHAN_INTERVAL)
        return min(limits) if limits else None

    def _wait(self, seconds: float | None) -> None:
        """Sleep until something happens to a child or the time is over, and take note of it."""
        self._poll.poll(None if seconds is None else int(seconds * 1000) + 1)
        try:
            os.read(self._wakeup, 4096)
        except BlockingIOError:
            pass
        self._read_report()
        self._read_mail()
        self._reap()
        if self.exited is None and not (self.subreaper and self.runner):
            self._look_for_end()

    def _read_report(self) -> None:
        while self._report >= 0:
            try:
                data = os.read(self._report, 4096)
            except BlockingIOError:
                break
            self._report_rest += data
            if not data:
                self._poll.unregister(self._report)
                os.close(self._report)
                self._report = -1
        line, newline, self._report_rest = self._report_rest.partition(b"\n")
        if newline:
            self.exited = json.loads(line)

    def _read_mail(self) -> None:
        """Take note of what others have asked through the FIFO (see stopping)."""
        try:
            mail = os.read(self._lock, select.PIPE_BUF)
        except BlockingIOError:
            return
        for line in mail.splitlines():
            try:
                self._stop = stopping.parse(line)
            except ValueError:
                pass  # whoever may write here may also kill us; nonsense is not worth more

    def _reap(self) -> None:
        """Collect every dead child: the runner, orphans of the tree, and the command if its runner was killed."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self.command and self.exited is None:
                self.exited = {
                    "status": status,
                    "epoch": time.time(),
                    "monotonic": time.monotonic(),
                }
                self._note("exit", self.exited)
            elif pid == self.runner:
                self.runner = 0

    def _limit_output(self) -> None:
        for limiter in self._limiters:
            limiter.check()

    # -- end --------------------------------------------------------------------------------------------------------

    def _members(self) -> list[tree.Process]:
        session = 0 if self.subreaper else self.command
        return tree.members(
            self.job.jid,
            roots=[os.getpid()],
            session=session,
            spared={os.getpid(), self.runner},
            marked=not self.subreaper,
        )

    def _end_tree(self, state: str, number: int, grace: float, reason: str | None = None) -> None:
        """End every process of the job, and note why before the first signal."""
        self.ending = {"state": state, "reason": reason, "signal": number, "survivors": []}
        self._note("ending", self.ending)
        left = tree.end(self._members, number=number, grace=grace, pause=self._pause)
        if left:
            self.ending["survivors"] = [one.described() for one in left[:MAX_SURVIVORS]]
            self._note("ending", self.ending)

    def _pause(self, seconds: float) -> bool:
        self._wait(seconds)
        self._limit_output()
        return self._over()

    def _conclude(self) -> None:
        self._limit_output()
        hidden = dict.fromkeys(schema.STREAMS, schema.HIDDEN)
        streams = hidden if self.record[schema.PRIVATE]["no_log"] else self._excerpts()
        state, reason = ("exited", None) if self.exited is not None else (schema.LOST, "killed")
        final = schema.finish(
            dict(self.record, **streams),
            state=state,
            reason=reason,
            exited=self.exited,
            ending=self.ending,
        )
        self.job.conclude(final)
        os.close(self._lock)  # wakes whoever waits for the end
        if self.runner and self._watch < 0:
            os.waitpid(self.runner, 0)
            self._reap()  # what it had not reaped, if it was killed just now

    def _excerpts(self) -> Record:
        found: Record = {"truncated": False}
        for name, limiter in zip(schema.STREAMS, self._limiters):
            limit = min(schema.EMBED_LIMIT, limiter.limit or schema.EMBED_LIMIT)
            found[name], found[name + "_bytes"], cut = output.excerpt(limiter.fd, limit)
            found["truncated"] = found["truncated"] or cut
        return found

    def _note(self, slot: str, content: Record) -> None:
        try:
            self.job.fill(slot, content)
        except OSError:
            pass  # the disk is broken: the final record is the next chance to say it


def adopt(job: store.Job, borrowed: list[int]) -> None:
    """Become the keeper of a job that has lost its own, and stay until it is finished.

    Returns at once if there is a keeper, or nothing left to keep.

    :param borrowed: descriptors to close when the lock has been taken.
    """
    if job.read_record()[schema.PRIVATE]["boot_id"] != store.boot_id():
        return  # after a reboot none of its processes is left: who has their pids now is a stranger
    lock = job.lock("keeper")
    for fd in borrowed:
        os.close(fd)
    if lock is None:
        return
    record = job.read_record()
    if record["finished"]:
        return
    keeper = Keeper(job, dict(record[schema.PRIVATE], timeout=record["timeout"]))
    keeper.record = record
    keeper.take_over(lock)
    keeper.supervise()


def _refusal(error: Record) -> JobError:
    user = store.user_name(os.geteuid())
    text = "cannot launch the job as user %s: %s %s: %s" % (
        user,
        error["parameter"],
        error["subject"],
        error["strerror"],
    )
    if error["errno"] == errno.ENOENT and os.path.exists(error["subject"]):
        text += " (it exists; the interpreter that its first line names does not)"
    return JobError(text, errno=error["errno"])
