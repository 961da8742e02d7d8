# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner: starts the command, waits for it and writes down how it ended, whatever happens to the keeper."""

from __future__ import annotations

import json
import os
import signal
import time

from . import tree
from .schema import COOKIE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from .schema import Record
    from .store import Job

# Signals that a closing terminal, a logout or a shutdown sends to everybody: they are for the command, not for us.
IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class Inheritance:
    """What the launcher got from the module, and the command must get unchanged."""

    def __init__(self) -> None:
        self.umask = os.umask(0o077)
        self.ignored = [number for number in IGNORED if signal.getsignal(number) is signal.SIG_IGN]

    def restore(self) -> None:
        """Undo what this package, and the interpreter at its start, changed (subprocess's restore_signals)."""
        os.umask(self.umask)
        for number in (*IGNORED, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_IGN if number in self.ignored else signal.SIG_DFL)


class Pipes:
    """How keeper, runner and command talk while a job is launched.

    ``gate``: the command is exec'ed when a byte comes through, never if it is closed before.
    ``verdict``: the command's way to say why it could not be exec'ed; closed by a successful exec.
    ``report``: the runner's lines to the keeper: who the command is, and how it ended.
    """

    def __init__(self) -> None:
        self.gate_out, self.gate_in = os.pipe()
        self.verdict_out, self.verdict_in = os.pipe()
        self.report_out, self.report_in = os.pipe()


def run(job: Job, request: Record, inheritance: Inheritance, pipes: Pipes) -> None:
    """Be the runner of a job, in a process of its own, which the caller ends afterwards."""
    lock = job.lock("runner")
    for fd in (pipes.gate_in, pipes.verdict_out, pipes.report_out):
        os.close(fd)
    pid = os.fork()
    if pid == 0:
        _become_command(job, request, inheritance, pipes)
    for fd in (pipes.gate_out, pipes.verdict_in):
        os.close(fd)
    os.chdir("/")
    command = tree.process(pid)
    _tell(pipes.report_in, {"pid": pid, "started": command.started if command else 0})
    _pid, status = os.waitpid(pid, 0)
    end = {"status": status, "epoch": time.time(), "monotonic": time.monotonic()}
    _tell(pipes.report_in, end)
    job.fill("exit", end)
    if lock is not None:
        os.close(lock)


def _tell(fd: int, line: Record) -> None:
    try:
        os.write(fd, json.dumps(line).encode() + b"\n")
    except BrokenPipeError:  # the keeper is dead; the exit record will tell
        pass


def _become_command(job: Job, request: Record, inheritance: Inheritance, pipes: Pipes) -> NoReturn:
    parameter, subject = request["parameter"], request["argv"][0]
    try:
        os.close(pipes.report_in)
        os.setsid()
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
        if os.read(pipes.gate_out, 1) != b"":
            inheritance.restore()
            if request["chdir"] is not None:
                parameter, subject = "chdir", request["chdir"]
                os.chdir(request["chdir"])
            if request["nice"]:
                parameter, subject = "nice", str(request["nice"])
                os.nice(request["nice"])
            if request["umask"] is not None:
                os.umask(request["umask"])
            parameter, subject = request["parameter"], request["argv"][0]
            os.execvpe(request["argv"][0], request["argv"], _environment(job.jid, request["env"]))
    except OSError as error:
        _tell(
            pipes.verdict_in,
            {
                "parameter": parameter,
                "subject": subject,
                "errno": error.errno,
                "strerror": error.strerror,
            },
        )
    finally:
        os._exit(127)


def _environment(jid: str, extra: dict[str, str]) -> dict[str, str]:
    environment = dict(os.environ)
    environment.update(extra)
    environment[COOKIE] = jid
    return environment
