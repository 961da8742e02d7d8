# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""On what the figures were measured."""

from __future__ import annotations

import os
import pathlib
import platform
import subprocess
import time
import typing as t

from ansible.release import __version__ as core_version

Fact = t.Tuple[str, str]


def facts(repository: pathlib.Path) -> list[Fact]:
    """Return what a reader must know to judge the figures.

    :param repository: a folder of the repository whose commit is measured.
    """
    return [
        ("date", time.strftime("%Y-%m-%d %H:%M %Z")),
        ("commit", commit(repository)),
        ("ansible-core", core_version),
        ("Python of controller and target", platform.python_version()),
        ("cores", str(len(os.sched_getaffinity(0)))),
        ("processor", _processor()),
        ("memory", f"{_memory_total() / 2**30:.1f} GiB"),
        ("kernel", platform.release()),
        ("load before the run", f"{os.getloadavg()[0]:.2f}"),
    ]


def commit(repository: pathlib.Path) -> str:
    """Return the commit that is measured, and whether the collection differs from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(repository), *arguments]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        name, top = git("rev-parse", "--short", "HEAD"), git("rev-parse", "--show-toplevel")
        changed = git("status", "--porcelain", "--", os.path.join(top, "plugins"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}, with changes in plugins/" if changed else name


def memory_available() -> int:
    """Return how many bytes can be used without swapping."""
    return _meminfo("MemAvailable")


def _memory_total() -> int:
    return _meminfo("MemTotal")


def _meminfo(name: str) -> int:
    for line in pathlib.Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        key, _colon, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise LookupError(name)


def _processor() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _colon, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()
