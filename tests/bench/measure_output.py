# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job costs that writes a lot."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import time
import typing as t

from ansible_collections.durable.jobs.tests.bench import machine, processes, tasks
from ansible_collections.durable.jobs.tests.bench.lab import Hold, Lab, Play
from ansible_collections.durable.jobs.tests.bench.measure_memory import engine_pids
from ansible_collections.durable.jobs.tests.bench.report import Aim, Samples, Section

SIZES = (50, 500)  # MB
QUICK_SIZES = (5, 50)
HOST = "local_pipelined"
BUILTIN_NEEDS = 12  # times the output, in bytes of memory
TEDIOUS = 0.01  # seconds for a look at the memory
GIVE_UP = 45.0  # seconds after which a job that is still at it is ended
AIM_GROWTH = 1.1
LINE = "0123456789abcdef" * 4

_EXPLANATION = f"""\
A job that writes lines to its standard output as fast as it can. The time is from its first act until its
result can be had (for plain redirection by a shell: until it has ended). The memory is the highest PSS of
all processes of the engine in any of the repetitions, the job's command not counted. The builtin is run
once, and given up after {GIVE_UP:.0f} s."""


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to run the job.

    :param engine: whose job it is; empty for redirection by a shell.
    :param more: parameters of ``job_start``.
    """

    name: str
    engine: str = ""
    more: tuple[tuple[str, int], ...] = ()


REDIRECTION = Way("plain redirection to a file")
KEPT = Way("ours, default `output_limit`", tasks.OURS)
WHOLE = Way("ours, `output_limit: 0`", tasks.OURS, (("output_limit", 0),))
BUILTIN = Way("builtin", tasks.BUILTIN)
WAYS = (REDIRECTION, KEPT, WHOLE, BUILTIN)


class Cost(t.NamedTuple):
    """What one run took. If it was given up, both are what it had taken up to then."""

    seconds: float
    pss: float
    given_up: bool


def measure(lab: Lab) -> Section:
    """Run the job in all ways, with little and with much output."""
    columns = ("output, MB", "", "seconds", "of redirection", "highest PSS, MiB")
    section = Section("A job that writes much", _EXPLANATION, columns)
    sizes = QUICK_SIZES if lab.quick else SIZES
    found: dict[tuple[int, Way], list[Cost]] = {}
    for turn in range(lab.repetitions(3, 1)):
        for size in sizes:
            for way in WAYS:
                if way != BUILTIN or (turn == 0 and _has_room(size)):
                    found.setdefault((size, way), []).append(_cost(lab, way, size * 10**6))
    for (size, way), costs in found.items():
        section.rows.append((str(size), way.name, *_cells(costs, found[size, REDIRECTION])))
    few, many = sizes
    for way in (KEPT, WHOLE):
        growth = _highest(found[many, way]) / _highest(found[few, way])
        promise = f"memory independent of output ({way.name})"
        told = f"{growth:.2f} times the memory for {many // few} times the output"
        section.aims.append(Aim(promise, told, growth <= AIM_GROWTH))
    if (many, BUILTIN) not in found:
        section.notes.append(
            f"The builtin was not run with {many} MB: this machine has too little memory for it."
        )
    return section


def _cells(costs: t.Sequence[Cost], redirected: t.Sequence[Cost]) -> tuple[str, str, str]:
    """Return the last three columns of a row."""
    seconds = Samples(one.seconds for one in costs)
    share = seconds.median / Samples(one.seconds for one in redirected).median
    more = "over " if any(one.given_up for one in costs) else ""
    pss = f"{more}{_highest(costs):.1f}" if _highest(costs) else ""
    return f"{more}{seconds.show('{:.2f}')}", f"{more}{share:.1f} times", pss


def _highest(costs: t.Iterable[Cost]) -> float:
    return max(one.pss for one in costs)


def _has_room(size: int) -> bool:
    return machine.memory_available() > size * 10**6 * BUILTIN_NEEDS


def _cost(lab: Lab, way: Way, size: int) -> Cost:
    begin = lab.path("begin")
    hold = Hold(lab.path("hold"))
    line = f"{hold.line}; date +%s.%N > {begin}; yes {LINE} | head -c {size}"
    argv = ["/bin/sh", "-c", line]
    os.sync()  # what the run before has left to write is not ours to wait for
    end, peak, given_up = (
        _run_job(lab, way, argv, hold)
        if way.engine
        else (_run_redirected(lab.path("redirected"), argv, hold), 0, False)
    )
    lab.come_to_rest()
    return Cost(end - float(begin.read_text(encoding="ascii")), peak / 2**20, given_up)


def _run_redirected(path: pathlib.Path, argv: t.Sequence[str], hold: Hold) -> float:
    with open(path, "wb") as output:
        job = subprocess.Popen(argv, stdout=output)
    hold.wait_for(1)
    hold.release()
    job.wait()
    end = time.time()
    path.unlink()
    return end


def _run_job(lab: Lab, way: Way, argv: t.Sequence[str], hold: Hold) -> tuple[float, int, bool]:
    """Return when the result was there, the highest PSS up to then, and whether we had to give up."""
    launch = tasks.launch(way.engine, "launch", argv, **dict(way.more))
    (task,) = lab.run([Play(HOST, [launch])])
    hold.wait_for(1)
    pids = engine_pids(lab, way.engine, task.jids)
    record = lab.async_dir / task.jids[0]
    running = record.stat().st_ino
    hold.release()
    peak = 0
    limit = time.monotonic() + GIVE_UP
    # Both engines put the final record in the place of the first one by a rename.
    while record.stat().st_ino == running:
        begin = time.monotonic()
        if begin > limit:
            end = time.time()
            _give_up(pids)
            return end, peak, True
        peak = max(peak, processes.pss(pids))
        # Looking at a large process holds it up, so the more seldom the longer it takes.
        cost = time.monotonic() - begin
        time.sleep(9 * cost if cost > TEDIOUS else 0.001)
    return time.time(), peak, False


def _give_up(pids: t.Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
