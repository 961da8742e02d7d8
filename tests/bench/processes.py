# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left of a job in /proc: the processes of its engine, and the memory that they take."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import pathlib
import re
import time
import typing as t

_LIBC = ctypes.CDLL(None)
_TICKS = os.sysconf("SC_CLK_TCK")
_PSS = re.compile(rb"^Pss:\s+(\d+) kB$", re.MULTILINE)


@dataclasses.dataclass
class Process:
    """A process as it was when the list was made."""

    pid: int
    parent: int
    argv: list[str]
    reaped: float  # processor seconds of the children that it has reaped, and of theirs


def snapshot() -> dict[int, Process]:
    """Return the processes of this machine by pid, less those that end while we look."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                folder = pathlib.Path("/proc") / name
                argv = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
                stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            # The name, in parentheses, may hold anything; the state and the parent follow it.
            fields = stat.rpartition(")")[2].split()
            reaped = (int(fields[13]) + int(fields[14])) / _TICKS
            found[int(name)] = Process(int(name), int(fields[1]), argv[:-1], reaped)
    return found


def cpu(pid: int) -> float:
    """Return the processor seconds of a process itself; 0 if there is none of this pid.

    Not from /proc: thousands of sleeping processes hide seconds below its hundredths.
    """
    clock = ctypes.c_int()
    if _LIBC.clock_getcpuclockid(pid, ctypes.byref(clock)) != 0:
        return 0.0
    try:
        return time.clock_gettime(clock.value)
    except OSError:
        return 0.0


def engine_of_ours(records: t.Iterable[dict[str, t.Any]], async_dir: str) -> set[int]:
    """Return the pids of all processes of ours: those that the records name, and any launcher.

    :param records: of the live jobs.
    """
    named = {record["durable_jobs"][role] for record in records for role in ("keeper", "runner")}
    program = os.path.join(async_dir, ".durable") + os.sep
    running = snapshot().values()
    launched = {one.pid for one in running if any(word.startswith(program) for word in one.argv)}
    return named | launched


def engine_of_builtin(jids: t.Iterable[str], commands: t.Container[str]) -> set[int]:
    """Return the pids of the builtin's processes for some jobs: async_wrapper's, and the module.

    :param commands: the programs that the jobs run; they and their children are not the engine's.
    """
    # async_wrapper is given a jid without the pid that it adds.
    given = {jid.partition(".")[0] for jid in jids}
    running = snapshot()
    roots = {
        one.pid
        for one in running.values()
        if given & set(one.argv) and any(word.endswith("async_wrapper.py") for word in one.argv)
    }
    found = set(roots)
    added = roots
    while added:
        added = {
            one.pid
            for one in running.values()
            if one.parent in added
            and one.pid not in found
            and one.argv
            and one.argv[0] not in commands
        }
        found |= added
    return found


def pss(pids: t.Iterable[int]) -> int:
    """Return the bytes of memory that these processes take; what they share with others counts in part."""
    total = 0
    for pid in pids:
        try:
            rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_bytes()
        except OSError:  # it has ended
            continue
        match = _PSS.search(rollup)
        total += int(match.group(1)) * 1024 if match else 0
    return total
