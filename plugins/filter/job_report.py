# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter job_report."""

from __future__ import annotations

import json
import re
import typing as t

from ansible.errors import AnsibleFilterError

from ..module_utils._job import schema
from ..module_utils._job.errors import JobError
from ..plugin_utils._moments import EARLIEST, LATEST, span, utc_offset
from ..plugin_utils._moments import moment as date_of
from ..plugin_utils._overview import (
    LIVE,
    NO_ID,
    Host,
    Job,
    attempts,
    flaws,
    hosts,
    number,
    reason,
    state,
    untold,
)

DOCUMENTATION = r"""
name: job_report
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 0.1.0
short_description: Write the jobs of many hosts as JSON that a HTML page can hold
description:
  - Turns what M(durable.jobs.job_info) has returned on each host into the data of the page that the playbook
    C(durable.jobs.report) writes.
  - The text is plain ASCII without the characters C(<), C(>) and C(&), so that whatever a job is called or has written
    cannot end the element that holds it.
  - Times are seconds since 1970, whatever the time zone of a host. The same input gives the same text.
positional: _input
options:
  _input:
    description:
      - A dictionary, for each host the result of M(durable.jobs.job_info) there, also of one that failed
        or could not reach the host.
    type: dict
    required: true
  tails:
    description:
      - The same again with O(durable.jobs.job_info#module:output=tail), of the jobs whose output is to be shown.
      - Of a job that is in both, this one counts.
    type: dict
    default: {}
  zones:
    description:
      - For each host its distance from UTC, as C(+0100). It is needed for jobs of the C(async) keyword only, as the
        ids of all others tell it.
    type: dict
    default: {}
  at:
    description:
      - The moment of the look, in seconds since 1970.
    type: float
    required: true
  output_total:
    description:
      - How many characters of output the page may hold. Of jobs beyond, the oldest, the page says that it has no output.
    type: int
    default: 8388608
seealso:
  - module: durable.jobs.job_info
  - plugin: durable.jobs.job_table
    plugin_type: filter
"""

EXAMPLES = r"""
- name: List the jobs
  durable.jobs.job_info:
  register: found

- name: Show what a page would hold
  ansible.builtin.debug:
    msg: "{{ {inventory_hostname: found} | durable.jobs.job_report(at=now().timestamp()) }}"
"""

RETURN = r"""
_value:
  description: The data, as JSON.
  type: str
"""

# What a page shows of a job as the job dictionary has it.
_KEPT = (
    *("name", "cmd", "rc", "signal", "elapsed", "timeout", "user", "containment", "results_file"),
    *("start", "end", "stdout_bytes", "stderr_bytes", "truncated"),
)


def report(
    answers: object,
    *,
    at: object,
    tails: object = None,
    zones: t.Mapping[str, object] | None = None,
    output_total: int = 8388608,
) -> str:
    """Return the data of the page."""
    moment = _seconds(at)
    if moment is None or not EARLIEST <= moment <= LATEST:
        raise AnsibleFilterError(f"job_report: at must be a number of seconds, not {at!r}")
    try:
        found = hosts(answers)
        shown = {host.name: host.jobs for host in hosts({} if tails is None else tails)}
    except JobError as error:
        raise AnsibleFilterError(f"job_report: {error.msg}") from None
    known = zones if isinstance(zones, t.Mapping) else {}
    page = [_host(host, shown.get(host.name, []), known.get(host.name)) for host in found]
    page.sort(key=_attention)
    for host in page:
        for job in host["jobs"]:
            del job["attention"]
    _leave_out([job for host in page for job in host["jobs"]], output_total)
    data = {"at": round(moment, 3), "hosts": page}
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, "\\u%04x" % ord(character))
    return text


def _seconds(value: object) -> float | None:
    """Return a number that may be written as text, as a variable's is before ansible-core 2.19."""
    try:
        return number(float(str(value)))
    except ValueError:
        return None


def _host(host: Host, tails: list[Job], zone: object) -> dict[str, t.Any]:
    with_output = {job["ansible_job_id"]: job for job in tails if job["ansible_job_id"] != NO_ID}
    jobs = [with_output.get(job["ansible_job_id"], job) for job in host.jobs]
    jobs.sort(key=schema.needs_attention)
    offsets = [utc_offset(job) for job in jobs]
    # Of a host whose jobs do not tell, what it says now.
    usual = next((one for one in offsets if one is not None), _seconds_of_zone(zone))
    return {
        "name": host.name,
        "problem": host.problem,
        "note": host.note,
        "more": host.more,
        "jobs": [
            _job(job, usual if offset is None else offset) for job, offset in zip(jobs, offsets)
        ],
    }


def _job(job: Job, offset: int) -> dict[str, t.Any]:
    """Return what the page shows of a job, without what nobody knows."""
    found = {key: job[key] for key in _KEPT}
    found.update(
        id=job["ansible_job_id"],
        attention=schema.needs_attention(job),
        state=state(job),
        reason="; ".join(part for part in _why(job) if part) or None,
        progress=schema.progress_text(job["progress"]) or None,
        submitted_at=date_of(job["submitted"], offset),
        deadline_at=date_of(job["deadline"], offset),
    )
    found["start_at"], found["end_at"] = span(job, offset)
    found.update((stream, job[stream]) for stream in schema.STREAMS if job[stream])
    return {key: value for key, value in found.items() if value is not None}


def _why(job: Job) -> tuple[str | None, ...]:
    # Of a job that is over, the page shows its signal where there is no reason.
    waits = attempts(job) if job["state"] in LIVE else None
    return reason(job), waits, untold(job), flaws(job)


def _attention(host: dict[str, t.Any]) -> int:
    """Return by what hosts are sorted: first those without an answer, and those whose jobs need attention most."""
    if host["problem"] is not None:
        return -1
    return min((job["attention"] for job in host["jobs"]), default=schema.NO_ATTENTION)


def _seconds_of_zone(zone: object) -> int:
    found = re.fullmatch(r"([+-])(\d\d):?(\d\d)", str(zone))
    if found is None:
        return 0
    seconds = int(found.group(2)) * 3600 + int(found.group(3)) * 60
    return -seconds if found.group(1) == "-" else seconds


def _leave_out(jobs: list[dict[str, t.Any]], total: int) -> None:
    """Take the output of the oldest jobs out, so that the page has no more than so many characters of it."""

    def newest(job: dict[str, t.Any]) -> float:
        return -(job.get("submitted_at") or job.get("start_at") or 0)

    for job in sorted(jobs, key=newest):
        size = sum(len(job.get(stream, "")) for stream in schema.STREAMS)
        total -= size
        if size and total < 0:
            job["left_out"] = True
            for stream in schema.STREAMS:
                job.pop(stream, None)


class FilterModule:
    """Names the collection's filter for ansible-core."""

    def filters(self) -> dict[str, object]:
        """Return the filters by name."""
        return {"job_report": report}
