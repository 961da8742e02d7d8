# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""job_stop, as a target runs it, against real jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from ansible.modules import async_wrapper

from ansible_collections.durable.jobs.plugins.module_utils._job import async_jobs, processes
from ansible_collections.durable.jobs.tests.faults import modules
from ansible_collections.durable.jobs.tests.unit.support import request, until

DEAF = "trap '' TERM; echo ready; while :; do sleep 0.2; done"
CONTROLLER = {"user": "ada", "host": "control.example"}


def job_stop(where, *jobs, check=False, **arguments):
    """Run the module as ansible-core does, and return its result."""
    asked = {"jobs": list(jobs), "async_dir": where.path, "_ansible_version": "2.19.0"}
    asked["_ansible_check_mode"] = check
    return modules.run(modules.OURS + "job_stop", {**asked, **arguments})


def ready(launcher, count, line=DEAF, **changes):
    """Launch jobs of the same line in one call, and return when each has written something."""
    changes.setdefault("timeout", 600)
    launcher.raw(*[request("/bin/sh", "-c", line, **changes) for _number in range(count)])
    jobs = launcher.jobs[-count:]
    until(lambda: all(os.stat(job.path("stdout")).st_size for job in jobs), "the jobs' output")
    return jobs


def test_a_job_is_stopped_with_all_that_it_has_started_and_its_dictionary_says_who_asked(launcher):
    job = launcher.ready("setsid sleep 61 & (sleep 62 &) ; echo ready; sleep 63")
    found = job_stop(launcher.store, job.jid, _told={"controller": CONTROLLER})
    assert launcher.processes(job) == []
    assert (found["changed"], found["stopped_jobs"]) == (True, [job.jid])
    assert found["counts"]["stopped"] == 1
    (stopped,) = found["jobs"]
    assert (stopped["state"], stopped["rc"], stopped["stdout"]) == ("stopped", -15, "ready")
    by = stopped["stopped_by"]
    assert by == job.read_record()["stopped_by"]
    assert (by["via"], by["controller_user"]) == ("ansible", "ada")
    assert by["user"] == stopped["user"]
    assert f"on request of {by['user']}" in stopped["msg"]
    assert "run by ada on control.example" in stopped["msg"]
    again = job_stop(launcher.store, job.jid)
    assert (again["changed"], again["stopped_jobs"]) == (False, [])
    assert again["jobs"] == found["jobs"]


def test_whoever_runs_the_module_by_hand_has_asked_locally(launcher):
    job = launcher.ready("echo ready; sleep 61")
    found = job_stop(launcher.store, job.jid, _ansible_version=None)
    assert found["jobs"][0]["stopped_by"]["via"] == "local"
    assert "ansible" not in found["jobs"][0]["reason"]


def test_what_has_finished_stays_as_it_is(launcher):
    job = launcher.shell("exit 3")
    before = launcher.finished(job)
    found = job_stop(launcher.store, job.jid)
    assert (found["changed"], found["jobs"][0]["state"]) == (False, "failed")
    assert found["msg"] == "nothing to stop"
    assert job.read_record() == before


def test_the_signal_and_the_grace_of_the_task_win_over_those_of_the_job(launcher):
    polite = launcher.ready(
        "trap 'echo bye; exit 5' USR1; echo ready; while :; do sleep 0.05; done"
    )
    found = job_stop(launcher.store, polite.jid, signal="USR1")
    assert (found["jobs"][0]["rc"], found["jobs"][0]["stdout"]) == (5, "ready\nbye")
    deaf = launcher.ready(DEAF, grace=600)
    found = job_stop(launcher.store, deaf.jid, grace=0.2)
    assert (found["jobs"][0]["rc"], found["jobs"][0]["signal"]) == (-9, "SIGKILL")
    own = launcher.ready(
        "trap 'exit 6' HUP; echo ready; while :; do sleep 0.05; done", stop_signal=signal.SIGHUP
    )
    assert job_stop(launcher.store, own.jid)["jobs"][0]["rc"] == 6


def test_a_stop_that_cannot_wait_shortens_the_grace_of_one_that_can(launcher):
    job = launcher.ready(DEAF, timeout=0.2, grace=600)  # its deadline has the long grace
    until(lambda: job.slot("ending"), "the deadline")
    found = job_stop(launcher.store, job.jid, grace=0)
    assert found["jobs"][0]["state"] == "timed_out"  # what began the end stays its cause
    assert (found["jobs"][0]["rc"], found["changed"]) == (-9, True)
    assert launcher.processes(job) == []


def test_jobs_are_given_in_every_way_and_come_back_in_order_each_once(launcher):
    first = launcher("sleep", "61", name="first")
    second, third, done = launcher("sleep", "62"), launcher("sleep", "63"), launcher("true")
    launcher.finished(done)
    looped = {"results": [{"ansible_job_id": third.jid}, {"skipped": True, "changed": False}]}
    failed = {"failed": True, "msg": "No such file or directory", "name": "broken"}
    found = job_stop(
        launcher.store, done.jid, looped, {"ansible_job_id": second.jid}, "first", first.jid, failed
    )
    jids = [job["ansible_job_id"] for job in found["jobs"]]
    assert jids == [done.jid, third.jid, second.jid, first.jid, None]
    assert found["stopped_jobs"] == [third.jid, second.jid, "first"]
    assert (found.get("failed"), found["failed_jobs"]) == (False, [])
    assert found["counts"] == {
        **dict.fromkeys(("queued", "running", "timed_out", "lost", "missing"), 0),
        "succeeded": 1,
        "stopped": 3,
        "failed": 1,
    }


def test_what_cannot_be_found_is_named_and_the_others_are_stopped(launcher):
    job = launcher("sleep", "61")
    found = job_stop(launcher.store, "j1.1", job.jid, "no such name")
    assert found["failed"] and found["changed"]
    assert found["failed_jobs"] == ["j1.1", "no such name"]
    assert "could not find job j1.1 in " + launcher.store.path in found["msg"]
    assert "could not find job named 'no such name'" in found["jobs"][2]["msg"]
    assert found["jobs"][1]["state"] == "stopped"
    ignored = job_stop(launcher.store, "j1.1", job.jid, missing="ignore")
    assert not ignored["failed"] and not ignored["changed"]
    assert ignored["counts"]["missing"] == 1


def test_without_an_async_dir_there_is_no_job(tmp_path):
    class Nowhere:
        path = str(tmp_path / "none")

    found = job_stop(Nowhere, "j1.1")
    assert found["failed"] and "could not find job j1.1 in " + Nowhere.path in found["msg"]
    assert not job_stop(Nowhere)["changed"]
    assert not (tmp_path / "none").exists()


def test_check_mode_names_what_would_be_stopped_and_touches_nothing(launcher):
    live, done = launcher("sleep", "61", name="long work"), launcher.shell("exit 3")
    before = launcher.finished(done), live.read_record()
    found = job_stop(launcher.store, live.jid, done.jid, "j1.1", check=True)
    assert (found["changed"], found["failed"]) == (True, False)
    assert (found["stopped_jobs"], found["msg"]) == (["long work"], "would stop long work")
    assert found["jobs"][0]["state"] == "running"
    assert (done.read_record(), live.read_record()) == before
    assert len(launcher.processes(live)) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"signal": "NOSUCH"}, "unknown signal 'NOSUCH'"),
        ({"grace": -1}, "grace must not be negative"),
        ({"jobs": ["../x"]}, "jobs[0] is neither a jid nor a name"),
        ({"jobs": [{"rc": 0}]}, "jobs[0] is no job"),
    ],
)
def test_bad_parameters_are_named(launcher, arguments, text):
    found = job_stop(launcher.store, "j1.1", **arguments)
    assert found["failed"] and text in found["msg"]


def test_stopping_a_whole_batch_gives_no_queued_job_its_turn(launcher):
    line = "echo began >> began; exec sleep 61"
    launcher.raw(
        *[request("/bin/sh", "-c", line, chdir=launcher.store.path) for _number in range(20)],
        slots=4,
    )
    began = os.path.join(launcher.store.path, "began")
    until(lambda: os.path.exists(began) and os.stat(began).st_size == 4 * len("began\n"))
    found = job_stop(launcher.store, *[job.jid for job in launcher.jobs])
    assert found["counts"]["stopped"] == 20
    assert [job["rc"] for job in found["jobs"]] == [-15] * 4 + [None] * 16
    assert os.stat(began).st_size == 4 * len("began\n")


def test_a_job_whose_folder_has_been_removed_is_ended_all_the_same(launcher):
    job = launcher.ready("setsid sleep 61 & echo ready; sleep 62")
    os.rename(job.path(""), os.path.join(launcher.store.path, "elsewhere"))
    found = job_stop(launcher.store, job.jid)
    assert found["changed"], found
    assert launcher.processes(job) == []


def test_a_keeper_that_does_not_answer_is_named(launcher):
    job = launcher.ready("echo ready; sleep 61")
    keeper, _runner = launcher.keeper(job)
    os.kill(keeper, signal.SIGSTOP)
    try:
        found = job_stop(launcher.store, job.jid, grace=0)
        assert found["failed"] and not found["changed"]
        assert f"cannot stop job {job.jid}: its keeper does not answer" in found["msg"]
    finally:
        os.kill(keeper, signal.SIGCONT)
    assert launcher.finished(job)["state"] == "stopped"  # it has found our mail


def test_a_hundred_jobs_that_ignore_the_signal_take_as_long_as_one(launcher):
    jobs = ready(launcher, 100)
    begun = time.monotonic()
    found = job_stop(launcher.store, *[job.jid for job in jobs], grace=2)
    took = time.monotonic() - begun
    assert found["counts"]["stopped"] == 100
    assert {job["signal"] for job in found["jobs"]} == {"SIGKILL"}
    assert [job["ansible_job_id"] for job in found["jobs"]] == [job.jid for job in jobs]
    assert all(launcher.processes(job) == [] for job in jobs[::10])
    print(f"100 jobs took {took:.2f} s")
    assert 2 <= took < 20  # one after the other: 200 s


# -- jobs of async ----------------------------------------------------------------------------------------------------


class Wrapper:
    """A job of async: the builtin's own async_wrapper, with a module that is one line of shell."""

    def __init__(self, where, line, limit=600):
        self.folder = os.path.join(where.path, f"ansible-tmp-{time.monotonic_ns()}")
        os.mkdir(self.folder)
        module = os.path.join(self.folder, "module")
        with open(module, "w", encoding="ascii") as script:
            script.write("#!/bin/sh\n%s\n" % line)
        os.chmod(module, 0o700)
        prefix = f"j{time.monotonic_ns()}"
        code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
        wrapper = os.path.join(where.path, "async_wrapper.py")
        if not os.path.exists(wrapper):
            os.symlink(async_wrapper.__file__, wrapper)
        done = subprocess.run(
            [sys.executable, "-c", code, wrapper, prefix, str(limit), module, "_"],
            env=dict(os.environ, ANSIBLE_ASYNC_DIR=where.path),
            stdout=subprocess.PIPE,
            check=True,
            timeout=30,
        )
        self.jid = json.loads(done.stdout)["ansible_job_id"]
        self.store = where

    def record(self):
        with open(os.path.join(self.store.path, self.jid), encoding="utf-8") as source:
            return json.load(source)

    def processes(self):
        """Return those that are alive, the module and what it has started included: they share a mark of their own."""
        mark = self.folder.encode()
        table = processes.all_processes()
        mine = {pid for pid in table if mark in b" ".join(async_jobs.read_words(pid, "cmdline"))}
        mine |= processes.descendants(table, mine)
        return [table[pid] for pid in mine if not table[pid].zombie]

    def close(self):
        for one in self.processes():
            processes.send(one, signal.SIGKILL)


@pytest.fixture
def wrapped(launcher):
    made = []

    def launch(line, **limits):
        job = Wrapper(launcher.store, line, **limits)
        made.append(job)
        until(lambda: len(job.processes()) > 2, "the module")
        return job

    yield launch
    for one in made:
        one.close()


def test_a_job_of_async_is_stopped_with_all_its_processes(launcher, wrapped):
    job = wrapped("sleep 61 & sleep 62")
    before = job.processes()
    assert len(before) >= 4
    found = job_stop(launcher.store, job.jid, _told={"controller": CONTROLLER})
    assert (found["changed"], found["stopped_jobs"]) == (True, [job.jid]), found
    assert not any(processes.is_alive(one.pid, one.started) for one in before)
    (stopped,) = found["jobs"]
    assert (stopped["state"], stopped["rc"], stopped["finished"]) == ("stopped", -15, True)
    assert stopped["stopped_by"]["controller_user"] == "ada"
    assert not os.path.exists(job.folder), "what the watcher would have removed"
    record = job.record()
    assert (record["started"], record["finished"], record["failed"], record["killed"]) == (
        True,
    ) * 4
    assert "stopped on request of" in record["msg"]
    assert not job_stop(launcher.store, job.jid)["changed"]
    assert job_stop(launcher.store, job.jid)["jobs"] == found["jobs"]


def test_jobs_of_async_that_ignore_the_signal_are_killed_all_at_once(launcher, wrapped):
    jobs = [wrapped("trap '' TERM; while :; do sleep 0.1; done") for _number in range(5)]
    ours = launcher.ready(DEAF)
    begun = time.monotonic()
    found = job_stop(launcher.store, *[job.jid for job in jobs], ours.jid, grace=1)
    assert found["counts"]["stopped"] == 6
    assert time.monotonic() - begun < 5
    assert all(job.processes() == [] for job in jobs)


def test_a_pid_in_the_record_of_a_job_of_async_proves_nothing(launcher):
    stranger = subprocess.Popen(["sleep", "61"])
    try:
        path = os.path.join(launcher.store.path, f"j123.{stranger.pid}")
        record = {"started": 1, "finished": 0, "ansible_job_id": f"j123.{stranger.pid}"}
        record["child_pid"] = stranger.pid
        with open(path, "w", encoding="ascii") as target:
            json.dump(record, target)
        found = job_stop(launcher.store, f"j123.{stranger.pid}", grace=0)
        assert found["failed"] and not found["changed"]
        assert "no process is provably its own" in found["msg"] and path in found["msg"]
        assert stranger.poll() is None
        with open(path, encoding="ascii") as source:
            assert json.load(source) == record
    finally:
        stranger.kill()
        stranger.wait()


def test_a_wrapper_of_another_async_dir_or_jid_is_a_stranger(launcher, wrapped, tmp_path):
    job = wrapped("sleep 61")
    other = launcher.store.open(str(tmp_path / "other"), create=True)
    with open(os.path.join(other.path, job.jid), "w", encoding="ascii") as target:
        json.dump({"started": 1, "finished": 0, "ansible_job_id": job.jid}, target)
    assert "no process is provably its own" in job_stop(other, job.jid, grace=0)["msg"]
    sibling = job.jid.replace(".", "0.")
    with open(os.path.join(launcher.store.path, sibling), "w", encoding="ascii") as target:
        json.dump({"started": 1, "finished": 0, "ansible_job_id": sibling}, target)
    assert "no process is provably its own" in job_stop(launcher.store, sibling, grace=0)["msg"]
    assert len(job.processes()) > 2
    assert not job.record()["finished"]
