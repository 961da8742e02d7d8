# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks again: only the controller can go on after a lost connection, and tell people what has changed."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
import typing as t

from ansible.errors import AnsibleConnectionFailure, AnsibleError

from ..module_utils._job import schema
from ..module_utils._job.errors import JobError
from ..module_utils._references import references
from ..plugin_utils._forward import ForwardingAction

# Seconds that one run of the module may last while nothing happens: the first one, so that people soon see what is
# waited for, and the others.
LOOK = (5.0, 60.0)
# Seconds during which changes are collected before they are told: the first time, and the longest.
GATHER = (0.5, 30.0)
RETRY = (1.0, 20.0)  # seconds between two attempts to reach a host: the first, and the longest
# Seconds beyond its wait that a run of the module may take. A connection whose other end is gone without a word, say
# by a power cut, would keep us waiting for hours.
ANSWER = 60.0
RECONNECT = 600.0  # the option's default
PROGRESS_LINES = 20  # lines at a time about jobs that have reported progress and nothing else
MODULE_FAILURES = 3  # runs of the module that may fail in a row without an answer of ours


class ActionModule(ForwardingAction):
    """Runs the module of the same name again and again until it says that it is done."""

    module = "durable.jobs.job_wait"
    instead = (
        "the jobs run in the background, and the wait goes on when a connection is lost. "
        "Drop both, and write timeout: %(limit)d if the wait is to end"
    )
    _host = ""  # as people know it

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Wait, and return the module's last answer."""
        result = self.begin(tmp, task_vars)
        self._host = (task_vars or {}).get("inventory_hostname", self._play_context.remote_addr)
        args = self.forwarded()
        try:
            args["jobs"] = [one.plain() for one in references(args.get("jobs", []))]
            timeout = _seconds(args.get("timeout"), "timeout")
            reconnect = _seconds(args.get("reconnect_timeout"), "reconnect_timeout")
        except JobError as error:
            return dict(result, failed=True, msg=error.msg)
        patience = RECONNECT if reconnect is None else reconnect
        result.update(self._wait(args, timeout, patience, task_vars))
        return result

    def _wait(
        self,
        args: dict[str, t.Any],
        timeout: float | None,
        reconnect: float,
        task_vars: dict[str, t.Any] | None,
    ) -> dict[str, t.Any]:
        """Return the module's last answer."""
        start = time.monotonic()
        gather, longest_gather = GATHER
        news = _News(self.tell)
        contact = _Contact(self, reconnect, start + timeout if timeout is not None else None)
        while True:
            # Hosts of one play should not all ask at the same moment.
            look = LOOK[news.seen is not None] * random.uniform(0.9, 1.0)
            left = float("inf") if timeout is None else start + timeout - time.monotonic()
            part = {"wait": max(0.0, min(left, look)), "last": left <= look, "gather": gather}
            answer = contact.ask(dict(args, _part=dict(part, seen=news.seen)), task_vars)
            if answer is None:
                continue
            if "news" in answer:
                news.take(answer.pop("news"))
            args["jobs"] = answer.pop("meant", args["jobs"])
            if answer.pop("done", True):
                return answer
            gather = min(longest_gather, gather * 2)

    def tell(self, line: str) -> None:
        """Show a line to whoever watches the play."""
        if not self._task.no_log:
            self._display.display("%s: %s" % (self._host, line))


class _Contact:
    """Reaches the host again after the connection was lost.

    :param reconnect: seconds without an answer after which the host is given up.
    :param until: when nobody waits any more (monotonic clock); None for never.
    """

    def __init__(self, action: ActionModule, reconnect: float, until: float | None) -> None:
        self._action = action
        self._reconnect = reconnect
        self._until = until
        self._lost: float | None = None  # since when there has been no answer
        self._pause = RETRY[0]
        self._failures = 0

    def ask(
        self, args: dict[str, t.Any], task_vars: dict[str, t.Any] | None
    ) -> dict[str, t.Any] | None:
        """Run the module and return its answer; None if there is none and it is worth another attempt.

        :raises AnsibleConnectionFailure: it is not.
        """
        try:
            with _alarm(self._action, args["_part"]["wait"] + ANSWER):
                answer = self._action._execute_module(
                    module_name=self._action.module, module_args=args, task_vars=task_vars
                )
        except AnsibleConnectionFailure as error:
            if self._is_over():
                raise
            self._recover("cannot be reached (%s)" % str(error).strip().splitlines()[-1])
            return None
        if "module_stdout" in answer:  # no result: the module was killed before it could give one
            self._failures += 1
            if self._failures < MODULE_FAILURES and not self._is_over():
                self._recover("gave no answer (rc %s)" % answer.get("rc"))
                return None
        self._lost, self._pause, self._failures = None, RETRY[0], 0
        return answer

    def _is_over(self) -> bool:
        now = time.monotonic()
        if self._lost is None:
            self._lost = now
        return now - self._lost >= self._reconnect or (
            self._until is not None and now > self._until
        )

    def _recover(self, why: str) -> None:
        self._action.tell("%s; the jobs go on without us, and so does the wait" % why)
        connection = self._action._connection
        connection._shell.tmpdir = None  # it may be gone, say with a reboot
        with contextlib.suppress(AnsibleError, OSError):
            connection.reset()  # a control socket may be dead
        time.sleep(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(RETRY[1], self._pause * 2)


@contextlib.contextmanager
def _alarm(action: ActionModule, seconds: float) -> t.Iterator[None]:
    """Take it for a lost connection when something lasts longer than so many seconds.

    A task with ``timeout`` has an alarm of ansible-core's own, which is left alone.
    """
    if action._task.timeout or threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(_number: int, _frame: object) -> None:
        raise AnsibleConnectionFailure("no answer for %d s" % seconds)

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _News:
    """What has been seen of the jobs, and telling people what is new."""

    def __init__(self, tell: t.Callable[[str], None]) -> None:
        self._tell = tell
        self.seen: list[t.Any] | None = None
        self._jobs: list[dict[str, t.Any]] = []

    def take(self, news: list[list[t.Any]]) -> None:
        """Take note of the module's news, and tell about them."""
        if self.seen is None:
            self.seen = [state for _place, state, _job in news]
            self._jobs = [job for _place, _state, job in news]
            self._tell(self._summary())
            self._tell_reports(
                [job for job in self._jobs if job["progress"] and not job["finished"]]
            )
            return
        reports = []
        for place, state, job in news:
            is_report = self.seen[place][:-1] == state[:-1]
            self.seen[place], self._jobs[place] = state, job
            if is_report:
                reports.append(job)
            else:
                self._tell("%s | %s" % (_line(job), self._finished()))
        self._tell_reports(reports)

    def _tell_reports(self, jobs: list[dict[str, t.Any]]) -> None:
        """Tell about jobs that have reported progress."""
        for job in jobs[:PROGRESS_LINES]:
            self._tell("%s | %s" % (_line(job), self._finished()))
        if len(jobs) > PROGRESS_LINES:
            self._tell("%d more jobs have reported progress" % (len(jobs) - PROGRESS_LINES))

    def _finished(self) -> str:
        done = sum(bool(job["finished"]) for job in self._jobs)
        return "%d of %d finished" % (done, len(self._jobs))

    def _summary(self) -> str:
        states = [job["state"] or "missing" for job in self._jobs]
        each = ", ".join("%d %s" % (states.count(state), state) for state in dict.fromkeys(states))
        return "%d jobs%s" % (len(states), ": " + each if each else ", nothing to wait for")


def _line(job: dict[str, t.Any]) -> str:
    who = job["name"] or job["ansible_job_id"] or "a job that was not launched"
    text = "%s: %s" % (who, job["state"] or "missing")
    if job["reason"]:
        text += " (%s)" % job["reason"]
    if job["elapsed"] is not None:
        text += ", %.1f%s s" % (job["elapsed"], "/%g" % job["timeout"] if job["timeout"] else "")
    progress = schema.progress_text(job["progress"])
    if progress and job["state"] != schema.SUCCEEDED:
        text += ", " + progress
    return text


def _seconds(value: object, name: str) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise JobError(
            "%s must be a number of seconds that is not negative, not %s" % (name, value)
        )
    return seconds
