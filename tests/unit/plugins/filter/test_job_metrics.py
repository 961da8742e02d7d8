# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The metrics of invented jobs, as Prometheus's own parser reads them."""

from __future__ import annotations

import time

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.durable.jobs.plugins.filter import job_metrics
from ansible_collections.durable.jobs.plugins.module_utils._job import schema

AT = 1795301990  # seconds since 1970


def job(state, name="backup", at=AT, **changes):
    begun = time.strftime(
        "%Y-%m-%d %H:%M:%S.000000", time.gmtime(at + 3600)
    )  # an hour ahead of UTC
    found = schema.present(schema.unknown(f"j{at}000000000.1"), "none")
    found.update(name=name, state=state, submitted=begun, start=begun, elapsed=90.5, rc=0)
    return {**found, **changes}


def read(text):
    """Return the samples of a text by name and labels, as the parser of OpenMetrics gives them."""
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    families = list(parser.text_string_to_metric_families(text))
    assert all(one.type == "gauge" and one.documentation for one in families)
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def write(*jobs, **options):
    return job_metrics.metrics({"jobs": list(jobs), "total": len(jobs), "user": "ada"}, **options)


def about(found, metric, name="backup", **labels):
    key = {"user": "ada", "name": name, **labels}
    return found.get(("durable_job_last_" + metric, *sorted(key.items())))


def test_the_latest_job_of_a_name():
    found = read(write(job("failed", rc=3, attempt=2), job("succeeded", at=AT - 1000)))
    assert about(found, "state", state="failed") == 1
    assert about(found, "state", state="succeeded") == 0
    assert about(found, "start_timestamp_seconds") == AT
    assert about(found, "end_timestamp_seconds") == AT + 90.5
    assert about(found, "duration_seconds") == 90.5
    assert about(found, "exit_code") == 3
    assert about(found, "attempts") == 2


def test_while_a_job_runs_the_end_is_that_of_the_one_before():
    found = read(write(job("succeeded"), job("running", at=AT + 1000, rc=None)))
    assert about(found, "state", state="running") == 1
    assert about(found, "start_timestamp_seconds") == AT + 1000
    assert about(found, "end_timestamp_seconds") == AT + 90.5
    assert about(found, "exit_code") == 0


def test_what_nobody_knows_is_missing():
    never = {"start": None, "elapsed": None, "rc": None}
    found = read(write(job("lost", **never), job("queued", name="later", **never)))
    for metric in ("start_timestamp_seconds", "end_timestamp_seconds", "duration_seconds"):
        assert about(found, metric) is None and about(found, metric, "later") is None
    assert about(found, "exit_code") is None
    assert about(found, "attempts") == 1 and about(found, "attempts", "later") is None


def test_jobs_are_counted_by_state_also_those_without_a_name():
    found = read(write(job("failed"), job("failed", name=None), job("odd"), job("running")))
    counted = {key[1][1]: value for key, value in found.items() if key[0] == "durable_jobs"}
    assert counted["failed"] == 2 and counted["running"] == 1 and counted["unknown"] == 1
    assert set(counted) >= set(schema.STATES) and sum(counted.values()) == 4


def test_names_are_escaped_and_labels_added():
    found = read(write(job("failed", name='a"b\\c\nd'), labels={"site": 'the "west"'}))
    assert about(found, "exit_code", 'a"b\\c\nd', site='the "west"') == 0


def test_the_older_text_format_reads_it_too():
    parser = pytest.importorskip("prometheus_client.parser")
    text = write(job("failed"))
    assert len(list(parser.text_string_to_metric_families(text))) == 7
    assert text.endswith("# EOF\n")


@pytest.mark.parametrize("labels", [{"user": "x"}, {"state": "x"}, {"a-b": "x"}, {"__x": "y"}, 7])
def test_wrong_labels_are_named(labels):
    with pytest.raises(AnsibleFilterError, match="label"):
        write(job("failed"), labels=labels)


@pytest.mark.parametrize("answer", [None, "text", {}, {"unreachable": True, "msg": "gone"}])
def test_what_is_no_list_of_jobs_is_refused(answer):
    with pytest.raises(AnsibleFilterError, match="job_metrics: the input is no result of job_info"):
        job_metrics.metrics(answer)


def test_no_jobs_are_metrics_too():
    found = read(write())
    assert set(found.values()) == {0}
