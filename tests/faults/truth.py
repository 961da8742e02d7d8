# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What really happened to a command, by marks of its own, and whether a status agrees with that."""

from __future__ import annotations

import shlex
from pathlib import Path

from ansible_collections.durable.jobs.plugins.module_utils import _job
from ansible_collections.durable.jobs.plugins.module_utils._job import processes, schema, status
from ansible_collections.durable.jobs.plugins.module_utils._job.job import Job
from ansible_collections.durable.jobs.plugins.module_utils._job.record_io import MissingRecord

ROOT = Path(_job.__file__).parents[3]


class Marks:
    """The marks that one command leaves: a line when it begins, and a line with its rc when it ends.

    :param path: a file of its own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def line(self, work: str, rc: int) -> str:
        """Return a line of shell that does the work between its marks, and ends with rc."""
        return marked_line(shlex.quote(str(self.path)), work, rc)

    def lines(self) -> list[str]:
        return self.path.read_text(encoding="ascii").splitlines() if self.path.exists() else []

    @property
    def begun(self) -> int:
        """How often the command was executed."""
        return self.lines().count("begin")

    @property
    def ended(self) -> list[int]:
        """The exit statuses of the executions that came to their end."""
        return [int(line.split()[1]) for line in self.lines() if line.startswith("end ")]


def marked_line(file: str, work: str, rc: int) -> str:
    """Return a line of shell that does the work between marks in a file, given as a word of shell."""
    return f"echo begin >> {file}; {work}; echo end {rc} >> {file}; exit {rc}"


def lies(found: schema.Record, marks: Marks, *, may_be_lost: bool) -> list[str]:
    """Return what is wrong in the final dictionary of a job, given what its command really did.

    :param may_be_lost: whether more was killed than a result can survive.
    """
    state, rc, ended = found["state"], found["rc"], marks.ended
    wrong = []
    if not found["finished"] or state not in schema.FINISHED_STATES:
        wrong.append(f"it is called {state} though nothing of it is left")
    if marks.begun > 1:
        wrong.append(f"the command ran {marks.begun} times")
    if (rc == 0 or state == schema.SUCCEEDED) and (
        ended != [0] or (state, rc) != (schema.SUCCEEDED, 0)
    ):
        wrong.append(f"it is called {state} with rc {rc}, and its command ended with {ended}")
    if state == schema.FAILED and rc > 0 and ended != [rc]:
        wrong.append(f"it is called failed with rc {rc}, and its command ended with {ended}")
    if state == schema.LOST and rc is not None:
        wrong.append(f"it is called lost, and has rc {rc}")
    if state == schema.LOST and ended and not may_be_lost:
        wrong.append(f"it is called lost ({found['reason']}), and its command ended with {ended}")
    return wrong


def final(job: Job, seconds: float) -> schema.Record | None:
    """Wait for a job's end and return its dictionary; None if there is no such job."""
    try:
        return status.wait(job, seconds)
    except MissingRecord:
        return None


def carrying(mark: str) -> list[processes.Process]:
    """Return the living processes that carry a variable, given as NAME=value, in their environment.

    A look takes its time: whoever is forked during it, by a process that ends before it is looked at, is missed. So
    only the second look that finds nothing is believed.
    """
    return _carrying(mark) or _carrying(mark)


def _carrying(mark: str) -> list[processes.Process]:
    found = []
    for one in processes.all_processes().values():
        if mark in read(Path(f"/proc/{one.pid}/environ")).split("\0") and not one.zombie:
            found.append(one)
    return found


def read(path: Path) -> str:
    """Return the content of a file of /proc; nothing of a process that is gone."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
