# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter job_table."""

from __future__ import annotations

import unicodedata

from ansible.errors import AnsibleFilterError

from ..module_utils._job import schema
from ..module_utils._job.errors import JobError
from ..module_utils._job.printable import printable
from ..plugin_utils._overview import (
    LIVE,
    START_COLUMNS,
    Host,
    Job,
    attempts,
    flaws,
    hosts,
    reason,
    state,
    summary,
    text,
    untold,
)

DOCUMENTATION = r"""
name: job_table
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 0.1.0
short_description: Write the jobs of many hosts as a table for people
description:
  - Turns what M(durable.jobs.job_info) has returned on each host into the lines of one table, with a
    line of counts at the end. The playbook C(durable.jobs.status) prints it.
  - The jobs of all hosts are sorted by the attention that they need, see O(durable.jobs.job_info#module:order), then by
    host, C(web9) before C(web10), then as the host has listed them. Below the table is told of which
    hosts there are no jobs, or no answer.
  - Of a job that has failed without giving a reason, the column C(REASON) tells the exit code or the signal. Of a
    running job that is near its limit it tells how much time is left.
  - What is too long for its column goes on below. A jid and a time are never broken, so both can be copied. If a
    line has no room for them, they get a line of their own below their job.
  - A value that is of a wrong kind or cannot be true is named and not shown. What is longer than 2000 characters is
    cut off. Control characters are replaced.
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
    - HOST  JOB             STATE    TIME       DONE  RC  START                JID                          REASON
    - db1   migrate to 4.2  failed   4.1s/1h    -     3   2026-11-21 23:00:02  j1795301990843259553.10311   exit code 3
    - db1   reindex 4.2     running  12m03s/1h  40 %  -   2026-11-21 23:04:40  j1795302280843259553.10402   copying
    - '1 host, 2 jobs: 1 running, 1 failed'
"""

HEAD = ("HOST", "JOB", "STATE", "TIME", "DONE", "RC", "START", "JID", "REASON")
# Of each column the width down to which it may be made narrower, as far as it may.
LEAST = {"HOST": 6, "JOB": 12, "REASON": 8}
BELOW = (
    "START",
    "JID",
)  # columns that get a line of their own where all of them have no room in one
GAP = "  "
MESSAGE_LIMIT = 200  # characters of a message that are shown


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
    jobs = [(host.name, job) for host in found for job in host.jobs]
    # sorted() is stable: of jobs that need the same attention, the order of hosts and of their answers stays.
    jobs.sort(key=lambda named: schema.needs_attention(named[1]))
    rows = [_cells(name, job) for name, job in jobs]
    notes = [_note(host) for host in found if not host.jobs]
    return [
        *(_grid(rows, columns) if rows else []),
        *(line for text in (*notes, summary(found)) for line in _folded(text, columns)),
    ]


def _grid(rows: list[dict[str, str]], columns: int) -> list[str]:
    """Return the lines of head and jobs."""
    head = {name: name for name in HEAD}
    widths = {name: max(_columns(row[name]) for row in (head, *rows)) for name in HEAD}
    least = sum(min(widths[name], LEAST.get(name, widths[name])) for name in HEAD)
    if not columns or least + len(GAP) * (len(HEAD) - 1) <= columns:
        _narrow(widths, columns)
        return [line for row in (head, *rows) for line in _lines(row, widths)]
    widths = {name: width for name, width in widths.items() if name not in BELOW}
    _narrow(widths, columns)
    lines = _lines(head, widths)
    for row in rows:
        lines += _lines(row, widths)
        below = f"started {row['START']}{GAP}{row['JID']}"
        lines.append(" " * min(widths["HOST"] + len(GAP), max(0, columns - len(below))) + below)
    return lines


def _note(host: Host) -> str:
    """Tell why a host has no line in the table."""
    if host.problem is None:
        return f"{host.name}: {host.note or 'no jobs'}"
    return f"{host.name}: no answer: {host.problem}"


def _folded(text: str, columns: int) -> list[str]:
    first, *others = _wrapped(printable(text), columns)
    # What does not fit is indented, so that one sees where the next text begins.
    others = _wrapped(" ".join(others), max(columns - len(GAP), 1)) if others else []
    return [first, *(GAP + line for line in others)]


def _cells(host: str, job: Job) -> dict[str, str]:
    """Return what the columns show of a job, by their names."""
    elapsed, limit = job["elapsed"], job["timeout"]
    window = "-" if limit is None else duration(limit) if limit else "none"
    progress = job["progress"] or {}
    percent = progress.get("percent")
    cells = {
        "HOST": host,
        "JOB": job["name"],
        "STATE": state(job),
        "TIME": f"{'-' if elapsed is None else duration(elapsed)}/{window}",
        "DONE": None if percent is None else f"{percent} %",
        "RC": job["rc"],
        "START": (job["start"] or "")[:START_COLUMNS],
        "JID": job["ansible_job_id"],
        "REASON": ", ".join(_reasons(job)),
    }
    return {name: "-" if cell in (None, "") else printable(cell) for name, cell in cells.items()}


def _reasons(job: Job) -> list[str]:
    """Return all that there is to say of why a job is in its state."""
    found = [reason(job) or _outcome(job), attempts(job), untold(job), flaws(job)]
    if job["state"] == schema.RUNNING and schema.is_near_limit(job):
        found.insert(0, f"limit in {duration(max(0, job['timeout'] - job['elapsed']))}")
    if job["state"] in LIVE and job["progress"]:  # of a finished job that is no news any more
        found.append(job["progress"]["status"])
    return [part for part in found if part]


def _outcome(job: Job) -> str | None:
    """Tell how a job ended that gives no reason."""
    if job["state"] == schema.TIMED_OUT and job["timeout"]:
        return f"limit of {duration(job['timeout'])} reached"
    if job["state"] != schema.FAILED:
        return text(job["signal"])
    if job["signal"]:
        return f"killed by {job['signal']}"
    # Of a module its own message says more; of a command it says again what is in the other columns.
    return f"exit code {job['rc']}" if job["rc"] is not None else text(job["msg"], MESSAGE_LIMIT)


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


def _columns(text: str) -> int:
    return len(text) if text.isascii() else sum(_cell_width(one) for one in text)


def _cell_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _narrow(widths: dict[str, int], columns: int) -> None:
    """Make columns narrower where a line would be too long, the widest first, as far as they may be."""
    while columns and sum(widths.values()) + len(GAP) * (len(widths) - 1) > columns:
        spare = [name for name, least in LEAST.items() if widths[name] > least]
        if not spare:
            break
        widths[max(spare, key=widths.__getitem__)] -= 1


def _lines(row: dict[str, str], widths: dict[str, int]) -> list[str]:
    """Return the lines of a row; what is too long for its column goes on below."""
    cells = [(_wrapped(row[name], width), width) for name, width in widths.items()]
    lines = []
    for i in range(max(len(cell) for cell, _width in cells)):
        parts = [(cell[i] if i < len(cell) else "", width) for cell, width in cells]
        padded = [part + " " * (width - _columns(part)) for part, width in parts]
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
