# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What messages about many jobs call them. Pure functions only."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .schema import Record

NAMED = 20  # jobs that a message names


def who(job: Record) -> str:
    """Return what people call a job: its name, else its jid."""
    return str(job["name"] or job["ansible_job_id"] or "a job that was not launched")


def some(names: list[str]) -> str:
    """Return the first of these names, as one text."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
