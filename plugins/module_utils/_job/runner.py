# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner: starts the command, waits for it and writes down how it ended, whatever happens to the keeper."""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import signal
import time

from . import cgroup, kernel, notify_socket, shutdown, unit
from .errors import MISHAPS, SHORTAGES
from .job import log_loss
from .record_io import DamagedRecord, MissingRecord
from .schema import ATTEMPT, COOKIE, NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, NoReturn

    from .schema import Record
    from .store import Job

# Signals that a closing terminal, a logout or a shutdown sends to everybody: they are for the command, not for us.
IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


TOLD = (signal.SIGCHLD, signal.SIGIO)  # a child has changed; see kernel.announce_writing

# Seconds between two attempts to give a job a new keeper: one that dies at once is not worth a storm.
ADOPT_INTERVAL = 1.0

GAVE_UP = 3  # the exit status of a keeper that cannot write the end of its job down

# Seconds between two attempts to write something down, and for how long a disk that refuses it is asked again.
RECORD_INTERVAL = 1.0
RECORD_PATIENCE = 10.0

# The limits of the caller that could end a process of ours, or keep it from its work (getrlimit(2)).
LIMITS = (
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_CPU,
    resource.RLIMIT_AS,
    resource.RLIMIT_DATA,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_NPROC,
)
TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


class ProcessDefaults:
    """What the launcher got from the module, and the command must not miss.

    Making one changes it: the launcher, and all that it forks, are private, deaf to the signals of others, hear
    those that they need, and are only subject to the hard limits of the caller.
    """

    def __init__(self) -> None:
        _open_stdio()
        self.umask = os.umask(0o077)
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        for number in TOLD:
            signal.signal(number, lambda _number, _frame: None)  # see wakeup_pipe
        for timer in TIMERS:
            signal.setitimer(timer, 0)  # an alarm(2) survives an exec
        shutdown.listen()
        self._limits: list[tuple[int, tuple[int, int]]] = []
        for limit in LIMITS:
            soft, hard = resource.getrlimit(limit)
            if soft != hard:
                resource.setrlimit(limit, (hard, hard))
                self._limits.append((limit, (soft, hard)))

    def restore(self) -> None:
        """Let the command have the umask of the module, and every signal: none is ignored, none blocked.

        Who launches behind nohup, or in the background of a script, ignores some. Its jobs would be deaf to these.
        """
        os.umask(self.umask)
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                try:
                    signal.signal(number, signal.SIG_DFL)
                except OSError:
                    pass  # one of the C library's own
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def restore_limits(self) -> None:
        """Let the command have the limits of the module. Nothing but the exec should follow: they may be tight."""
        for limit, both in self._limits:
            resource.setrlimit(limit, both)


def _open_stdio() -> None:
    """Give descriptors 0 to 2 a meaning where the caller has closed them, or files of ours would take their place."""
    while True:
        fd = os.open("/dev/null", os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return


class RunnerPipes:
    """The descriptors of a runner. Who will fork its keeper opens them, see ``launcher.SIDE_BY_SIDE``.

    ``gate``: the command is exec'ed when a byte comes through, never if it is closed before.
    ``report``: to the keeper, a line each: who the command is, why it could not be exec'ed (or nothing), how it ended.
    ``refusal``: closed by a successful exec; else says why there was none.
    ``lock``: the runner's, ``hangup``: hangs up when the keeper ends, ``wakeup``: see wakeup_pipe.

    :raises OSError: there are too many open files; none of ours is left open.
    """

    def __init__(self, job: Job) -> None:
        self.opened: list[int] = []
        self.poll = select.poll()
        try:
            self.gate_out, self.gate_in = self._keep(os.pipe())
            self.report_out, self.report_in = self._keep(os.pipe())
            self.refusal_out, self.refusal_in = self._keep(os.pipe())
            self.wakeup_out, self.wakeup_in = self._keep(wakeup_pipe())
            self.lock = job.lock("runner")
            self.hangup = _watch_keeper(job, self.poll)
            self.opened += [fd for fd in (self.lock, self.hangup) if fd is not None]
        except BaseException:
            for fd in self.opened:
                os.close(fd)
            raise
        self.poll.register(self.wakeup_out, select.POLLIN)
        self.only_runners = [fd for fd in self.opened if fd not in (self.gate_in, self.report_out)]

    def _keep(self, both: tuple[int, int]) -> tuple[int, int]:
        self.opened += both
        return both


def run(
    job: Job,
    request: Record,
    defaults: ProcessDefaults,
    pipes: RunnerPipes,
    adopt: Callable[[Job, list[int]], None],
    register: Callable[[], bytes],
) -> None:
    """Be the runner of a job, in a process of its own, which the caller ends afterwards.

    :param adopt: becomes the keeper of a job whose keeper has died; called in a process of its own, with descriptors
        to close as soon as it holds the keeper's lock.
    :param register: writes down that the job is about to run, and returns what the keeper is to be told of it; called
        in the command's process, before it waits at the gate.
    """
    lock = pipes.lock
    if lock is None:
        return
    kernel.become_subreaper()
    os.close(pipes.gate_in)
    os.close(pipes.report_out)
    pid = os.fork()
    if pid == 0:
        _become_command(job, request, defaults, pipes, register)
    os.close(pipes.gate_out)
    os.close(pipes.refusal_in)
    os.chdir("/")
    signal.set_wakeup_fd(pipes.wakeup_in)
    refusal = read_all(pipes.refusal_out)
    _tell(pipes.report_in, refusal)
    was_born = refusal == b""
    if not was_born and request.get(
        "standby"
    ):  # the next keeper, if this one has died, must not start it twice
        _record(job, dict(ended(127 << 8, []), refused=json.loads(refusal)))
    status = (
        _wait_for(pid, job, pipes, lambda: fork_keeper(job, lock, adopt))
        if was_born
        else os.waitpid(pid, 0)[1]
    )
    if was_born:
        end = ended(status, unit.groups(request))
        words = (
            end["status"],
            repr(end["epoch"]),
            repr(end["monotonic"]),
            *([end["oom"]] if "oom" in end else []),
        )
        _tell(pipes.report_in, " ".join(map(str, words)).encode())
        os.waitpid(pid, 0)  # not before: whoever reaps it and is killed takes the status along
        _record(job, end)
    os.close(lock)
    if was_born and request.get("notify"):
        from . import delivery

        delivery.see_out(job)


def _record(job: Job, end: Record) -> None:
    """Write the exit record. While that fails, only the memory of this process and of the keeper holds it."""
    until = time.monotonic() + RECORD_PATIENCE
    while True:
        try:
            job.fill("exit", end)
            return
        except MISHAPS as error:
            if is_final(error, until):
                return
        try:
            if job.read_record(brief=True)["finished"]:  # the keeper has been luckier
                return
        except (*MISHAPS, MissingRecord, DamagedRecord):
            pass
        time.sleep(RECORD_INTERVAL)


def is_final(error: BaseException, until: float) -> bool:
    """Tell whether it makes no sense to go on trying to write to a job's folder.

    :param until: when to believe a disk that it is broken (monotonic clock).
    """
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOENT:  # somebody has removed the folder
        return True
    is_short = isinstance(error, MemoryError) or number in SHORTAGES
    return not is_short and time.monotonic() >= until


def ended(status: int, groups: list[str]) -> Record:
    """Return the exit record of a command that has just ended with a wait status.

    :param groups: the job's control groups.
    """
    end = {"status": status, "epoch": time.time(), "monotonic": time.monotonic()}
    if groups:
        end["oom"] = cgroup.oom_killed(groups)
    return end


def parsed(report: bytes) -> Record:
    """Return the exit record that a runner has told its keeper: words, for JSON would cost every keeper memory."""
    status, epoch, monotonic, *oom = report.split()
    end: Record = {"status": int(status), "epoch": float(epoch), "monotonic": float(monotonic)}
    if oom:
        end["oom"] = oom[0] == b"True"
    return end


def read_all(fd: int) -> bytes:
    """Read a pipe to its end and close it."""
    parts: list[bytes] = []
    while True:
        data = os.read(fd, 512)  # a larger buffer would leave its marks in our memory
        if not data:
            os.close(fd)
            return b"".join(parts)
        parts.append(data)


def wakeup_pipe() -> tuple[int, int]:
    """Return a pipe for signal.set_wakeup_fd: its first end becomes readable when one of TOLD comes.

    Python writes to it only for a signal that has a handler: the launcher's, see ProcessDefaults.
    """
    wakeup_out, wakeup_in = os.pipe()
    os.set_blocking(wakeup_out, False)
    os.set_blocking(wakeup_in, False)
    return wakeup_out, wakeup_in


def _wait_for(pid: int, job: Job, pipes: RunnerPipes, new_keeper: Callable[[], None]) -> int:
    """Wait for the command, without reaping it, and return its status; replace the keeper whenever it has died."""
    poll, wakeup, keeper = pipes.poll, pipes.wakeup_out, pipes.hangup
    adopted = -ADOPT_INTERVAL
    while True:
        status = _ended(pid)
        if status is not None:
            return status
        pause = None
        if keeper is None:
            pause = max(0.0, adopted + ADOPT_INTERVAL - time.monotonic())
            if pause == 0:
                adopted = time.monotonic()
                keeper = _replaced(job, poll, new_keeper)
        try:
            events = dict(poll.poll(None if pause is None else int(pause * 1000) + 1))
        except (
            OSError,
            MemoryError,
        ):  # a lack of memory, or a limit of descriptors that somebody has lowered
            time.sleep(ADOPT_INTERVAL)
            continue
        if wakeup in events:
            os.read(wakeup, 4096)
        if keeper is not None and keeper in events:
            poll.unregister(keeper)
            os.close(keeper)
            keeper = None


def _replaced(job: Job, poll: select.poll, new_keeper: Callable[[], None]) -> int | None:
    """Start a new keeper and watch it; None if that must be tried again."""
    try:
        new_keeper()
        return _watch_keeper(job, poll)
    except MISHAPS:  # too many open files, or processes
        return None


def _watch_keeper(job: Job, poll: select.poll) -> int | None:
    try:
        keeper = job.watch("keeper")
    except OSError:  # the folder has been removed
        return None
    if keeper is not None:
        poll.register(keeper, 0)
    return keeper


def _ended(command: int) -> int | None:
    """Return the wait status of the command, which stays a zombie, if it has ended; reap other dead children."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None
        if found is None:
            return None
        if found.si_pid == command:
            if found.si_code == os.CLD_EXITED:
                return found.si_status << 8
            return found.si_status | (0x80 if found.si_code == os.CLD_DUMPED else 0)
        os.waitpid(found.si_pid, 0)


def fork_keeper(job: Job, lock: int, adopt: Callable[[Job, list[int]], None]) -> None:
    """Start a keeper and wait until it holds the lock, or has ended."""
    ready_out, ready_in = os.pipe()
    try:
        if os.fork() == 0:
            os.close(ready_out)
            status = GAVE_UP
            try:
                adopt(job, [lock, ready_in])
                status = 0
            except Exception:  # pylint: disable=broad-exception-caught  # nobody else would see it
                log_loss(job)
            finally:
                os._exit(status)
        os.close(ready_in)
        ready_in = -1
        os.read(ready_out, 1)
    finally:
        os.close(ready_out)
        if ready_in >= 0:
            os.close(ready_in)


def _tell(fd: int, line: bytes) -> None:
    _send(fd, line + b"\n")


def _send(fd: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError:  # the keeper is dead; the exit record will tell
        pass


def _become_command(
    job: Job,
    request: Record,
    defaults: ProcessDefaults,
    pipes: RunnerPipes,
    register: Callable[[], bytes],
) -> NoReturn:
    parameter, subject = request["parameter"], request["argv"][0]
    failure = b"{}"  # the gate was closed
    try:
        os.setsid()
        _send(pipes.report_in, register())
        stdin = request["stdin"]
        sources = [
            os.open("/dev/null", os.O_RDONLY)
            if stdin is None
            else job.stdin_file(stdin.encode("utf-8", "surrogateescape")),
            job.open_stream("stdout", os.O_WRONLY | os.O_APPEND),
            job.open_stream("stderr", os.O_WRONLY | os.O_APPEND),
        ]
        for target, source in enumerate(sources):
            os.dup2(source, target)
        addresses = notify_socket.environment(job, request, os.getppid())
        unit.enter(request)
        if os.read(pipes.gate_out, 1) != b"":
            defaults.restore()
            if request["chdir"] is not None:
                parameter, subject = "chdir", request["chdir"]
                os.chdir(request["chdir"])
            if request["nice"]:
                parameter, subject = "nice", str(request["nice"])
                os.nice(request["nice"])
            if request["umask"] is not None:
                parameter, subject = "umask", str(request["umask"])
                os.umask(request["umask"])
            parameter, subject = request["parameter"], request["argv"][0]
            environment = _environment(job.jid, request, addresses)
            defaults.restore_limits()
            os.execvpe(request["argv"][0], request["argv"], environment)
    except Exception as error:  # pylint: disable=broad-exception-caught  # the keeper is told
        failure = _failure(error, parameter, subject)
    finally:
        os.write(pipes.refusal_in, failure)
        os._exit(127)


def _failure(error: Exception, parameter: str, subject: str) -> bytes:
    """Return what to tell of a command that could not be exec'ed, JSON."""
    told: Record = {"parameter": parameter, "subject": subject, "errno": errno.EINVAL}
    if isinstance(error, OSError):
        if isinstance(error, cgroup.Refused):
            told = {"parameter": error.parameter, "subject": error.subject}
        told.update(errno=error.errno, strerror=error.strerror)
    elif isinstance(error, ValueError):
        # Text that is none, such as half a surrogate pair; the exception's own words would show it.
        told.update(parameter="argv, env or stdin", subject="of the job")
        told.update(strerror="not encodable as text for a program")
    else:
        told.update(strerror=type(error).__name__)
    return json.dumps(told).encode()


def _environment(jid: str, request: Record, addresses: dict[str, str]) -> dict[str, str]:
    environment = dict(os.environ)
    for name in (*notify_socket.INHERITED, NAME):
        environment.pop(name, None)
    environment.update(addresses)
    environment.update(request["env"])  # the user's own wins: an empty NOTIFY_SOCKET is none
    if request["name"] is not None:
        environment[NAME] = request["name"]
    environment[ATTEMPT] = str(request.get("attempt", 1))
    environment[COOKIE] = jid
    return environment
