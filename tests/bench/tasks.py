# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same job, launched by ours and by the builtin, as tasks of a playbook."""

from __future__ import annotations

import typing as t

from ansible_collections.durable.jobs.tests.bench.lab import TaskSpec

OURS = "ours"
BUILTIN = "builtin"
LIMIT = 300  # seconds that a job may run when its deadline is not what is measured


def launch(
    engine: str, title: str, argv: t.Sequence[str], *, timeout: int = LIMIT, **more: t.Any
) -> TaskSpec:
    """Return the task that launches a job.

    :param engine: OURS or BUILTIN.
    :param title: of the task.
    :param more: further parameters of ``job_start``.
    """
    if engine == OURS:
        parameters = {"argv": list(argv), "timeout": timeout, **more}
        return {"name": title, "durable.jobs.job_start": parameters}
    return {**command(title, argv), "async": timeout, "poll": 0}


def command(name: str, argv: t.Sequence[str]) -> TaskSpec:
    """Return a plain task that runs a command and waits for it."""
    return {"name": name, "ansible.builtin.command": {"argv": list(argv)}}


def look(name: str, job: str) -> TaskSpec:
    """Return the task that looks at the job of a name."""
    return {"name": name, "durable.jobs.job_status": {"name": job}}
