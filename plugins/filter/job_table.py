# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter job_table."""

from __future__ import annotations

import unicodedata

from ansible.errors import AnsibleFilterError

from ..module_utils._job.errors import JobError
from ..plugin_utils._overview import LIVE, UNKNOWN, Host, Job, hosts, number, state, summary

DOCUMENTATION = r"""
name: job_table
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 0.1.0
short_description: Write the jobs of many hosts as a table for people
description:
  - Turns what M(durable.jobs.job_info) has returned on each host into the lines of one table, with a
    line of counts at the end. The playbook C(durable.jobs.status) prints it.
  - Hosts are sorted by name, C(web9) before C(web10). Of each host the live jobs come first, then the
    finished ones, the newest first. Below the table is told of which hosts
    there are no jobs, or no answer.
  - What is too long for its column goes on below, so nothing is cut off, and a jid can be copied
    from a wider table. Control characters are replaced.
positional: _input
options:
  _input:
    description:
      - A dictionary, for each host the result of M(durable.jobs.job_info) there, also of one that failed
        or could not reach the host.
    type: dict
    required: true
  width:
    description:
      - Columns that a line may have, V(0) for as many as it takes.
    type: int
    default: 80
seealso:
  - module: durable.jobs.job_info
  - plugin: durable.jobs.job_report
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Find the running jobs of this host
  durable.jobs.job_info:
    states: running
  register: found

- name: Show them
  ansible.builtin.debug:
    msg: "{{ {inventory_hostname: found} | durable.jobs.job_table(width=100) }}"
"""

RETURN = r"""
_value:
  description: The lines of the table.
  type: list
  elements: str
  sample:
    - HOST  JOB             STATE      TIME        DONE  RC  REASON
    - db1   reindex 4.2     running    12m03s/1h   40 %  -   copying
    - db1   migrate to 4.2  failed     4.1s/1h     -     3   -
    - '1 host, 2 jobs: 1 running, 1 failed'
"""

HEAD = ("HOST", "JOB", "STATE", "TIME", "DONE", "RC", "REASON")
# Columns that may be made narrower, with the width below which they become unreadable.
FLEXIBLE = {0: 6, 1: 12, 6: 8}
GAP = "  "


def table(answers: object, width: object = 80) -> list[str]:
    """Return the lines of the table."""
    try:
        columns = int(str(width))
    except ValueError:
        columns = -1
    if columns < 0:
        raise AnsibleFilterError(f"job_table: width must be a number of columns, not {width!r}")
    try:
        found = hosts(answers)
    except JobError as error:
        raise AnsibleFilterError(f"job_table: {error.msg}") from None
    rows = [row for host in found for row in _rows(host)]
    lines = []
    if rows:
        widths = _widths([HEAD, *rows], columns)
        lines = [line for row in (HEAD, *rows) for line in _lines(row, widths)]
    notes = [_note(host) for host in found if not host.jobs]
    return [*lines, *(line for text in (*notes, summary(found)) for line in _folded(text, columns))]


def _rows(host: Host) -> list[tuple[str, ...]]:
    # sorted() is stable: among the live and among the finished, the newest stay first.
    jobs = sorted(host.jobs, key=lambda job: job.get("state") not in LIVE)
    return [tuple(_plain(cell) for cell in (host.name, *_cells(job))) for job in jobs]


def _note(host: Host) -> str:
    """Tell why a host has no line in the table."""
    if host.problem is None:
        return f"{host.name}: {host.note or 'no jobs'}"
    return f"{host.name}: no answer: {host.problem}"


def _folded(text: str, columns: int) -> list[str]:
    first, *others = _wrapped(_plain(text), columns)
    # What does not fit is indented, so that one sees where the next text begins.
    others = _wrapped(" ".join(others), max(columns - len(GAP), 1)) if others else []
    return [first, *(GAP + line for line in others)]


def _cells(job: Job) -> tuple[str, ...]:
    elapsed, limit, rc = number(job.get("elapsed")), number(job.get("timeout")), job.get("rc")
    window = "-" if limit is None else duration(limit) if limit else "none"
    percent, told = _progress(job)
    return (
        str(job.get("name") or job["ansible_job_id"]),
        state(job),
        f"{'-' if elapsed is None else duration(elapsed)}/{window}",
        percent,
        "-" if rc is None else str(rc),
        ", ".join(str(one) for one in (_reason(job), told) if one) or "-",
    )


def _reason(job: Job) -> object:
    if state(job) == UNKNOWN:
        return job.get("msg")  # why nothing can be said of it
    return job.get("reason") or job.get("signal")


def _progress(job: Job) -> tuple[str, str]:
    """Return how much is done, and what the command says of it; of a finished job that is no news any more."""
    progress = job.get("progress")
    if not isinstance(progress, dict):
        return "-", ""
    percent = progress.get("percent")
    told = str(progress.get("status") or "") if state(job) in LIVE else ""
    return ("-" if percent is None else f"{percent} %"), told


def duration(seconds: float) -> str:
    """Write a duration with the two units that matter: ``4.1s``, ``12m03s``, ``1h05m``, ``3d04h``."""
    if seconds < 60:
        return f"{int(seconds * 10) / 10:g}s"
    whole = int(seconds)
    for size, unit, smaller, name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size}{unit}" + (f"{rest:02}{name}" if rest else "")
    return f"{whole}s"


def _plain(text: str) -> str:
    """Return a text of one line that does to a terminal nothing but to be shown."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _columns(text: str) -> int:
    return sum(_cell_width(one) for one in text)


def _cell_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _widths(rows: list[tuple[str, ...]], columns: int) -> list[int]:
    """Return the width of each column: as wide as its widest cell, or less where the line would be too long."""
    widths = [max(_columns(row[i]) for row in rows) for i in range(len(HEAD))]
    while columns and sum(widths) + len(GAP) * (len(HEAD) - 1) > columns:
        spare = {i: widths[i] for i, least in FLEXIBLE.items() if widths[i] > least}
        if not spare:
            break
        widths[max(spare, key=spare.__getitem__)] -= 1
    return widths


def _lines(row: tuple[str, ...], widths: list[int]) -> list[str]:
    cells = [_wrapped(cell, width) for cell, width in zip(row, widths)]
    lines = []
    for i in range(max(len(cell) for cell in cells)):
        parts = [cell[i] if i < len(cell) else "" for cell in cells]
        padded = [part + " " * (width - _columns(part)) for part, width in zip(parts, widths)]
        lines.append(GAP.join(padded).rstrip())
    return lines


def _wrapped(text: str, columns: int) -> list[str]:
    """Break a text into lines, at a blank where there is one in the second half of the line."""
    lines = []
    while columns and _columns(text) > columns:
        end = taken = 0
        while taken + _cell_width(text[end]) <= columns or not end:
            taken += _cell_width(text[end])
            end += 1
        blank = text.rfind(" ", end // 2, end + 1)
        if blank > 0:
            end = blank
        lines.append(text[:end])
        text = text[end:].lstrip(" ")
    return [*lines, text]


class FilterModule:
    """Names the collection's filter for ansible-core."""

    def filters(self) -> dict[str, object]:
        """Return the filters by name."""
        return {"job_table": table}
