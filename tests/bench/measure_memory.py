# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a live job costs: processes and memory."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.durable.jobs.tests.bench import processes, tasks
from ansible_collections.durable.jobs.tests.bench.lab import Hold, Lab, Play
from ansible_collections.durable.jobs.tests.bench.report import Aim, Samples, Section, ratio

COUNTS = (1, 20)
HOST = "local_pipelined"
AIM_SHARE = 0.25
REST = 1.0  # seconds from the launch of the last job to the look at the processes

_EXPLANATION = """\
Processes and memory per live job, the job's command not counted. The jobs do nothing and were launched by
a loop. Memory is PSS (proportional set size): what a process shares with others counts in equal parts."""


class Cost(t.NamedTuple):
    """What the engine takes for one of the live jobs."""

    processes: float
    pss: float


def measure(lab: Lab) -> Section:
    """Launch jobs that wait, look at the processes, and let them go."""
    columns = ("live jobs", "", "ours", "builtin", "ours/builtin")
    section = Section("Processes and memory of a live job", _EXPLANATION, columns)
    for count in COUNTS:
        found: dict[str, list[Cost]] = {tasks.OURS: [], tasks.BUILTIN: []}
        for _turn in range(lab.repetitions(3, 1) if count == 1 else 1):
            for engine, costs in found.items():
                costs.append(_cost(lab, engine, count))
        ours, builtin = (
            [Samples(values) for values in zip(*found[engine])]
            for engine in (tasks.OURS, tasks.BUILTIN)
        )
        for index, (name, form) in enumerate((("processes", "{:.1f}"), ("PSS, MiB", "{:.2f}"))):
            share = ratio(ours[index], builtin[index])
            shown = [one[index].show(form) for one in (ours, builtin)]
            section.rows.append((str(count), name, *shown, f"{share:.2f}"))
        if count == 1:
            share = ratio(ours[1], builtin[1])
            promise = "at most a quarter of the builtin's PSS at one job"
            section.aims.append(Aim(promise, f"{share:.2f} of it", share <= AIM_SHARE))
    return section


def _cost(lab: Lab, engine: str, count: int) -> Cost:
    hold = Hold(lab.path("hold"))
    launch = dict(tasks.launch(engine, "launch", hold.argv), loop=list(range(count)))
    (task,) = lab.run([Play(HOST, [launch])])
    hold.wait_for(count)
    time.sleep(REST)
    pids = engine_pids(lab, engine, task.jids)
    memory = processes.pss(pids)
    hold.release()
    lab.come_to_rest()
    return Cost(len(pids) / count, memory / count / 2**20)


def engine_pids(lab: Lab, engine: str, jids: t.Sequence[str]) -> set[int]:
    """Return the pids of an engine's processes for some live jobs, which are being held."""
    if engine == tasks.OURS:
        records = [lab.record(jid) for jid in jids]
        return processes.engine_of_ours(records, str(lab.async_dir))
    return processes.engine_of_builtin(jids, {Hold.PROGRAM, "/bin/sh"})
