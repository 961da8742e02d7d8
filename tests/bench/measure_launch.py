# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the task takes that launches a job."""

from __future__ import annotations

import typing as t

from ansible_collections.durable.jobs.tests.bench import tasks
from ansible_collections.durable.jobs.tests.bench.lab import SETTLE, Lab, Play, TaskSpec
from ansible_collections.durable.jobs.tests.bench.report import Aim, Samples, Section, ratio

COMMAND = "command"
WARM_UP = "warm-up"

_EXPLANATION = """\
Wall time, in seconds, of one task that launches `/bin/true`: `job_start`, `command` with `async` and
`poll: 0`, and plain `command` for comparison, which starts nothing in the background. Connection and
interpreter are warm. The three take turns, and the machine comes to rest before each, so that none pays
for what the one before it left running."""


def measure(lab: Lab) -> Section:
    """Time the three tasks on every host of the lab."""
    names = list(lab.hosts)
    section = Section(
        "Launch of one job",
        _EXPLANATION,
        ("host", "ours", "builtin", "plain `command`", "ours/builtin", "ours/`command`"),
    )
    times = _times(lab, names)
    for host in names:
        ours, builtin, plain = (times[host, kind] for kind in (tasks.OURS, tasks.BUILTIN, COMMAND))
        shown = [one.show("{:.3f}") for one in (ours, builtin, plain)]
        against = ratio(ours, plain)
        section.rows.append((label(host), *shown, f"{ratio(ours, builtin):.2f}", f"{against:.2f}"))
        promise = f"launch costs no more than a plain `command` task, {label(host)}"
        section.aims.append(Aim(promise, f"{against:.2f} times as much", against <= 1))
    if lab.no_ssh:
        section.notes.append(f"SSH was not measured: {lab.no_ssh}.")
    return section


def label(host: str) -> str:
    """Return a host's name for people."""
    connection, _underscore, pipelined = host.partition("_")
    name = {"local": "local", "ssh": "SSH"}[connection]
    return f"{name}, pipelining" if pipelined else name


def _times(lab: Lab, hosts: t.Sequence[str]) -> dict[tuple[str, str], Samples]:
    found: dict[tuple[str, str], list[float]] = {}
    plays = [Play(host, _turns(lab.repetitions(7))) for host in hosts]
    for task in lab.run(plays, settle=SETTLE):
        kind, _space, turn = task.name.partition(" ")
        if turn != WARM_UP:
            found.setdefault((task.host, kind), []).append(task.end - task.start)
    return {key: Samples(values) for key, values in found.items()}


def _turns(count: int) -> list[TaskSpec]:
    found = []
    for turn in range(-1, count):
        name = WARM_UP if turn < 0 else str(turn)
        three = [
            tasks.launch(tasks.OURS, f"{tasks.OURS} {name}", ["/bin/true"]),
            tasks.launch(tasks.BUILTIN, f"{tasks.BUILTIN} {name}", ["/bin/true"]),
            tasks.command(f"{COMMAND} {name}", ["/bin/true"]),
        ]
        first = turn % 3
        found += three[first:] + three[:first]
    return found
