# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a keeper starts its command: forks it through a runner, writes down who it is, and only then lets it exec."""

from __future__ import annotations

import errno
import json
import os
import time

from . import cgroup, host, kernel, notify_socket, processes, removing, runner, schema, unit
from .errors import JobError
from .job import Job
from .names import forget_latest, set_latest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from .runner import ProcessDefaults
    from .schema import Record

_SIZE_DIGITS = 12  # how many bytes a registration has, in front of it


class NothingRanError(JobError):
    """A process of ours was killed before the command could be exec'ed, so it may be started again."""


class Starter:
    """Starts the command of one job.

    :param job: the job; its folder has been furnished.
    :param request: what the user asked for, see launcher.
    :param lock: the keeper's lock, which neither the runner nor the command may hold.
    """

    def __init__(self, job: Job, request: Record, lock: int) -> None:
        self._pipes: runner.RunnerPipes | None = None
        self._job = job
        self._request = request
        self._lock = lock
        self._gate = -1
        self._runner = 0

    def open(self) -> runner.RunnerPipes:
        """Open what the runner needs, unless that has been done. :raises OSError: it cannot be."""
        if self._pipes is None:
            self._pipes = runner.RunnerPipes(self._job)
        return self._pipes

    def opened(self) -> list[int]:
        """Return the descriptors that :meth:`open` opened."""
        return [] if self._pipes is None else self._pipes.opened

    def close(self) -> None:
        """Let go of an attempt that has ended, or was not to be."""
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1

    def accept(self, due: float | None) -> bytes:
        """Write the first record, durably, and return it, JSON: the job exists, and is queued.

        :param due: when it is to start, if that is later (CLOCK_BOOTTIME).
        :raises JobError: it could not be written.
        """

        def write_down() -> bytes:
            record = self._new_record(os.getppid(), due)
            self._publish(record)
            return json.dumps(record).encode()

        return self.by_hand(write_down)

    def start(
        self,
        accepted: bytes,
        defaults: ProcessDefaults,
        ahead: list[str],
        borrowed: list[int],
        adopt: Callable[[Job, list[int]], None],
    ) -> tuple[bytes, int, int, float, int]:
        """Fork the command, which waits at the gate, and return the job's record, JSON; the pids of the command and of
        its runner; when that was (monotonic clock); and the descriptor by which the runner tells how it ended.

        :param accepted: what :meth:`accept` returned; empty for a job that has not been queued.
        :param defaults: what the command must find unchanged.
        :param ahead: the jobs of the batch that may be live.
        :param borrowed: descriptors which the runner must not hold open.
        :param adopt: see ``runner.run``.
        :raises JobError: it will not be exec'ed. What there is of it must be recalled.
        """
        try:
            pipes = self.open()
            self._fork_runner(pipes, defaults, borrowed, adopt, self._register(accepted, ahead))
            os.chdir("/")
        except OSError as error:
            raise self._job.store.failure(error) from None
        answer = _registered(pipes.report_out)
        summary, _blank, record = _worked_out(answer).partition(b" ")
        pid, _slash, monotonic = summary.partition(b"/")
        return record, int(pid), self._runner, float(monotonic), pipes.report_out

    def _register(self, accepted: bytes, ahead: list[str]) -> Callable[[], bytes]:
        """Return how the command, which is about to run, writes down who it is.

        What that touches in memory is copied (fork(2)), and a keeper lives long; the command's process throws all of
        it away when it execs.
        """
        keeper = os.getpid()

        def write_down() -> bytes:
            itself = processes.process(os.getpid())
            command = {"pid": os.getpid(), "started": itself.started if itself else 0}
            start: Record = {"epoch": time.time(), "monotonic": time.monotonic()}
            start.update(runner=os.getppid(), command=command, ahead=ahead)
            record = json.loads(accepted) if accepted else self._new_record(keeper)
            record = schema.begin(record, start)
            if accepted:
                self._job.replace(record)
            else:
                self._publish(record)
            summary = "%d/%r " % (command["pid"], start["monotonic"])
            return summary.encode() + json.dumps(record).encode()

        def register() -> bytes:
            answer = self._worked(write_down)
            return b"%0*d" % (_SIZE_DIGITS, len(answer)) + answer

        return register

    def open_gate(self) -> None:
        """Let the command exec. :raises JobError: it has not been. What there is of it must be recalled."""
        try:
            os.write(self._gate, b"g")
        except BrokenPipeError:
            pass  # the command has given up before, and says why: no room for its stdin, for example
        try:
            refusal = _line(self.open().report_out)
        except JobError:  # the runner was killed: the gate is open, and the command our child now
            return
        if refusal:
            raise refused(json.loads(refusal))

    def recall(self) -> None:
        """End a runner whose command has not been exec'ed. One that waits at the gate ends, and its runner with it."""
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1
        if self._runner:
            os.waitpid(self._runner, 0)
            self._runner = 0

    def abandon(self) -> None:
        """Leave nothing of a launch that failed: no process, no file."""
        self.recall()
        if self._request["name"] is not None:
            try:
                forget_latest(self._job.store, self._request["name"], self._job.jid)
            except OSError:
                pass  # a full disk: a name that means a job which is not there means the one before it
        cgroup.remove(unit.groups(self._request))
        if self._request.get("notify"):
            from . import outbox

            outbox.drop(self._job)
        removing.remove(self._job)

    def _new_record(self, keeper: int, due: float | None = None) -> Record:
        paths = {
            "epoch": time.time(),
            "monotonic": time.monotonic(),
            "boot_id": host.boot_id(),
            "machine": host.machine(),
            "pid_namespace": host.pid_namespace(),
            "user": host.user_name(os.geteuid()),
            "containment": schema.SYSTEMD if self._request.get("unit") else schema.PROCESS,
            "unit": self._request.get("unit"),
            "keeper": keeper,
            "due": due,
            "wait": 0.0 if due is None else due - kernel.boottime(),
            "reports": notify_socket.address(self._job, 0) is not None,
            "results_file": self._job.results_file,
            "stdout_file": self._job.path("stdout"),
            "stderr_file": self._job.path("stderr"),
        }
        return schema.new_record(self._job.jid, self._request, paths)

    def _publish(self, record: Record) -> None:
        if self._request.get("notify"):
            from . import outbox

            outbox.create(self._job, self._request, record)
        self._job.publish(record)
        if self._request["name"] is not None:
            set_latest(self._job.store, self._request["name"], self._job.jid)

    def _fork_runner(
        self,
        pipes: runner.RunnerPipes,
        defaults: ProcessDefaults,
        borrowed: list[int],
        adopt: Callable[[Job, list[int]], None],
        register: Callable[[], bytes],
    ) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                for fd in (self._lock, *borrowed):
                    os.close(fd)
                runner.run(self._job, self._request, defaults, pipes, adopt, register)
            finally:
                os._exit(0)
        for fd in pipes.only_runners:
            os.close(fd)
        self._runner, self._gate = pid, pipes.gate_in

    def by_hand(self, work: Callable[[], bytes]) -> bytes:
        """Let a short-lived child do some work, for the sake of memory, and return what that returned.

        :raises JobError: it could not be done.
        """
        try:
            answer_out, answer_in = os.pipe()
            pid = os.fork()
        except OSError as error:
            raise self._job.store.failure(error) from None
        if pid == 0:
            try:
                # Where there is a standby, the next keeper must not come before all has been written.
                if not self._request.get("standby"):
                    os.close(self._lock)
                answer = self._worked(work)
                with open(answer_in, "wb") as sink:
                    sink.write(answer)
            finally:
                os._exit(0)
        os.close(answer_in)
        answer = runner.read_all(answer_out)
        os.waitpid(pid, 0)
        return _worked_out(answer)

    def _worked(self, work: Callable[[], bytes]) -> bytes:
        """Do some work and return what it returned after a plus sign, or what went wrong after a minus sign."""
        try:
            return b"+" + work()
        except JobError as error:
            failure = error
        except OSError as error:
            failure = self._job.store.failure(error)
        except Exception as error:  # pylint: disable=broad-exception-caught  # nobody else would see it
            # Not in its own words, which may show what is to be hidden.
            failure = JobError(
                "cannot launch the job: its record cannot be written: %s" % type(error).__name__
            )
        return b"-" + _plain(failure)


def _plain(error: JobError) -> bytes:
    return json.dumps(dict(error.details, msg=error.msg)).encode()


def _worked_out(answer: bytes) -> bytes:
    """Return the result of some work. :raises JobError: it could not be done; whoever did it says why, or has died."""
    if answer[:1] == b"+":
        return answer[1:]
    if answer:
        raise JobError(**json.loads(answer[1:]))
    raise NothingRanError(
        "cannot launch the job: the process that was to write its record ended without an answer"
    )


def _line(report: int) -> bytes:
    """Read one line of the runner's report, to the byte: the next line is read by somebody else."""
    line = b""
    while True:
        byte = _read(report, 1)
        if byte == b"\n":
            return line
        line += byte


def _registered(report: int) -> bytes:
    """Read what :meth:`Starter._register` made, to the byte; empty if the command's process died before."""
    size = _read(report, _SIZE_DIGITS)
    if not size.isdigit():  # the runner tells how that process ended
        return b""
    answer = b""
    while len(answer) < int(size):
        answer += _read(report, int(size) - len(answer))
    return answer


def _read(report: int, size: int) -> bytes:
    data = os.read(report, size)
    if not data:
        raise NothingRanError(
            "cannot start the command: its runner died before it told whether the command was started"
        )
    return data


def refused(error: Record) -> JobError:
    """Return what to tell of a command that could not be exec'ed, see ``runner``."""
    user = host.user_name(os.geteuid())
    told = (user, error["parameter"], error["subject"], error["strerror"])
    text = "cannot launch the job as user %s: %s %s: %s" % told
    if error["errno"] == errno.ENOENT and os.path.exists(error["subject"]):
        text += " (it exists; the interpreter that its first line names does not)"
    return JobError(text, errno=error["errno"])
