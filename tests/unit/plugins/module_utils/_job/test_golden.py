# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What earlier releases have left is read, kept and removed as their own jobs are. See tests/golden."""

from __future__ import annotations

import os
import time

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import host, main, status
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._job.names import latest_job
from ansible_collections.durable.jobs.plugins.module_utils._job.store import Store
from ansible_collections.durable.jobs.tests.golden.recordings import (
    RELEASES,
    Recording,
    differences,
)
from ansible_collections.durable.jobs.tests.unit.support import ask, question, until

RECORDINGS = {release: Recording(release) for release in RELEASES}
EVERY_JOB = [(release, label) for release in RELEASES for label in sorted(RECORDINGS[release].jobs)]
LISTED = ("name", "state", "reason", "rc", "signal", "cmd", "start", "end", "elapsed", "timeout")
NOT_GIVEN = (
    *("cmd", "argv", "shell", "name", "chdir", "env", "stdin", "creates", "removes", "umask"),
    *("nice", "max_timeout", "watchdog", "memory_max", "cpu_quota", "tasks_max"),
)
DEFAULTS = {
    **dict.fromkeys(NOT_GIVEN),
    "executable": "/bin/sh",
    "timeout": 3600,
    "grace": 10,
    "stop_signal": "TERM",
    "stdin_add_newline": True,
    "output_limit": 64 * 1024 * 1024,
    "containment": "auto",
    "on_conflict": "fail",
    "rerun": "always",
    "retention": 0,
}


@pytest.fixture(autouse=True)
def _zone(monkeypatch):
    """Times in results are local; those of the recordings are in UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(params=RELEASES)
def recording(request):
    return RECORDINGS[request.param]


@pytest.fixture
def async_dir(recording, tmp_path):
    return recording.unpack_here(tmp_path)


def asked(async_dir, verb, **params):
    """Ask the engine for something, here in this process, and return its answer."""
    asking = question(None, verb, params=params).request
    return main.answer(dict(asking, async_dir=str(async_dir)), None)


def looked(async_dir, jid, **changes):
    """Look at a job, as job_status does."""
    params = {"jid": jid, "name": None, "mode": "status", "wait": 0, "output": "full"}
    return asked(async_dir, "job_status", **{**params, "reveal": False, **changes})


def read(async_dir, jid, stream, **changes):
    """Read a stream of a job, as job_output does."""
    params = {"jid": jid, "name": None, "stream": stream, "offset": 0, "max_bytes": 2**24}
    params.update(tail_lines=None, follow=False, wait=0, reveal=True)
    return asked(async_dir, "job_output", **{**params, **changes})


def listed(async_dir, **changes):
    """List jobs, as job_info does."""
    params = {"states": None, "names": None, "jids": None, "limit": 0, "order": "newest"}
    return asked(async_dir, "job_info", **{**params, "output": "none", **changes})


def launched(async_dir, params, **how):
    """Launch a job under a name, as job_start does, with an engine in a process of its own."""
    asking = {"params": {**DEFAULTS, **params}, **how}
    begun, answer = ask(str(async_dir), "job_start", **asking)
    return answer if begun else ask(str(async_dir), "job_start", whole=True, **asking)[1]


def left(async_dir):
    """Return all that lies in an async dir, but the engines and what is not of any job."""
    return sorted(
        str(path.relative_to(async_dir))
        for path in async_dir.glob("**/*")
        if ".durable/engine" not in str(path)
    )


# -- looks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("release", "label"), EVERY_JOB)
def test_a_job_is_read_as_its_own_release_reads_it(release, label, tmp_path):
    recording = RECORDINGS[release]
    where = Store.open(str(recording.unpack_here(tmp_path)), create=False)
    job = where.job(recording.jobs[label]["jid"])
    expected = recording.expected(label)
    if (
        expected["stdout_file"] is None
    ):  # a job of the builtin lies where it lies, and is whose it is
        expected.update(results_file=job.results_file, user=host.user_name(os.geteuid()))
    found = status.look(job)
    assert differences(found, expected) == {}
    if found["state"] == "lost":
        assert (found["name"] or job.jid) in found["msg"] and found["reason"] in found["msg"]
    assert differences(status.look(job), expected) == {}, "what has been written down says the same"
    job.close()
    where.close()


@pytest.mark.parametrize(("release", "label"), EVERY_JOB)
def test_its_output_is_read(release, label, tmp_path):
    recording = RECORDINGS[release]
    job = recording.jobs[label]
    if "output" not in job:
        pytest.skip("a job of the builtin has its output in its record")
    async_dir = recording.unpack_here(tmp_path)
    for stream, expected in job["output"].items():
        found = read(async_dir, job["jid"], stream)
        assert differences(found, expected) == {}
        while not found["eof"]:  # behind the hole of the output limit
            found = read(async_dir, job["jid"], stream, offset=found["next_offset"])
        assert found["finished"] and found["next_offset"] == expected["size"]
        tail = read(async_dir, job["jid"], stream, tail_lines=1, offset=None)
        assert tail["content_lines"] == found["content"].splitlines()[-1:]


def test_a_hidden_job_stays_hidden_and_can_be_revealed(recording, async_dir):
    for label in ("no_log", "running with no_log"):
        job = recording.jobs[label]
        found = looked(async_dir, job["jid"])
        assert "hidden: " in found["stdout"] and "hidden: " in found["cmd"]
        shown = looked(async_dir, job["jid"], reveal=True)
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


def test_an_unfinished_job_of_another_machine_is_left_to_that(recording, tmp_path):
    if not host.machine()["id"]:
        pytest.skip("this machine has no /etc/machine-id")
    async_dir = recording.unpack(tmp_path)
    where = Store.open(str(async_dir), create=False)
    for label, job in recording.jobs.items():
        record = async_dir / job["jid"]
        before = record.read_bytes()
        if "moved" in job:
            with pytest.raises(JobError, match="was launched on the machine golden"):
                status.look(where.job(job["jid"]))
            assert record.read_bytes() == before, label
        else:
            found = status.look(where.job(job["jid"]))
            assert found["state"] == recording.expected(label)["state"], label
    where.close()


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_name_means_the_job_that_it_meant(recording, async_dir):
    where = Store.open(str(async_dir), create=False)
    assert recording.names
    for name, jid in recording.names.items():
        assert latest_job(where, name).jid == jid
        assert looked(async_dir, None, name=name)["ansible_job_id"] == jid
        assert [one["name"] for one in listed(async_dir, names=[name])["jobs"]][:1] == [name]
    where.close()


def named(recording):
    """Return the jobs that were launched alone and under a name: label, jid and parameters of the launch."""
    return [
        (label, job["jid"], job["launched"])
        for label, job in recording.jobs.items()
        if "launched" in job and job["jid"] in recording.names.values()
    ]


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
            until(lambda new=found["ansible_job_id"]: looked(async_dir, new)["finished"])
            now = looked(async_dir, None, name=params["name"])
            assert now["ansible_job_id"] == found["ansible_job_id"], label
            assert looked(async_dir, jid)["state"] == expected["state"], "the old one is kept"


def test_the_same_launch_is_known_and_a_changed_secret_is_noticed(recording, async_dir):
    assert ask(str(async_dir), whole=True)[0], "it is installed"
    for label, _jid, params in named(recording):
        found = launched(async_dir, params, check_mode=True, diff=True)["diff"]
        assert found["before"] == found["after"], label
        other = {**params, "stdin": "other", "env": {**params.get("env", {}), "TOKEN": "other"}}
        found = launched(async_dir, other, check_mode=True, diff=True)["diff"]
        keys = {key for key in found["after"] if found["after"][key] != found["before"].get(key)}
        assert keys == {"stdin", "env"}, label


# -- removal ----------------------------------------------------------------------------------------------------------

# Beside engines: what stays in an async dir without jobs.
EMPTY = [".durable", ".durable/engine", ".durable/gone", ".durable/jobs", ".durable/key"]
EMPTY += [".durable/names", ".durable/pruned"]


def test_prune_removes_all_and_leaves_nothing(recording, async_dir):
    params = {"older_than": None, "keep_last": None, "max_bytes": None, "states": None}
    found = asked(async_dir, "job_prune", **params)
    assert sorted(one["ansible_job_id"] for one in found["pruned"]) == sorted(
        job["jid"] for job in recording.jobs.values()
    )
    assert set(left(async_dir)) <= set(EMPTY)


def test_cleanup_removes_each_and_leaves_nothing(recording, async_dir):
    for label, job in recording.jobs.items():
        found = looked(async_dir, job["jid"], mode="cleanup")
        assert found["erased"] == str(async_dir / job["jid"]), label
        assert not (async_dir / job["jid"]).exists()
        assert not (async_dir / ".durable" / "jobs" / job["jid"]).exists()
    assert set(left(async_dir)) <= set(EMPTY)


def test_finished_jobs_are_stopped_already(recording, async_dir):
    """A stop of what has ended changes nothing, whichever release has launched it."""
    jids = [job["jid"] for job in recording.jobs.values()]
    before = {jid: looked(async_dir, jid) for jid in jids}
    asked(async_dir, "job_stop", jobs=jids, signal=None, grace=None)
    assert {jid: looked(async_dir, jid) for jid in jids} == before
