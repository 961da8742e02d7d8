# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the tasks take that launch a job and look at it."""

from __future__ import annotations

import typing as t

from ansible_collections.durable.jobs.tests.bench import tasks
from ansible_collections.durable.jobs.tests.bench.lab import SETTLE, Lab, Play, TaskSpec
from ansible_collections.durable.jobs.tests.bench.report import Aim, Samples, Section, ratio

COMMAND = "command"
LOOK = "look"
WARM_UP = "warm-up"
LAUNCH_AIM = 0.35  # of one plain command task
LOOK_AIM = 0.30

_EXPLANATION = """\
Wall time, in seconds, of one task that launches `/bin/true`: `job_start`, `command` with `async` and
`poll: 0`, and plain `command` for comparison, which starts nothing in the background; and of one
`job_status` that looks at a job that has finished. Connection and interpreter are warm. `become` is sudo, with
pipelining. The four take turns, and the machine comes to rest before each, so that none pays
for what the one before it left running."""


def measure(lab: Lab) -> Section:
    """Time the four tasks on every host of the lab."""
    names = list(lab.hosts)
    section = Section(
        "Launch of one job, and a look",
        _EXPLANATION,
        (
            *("host", "ours", "builtin", "plain `command`", "look"),
            *("ours/builtin", "ours/`command`", "look/`command`"),
        ),
    )
    times = _times(lab, names)
    for host in names:
        kinds = (tasks.OURS, tasks.BUILTIN, COMMAND, LOOK)
        ours, builtin, plain, look = (times[host, kind] for kind in kinds)
        shown = [one.show("{:.3f}") for one in (ours, builtin, plain, look)]
        ratios = (ratio(ours, builtin), ratio(ours, plain), ratio(look, plain))
        section.rows.append((label(host), *shown, *(f"{one:.2f}" for one in ratios)))
        for what, found, aim in (("launch", ratios[1], LAUNCH_AIM), ("look", ratios[2], LOOK_AIM)):
            promise = f"a {what} costs at most {aim:.2f} of a plain `command` task, {label(host)}"
            section.aims.append(Aim(promise, f"{found:.2f} of it", found <= aim))
    if lab.no_ssh:
        section.notes.append(f"SSH was not measured: {lab.no_ssh}.")
    return section


def label(host: str) -> str:
    """Return a host's name for people."""
    connection, _underscore, kind = host.partition("_")
    name = {"local": "local", "ssh": "SSH"}[connection]
    return name + {"": "", "pipelined": ", pipelining", "become": ", become"}[kind]


def _times(lab: Lab, hosts: t.Sequence[str]) -> dict[tuple[str, str], Samples]:
    found: dict[tuple[str, str], list[float]] = {}
    plays = [Play(host, _turns(lab.repetitions(7))) for host in hosts]
    for task in lab.run(plays, settle=SETTLE):
        kind, _space, turn = task.name.partition(" ")
        if turn != WARM_UP:
            found.setdefault((task.host, kind), []).append(task.end - task.start)
    return {key: Samples(values) for key, values in found.items()}


def _turns(count: int) -> list[TaskSpec]:
    # The first launch on a host brings the engine along. Its job is the one that is looked at.
    found = [tasks.launch(tasks.OURS, f"{tasks.OURS} {WARM_UP}", ["/bin/true"], name=LOOK)]
    for turn in range(-1, count):
        name = WARM_UP if turn < 0 else str(turn)
        four = [
            tasks.launch(tasks.OURS, f"{tasks.OURS} {name}", ["/bin/true"]),
            tasks.launch(tasks.BUILTIN, f"{tasks.BUILTIN} {name}", ["/bin/true"]),
            tasks.command(f"{COMMAND} {name}", ["/bin/true"]),
            tasks.look(f"{LOOK} {name}", LOOK),
        ]
        first = turn % 4
        found += four[first:] + four[:first]
    return found
