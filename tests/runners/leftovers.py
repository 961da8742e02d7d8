# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print what is left in the process that has started this one: zombies, and what it has open in a folder."""

from __future__ import annotations

import os
import pathlib
import sys


def zombies(parent: int) -> list[str]:
    """Return a line for each child that the parent has not reaped."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        name, _bracket, rest = text.rpartition(")")
        state, ppid = rest.split()[:2]
        if state == "Z" and int(ppid) == parent:
            found.append(f"zombie {name})")
    return found


def descriptors(parent: int, folder: str) -> list[str]:
    """Return a line for each file of a folder that the parent has open."""
    paths = []
    for link in pathlib.Path(f"/proc/{parent}/fd").iterdir():
        try:
            paths.append(os.readlink(link))
        except OSError:
            continue  # it has been closed meanwhile
    return [f"open {path}" for path in paths if path.startswith(f"{folder}/")]


if __name__ == "__main__":
    for line in zombies(os.getppid()) + descriptors(os.getppid(), sys.argv[1]):
        print(line)
