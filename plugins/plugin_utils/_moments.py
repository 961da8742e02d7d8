# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a job began and ended, in seconds since 1970: its dictionary has local times. Private to the collection."""

from __future__ import annotations

import datetime
import re

from ._overview import Job

_NANOSECONDS = re.compile(r"j([0-9]{16,})\.")  # our jids begin with the moment of the launch
_QUARTER = 900  # seconds; time zones differ by multiples of it
_FARTHEST = 15 * 3600  # seconds that a time zone may be ahead of or behind UTC
# A job that says another moment has no place on a time line.
EARLIEST = 0
LATEST = 200 * 366 * 86400


def launched(job: Job) -> int:
    """Return when a job of ours was launched, in nanoseconds; 0 for others."""
    stated = _NANOSECONDS.match(job["ansible_job_id"])
    return int(stated.group(1)) if stated else 0


def utc_offset(job: Job) -> int | None:
    """Return how many seconds the target's clock was ahead of UTC when the job was launched; None if nobody knows."""
    stated, submitted = launched(job), _naive(job["submitted"])
    if not stated or submitted is None:
        return None
    offset = round((submitted - stated / 1e9) / _QUARTER) * _QUARTER
    return offset if abs(offset) <= _FARTHEST else None


def moment(text: object, offset: int) -> float | None:
    """Return a time of the target; None if it is none, or impossible."""
    naive = _naive(text)
    found = None if naive is None else round(naive - offset, 3)
    return found if found is not None and EARLIEST <= found <= LATEST else None


def span(job: Job, offset: int) -> tuple[float | None, float | None]:
    """Return when a job began and ended: by the clock that nobody can set, where that is known."""
    start, end = moment(job["start"], offset), moment(job["end"], offset)
    if start is not None and job["elapsed"] is not None:
        end = round(start + job["elapsed"], 3)
    return start, end


def _naive(text: object) -> float | None:
    """Return a time of the target as if its zone were UTC."""
    try:
        parsed = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return parsed.replace(tzinfo=datetime.timezone.utc).timestamp()
