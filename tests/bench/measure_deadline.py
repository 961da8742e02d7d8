# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How late a job is ended that has reached its deadline."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import select
import time
import typing as t

from ansible_collections.durable.jobs.tests.bench import tasks
from ansible_collections.durable.jobs.tests.bench.lab import Hold, Lab, Play
from ansible_collections.durable.jobs.tests.bench.report import Aim, Samples, Section

TIMEOUTS = (2, 7, 12)  # seconds
HOST = "local_pipelined"
AIM_SECONDS = 0.2
LOST_AFTER = (
    20.0  # seconds after the deadline at which a job that is still there counts as never ended
)
GLANCE = 5  # milliseconds between two looks for a job that has just begun

_EXPLANATION = f"""\
Seconds from the moment at which the job should have been ended (its first act is to write down when it
began) to the moment at which the kernel says that it is gone. Less than 0 is too early. A job that is
still running {LOST_AFTER:.0f} s later counts as never ended."""

_ENGINES = (tasks.OURS, tasks.BUILTIN)
NEVER = float("inf")
Key = t.Tuple[str, int]  # engine and timeout


def measure(lab: Lab) -> Section:
    """Let jobs run into their deadlines and watch them go."""
    section = Section("Error of the deadline", _EXPLANATION, ("timeout, s", "ours", "builtin"))
    errors: dict[Key, list[float]] = {}
    for _turn in range(lab.repetitions(3, 1)):
        for key, error in _one_turn(lab).items():
            errors.setdefault(key, []).append(error)
    for timeout in TIMEOUTS:
        shown = [_show(errors[engine, timeout]) for engine in _ENGINES]
        section.rows.append((str(timeout), *shown))
    worst = max((e for timeout in TIMEOUTS for e in errors[tasks.OURS, timeout]), key=abs)
    promise = f"deadline error under {AIM_SECONDS} s"
    section.aims.append(Aim(promise, f"{worst:+.3f} s at the worst", abs(worst) < AIM_SECONDS))
    return section


def _show(errors: t.Sequence[float]) -> str:
    ended = [error for error in errors if error != NEVER]
    parts = [Samples(ended).show("{:+.3f}")] if ended else []
    if len(ended) < len(errors):
        parts.append(f"{len(errors) - len(ended)} of {len(errors)} never ended")
    return "; ".join(parts)


def _one_turn(lab: Lab) -> dict[Key, float]:
    hold = Hold(lab.path("hold"))
    begins: dict[Key, pathlib.Path] = {}
    plan = []
    # The longest first: then no launch disturbs a deadline.
    for timeout in sorted(TIMEOUTS, reverse=True):
        for engine in _ENGINES:
            begin = begins[engine, timeout] = lab.path("begin")
            told = f'echo "$$ $(date +%s.%N)" > {begin}.new && mv {begin}.new {begin}'
            argv = ["/bin/sh", "-c", f"{told} && exec {hold.line}"]
            plan.append(tasks.launch(engine, "launch", argv, timeout=timeout))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        playbook = pool.submit(lab.run, [Play(HOST, plan)])
        errors = _watch(begins, playbook)
        playbook.result()
    hold.release()
    lab.come_to_rest()
    return errors


def _watch(
    begins: dict[Key, pathlib.Path], playbook: concurrent.futures.Future
) -> dict[Key, float]:
    """Wait for jobs to begin and to go, and return how late each of them went.

    :param playbook: it launches the jobs; if it fails there is nothing to wait for.
    """
    expected = dict(begins)
    due: dict[int, tuple[Key, float]] = {}
    errors: dict[Key, float] = {}
    poll = select.poll()
    while len(errors) < len(begins):
        if playbook.done() and playbook.exception():
            break
        for key in [key for key, path in expected.items() if path.exists()]:
            pid, began = expected.pop(key).read_text(encoding="ascii").split()
            process = os.pidfd_open(int(pid))
            due[process] = (key, float(began) + key[1])
            poll.register(process, select.POLLIN)
        gone = {process for process, _event in poll.poll(GLANCE)}
        now = time.time()
        lost = {process for process, (_key, deadline) in due.items() if now > deadline + LOST_AFTER}
        for process in gone | lost:
            key, deadline = due.pop(process)
            errors[key] = now - deadline if process in gone else NEVER
            poll.unregister(process)
            os.close(process)
    return errors
