# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What many live jobs take: memory each, and processor time while somebody waits for them."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.durable.jobs.tests.bench import family, processes, report, tasks
from ansible_collections.durable.jobs.tests.bench.lab import (
    Hold,
    Lab,
    Play,
    PlaybookFailed,
    Running,
    until,
)
from ansible_collections.durable.jobs.tests.bench.measure_launch import label
from ansible_collections.durable.jobs.tests.bench.measure_many import (
    WAYS,
    Way,
    counts,
    launch_many,
    wait_for_many,
)
from ansible_collections.durable.jobs.tests.bench.report import Aim, Plot, Section

HOST = "local_pipelined"
REST = 1.0  # seconds from the launch of the last job to the look at the processes
AIM_COUNT = 100
AIM_PSS = 1.4  # MB each, of AIM_COUNT jobs of one batch
AIM_CPU = 0.02  # of one core
WARM = 10.0  # seconds of waiting that are not looked at: the first run of the module
WINDOW = 60.0  # seconds that are looked at; job_wait asks again once in them
BASE_SLEEP = 9  # seconds of the task that tells what ansible itself uses while it waits for a task

_MEMORY = """\
PSS (proportional set size: what a process shares with others counts in equal parts) per live job in all
processes that are left when the playbook that launched the jobs has ended, the jobs' commands not counted.
The jobs do nothing. 1 MB is 1,000,000 bytes."""

_WAITING = """\
Processor time, as a share of one core, while `job_wait` waits for jobs that do nothing: {:.0f} s; it asks the
target again once a minute. Ansible's main process looks for results of its workers all the time, whatever they
do, so it is shown apart, and next to it what it uses during one `command` task that sleeps. Afterwards all jobs
are let go, and all must come back."""


def measure(lab: Lab) -> list[Section]:
    """Look at live jobs of all kinds, and at a wait for ours."""
    return [_memory(lab), _waiting(lab)]


def _memory(lab: Lab) -> Section:
    found: dict[str, dict[int, float]] = {}
    section = Section(
        "Memory of many live jobs",
        _MEMORY,
        ("live jobs", *(way.title for way in WAYS), "ours/builtin"),
    )
    for way in WAYS:
        try:
            found[way.title] = {
                count: _pss(lab, way, count) / count / 1e6 for count in counts(lab, way.engine)
            }
        except PlaybookFailed as error:
            section.notes.append(f"{way.title} was given up: {error}")
            lab.come_to_rest()
    for count in counts(lab, tasks.OURS):
        values = [found.get(way.title, {}).get(count) for way in WAYS]
        shares = report.share(values[0], values[1])
        cells = ["-" if value is None else f"{value:.2f}" for value in values]
        section.rows.append((str(count), *cells, "-" if shares is None else f"{shares:.2f}"))
    each = found[WAYS[0].title].get(AIM_COUNT)
    if each is not None:
        promise = f"at most {AIM_PSS} MB PSS for each of {AIM_COUNT} live jobs of one batch"
        section.aims.append(Aim(promise, f"{each:.2f} MB", each <= AIM_PSS))
    panels = {"PSS per live job, MB": found}
    section.plots.append(Plot("memory", "Memory of N live jobs", "live jobs", panels))
    return section


def _pss(lab: Lab, way: Way, count: int) -> int:
    """Return the bytes of memory of all processes of an engine for so many live jobs."""
    hold = Hold(lab.path("hold"))
    task = launch_many(way.engine, count, hold.argv)
    running = lab.start([Play(HOST, [task])], mitogen=way.mitogen)
    try:
        running.finish()
        hold.wait_for(count)
        time.sleep(REST)
        left = family.members(running.family.root).values()
        memory = processes.pss(one.pid for one in left if one.argv != hold.argv)
    finally:
        hold.release()
        running.close()
    lab.come_to_rest()
    return memory


def _waiting(lab: Lab) -> Section:
    host = "local_pipelined" if lab.no_ssh else "ssh_pipelined"
    count, window = (50, 5.0) if lab.quick else (1000, WINDOW)
    hold = Hold(lab.path("hold"))
    sleep = dict(tasks.command("base", ["/bin/sleep", str(BASE_SLEEP)]))
    plan = [sleep, launch_many(tasks.OURS, count, hold.argv), wait_for_many(tasks.OURS)]
    running = lab.start([Play(host, plan)])
    try:
        base = _share_of_main(running)
        hold.wait_for(count)
        _until_launched(running)
        time.sleep(WARM)
        shares = _shares(lab, running, window)
        hold.release()
        done = {task.name: task for task in running.finish()}
    finally:
        hold.release()
        running.close()
    back = len(set(done["wait"].jids))
    section = Section(
        f"Waiting for {count} jobs, {label(host)}", _WAITING.format(window), ("", "% of one core")
    )
    section.rows += [(name, f"{100 * share:.2f}") for name, share in shares.items()]
    section.rows.append((f"{_MAIN}, while a `command` task sleeps", f"{100 * base:.2f}"))
    whole = sum(share for name, share in shares.items() if name != _MAIN)
    promise = f"waiting for {count} jobs uses under {100 * AIM_CPU:.0f} % of one core, without ansible's main process"
    section.aims.append(Aim(promise, f"{100 * whole:.2f} %", whole < AIM_CPU))
    section.aims.append(
        Aim(
            f"{count} jobs of one batch: none is lost",
            f"{back} came back, succeeded",
            back == count,
        )
    )
    return section


_MAIN = "ansible's main process"


def _until_launched(running: Running) -> None:
    until(lambda: any(one.name == "launch" for one in running.tasks()), "the launch")


def _main_of(running: Running) -> int:
    """Return the pid of the playbook's main process: the only child of the family's root from the start."""
    found: list[int] = []

    def look() -> bool:
        snapshot = processes.snapshot().values()
        found[:] = [one.pid for one in snapshot if one.parent == running.family.root]
        return bool(found)

    until(look, "the playbook")
    return min(found)


def _share_of_main(running: Running) -> float:
    """Return what ansible's main process uses while a task of its does nothing."""
    pid = _main_of(running)

    def sleeps() -> bool:
        argv = ["/bin/sleep", str(BASE_SLEEP)]
        return any(one.argv == argv for one in processes.snapshot().values())

    until(sleeps, "the sleeping task")
    return _used([lambda: processes.cpu(pid)], BASE_SLEEP / 3)[0]


def _shares(lab: Lab, running: Running, seconds: float) -> dict[str, float]:
    main = _main_of(running)
    clocks: list[t.Callable[[], float]] = [
        lambda: processes.cpu(main),
        lambda: family.cpu(running.family.root),
        lambda: sum(family.cpu(root) for root in lab.targets),
        lambda: sum(processes.cpu(pid) for pid in processes.engine_of_ours([], str(lab.async_dir))),
    ]
    of_main, of_all, target, engine = _used(clocks, seconds)
    other = of_all - of_main
    if not lab.targets:
        other, target = 0.0, other
    return {
        _MAIN: of_main,
        "its worker, `ssh`": other,
        "the target: keepers and runners, which watch the jobs whether somebody waits or not": engine,
        "the target: the wait, sshd": target - engine,
    }


def _used(clocks: t.Sequence[t.Callable[[], float]], seconds: float) -> list[float]:
    """Return what each clock of processor time goes on in a while, as a share of one core."""
    begin, start = time.monotonic(), [clock() for clock in clocks]
    time.sleep(seconds)
    end, now = time.monotonic(), [clock() for clock in clocks]
    return [(after - before) / (end - begin) for before, after in zip(start, now)]
