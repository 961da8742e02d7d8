# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the end of a job goes unnoticed."""

from __future__ import annotations

import pathlib

from ansible_collections.durable.jobs.tests.bench import tasks
from ansible_collections.durable.jobs.tests.bench.lab import Lab, Play, TaskSpec
from ansible_collections.durable.jobs.tests.bench.report import Aim, Samples, Section

DELAYS = (1, 5, 10)  # seconds, of the builtin's loop
HOST = "local"
SHORTEST = 1.0  # seconds that a job runs at the least
AIM_DELAY = 5
AIM_TIMES = 10

_EXPLANATION = """\
Seconds from the end of the job, which it writes down itself as its last act, to the start of the next
task. Ours is one `job_status` with a `wait` that is longer than the job; the builtin is `async_status`
with `until` and `delay`. The jobs' durations are spread evenly over the delay, so that the ends fall
into every phase of the loop."""


def measure(lab: Lab) -> Section:
    """Let jobs end at various moments and see when the play goes on."""
    section = Section(
        "From a job's end to the next task", _EXPLANATION, ("waiting by", "seconds", "ours is")
    )
    ways: list[int | None] = [None, *DELAYS]
    ends: dict[str, pathlib.Path] = {}
    plan: list[TaskSpec] = []
    count = lab.repetitions(3)
    for turn in range(count):
        for delay in ways:
            # One random moment of each of `count` equal parts of the delay.
            phase = (turn + lab.random.random()) / count * (delay or 1)
            name = f"{delay} {turn}"
            ends[name] = lab.path("end")
            plan += _job(delay, name, ends[name], SHORTEST + phase)
    found: dict[str, list[float]] = {}
    for task in lab.run([Play(HOST, plan)]):
        if task.name in ends:
            gap = task.start - float(ends[task.name].read_text(encoding="ascii"))
            found.setdefault(task.name.partition(" ")[0], []).append(gap)
    ours = Samples(found[str(None)])
    section.rows.append(("ours: `job_status`, `wait: 60`", ours.show("{:.3f}"), ""))
    for delay in DELAYS:
        gaps = Samples(found[str(delay)])
        times = gaps.median / ours.median
        section.rows.append(
            (
                f"builtin: `until`, `delay: {delay}`",
                gaps.show("{:.3f}"),
                f"{times:.0f} times sooner",
            )
        )
        if delay == AIM_DELAY:
            promise = f"end noticed at least {AIM_TIMES} times sooner than with `delay: {delay}`"
            section.aims.append(Aim(promise, f"{times:.0f} times", times >= AIM_TIMES))
    return section


def _job(delay: int | None, name: str, end: pathlib.Path, seconds: float) -> list[TaskSpec]:
    """Return the tasks that launch a job, wait for it, and go on.

    :param delay: of the builtin's loop; None for ours.
    :param name: of the task that comes after the job.
    """
    argv = ["/bin/sh", "-c", f"sleep {seconds:.3f}; date +%s.%N > {end}"]
    engine = tasks.BUILTIN if delay else tasks.OURS
    launch = tasks.launch(engine, "launch", argv)
    look: TaskSpec = {
        "name": "wait",
        "register": "look",
        "until": "look.finished",
        "retries": tasks.LIMIT,
        "delay": delay or 1,
    }
    jid = "{{ launched.ansible_job_id }}"
    if delay:
        look["ansible.builtin.async_status"] = {"jid": jid}
    else:
        look["durable.jobs.job_status"] = {"jid": jid, "wait": 60}
    go_on = {"name": name, "ansible.builtin.debug": {"msg": "the next task"}}
    return [{**launch, "register": "launched"}, look, go_on]
