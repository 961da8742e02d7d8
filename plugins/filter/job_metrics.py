# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The jobs of a host as metrics, for the textfile collector of node_exporter."""

from __future__ import annotations

import re
import typing as t

from ansible.errors import AnsibleFilterError

from ..module_utils._job import schema
from ..module_utils._job.errors import JobError
from ..plugin_utils._moments import launched, span, utc_offset
from ..plugin_utils._overview import SHOWN_STATES, Host, Job, hosts, state

DOCUMENTATION = r"""
name: job_metrics
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 1.0.0
short_description: Write the jobs of a host as metrics for Prometheus
description:
  - Turns the result of M(durable.jobs.job_info) into a text in the OpenMetrics format. Each metric is a gauge, so the textfile collector of
    node_exporter, which reads the older text format, understands it too.
  - C(durable_jobs) is the number of jobs of each C(state).
  - Each other metric is about the jobs of one C(name). C(durable_job_last_state) is 1 for the state of the latest job, and 0 for each other state.
    C(durable_job_last_start_timestamp_seconds) is when the latest job that has started did so.
  - Four metrics are about the latest job that has finished. C(durable_job_last_end_timestamp_seconds) and C(durable_job_last_duration_seconds) say
    when it ended and how long it took. C(durable_job_last_exit_code) is its exit code; below zero, it is the signal that ended the job. It is missing
    if nobody knows it. C(durable_job_last_attempts) says how many attempts the job needed.
  - Jobs without a name only count in C(durable_jobs).
positional: _input
options:
  _input:
    description:
      - The result of M(durable.jobs.job_info).
    type: dict
    required: true
  labels:
    description:
      - More labels for each metric, for example to tell two async dirs of a host apart.
      - The label C(user) is there already. It is the user on the host whose jobs they are.
    type: dict
    default: {}
seealso:
  - module: durable.jobs.job_info
"""

EXAMPLES = r"""
- name: List the jobs
  durable.jobs.job_info:
  register: found

- name: Show what a file for the collector would hold
  ansible.builtin.debug:
    msg: "{{ found | durable.jobs.job_metrics(labels={'site': 'west'}) }}"
"""

RETURN = r"""
_value:
  description: The text, with the line C(# EOF) at its end.
  type: str
"""

_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_OWN = ("user", "name", "state")
_LAST = "durable_job_last_"


class _Metric(t.NamedTuple):
    """One gauge: what follows the name in the file, and its samples."""

    name: str
    meaning: str
    unit: str | None
    samples: list[tuple[dict[str, str], float]]


def metrics(answer: object, *, labels: t.Mapping[str, object] | None = None) -> str:
    """Return the text."""
    try:
        (host,) = hosts({"": answer})
    except JobError as error:
        raise AnsibleFilterError(f"job_metrics: {error.msg}") from None
    if host.problem is not None:
        raise AnsibleFilterError(f"job_metrics: the input is no result of job_info: {host.problem}")
    user = answer.get("user") if isinstance(answer, t.Mapping) else None
    common = {**_checked(labels), "user": user if isinstance(user, str) else ""}
    found = [_counts(host), *_by_name(host)]
    return "".join(line + "\n" for metric in found for line in _lines(metric, common)) + "# EOF\n"


def _checked(labels: object) -> dict[str, str]:
    if labels is None:
        return {}
    if not isinstance(labels, t.Mapping):
        raise AnsibleFilterError("job_metrics: labels must be a dictionary")
    for name in labels:
        if not isinstance(name, str) or not _LABEL.fullmatch(name) or name.startswith("__"):
            raise AnsibleFilterError(f"job_metrics: {name!r} cannot be the name of a label")
        if name in _OWN:
            raise AnsibleFilterError(f"job_metrics: the label {name} is the filter's own")
    return {name: str(value) for name, value in labels.items()}


def _counts(host: Host) -> _Metric:
    numbers = dict.fromkeys(SHOWN_STATES, 0)
    for job in host.jobs:
        numbers[state(job)] += 1
    samples = [({"state": one}, float(number)) for one, number in numbers.items()]
    return _Metric("durable_jobs", "Jobs of this host, by state.", None, samples)


def _by_name(host: Host) -> list[_Metric]:
    """Return the metrics about the latest jobs of each name."""
    found = [
        _Metric(_LAST + "state", "Whether the latest job of a name has this state.", None, []),
        _Metric(
            _LAST + "start_timestamp_seconds",
            "When the latest job of a name that has started did so.",
            "seconds",
            [],
        ),
        _Metric(
            _LAST + "end_timestamp_seconds",
            "When the latest finished job of a name ended.",
            "seconds",
            [],
        ),
        _Metric(
            _LAST + "duration_seconds",
            "How long the latest finished job of a name took.",
            "seconds",
            [],
        ),
        _Metric(
            _LAST + "exit_code",
            "Exit code of the latest finished job of a name; below zero, the signal.",
            None,
            [],
        ),
        _Metric(_LAST + "attempts", "Attempts of the latest finished job of a name.", None, []),
    ]
    for name, jobs in sorted(_named(host.jobs).items()):
        for metric, values in zip(found, _values(jobs)):
            metric.samples.extend(({"name": name, **own}, value) for own, value in values)
    return found


def _named(jobs: list[Job]) -> dict[str, list[Job]]:
    """Return the jobs of each name, the latest first."""
    found: dict[str, list[Job]] = {}
    for job in sorted(jobs, key=launched, reverse=True):
        if job["name"]:
            found.setdefault(job["name"], []).append(job)
    return found


def _values(jobs: list[Job]) -> list[list[tuple[dict[str, str], float]]]:
    """Return the samples of one name for each metric of :func:`_by_name`, in the same order."""
    latest = state(jobs[0])
    states = [({"state": one}, float(one == latest)) for one in SHOWN_STATES]
    starts = [_span(job)[0] for job in jobs]
    finished = next((job for job in jobs if state(job) in schema.FINISHED_STATES), None)
    if finished is None:
        return [states, _one(starts), [], [], [], []]
    return [
        states,
        _one(starts),
        _one([_span(finished)[1]]),
        _one([finished["elapsed"]]),
        _one([finished["rc"]]),
        _one([finished["attempt"] or 1]),
    ]


def _span(job: Job) -> tuple[float | None, float | None]:
    return span(job, utc_offset(job) or 0)


def _one(values: list[float | None]) -> list[tuple[dict[str, str], float]]:
    """Return the first of some values that is known as a sample without labels of its own."""
    known = [value for value in values if value is not None]
    return [({}, float(known[0]))] if known else []


def _lines(metric: _Metric, common: dict[str, str]) -> t.Iterator[str]:
    yield f"# HELP {metric.name} {metric.meaning}"
    yield f"# TYPE {metric.name} gauge"
    if metric.unit:
        yield f"# UNIT {metric.name} {metric.unit}"
    for own, value in metric.samples:
        labels = ",".join(f'{name}="{_escaped(text)}"' for name, text in {**common, **own}.items())
        yield f"{metric.name}{{{labels}}} {value!r}"


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return text.encode("utf-8", "replace").decode()


class FilterModule:
    """Names the collection's filter for ansible-core."""

    def filters(self) -> dict[str, object]:
        """Return the filters by name."""
        return {"job_metrics": metrics}
