# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The standby: a second process that knows what a job is to do, and gives it a new keeper when it has lost its own.

Only a job that waits for its time, or may be tried again, has one: while its command does not run, it has no runner.
What its command gets, such as its environment, lies in no file. So if keeper and standby are killed together, nobody
can start it any more, and the job is lost.
"""

from __future__ import annotations

import os
import select
import signal
import time

from . import runner
from .errors import MISHAPS
from .record_io import DamagedRecord, MissingRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, NoReturn

    from .job import Job
    from .queueing import Turn
    from .runner import ProcessDefaults
    from .schema import Record

    Adopt = Callable[..., None]  # adoption.adopt, or one that knows the plan

HIGHEST = 4096  # no process of ours has as many descriptors
LEAVE_QUEUE = b"t"  # what a keeper writes into our FIFO when the job has started
RUNNER_FIRST = 1.0  # seconds that we leave to a runner, which gives the job a new keeper too
LOOK_INTERVAL = 0.02  # seconds between two looks whether it has


class Plan:
    """What only the processes of a job know of it: what is to be started, in which surroundings, and when.

    :param request: what the user asked for, see launcher.
    :param defaults: what the command must find unchanged.
    :param turn: the job's place in its batch.
    :param lock: its lock ``turn``; -1 if it has left the queue.
    :param adopt: becomes the keeper of a job whose keeper has died; called in a process of its own, with
        descriptors to close as soon as it holds the keeper's lock.
    """

    def __init__(
        self, request: Record, defaults: ProcessDefaults, turn: Turn, lock: int, adopt: Adopt
    ) -> None:
        self.request = request
        self.defaults = defaults
        self.turn = turn
        self.lock = lock
        self.adopt = adopt

    def started(self) -> Plan:
        """Return the plan of a job that has left the queue."""
        return Plan(self.request, self.defaults, self.turn, -1, self.adopt)


class Post:
    """The descriptors of a standby to come. Who will fork its keeper opens them, see ``launcher.SIDE_BY_SIDE``.

    ``lock``: the standby's, -1 if somebody else has it; ``hangup``: hangs up when the keeper ends; ``watch``: hangs up
    when the standby ends.

    :raises OSError: there are too many open files; none of ours is left open.
    """

    def __init__(self, job: Job) -> None:
        self.pid = 0  # of the standby, if it is our child
        self.lock = self.hangup = self.watch = -1
        self._poll = select.poll()
        try:
            lock = job.lock("standby")
            self.lock = -1 if lock is None else lock
            watch = job.watch("standby")
            self.watch = -1 if watch is None else watch
            if lock is not None:
                self.hangup = job.watch("keeper") or -1
                self._poll.register(self.lock, select.POLLIN)
                self._poll.register(self.hangup, 0)
        except BaseException:
            self.close()
            raise

    def opened(self) -> list[int]:
        """Return what is open of it."""
        return [fd for fd in (self.lock, self.hangup, self.watch) if fd >= 0]

    def close(self) -> None:
        """Close all of it."""
        for fd in self.opened():
            os.close(fd)
        self.lock = self.hangup = self.watch = -1

    def take(self, job: Job, plan: Plan) -> None:
        """Fork the standby, unless there is one.

        :raises OSError: too many processes.
        """
        if self.lock < 0:
            return
        pid = os.fork()
        if pid == 0:
            _stand_by(job, plan, self)
        self.pid = pid
        for fd in (self.lock, self.hangup):
            os.close(fd)
        self.lock = self.hangup = -1

    def wait(self) -> tuple[bool, bool]:
        """Sleep until something happens; tell whether the keeper has ended, and whether the job has left the queue."""
        has_left = False
        for fd, _events in self._poll.poll():
            if fd == self.lock:
                has_left = LEAVE_QUEUE in os.read(fd, select.PIPE_BUF)
            else:
                self._poll.unregister(fd)
                os.close(fd)
                self.hangup = -1
        return self.hangup < 0, has_left

    def listen(self, job: Job) -> bool:
        """Watch a new keeper; tell whether there is one."""
        self.hangup = job.watch("keeper") or -1
        if self.hangup >= 0:
            self._poll.register(self.hangup, 0)
        return self.hangup >= 0


def tell_started(job: Job) -> None:
    """Let the standby know that the job has left the queue."""
    try:
        fd = job.open_fifo("standby", os.O_WRONLY)
    except OSError:  # it has none
        return
    try:
        os.write(fd, LEAVE_QUEUE)
    except OSError:  # it has just died
        pass
    finally:
        os.close(fd)


def _stand_by(job: Job, plan: Plan, post: Post) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        plan.turn.hangups = []  # the keeper's
        _close_all_but(2, job.store.fd, job.fd, job.inbox, post.lock, post.hangup, plan.lock)
        _serve(job, plan, post)
    except OSError:  # the folder has been removed
        pass
    finally:
        os._exit(0)


def _serve(job: Job, plan: Plan, post: Post) -> None:
    """See that the job has a keeper until it is over."""
    while True:
        is_alone, has_left = post.wait()
        if has_left and plan.lock >= 0:
            os.close(plan.lock)
            plan.lock = -1
        while is_alone and not post.listen(job):
            if _is_over(job) or _replace(job, plan, post.lock):
                return


def _close_all_but(*kept: int) -> None:
    """Close all descriptors of the keeper's that are none of ours."""
    fds = sorted(fd for fd in kept if fd >= 0)
    for fd, following in zip(fds, [*fds[1:], HIGHEST]):
        os.closerange(fd + 1, following)


def _is_over(job: Job) -> bool:
    try:
        return bool(job.read_record(brief=True)["finished"])
    except MissingRecord:
        return True
    except (*MISHAPS, DamagedRecord):
        return False


def _replace(job: Job, plan: Plan, lock: int) -> bool:
    """Give the job a new keeper; tell whether that has been found to be of no use."""
    if _has_given_up():
        return True
    until = time.monotonic() + RUNNER_FIRST
    while job.is_held("runner") and time.monotonic() < until:
        time.sleep(LOOK_INTERVAL)
        if job.is_held("keeper"):
            return False
    begun = time.monotonic()
    try:
        runner.fork_keeper(job, lock, lambda one, borrowed: plan.adopt(one, borrowed, plan))
    except MISHAPS:
        pass  # too many open files, or processes
    if not job.is_held("keeper"):
        time.sleep(max(0.0, begun + runner.ADOPT_INTERVAL - time.monotonic()))
    return False


def _has_given_up() -> bool:
    """Collect dead keepers, and tell whether one could not write the end of the job down."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return False
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == runner.GAVE_UP:
            return True
