# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What it costs to launch many jobs and to wait for all of them."""

from __future__ import annotations

import dataclasses
import statistics
import typing as t

from ansible_collections.durable.jobs.tests.bench import mitogen_strategy, report, tasks
from ansible_collections.durable.jobs.tests.bench.lab import (
    Costs,
    Lab,
    Play,
    PlaybookFailed,
    Task,
    TaskSpec,
)
from ansible_collections.durable.jobs.tests.bench.measure_launch import label
from ansible_collections.durable.jobs.tests.bench.report import Aim, Plot, Section

PLACES = ("local_pipelined", "ssh_pipelined")
SECONDS = 2  # that each job runs
LAUNCH_AIM = 2  # times a plain command task, for LAUNCH_COUNT jobs
LAUNCH_COUNT = 100
MANY, MANY_AIM = 1000, 4.0  # jobs, and seconds beyond their own

COSTS = {
    "wall": "wall time beyond the jobs' own, s",
    "launch": "of it to launch, s",
    "controller": "controller CPU, s",
    "target": "target CPU, s",
    "runs": "module runs",
}
PLOTTED = ("wall", "controller", "target", "runs")

_EXPLANATION = f"""\
N jobs, each a `sleep {SECONDS}`, are launched and awaited by two tasks. Ours: `job_batch` and `job_wait`.
The builtin: `command` with `async`, `poll: 0` and `loop`, and a loop of `async_status` with `until` and
`delay: 1`. Each also under mitogen's strategy. The wall time counts from the start of the first task to the
end of the second, less the {SECONDS} s that all jobs would take if they ran at once. Processor time is that of all
processes, of the jobs' own start too: of ansible, its workers and ssh on the controller; of sshd, modules,
engines and jobs on the target. Pipelining is on. The connection is warm; each module, that of the plain task too,
is used for the first time in its play, which costs the controller a quarter of a second.
Each figure is of one run; ours with {LAUNCH_COUNT} jobs is the median of three."""


class Way(t.NamedTuple):
    """A way to launch and await jobs."""

    engine: str
    mitogen: bool = False

    @property
    def title(self) -> str:
        """What it is called in tables and pictures."""
        return f"{self.engine}, mitogen" if self.mitogen else self.engine


WAYS = (Way(tasks.OURS), Way(tasks.BUILTIN), Way(tasks.OURS, True), Way(tasks.BUILTIN, True))
# Each of ours against each of the builtin's that its user could have taken instead.
RIVALS = ((WAYS[0], WAYS[1]), (WAYS[0], WAYS[3]), (WAYS[2], WAYS[3]))


@dataclasses.dataclass
class Found:
    """Medians by place, way, number of jobs and cost; and why a way does not work."""

    values: dict[tuple[str, Way, int], dict[str, float]]
    failures: dict[tuple[str, Way], str]

    def series(self, place: str, cost: str) -> dict[str, dict[int, float]]:
        """Return a cost by number of jobs, of each way."""
        found: dict[str, dict[int, float]] = {}
        for (where, way, count), values in self.values.items():
            if where == place:
                found.setdefault(way.title, {})[count] = values[cost]
        return found


def measure(lab: Lab) -> list[Section]:
    """Launch and await more and more jobs in every way."""
    places = [place for place in PLACES if place in lab.hosts]
    found = Found({}, {})
    for place in places:
        _run(lab, place, WAYS[0], 1)  # installs the engine
        for way in WAYS:
            _try(lab, found, place, way)
    sections = [_section(found, place) for place in places]
    sections[0].explanation = f"{_EXPLANATION}\n\nmitogen: {mitogen_strategy.VERSION}."
    if lab.no_ssh:
        sections[0].notes.append(f"SSH was not measured: {lab.no_ssh}.")
    return sections


def counts(lab: Lab, engine: str) -> t.Sequence[int]:
    """Return how many jobs an engine has to do with, one after the other."""
    if lab.quick:
        return (1, 10)
    return (1, 10, 100, 1000) if engine == tasks.OURS else (1, 10, 100)


def launch_many(engine: str, count: int, argv: t.Sequence[str]) -> TaskSpec:
    """Return the task that launches so many jobs, and registers ``launched``."""
    if engine == tasks.OURS:
        jobs = f"{{{{ [job] * {count} }}}}"
        task: TaskSpec = {
            "name": "launch",
            "durable.jobs.job_batch": {"jobs": jobs, "timeout": tasks.LIMIT},
            "vars": {"job": {"argv": list(argv)}},
        }
    else:
        loop = f"{{{{ range({count}) | list }}}}"
        task = dict(tasks.launch(engine, "launch", argv), loop=loop)
    return dict(task, register="launched")


def wait_for_many(engine: str) -> TaskSpec:
    """Return the task that waits for what ``launched`` tells."""
    if engine == tasks.OURS:
        return {"name": "wait", "durable.jobs.job_wait": {"jobs": "{{ launched }}"}}
    return {
        "name": "wait",
        "ansible.builtin.async_status": {"jid": "{{ item.ansible_job_id }}"},
        "loop": "{{ launched.results }}",
        "loop_control": {"label": "{{ item.ansible_job_id }}"},
        "register": "look",
        "until": "look is finished",
        "retries": tasks.LIMIT,
        "delay": 1,
    }


def _try(lab: Lab, found: Found, place: str, way: Way) -> None:
    for count in counts(lab, way.engine):
        judged = way == WAYS[0] and count == LAUNCH_COUNT  # against a task that takes a moment
        repetitions = lab.repetitions(3, 1) if judged else 1
        try:
            runs = [_run(lab, place, way, count) for _turn in range(repetitions)]
        except PlaybookFailed as error:
            found.failures[place, way] = f"{count} jobs: {_reason(str(error))}"
            return
        found.values[place, way, count] = {
            name: statistics.median(run[name] for run in runs) for name in runs[0]
        }


def _run(lab: Lab, place: str, way: Way, count: int) -> dict[str, float]:
    """Launch and await, and return the costs by name."""
    play = [
        {"name": "connect", "ansible.builtin.ping": {}},
        tasks.command("plain", ["/bin/true"]),
        launch_many(way.engine, count, ["/bin/sleep", str(SECONDS)]),
        wait_for_many(way.engine),
    ]
    running = lab.start([Play(place, play)], mitogen=way.mitogen)
    try:
        done = {task.name: task for task in running.finish()}
        costs = running.costs(place)
    finally:
        running.close()
    lab.come_to_rest()
    launch, wait = done["launch"], done["wait"]
    if len(set(launch.jids)) != count or len(wait.jids) != count:
        raise PlaybookFailed(f"{len(wait.jids)} of {count} jobs came back")
    return {**_times(launch, wait, done["plain"]), **_values(costs)}


def _times(launch: Task, wait: Task, plain: Task) -> dict[str, float]:
    return {
        "wall": wait.end - launch.start - SECONDS,
        "launch": launch.end - launch.start,
        "plain": plain.end - plain.start,
    }


def _values(costs: Costs) -> dict[str, float]:
    return {"controller": costs.controller, "target": costs.target, "runs": float(costs.runs)}


def _reason(output: str) -> str:
    """Return the line of ansible's output that says why it failed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith(("[ERROR]", "ERROR!", "fatal:", "failed:"))]
    return (said or lines or ["no output"])[0][:300]


def _section(found: Found, place: str) -> Section:
    where = label(place)
    columns = (
        "jobs",
        "",
        *(way.title for way in WAYS),
        *(f"{a.title}/{b.title}" for a, b in RIVALS),
    )
    section = Section(f"Many jobs, {where}", "", columns)
    numbers = sorted({count for at, _way, count in found.values if at == place})
    for count in numbers:
        for cost, title in COSTS.items():
            section.rows.append((str(count), title, *_cells(found, place, count, cost)))
    for pair in RIVALS:
        section.aims.append(_ahead(found, place, pair))
    launch = found.values.get((place, WAYS[0], LAUNCH_COUNT))
    if launch:
        times = launch["launch"] / launch["plain"]
        promise = f"launching {LAUNCH_COUNT} takes at most {LAUNCH_AIM} times one plain `command` task, {where}"
        section.aims.append(Aim(promise, f"{times:.2f} times as long", times <= LAUNCH_AIM))
    section.aims += _limits(found, place)
    for (at, way), why in found.failures.items():
        if at == place:
            section.notes.append(f"{way.title} was given up, {why}")
    section.plots.append(
        Plot(
            f"many-{place.partition('_')[0]}",
            f"What N jobs cost, {where}",
            "jobs",
            {COSTS[cost]: found.series(place, cost) for cost in PLOTTED},
        )
    )
    return section


def _cells(found: Found, place: str, count: int, cost: str) -> list[str]:
    form = "{:.0f}" if cost == "runs" else "{:.2f}"
    values = {way: found.values.get((place, way, count), {}).get(cost) for way in WAYS}
    cells = ["-" if value is None else form.format(value) for value in values.values()]
    for ours, other in RIVALS:
        share = report.share(values[ours], values[other])
        cells.append("-" if share is None else f"{share:.2f}")
    return cells


def _ahead(found: Found, place: str, pair: tuple[Way, Way]) -> Aim:
    """Tell whether one way costs less than another in everything, or else where it does not."""
    ours, other = pair
    shares = {}
    for count in counts_of(found, place):
        for cost in PLOTTED:
            values = [found.values.get((place, way, count), {}).get(cost) for way in pair]
            share = report.share(*values)
            if share is not None:
                shares[f"{COSTS[cost].rpartition(',')[0] or COSTS[cost]}, N = {count}"] = share
    behind = [f"{name}: {share:.2f}" for name, share in shares.items() if share > 1]
    promise = f"{ours.title} costs less than {other.title} in everything, {label(place)}"
    measured = f"behind in {len(behind)} of {len(shares)}"
    if behind:
        measured += f" ({'; '.join(behind)})"
    return Aim(promise, measured, bool(shares) and not behind)


def _limits(found: Found, place: str) -> list[Aim]:
    """Judge the wall time of one job and of very many."""
    aims = []
    ours, other = (found.values.get((place, way, 1), {}).get("wall") for way in (WAYS[0], WAYS[3]))
    share = report.share(ours, other)
    if share is not None:
        promise = f"one job, {WAYS[0].title}: no slower than {WAYS[3].title}, {label(place)}"
        aims.append(Aim(promise, f"{share:.2f} times as long", share <= 1))
    many = found.values.get((place, WAYS[0], MANY), {}).get("wall")
    if many is not None:
        promise = f"{MANY} jobs take at most {MANY_AIM:g} s beyond their own time, {label(place)}"
        aims.append(Aim(promise, f"{many:.2f} s", many <= MANY_AIM))
    return aims


def counts_of(found: Found, place: str) -> list[int]:
    """Return the numbers of jobs that were measured at a place."""
    return sorted({count for where, _way, count in found.values if where == place})
