# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter job_report."""

from __future__ import annotations

import datetime
import json
import re
import shlex
import typing as t

from ansible.errors import AnsibleFilterError

from ..module_utils._job import schema
from ..module_utils._job.errors import JobError
from ..plugin_utils._overview import UNKNOWN, Host, Job, hosts, number, state

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
    *("name", "rc", "signal", "elapsed", "timeout", "user", "containment", "results_file"),
    *("start", "end", "stdout_bytes", "stderr_bytes", "truncated"),
)
_NANOSECONDS = re.compile(r"j([0-9]{16,})\.")  # our jids begin with the moment of the launch
_QUARTER = 900  # seconds; time zones differ by multiples of it


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
    if moment is None:
        raise AnsibleFilterError(f"job_report: at must be a number of seconds, not {at!r}")
    try:
        found = hosts(answers)
        shown = {host.name: host.jobs for host in hosts({} if tails is None else tails)}
    except JobError as error:
        raise AnsibleFilterError(f"job_report: {error.msg}") from None
    page = [_host(host, shown.get(host.name, []), (zones or {}).get(host.name)) for host in found]
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
    with_output = {job["ansible_job_id"]: job for job in tails}
    jobs = [with_output.get(job["ansible_job_id"], job) for job in host.jobs]
    offsets = [_offset(job) for job in jobs]
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
    unknown = state(job) == UNKNOWN
    found = {key: job.get(key) for key in _KEPT}
    found.update((key, number(job.get(key))) for key in ("elapsed", "timeout"))
    found.update(
        id=job["ansible_job_id"],
        state=state(job),
        reason=job.get("msg") if unknown else job.get("reason"),
        cmd=_command(job.get("cmd")),
        progress=_progress(job.get("progress")),
        submitted_at=_moment(job.get("submitted"), offset),
        deadline_at=_moment(job.get("deadline"), offset),
    )
    found.update(_span(job, offset))
    found.update((stream, job.get(stream)) for stream in schema.STREAMS if job.get(stream))
    return {key: value for key, value in found.items() if value is not None}


def _span(job: Job, offset: int) -> dict[str, float | None]:
    """Return when a job began and ended: by the clock that nobody can set, where that is known."""
    start, end = _moment(job.get("start"), offset), _moment(job.get("end"), offset)
    elapsed = number(job.get("elapsed"))
    if start is not None and elapsed is not None:
        end = round(start + elapsed, 3)
    return {"start_at": start, "end_at": end}


def _command(cmd: object) -> str | None:
    if isinstance(cmd, (list, tuple)):
        return shlex.join(str(one) for one in cmd)
    return None if cmd is None else str(cmd)


def _progress(progress: object) -> str | None:
    if not isinstance(progress, t.Mapping):
        return None
    percent, status = progress.get("percent"), progress.get("status")
    parts = [f"{percent} %" if percent is not None else "", str(status or "")]
    return ", ".join(part for part in parts if part) or None


def _naive(text: object) -> float | None:
    """Return a time of the target as if its zone were UTC."""
    try:
        parsed = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return parsed.replace(tzinfo=datetime.timezone.utc).timestamp()


def _moment(text: object, offset: int) -> float | None:
    naive = _naive(text)
    return None if naive is None else round(naive - offset, 3)


def _offset(job: Job) -> int | None:
    """Return how many seconds the target's clock was ahead of UTC when the job was launched."""
    stated, submitted = _NANOSECONDS.match(job["ansible_job_id"]), _naive(job.get("submitted"))
    if stated is None or submitted is None:
        return None
    return round((submitted - int(stated.group(1)) / 1e9) / _QUARTER) * _QUARTER


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
