# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection is upgraded while jobs run: they go on with the engine of the release before."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils import _argspec
from ansible_collections.durable.jobs.plugins.module_utils._job import naming, processes, status
from ansible_collections.durable.jobs.plugins.module_utils._job.names import latest_job
from ansible_collections.durable.jobs.tests.faults.test_killed import (
    command_of,
    kill,
    kill_keeper_and_runner,
    outcome,
)
from ansible_collections.durable.jobs.tests.golden import asking
from ansible_collections.durable.jobs.tests.golden.recordings import RELEASES, Recording
from ansible_collections.durable.jobs.tests.unit import support
from ansible_collections.durable.jobs.tests.unit.support import PATIENCE, Launcher, until

REPORT = """
import os, socket, sys
where = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
where.connect(os.environ["NOTIFY_SOCKET"])
where.send(sys.argv[1].encode())
"""


def request(*argv, **changes):
    """Return a launcher request whose limit does not come, however slow the machine is."""
    return support.request(*argv, **{"timeout": 20 * PATIENCE, **changes})


class OldLauncher(Launcher):
    """Launches jobs with the engine of an earlier release, as its recording has it."""

    def __init__(self, path, recording, folder):
        super().__init__(path)
        self.program = recording.program(folder)
        self.folder = folder

    def __call__(self, *argv, **changes):
        return super().__call__(*argv, **{"timeout": 20 * PATIENCE, **changes})

    def runs(self, pid):
        """Tell whether a process runs this engine."""
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended
            return False
        return self.program.encode() in words


@pytest.fixture
def ground():
    """A folder with a short path: the socket for reports has its own path then, which outlives the runner."""
    with tempfile.TemporaryDirectory(prefix="durable_fault.") as path:
        yield Path(path)


@pytest.fixture(params=RELEASES)
def old(request, ground):
    made = OldLauncher(ground / "async", Recording(request.param), ground / "recording")
    yield made
    made.close()


@pytest.fixture
def new(ground):
    made = Launcher(ground / "async")
    yield made
    made.close()


def answered(job, arguments, **params):
    """Have this engine do something, as a module does, and return its answer."""
    return asking.elsewhere(job.store.path, arguments, **params)


def looked(job, **params):
    return answered(job, _argspec.STATUS, jid=job.jid, **params)


def stop(job, **params):
    found = answered(job, _argspec.STOP, jobs=[job.jid], **params)
    assert found["stopped_jobs"] == [job.jid] and not found["failed"]
    return status.look(job)


def keepers(job):
    """Return the pids of keeper and runner: the processes that have the keeper's FIFO open."""
    path = job.path("keeper")
    return [one.pid for one in processes.all_processes().values() if path in opened(one.pid)]


def opened(pid):
    found = []
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    except OSError:  # it has ended, or closed that
        pass
    return found


# -- one job ----------------------------------------------------------------------------------------------------------


def test_a_look_and_a_wait(old):
    """
    the collection is upgraded while a job runs, and the new release looks at the job and waits for it
    | running, with the output so far; then its rc and all of its output
    """
    job = old.ready(
        "echo begun; until [ -e go ]; do sleep 0.02; done; seq 1000; exit 4", chdir=old.store.path
    )
    found = looked(job)
    assert (*outcome(found), found["stdout"]) == ("running", None, None, "begun")
    assert answered(job, _argspec.INFO, states=["running"])["total"] == 1
    refused = looked(job, mode="cleanup")
    assert refused["failed"] and "it is running" in refused["msg"]
    assert answered(job, _argspec.PRUNE)["pruned"] == []
    old.release()
    final = looked(job, wait=PATIENCE)
    assert outcome(final) == ("failed", 4, None)
    assert final["stdout"].split() == ["begun", *(str(number) for number in range(1, 1001))]
    assert looked(job, mode="cleanup")["changed"] is True
    assert old.store.jids() == []


def test_a_stop(old):
    """
    the collection is upgraded while a job runs, and the new release stops the job
    | stopped, and every process of it is gone
    """
    job = old.ready("setsid sleep 6001 & (sleep 6002 &) ; echo ready; sleep 6003")
    final = stop(job)
    assert (final["state"], final["rc"], final["signal"]) == ("stopped", -15, "SIGTERM")
    assert final["stopped_by"]["via"] == "ansible"
    assert old.processes(job) == []


@pytest.mark.parametrize("engine", ["is there", "is gone"])
def test_its_keeper_is_killed(old, engine):
    """
    the collection is upgraded while a job runs, its keeper is killed, and perhaps the old engine has been removed
    | its runner gives it a new keeper, of the old engine; the rc and all of the output are there
    """
    job = old.gated("seq 1000; exit 4")
    if engine == "is gone":
        shutil.rmtree(old.folder)
    first, runner = old.keeper(job)
    kill(first)
    until(lambda: job.is_held("keeper"), "a new keeper")
    assert any(old.runs(pid) for pid in keepers(job) if pid not in {first, runner})
    assert outcome(looked(job)) == ("running", None, None)
    old.release()
    final = looked(job, wait=PATIENCE)
    assert (*outcome(final), final["stdout_bytes"]) == ("failed", 4, None, 3893)


def test_its_keeper_is_killed_and_then_a_stop(old):
    """
    the collection is upgraded while a job runs, its keeper is killed, and the new release stops the job
    | stopped, and every process of it is gone
    """
    job = old.ready("setsid sleep 6001 & echo ready; sleep 6003")
    kill(old.keeper(job)[0])
    assert stop(job)["state"] == "stopped"
    assert old.processes(job) == []


def adopted(old, job):
    """Kill keeper and runner, look, and return when the job has a keeper of this engine."""
    kill_keeper_and_runner(old, job)
    assert outcome(status.look(job)) == ("running", None, "unsupervised")
    assert looked(job)["state"] == "running"
    until(lambda: job.is_held("keeper"), "the new keeper")
    assert keepers(job) and not any(old.runs(pid) for pid in keepers(job))


def test_keeper_and_runner_are_killed(old):
    """
    the collection is upgraded while a job runs that reports its progress, and keeper and runner are killed
    | the next look gives it a keeper of the new engine, which hears the reports; who can know the rc is dead: lost
    """
    report = f"{shlex.quote(sys.executable)} -c {shlex.quote(REPORT)} STATUS="
    line = f"{report}one; until [ -e go ]; do sleep 0.02; done; {report}two"
    job = old.shell(line, chdir=old.store.path)
    until(lambda: (status.look(job)["progress"] or {}).get("status") == "one", "the first report")
    adopted(old, job)
    assert status.look(job)["progress"]["status"] == "one"
    old.release()
    final = looked(job, wait=PATIENCE)
    assert outcome(final) == ("lost", None, "killed")
    assert final["progress"]["status"] == "two"


def limited(old, line, timeout, **changes):
    """Launch a line and return when it has written something, long before its limit: slow machines get more time."""
    for seconds in (timeout, 4 * timeout, 14 * timeout):
        job = old.shell(line, timeout=seconds, **changes)
        until(lambda job=job: job.read_record()["finished"] or os.stat(job.path("stdout")).st_size)
        found = status.look(job)
        if not found["finished"] and found["elapsed"] < seconds / 2:
            return job
    raise AssertionError(f"the command wrote nothing within {seconds / 2} s")


def test_keeper_and_runner_are_killed_and_then_the_deadline(old):
    """
    the collection is upgraded while a job runs, keeper and runner are killed, somebody looks, and the deadline comes
    | timed_out, and every process of it is gone
    """
    job = limited(old, "setsid sleep 6001 & echo ready; sleep 6002", 8)
    kill_keeper_and_runner(old, job)
    # On a slow machine the deadline has come.
    assert looked(job)["state"] in ("running", "timed_out")
    assert outcome(looked(job, wait=PATIENCE)) == ("timed_out", None, None)
    assert old.processes(job) == []


def test_keeper_and_runner_are_killed_while_the_job_is_ended(old):
    """
    the collection is upgraded while a job is ended that ignores the stop signal, and keeper and runner are killed
    | the next look gives it a keeper of the new engine, which sees it through: timed_out
    """
    job = limited(old, "trap '' TERM; echo ready; while :; do sleep 0.1; done", 0.5, grace=600)
    until(lambda: job.slot("ending"), "the stop signal")
    adopted(old, job)
    stop(job, grace=0.1)  # what else would wait for ten minutes
    assert status.wait(job, PATIENCE)["state"] == "timed_out"
    assert old.processes(job) == []


def test_keeper_runner_and_command_are_killed(old):
    """
    the collection is upgraded while a job runs, and keeper, runner and command are killed
    | lost, reason killed
    """
    job = old.ready("echo ready; exec sleep 6000")
    keeper, runner = old.keeper(job)
    kill(keeper, runner, command_of(job))
    assert outcome(looked(job)) == ("lost", None, "killed")


def test_nobody_writes_the_end_down(old):
    """
    the collection is upgraded while a job runs; the command ends, and keeper and runner are killed before they note it
    | failed, with the rc that the runner has written down
    """
    job = old.gated("echo out; exit 5")
    keeper, _runner = old.keeper(job)
    os.kill(keeper, signal.SIGSTOP)
    old.release()
    until(lambda: job.slot("exit"), "the exit record")
    until(lambda: not job.is_held("runner"), "the end of the runner")
    kill(keeper)
    found = looked(job)
    assert (*outcome(found), found["stdout"]) == ("failed", 5, None, "out")


def test_a_module(old):
    """
    the collection is upgraded while a module of Ansible runs as a job
    | its result is in every look of the new release
    """
    line = """until [ -e go ]; do sleep 0.02; done; echo '{"changed": false, "answer": 42}'"""
    old.raw(request("/bin/sh", "-c", line, chdir=old.store.path, module="example"))
    (job,) = old.jobs
    assert outcome(looked(job)) == ("running", None, None)
    old.release()
    final = looked(job, wait=PATIENCE)
    assert outcome(final) == ("succeeded", 0, None)
    assert (final["answer"], final["changed"]) == (42, False)
    assert final["module_result"] == {"answer": 42, "changed": False}


# -- several ----------------------------------------------------------------------------------------------------------


def batch(old, *lines):
    """Launch a batch with one slot; each line of shell waits for the gate."""
    wait = "until [ -e go ]; do sleep 0.02; done; "
    asked = [request("/bin/sh", "-c", wait + line, chdir=old.store.path) for line in lines]
    old.raw(*asked, slots=1)
    return old.jobs


def test_a_batch_goes_on(old):
    """
    the collection is upgraded while a batch runs, of which jobs are queued
    | they run one after the other; one that the new release stops in the queue never starts
    """
    note = "echo begin >> log; sleep 0.1; echo end >> log"
    first, second, third, fourth = batch(old, note, note, "echo wrong >> log", note)
    assert [looked(job)["state"] for job in old.jobs] == ["running", "queued", "queued", "queued"]
    stopped = stop(third)
    assert (stopped["state"], stopped["started"]) == ("stopped", False)
    old.release()
    for job in (first, second, fourth):
        assert outcome(looked(job, wait=PATIENCE)) == ("succeeded", 0, None)
    log = Path(old.store.path, "log").read_text(encoding="ascii").split()
    assert log == ["begin", "end"] * 3


def test_a_batch_whose_first_job_is_adopted(old):
    """
    the collection is upgraded while a batch runs, and keeper and runner of the running job are killed
    | the next look gives it a keeper of the new engine, and the queued job runs
    """
    first, second = batch(old, "echo first >> log", "echo second >> log")
    adopted(old, first)
    old.release()
    assert outcome(looked(second, wait=PATIENCE)) == ("succeeded", 0, None)
    assert looked(first, wait=PATIENCE)["state"] == "lost", "nobody was left to learn its rc"
    log = Path(old.store.path, "log").read_text(encoding="ascii").split()
    assert sorted(log) == ["first", "second"]


# -- names ------------------------------------------------------------------------------------------------------------


def named(old, line, **changes):
    asked = request("/bin/sh", "-c", line, name="work", chdir=old.store.path, **changes)
    asked["spec"] = naming.specification(asked, old.store.secret())
    return asked


def test_a_name_is_attached_to(old, new):
    """
    the collection is upgraded while a job runs that has a name, and the new release launches that name
    | attached; refused if the job is to be another; with on_conflict=replace the old one is stopped first
    """
    line = "until [ -e go ]; do sleep 0.02; done"
    old.raw(named(old, line))
    (job,) = old.jobs
    assert new.raw(named(old, line)) == [{"decision": "attach", "jid": job.jid}]
    (refused,) = new.raw(named(old, line + "; exit 1"))
    assert "with another specification: cmd" in refused["error"]["msg"]
    (replaced,) = new.raw(named(old, line + "; exit 1", on_conflict="replace"))
    assert status.look(job)["state"] == "stopped" and old.processes(job) == []
    assert latest_job(old.store, "work").jid == replaced["record"]["ansible_job_id"]
    old.release()
    assert status.wait(new.jobs[0], PATIENCE)["rc"] == 1


def test_both_releases_launch_one_name_at_once(old, new):
    """
    five processes of either release launch a job of the same name at once
    | one of them starts it, and the others attach to it
    """
    asked = named(old, "echo ran >> log; until [ -e go ]; do sleep 0.02; done")
    answers = []
    threads = [
        threading.Thread(target=lambda who=who: answers.extend(who.raw(asked)))
        for who in [old, new] * 5
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    (job,) = old.jobs + new.jobs
    decided = [answer.get("decision", "start") for answer in answers]
    assert sorted(decided) == ["attach"] * 9 + ["start"]
    old.release()
    assert outcome(status.wait(job, PATIENCE)) == ("succeeded", 0, None)
    assert Path(old.store.path, "log").read_text(encoding="ascii") == "ran\n"
