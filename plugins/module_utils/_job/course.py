# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a job has come on its way through its attempts, and when the next one is. See retrying for what decides."""

from __future__ import annotations

import select
import time

from . import kernel, retrying, runner, standby
from .errors import MISHAPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .job import Job
    from .standby import Plan, Post


class Course:
    """What a keeper knows of it.

    ``due``: when the next attempt is (CLOCK_BOOTTIME); ``began`` and ``first``: when the command, and the first
    attempt, was started (CLOCK_MONOTONIC).
    """

    def __init__(self) -> None:
        self.phase = retrying.WAITING
        self.pid = 0  # the keeper's, as a child of it may ask too
        self.plan: Plan | None = None  # None if nobody knows any more how to start the command
        self.began = 0.0
        self.first = 0.0
        self.due = 0.0
        self.over_before = 0  # attempts that are over
        self.paused = b""  # the record of the pause, if it has been written
        self.nothing_ran = False  # the command of a dead keeper was never exec'ed
        self.why_no_more = ""  # why there is no further attempt, though there should be one
        self.post: Post | None = None  # of a job that has a standby
        self.post_due = 0.0  # when to fork the next one (CLOCK_MONOTONIC)
        self.timer = -1

    def open(self, job: Job, poll: select.poll) -> None:
        """Open what a job needs that has a standby. :raises OSError: there are too many open files."""
        self.post = standby.Post(job)
        self.timer = kernel.open_timer()
        if self.timer >= 0:
            poll.register(self.timer, select.POLLIN)

    def opened(self) -> list[int]:
        """Return the descriptors that are open of it."""
        if self.post is None:
            return []
        return [fd for fd in (self.timer, *self.post.opened()) if fd >= 0]

    def post_standby(self, job: Job, poll: select.poll) -> None:
        """See that somebody gives the job a new keeper if this one is killed, even while there is no runner."""
        if self.post is None or self.plan is None or time.monotonic() < self.post_due:
            return
        self.post_due = time.monotonic() + runner.ADOPT_INTERVAL
        try:
            if self.post.watch < 0:  # the one that was there has been killed
                self.post = standby.Post(job)
            self.post.take(job, self.plan)
        except MISHAPS:  # too many open files, or processes
            self.post.close()
        if self.post.watch >= 0:
            poll.register(self.post.watch, 0)

    def lacks_standby(self) -> bool:
        """Tell whether the job should have a standby and has none."""
        return self.post is not None and self.post.watch < 0

    def reaped(self, pid: int) -> None:
        """Take note of a child that has been collected."""
        if self.post is not None and pid == self.post.pid:
            self.post.pid = 0

    def set_timer(self) -> None:
        """Let the timer wake its keeper when the next attempt is due."""
        if self.timer >= 0:
            kernel.set_timer(self.timer, self.due)
