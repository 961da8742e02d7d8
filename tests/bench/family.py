# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A command with all its descendants, also with those that have detached themselves, and their processor time."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import typing as t

from ansible_collections.durable.jobs.tests.bench import processes

_ROOT = pathlib.Path(__file__).with_name("root.py")


class Family:
    """A command that runs, and everything that comes of it.

    :param more: for :class:`subprocess.Popen`, such as ``env``, ``stdout`` and ``stderr``.
    """

    def __init__(self, command: t.Sequence[str], **more: t.Any) -> None:
        self._status, status_in = os.pipe()
        argv = [sys.executable, "-I", "-S", str(_ROOT), str(status_in), *command]
        self._root = subprocess.Popen(argv, stdin=subprocess.DEVNULL, pass_fds=[status_in], **more)
        os.close(status_in)

    @property
    def root(self) -> int:
        """The pid of the process whose descendants the family is."""
        return self._root.pid

    def wait(self) -> int:
        """Wait for the command, not for what it leaves behind, and return its exit status."""
        with open(self._status, encoding="ascii", closefd=False) as status:
            return int(status.read())

    def close(self) -> None:
        """End the command, if it is running. What it has left behind goes on."""
        self._root.terminate()
        self._root.wait()
        os.close(self._status)


def members(
    root: int, running: dict[int, processes.Process] | None = None
) -> dict[int, processes.Process]:
    """Return the descendants of a root by pid, without itself."""
    running = processes.snapshot() if running is None else running
    children: dict[int, list[int]] = {}
    for one in running.values():
        children.setdefault(one.parent, []).append(one.pid)
    found = {}
    added = list(children.get(root, []))
    while added:
        pid = added.pop()
        found[pid] = running[pid]
        added += children.get(pid, [])
    return found


def cpu(root: int) -> float:
    """Return the seconds that the descendants of a root have used, also those that are gone."""
    running = processes.snapshot()
    if root not in running:
        return 0.0
    living = members(root, running).values()
    reaped = running[root].reaped + sum(one.reaped for one in living)
    return reaped + sum(processes.cpu(one.pid) for one in living)
