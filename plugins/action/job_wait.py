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

from ..module_utils._argspec import WAIT
from ..module_utils._job import quantities, schema
from ..module_utils._job.errors import JobError
from ..module_utils._job.references import references
from ..module_utils._job.summary import who
from ..plugin_utils._display import Lines
from ..plugin_utils._forward import ForwardingAction, refused

# Seconds that one run of the module may last while nothing happens: the first one, so that people soon see what is
# waited for, and the others.
LOOK = (5.0, 60.0)
# Seconds during which changes are collected before they are told: the first time, and the longest.
GATHER = (0.5, 30.0)
RETRY = (1.0, 20.0)  # seconds between two attempts to reach a host: the first, and the longest
# Seconds beyond its wait that a run of the module may take. A connection whose other end is gone without a word, say
# by a power cut, would keep us waiting for hours.
ANSWER = 60.0
SHORTEST_ANSWER = (
    10.0  # seconds that an attempt to reach a lost host may take, also at the end of its time
)
RECONNECT = 600.0  # the option's default
PROGRESS_LINES = 20  # lines at a time about jobs that have reported progress and nothing else
LONGEST = 1e12  # seconds that a line can show
# What a line reads of a job.
NOTHING = dict.fromkeys(
    (
        *(
            "name",
            "ansible_job_id",
            "state",
            "reason",
            "elapsed",
            "timeout",
            "progress",
            "finished",
        ),
        *("attempt", "max_attempts", "starts_in"),
    )
)
MODULE_FAILURES = 3  # runs of the module that may fail in a row without an answer of ours


class ActionModule(ForwardingAction):
    """Runs the module of the same name again and again until it says that it is done."""

    arguments = WAIT
    instead = (
        "the jobs run in the background, and the wait goes on when a connection is lost. "
        "Drop both, and write timeout: %(limit)d if the wait is to end"
    )
    _host = ""  # as people know it
    _lines: Lines

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Wait, and return the module's last answer."""
        result = self.begin(tmp, task_vars)
        self._host = (task_vars or {}).get("inventory_hostname", self._play_context.remote_addr)
        self._lines = Lines(self, task_vars)
        try:
            args = self.forwarded()
            if "jobs" not in args:
                raise JobError("missing required arguments: jobs")
            args["jobs"] = [one.plain() for one in references(args["jobs"])]
            numbers = quantities.checked(args)
            timeout, reconnect = numbers.get("timeout"), numbers.get("reconnect_timeout")
        except JobError as error:
            return refused(result, error)
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
        contact = _Contact(self, reconnect, start, timeout)
        while True:
            # Hosts of one play should not all ask at the same moment.
            look = LOOK[news.seen is not None] * random.uniform(0.9, 1.0)
            left = float("inf") if timeout is None else start + timeout - time.monotonic()
            # After a lost connection the first answer shall come at once: only it shows that the host is back.
            wait = 0.0 if contact.is_lost() else max(0.0, min(left, look))
            # The engine decides by its clock whether it has waited so long; `last` says that the time is over then.
            part = {"wait": wait, "last": wait >= left, "gather": gather}
            answer = contact.ask(args, dict(part, seen=news.seen), task_vars or {})
            if answer is None:
                continue
            if "news" in answer:
                news.take(answer.pop("news"))
            args["jobs"] = answer.pop("meant", args["jobs"])
            if answer.pop("done", True):
                return answer
            gather = min(longest_gather, gather * 2)

    def cleanup(self, force: bool = False) -> None:
        """Remove what ansible-core has put on the host. A host that is gone by now takes no answer away from us."""
        with contextlib.suppress(AnsibleConnectionFailure):
            super().cleanup(force)

    def tell(self, line: str) -> None:
        """Show a line to whoever watches the play."""
        self._lines.show("%s: %s" % (self._host, line))


class _Contact:
    """Reaches the host again after the connection was lost.

    :param reconnect: seconds without an answer after which the host is given up.
    :param start: of the wait (monotonic clock).
    :param timeout: seconds after which nobody waits any more; None for never.
    """

    def __init__(
        self, action: ActionModule, reconnect: float, start: float, timeout: float | None
    ) -> None:
        self._action = action
        self._reconnect = reconnect
        self._timeout = timeout
        self._until = float("inf") if timeout is None else start + timeout
        self._lost: float | None = None  # since when there has been no answer
        self._pause = RETRY[0]
        self._failures = 0

    def is_lost(self) -> bool:
        """Tell whether the last attempt got no answer."""
        return self._lost is not None

    def ask(
        self, args: dict[str, t.Any], look: dict[str, t.Any], task_vars: dict[str, t.Any]
    ) -> dict[str, t.Any] | None:
        """Return the engine's answer; None if there is none and it is worth another attempt.

        :param look: which part of the wait this is, see ``verb_wait``.

        :raises AnsibleConnectionFailure: it is not.
        """
        try:
            with _alarm(self._action, self._longest(look["wait"])):
                answer = self._action.ask(dict(args), task_vars, look=look)
        except AnsibleConnectionFailure as error:
            why = str(error).strip()
            if self._is_over():
                raise AnsibleConnectionFailure(why + self._over()) from None
            self._recover("cannot be reached (%s)" % why.rpartition("\n")[2])
            return None
        if "module_stdout" in answer:  # no result: the module was killed before it could give one
            self._failures += 1
            if self._failures < MODULE_FAILURES and not self._is_over():
                self._recover("gave no answer (rc %s)" % answer.get("rc"))
                return None
            answer["msg"] = "%s%s" % (
                answer.get("msg") or "the module gave no answer",
                self._over(),
            )
        self._lost, self._pause, self._failures = None, RETRY[0], 0
        return answer

    def _is_over(self) -> bool:
        now = time.monotonic()
        if self._lost is None:
            self._lost = now
        return now >= min(self._lost + self._reconnect, self._until)

    def _over(self) -> str:
        """Return what to add to the reason of a failure when the time to wait is over, too."""
        if self._timeout is None or time.monotonic() < self._until:
            return ""
        return "; the timeout of %g s is over, and how the jobs are is not known" % self._timeout

    def _longest(self, wait: float) -> float:
        """Return after how many seconds a run of the module that waits so long is given up."""
        if self._lost is None:
            return wait + ANSWER
        left = min(self._lost + self._reconnect, self._until) - time.monotonic()
        return min(ANSWER, max(SHORTEST_ANSWER, left))

    def _recover(self, why: str) -> None:
        self._action.tell("%s; the jobs go on without us, and so does the wait" % why)
        connection = self._action._connection
        connection._shell.tmpdir = None  # it may be gone, say with a reboot
        with contextlib.suppress(AnsibleError, OSError):
            connection.reset()  # a control socket may be dead
        # The last attempt is made when the time is over, neither before nor after.
        left = min((self._lost or 0.0) + self._reconnect, self._until) - time.monotonic()
        time.sleep(max(0.0, min(self._pause * random.uniform(0.5, 1.0), left)))
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

    def take(self, news: object) -> None:
        """Take note of the module's news, and tell about them."""
        news = [(place, state, {**NOTHING, **job}) for place, state, job in _whole(news)]
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
            if not 0 <= place < len(self.seen):
                continue
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
        states = [str(job["state"] or "missing") for job in self._jobs]
        each = ", ".join("%d %s" % (states.count(state), state) for state in dict.fromkeys(states))
        return "%d jobs%s" % (len(states), ": " + each if each else ", nothing to wait for")


def _whole(news: object) -> list[tuple[int, list[t.Any], dict[str, t.Any]]]:
    """Return of an answer's news what is news: a place, a state, and a job."""
    return [
        (one[0], one[1], one[2])
        for one in (news if isinstance(news, list) else [])
        if isinstance(one, (list, tuple)) and [type(part) for part in one] == [int, list, dict]
    ]


def _seconds(value: object) -> float | None:
    """Return a number of seconds that can be shown; None for whatever else a job dictionary may hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value <= LONGEST else None


def _line(job: dict[str, t.Any]) -> str:
    text = "%s: %s" % (who(job), job["state"] or "missing")
    if job["reason"]:
        text += " (%s)" % job["reason"]
    attempt = schema.attempt_text(job)
    text += ", " + attempt if attempt else ""
    elapsed, timeout = _seconds(job["elapsed"]), _seconds(job["timeout"])
    if elapsed is not None:
        text += ", %.1f%s s" % (elapsed, "/%g" % timeout if timeout else "")
    progress = schema.progress_text(job["progress"])
    if progress and job["state"] != schema.SUCCEEDED:
        text += ", " + progress
    return text
