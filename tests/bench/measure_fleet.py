# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What jobs on many hosts cost, each of which is reached over its own SSH connection."""

from __future__ import annotations

import typing as t

from ansible_collections.durable.jobs.tests.bench import report, tasks
from ansible_collections.durable.jobs.tests.bench.lab import Costs, Lab, Play, Task
from ansible_collections.durable.jobs.tests.bench.measure_many import (
    COSTS,
    launch_many,
    wait_for_many,
)
from ansible_collections.durable.jobs.tests.bench.report import Aim, Section

HOSTS = 50
EACH = 10  # jobs
AFFORDABLE = 1  # jobs each of the builtin, whose loops take minutes
FORKS = 20
SECONDS = 2  # that each job runs
SHARE_AIM = 0.25  # of the builtin's costs
GROWTH_AIM = 1.2  # times the wall time, for EACH jobs instead of one

_EXPLANATION = f"""\
Inventory hosts at addresses of their own, 127.0.0.2 and so on, each with its own async dir and SSH
connection, and {FORKS} forks. Tasks, costs and pipelining are as above. All of them share the processors of
this one machine, so a wall time is more a sum of work than what a fleet would take. With {AFFORDABLE} job a host the
builtin is measured too."""


def measure(lab: Lab) -> Section:
    """Launch and await jobs on all hosts of a fleet."""
    columns = ("hosts, jobs each", "", tasks.OURS, tasks.BUILTIN, "ours/builtin")
    section = Section("A fleet", _EXPLANATION, columns)
    if lab.no_ssh:
        section.notes.append(f"SSH was not measured: {lab.no_ssh}.")
        return section
    count, each = (18, 4) if lab.quick else (HOSTS, EACH)
    with lab.other_hosts(count) as hosts:
        _run(lab, hosts, tasks.OURS, 1)  # installs the engine everywhere
        few = _run(lab, hosts, tasks.OURS, AFFORDABLE)
        builtin = _run(lab, hosts, tasks.BUILTIN, AFFORDABLE)
        many = _run(lab, hosts, tasks.OURS, each)
    for number, ours, other in ((AFFORDABLE, few, builtin), (each, many, {})):
        for cost, title in COSTS.items():
            section.rows.append((f"{count}, {number}", title, *_cells(cost, ours, other)))
    section.aims += _ahead(count, few, builtin)
    growth = many["wall"] / few["wall"]
    promise = (
        f"{count} hosts, {each} jobs each: at most {GROWTH_AIM} times the wall time of one job each"
    )
    section.aims.append(Aim(promise, f"{growth:.2f} times", growth <= GROWTH_AIM))
    # Had one been lost, or not succeeded, the bench would have stopped.
    promise = f"{count} hosts, {each} jobs each: all come back, succeeded"
    section.aims.append(Aim(promise, f"{count * each} of {count * each}", met=True))
    return section


def _cells(cost: str, ours: dict[str, float], other: dict[str, float]) -> list[str]:
    form = "{:.0f}" if cost == "runs" else "{:.1f}"
    if cost not in other:
        return [form.format(ours[cost]), "-", "-"]
    share = report.share(ours[cost], other[cost])
    return [form.format(ours[cost]), form.format(other[cost]), f"{share:.2f}"]


def _ahead(count: int, ours: dict[str, float], other: dict[str, float]) -> list[Aim]:
    aims = []
    for cost in ("wall", "controller", "target"):
        share = ours[cost] / other[cost]
        title = COSTS[cost].rpartition(",")[0]
        promise = (
            f"{count} hosts, {AFFORDABLE} job each: at most {SHARE_AIM} of the builtin's {title}"
        )
        aims.append(Aim(promise, f"{share:.2f} of it", share <= SHARE_AIM))
    return aims


def _run(lab: Lab, hosts: t.Sequence[str], engine: str, each: int) -> dict[str, float]:
    """Launch and await on all of the hosts, and return the costs by name."""
    play = [
        tasks.command("warm-up", ["/bin/true"]),
        launch_many(engine, each, ["/bin/sleep", str(SECONDS)]),
        wait_for_many(engine),
    ]
    running = lab.start([Play("all", play)], forks=FORKS)
    try:
        done = running.finish()
        costs = running.costs(hosts[0])
    finally:
        running.close()
    lab.come_to_rest()
    return _values(done, costs, len(hosts) * each)


def _values(done: list[Task], costs: Costs, count: int) -> dict[str, float]:
    launches = [task for task in done if task.name == "launch"]
    waits = [task for task in done if task.name == "wait"]
    back = sum(len(task.jids) for task in waits)
    if back != count:
        raise RuntimeError(f"{back} of {count} jobs of the fleet came back")
    start = min(task.start for task in launches)
    return {
        "wall": max(task.end for task in waits) - start - SECONDS,
        "launch": max(task.end for task in launches) - start,
        "controller": costs.controller,
        "target": costs.target,
        "runs": float(costs.runs),
    }
