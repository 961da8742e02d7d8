# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules make of what earlier releases have left: it is shown, kept and removed. See tests/golden."""

from __future__ import annotations

import pytest

from ansible_collections.durable.jobs.plugins.module_utils import _argspec
from ansible_collections.durable.jobs.tests.golden import asking
from ansible_collections.durable.jobs.tests.golden.recordings import (
    RELEASES,
    Recording,
    differences,
)
from ansible_collections.durable.jobs.tests.unit.support import until

LISTED = ("name", "state", "reason", "rc", "signal", "cmd", "start", "end", "elapsed", "timeout")

pytestmark = pytest.mark.usefixtures("utc")


@pytest.fixture(params=RELEASES)
def recording(request):
    return Recording(request.param)


@pytest.fixture
def async_dir(recording, tmp_path):
    return recording.unpack_here(tmp_path)


def looked(async_dir, **params):
    return asking.here(async_dir, _argspec.STATUS, **params)


def listed(async_dir, **params):
    return asking.here(async_dir, _argspec.INFO, **params)


def launched(async_dir, params, **how):
    """Launch a job and remove none in passing, whose recordings may be years old."""
    return asking.elsewhere(async_dir, _argspec.START, **params, retention=0, **how)


def of_jobs(recording, async_dir):
    """Return what there is of the recorded jobs: records, folders, files of their names."""
    jids = {job["jid"] for job in recording.jobs.values()}
    names = async_dir / ".durable" / "names"
    return sorted(
        str(path)
        for path in async_dir.glob("**/*")
        if names in path.parents or any(jid in str(path) for jid in jids)
    )


# -- looks ------------------------------------------------------------------------------------------------------------


def test_a_hidden_job_stays_hidden_and_can_be_revealed(recording, async_dir):
    for label in ("no_log", "running with no_log"):
        job = recording.jobs[label]
        found = looked(async_dir, jid=job["jid"])
        assert "hidden: " in found["stdout"] and "hidden: " in found["cmd"]
        shown = looked(async_dir, jid=job["jid"], reveal=True)
        assert shown["stdout"] + "\n" == job["output"]["stdout"]["content"]


def test_all_are_listed(recording, async_dir):
    found = listed(async_dir)
    jobs = {one["ansible_job_id"]: one for one in found["jobs"]}
    assert sorted(jobs) == sorted(job["jid"] for job in recording.jobs.values())
    for label, job in recording.jobs.items():
        expected = recording.expected(label)
        brief = {key: expected[key] for key in LISTED if key in expected}
        assert differences(jobs[job["jid"]], brief) == {}, label
    states = [recording.expected(label)["state"] for label in recording.jobs]
    assert {state: count for state, count in found["counts"].items() if count} == {
        state: states.count(state) for state in states
    }


def test_output_is_read_by_name(recording, async_dir):
    for name, jid in recording.names.items():
        (output,) = [job["output"] for job in recording.jobs.values() if job["jid"] == jid]
        for stream, expected in output.items():
            found = asking.here(
                async_dir, _argspec.OUTPUT, name=name, stream=stream, max_bytes=2**24, reveal=True
            )
            assert differences(found, expected) == {}, name


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_name_means_the_job_that_it_meant(recording, async_dir):
    for name, jid in recording.names.items():
        assert looked(async_dir, name=name)["ansible_job_id"] == jid
        assert [one["name"] for one in listed(async_dir, names=[name])["jobs"]][:1] == [name]


def named(recording):
    """Return the jobs that were launched alone and under a name: label, jid and parameters of the launch."""
    found = [
        (label, job["jid"], job["launched"])
        for label, job in recording.jobs.items()
        if "launched" in job and job["jid"] in recording.names.values()
    ]
    assert found
    return found


@pytest.mark.parametrize("rerun", ["always", "on_failure", "never"])
def test_a_launch_under_its_name_decides_as_documented(recording, async_dir, rerun):
    for label, jid, params in named(recording):
        expected = recording.expected(label)
        # What took minutes is not to be done again by a test; a finished job is not compared.
        again = {"name": params["name"], "shell": "exit 0", "rerun": rerun}
        found = launched(async_dir, again)
        if rerun == "never" or (rerun == "on_failure" and expected["state"] == "succeeded"):
            assert (found["ansible_job_id"], found["changed"]) == (jid, False), label
            assert differences(found, {**expected, "changed": False}) == {}, label
        else:
            assert found["changed"] and found["ansible_job_id"] != jid, label
            until(lambda new=found["ansible_job_id"]: looked(async_dir, jid=new)["finished"])
            now = looked(async_dir, name=params["name"])
            assert now["ansible_job_id"] == found["ansible_job_id"], label
            assert looked(async_dir, jid=jid)["state"] == expected["state"], "the old one is kept"


def test_the_same_launch_is_known_and_a_changed_secret_is_noticed(recording, async_dir):
    for label, _jid, params in named(recording):
        found = launched(async_dir, params, predict=True)["diff"]
        assert found["before"] == found["after"], label
        other = {**params, "stdin": "other", "env": {**params.get("env", {}), "TOKEN": "other"}}
        found = launched(async_dir, other, predict=True)["diff"]
        keys = {key for key in found["after"] if found["after"][key] != found["before"].get(key)}
        assert keys == {"stdin", "env"}, label


# -- stops and removal ------------------------------------------------------------------------------------------------


def test_finished_jobs_are_stopped_already(recording, async_dir):
    """A stop of what has ended changes nothing, whichever release has launched it."""
    jids = [job["jid"] for job in recording.jobs.values()]
    before = {jid: looked(async_dir, jid=jid) for jid in jids}
    asking.here(async_dir, _argspec.STOP, jobs=jids)
    assert {jid: looked(async_dir, jid=jid) for jid in jids} == before


def test_prune_removes_all_and_leaves_nothing(recording, async_dir):
    assert of_jobs(recording, async_dir)
    found = asking.here(async_dir, _argspec.PRUNE)
    assert sorted(one["ansible_job_id"] for one in found["pruned"]) == sorted(
        job["jid"] for job in recording.jobs.values()
    )
    assert of_jobs(recording, async_dir) == []


def test_cleanup_removes_each_and_leaves_nothing(recording, async_dir):
    for label, job in recording.jobs.items():
        found = looked(async_dir, jid=job["jid"], mode="cleanup")
        assert found["erased"] == str(async_dir / job["jid"]), label
        assert not (async_dir / job["jid"]).exists()
        assert not (async_dir / ".durable" / "jobs" / job["jid"]).exists()
    assert of_jobs(recording, async_dir) == []
