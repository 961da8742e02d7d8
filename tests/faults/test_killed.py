# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed processes: SIGKILL for each process of a job, and for several at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import processes, status, stopping
from ansible_collections.durable.jobs.tests.unit.support import PATIENCE, until

READERS = 30


def command_of(job):
    return job.read_record()["durable_jobs"]["command"]["pid"]


def kill(*pids):
    """Kill processes at once: none of them does anything between the first death and the last."""
    alive = [processes.process(pid) for pid in pids]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for one in alive:
        until(
            lambda one=one: not processes.is_alive(one.pid, one.started), f"the death of {one.name}"
        )


def kill_keeper_and_runner(launcher, job):
    keeper, runner = launcher.keeper(job)
    os.kill(runner, signal.SIGSTOP)  # or it would give the job a new keeper first
    kill(keeper, runner)
    until(lambda: not job.is_held("keeper") and not job.is_held("runner"))


def kill_of_builtin(builtin, *kinds, line="exit 3"):
    """Do the same to a job of the builtin's, and return what its user sees."""
    jid = builtin.gated(line)
    until(lambda: builtin.command(jid), "the builtin's command")
    for one in [one for kind in kinds for one in getattr(builtin, kind)(jid)]:
        processes.send(one, signal.SIGKILL)
    builtin.release()
    return builtin.sees(jid)


def outcome(found):
    return found["state"], found["rc"], found["reason"]


# -- one -----------------------------------------------------------------------------------------------------


def test_the_keeper(launcher, builtin, record_property):
    """
    the keeper is killed
    | the command runs on, its rc and all of its output are there, and somebody keeps the job again at once
    """
    job = launcher.gated("seq 100000; exit 4")
    kill(launcher.keeper(job)[0])
    assert status.look(job)["state"] == "running"
    until(lambda: job.is_held("keeper"), "a new keeper")
    found = status.look(job)
    assert outcome(found) == ("running", None, None)
    launcher.release()
    final = status.wait(job, PATIENCE)
    assert outcome(final) == ("failed", 4, None)
    with open(job.path("stdout"), encoding="ascii") as written:
        assert written.read().split() == [str(number) for number in range(1, 100001)]
    record_property("builtin", kill_of_builtin(builtin, "wrappers"))


def test_the_keeper_and_then_the_deadline(launcher, builtin, record_property):
    """
    the keeper is killed, and the deadline comes
    | the job is timed_out, and every process of it is gone, those with a session of their own too
    """
    job = launcher.ready("setsid sleep 61 & (sleep 62 &) ; echo ready; sleep 63", timeout=2)
    kill(launcher.keeper(job)[0])
    final = status.wait(job, PATIENCE)
    assert outcome(final) == ("timed_out", -signal.SIGTERM, None)
    assert 2 <= final["elapsed"] < 2 + PATIENCE / 2
    assert launcher.processes(job) == []
    jid = builtin.launch("sleep 12; exit 3", timeout=8)
    until(lambda: builtin.wrappers(jid), "the builtin's wrapper")
    os.kill(builtin.wrappers(jid)[0].pid, signal.SIGKILL)
    record_property("builtin", f"ran on after its limit: {builtin.sees(jid)}")


def test_the_keeper_and_then_a_stop(launcher):
    """the keeper is killed, and the job is asked to stop | it is stopped, and every process of it is gone"""
    job = launcher.ready("setsid sleep 61 & echo ready; sleep 63")
    kill(launcher.keeper(job)[0])
    final = stopping.stop(job, number=signal.SIGTERM, grace=5, reason="asked by a test")
    assert outcome(final) == ("stopped", -signal.SIGTERM, "asked by a test")
    assert launcher.processes(job) == []


def test_the_keeper_and_then_too_much_output(launcher):
    """
    the keeper is killed, and the command writes more than its output limit
    | the limit holds, and the loss is counted
    """
    job = launcher.gated("head -c 5000000 /dev/zero; echo end", output_limit=100_000)
    kill(launcher.keeper(job)[0])
    until(lambda: job.is_held("keeper"), "a new keeper")
    launcher.release()
    final = status.wait(job, PATIENCE)
    assert outcome(final) == ("succeeded", 0, None)
    assert (final["stdout_bytes"], final["truncated"]) == (5_000_004, True)
    assert os.stat(job.path("stdout")).st_blocks * 512 < 150_000


def test_the_keeper_while_it_ends_the_job(launcher):
    """the keeper is killed while it ends a job that ignores the stop signal | the next keeper sees it through"""
    job = launcher.ready("trap '' TERM; echo ready; while :; do sleep 0.1; done", timeout=0.5)
    until(lambda: job.slot("ending"), "the stop signal")
    kill(launcher.keeper(job)[0])
    assert outcome(status.wait(job, PATIENCE)) == ("timed_out", -signal.SIGKILL, None)
    assert launcher.processes(job) == []


def test_the_keeper_when_the_command_is_gone_and_its_children_are_not(launcher):
    """
    the keeper is killed while it ends a job whose command is gone, and whose children ignore the stop signal
    | running, reason unsupervised, and that look gives it a new keeper, which ends what is left of it
    """
    children = "(trap '' TERM; setsid sleep 61 & echo ready; while :; do sleep 0.1; done) &"
    job = launcher.ready(f"{children} exec sleep 62", timeout=0.5, grace=60)
    until(lambda: job.slot("exit"), "the end of the command")
    keeper, _runner = launcher.keeper(job)
    until(lambda: not job.is_held("runner"), "the end of the runner")
    kill(keeper)
    assert outcome(status.look(job)) == ("running", None, "unsupervised")
    record = job.read_record()
    record["durable_jobs"]["grace"] = 0.1  # what else would wait for a minute
    job.replace(record)
    job.fill("ending", dict(job.slot("ending"), grace=0.10))
    launcher.raw(adopt=[job.jid])
    assert outcome(status.wait(job, PATIENCE)) == ("timed_out", -signal.SIGTERM, None)
    assert launcher.processes(job) == []


def test_one_keeper_after_the_other(launcher):
    """the keeper is killed, then the next one, and the next | the command runs on, and its rc is there"""
    job = launcher.gated("echo late; exit 4")
    kill(launcher.keeper(job)[0])
    for _again in range(2):
        until(lambda: job.is_held("keeper"), "a new keeper")
        runner = launcher.keeper(job)[1]
        table = processes.all_processes().values()
        kill(*(one.pid for one in table if one.parent == runner and one.pid != command_of(job)))
    launcher.release()
    final = status.wait(job, PATIENCE)
    assert (*outcome(final), final["stdout"]) == ("failed", 4, None, "late")


def test_the_runner(launcher, builtin, record_property):
    """the runner is killed | the command runs on, and the keeper learns its rc"""
    job = launcher.gated("seq 100000; exit 6")
    kill(launcher.keeper(job)[1])
    assert outcome(status.look(job)) == ("running", None, None)
    launcher.release()
    final = status.wait(job, PATIENCE)
    assert (*outcome(final), final["stdout_bytes"]) == ("failed", 6, None, 588_895)
    record_property("builtin", kill_of_builtin(builtin, "module"))


def test_the_runner_and_then_the_deadline(launcher):
    """the runner is killed, and the deadline comes | the job is timed_out, and every process of it is gone"""
    job = launcher.ready("setsid sleep 61 & (sleep 62 &) ; echo ready; sleep 63", timeout=2)
    kill(launcher.keeper(job)[1])
    assert outcome(status.wait(job, PATIENCE)) == ("timed_out", -signal.SIGTERM, None)
    assert launcher.processes(job) == []


def test_the_command(launcher, builtin, record_property):
    """the command is killed | failed, rc -9, signal SIGKILL; what it had written is there"""
    job = launcher.ready("echo so far; exec sleep 60")
    kill(command_of(job))
    final = status.wait(job, PATIENCE)
    assert outcome(final) == ("failed", -9, None)
    assert (final["signal"], final["stdout"]) == ("SIGKILL", "so far")
    record_property("builtin", kill_of_builtin(builtin, "command"))


# -- several -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [0, 1], ids=["keeper", "runner"])
def test_the_command_together_with_one_of_ours(launcher, other):
    """the command is killed together with the keeper or with the runner | failed, rc -9, signal SIGKILL"""
    job = launcher.ready("echo ready; exec sleep 60")
    kill(launcher.keeper(job)[other], command_of(job))
    assert outcome(status.wait(job, PATIENCE)) == ("failed", -9, None)


def test_keeper_and_runner_while_the_command_lives(launcher, builtin, record_property):
    """
    keeper and runner are killed, the command lives
    | running, reason unsupervised; that look gives it a new keeper, and the deadline ends every process of it
    """
    job = launcher.ready("setsid sleep 61 & echo ready; sleep 62", timeout=6)
    kill_keeper_and_runner(launcher, job)
    assert outcome(status.look(job)) == ("running", None, "unsupervised")
    found = builtin.job_status(job)
    assert (found["finished"], found["rc"]) in ((False, None), (True, None)), found
    final = builtin.job_status(job, wait=PATIENCE)
    assert outcome(final) == ("timed_out", None, None)
    assert launcher.processes(job) == []
    record_property("builtin", kill_of_builtin(builtin, "wrappers", "module"))


@pytest.mark.parametrize("rc", [0, 3])
def test_keeper_and_runner_and_then_the_command_ends(launcher, rc):
    """
    keeper and runner are killed, and the command ends before anybody looks
    | lost, reason killed, rc null whatever it was
    """
    job = launcher.gated(f"exit {rc}")
    command = processes.process(command_of(job))
    kill_keeper_and_runner(launcher, job)
    launcher.release()
    until(lambda: not processes.is_alive(command.pid, command.started), "the end of the command")
    assert outcome(status.look(job)) == ("lost", None, "killed")
    assert outcome(status.look(job)) == ("lost", None, "killed")


def test_keeper_and_runner_and_then_a_new_keeper_sees_the_end(launcher, builtin):
    """
    keeper and runner are killed, the next look gives the job a new keeper, the command ends with 0
    | lost, reason killed, rc null
    """
    job = launcher.gated("exit 0")
    kill_keeper_and_runner(launcher, job)
    found = builtin.job_status(job)
    assert found["state"] == "running" and job.is_held("keeper")
    launcher.release()
    assert outcome(status.wait(job, PATIENCE)) == ("lost", None, "killed")


def test_keeper_and_runner_and_then_a_stop(launcher):
    """
    keeper and runner are killed, and the job is asked to stop
    | stopped, rc null, and every process of it is gone
    """
    job = launcher.ready("setsid sleep 61 & echo ready; trap '' TERM; while :; do sleep 0.1; done")
    kill_keeper_and_runner(launcher, job)
    final = stopping.stop(job, number=signal.SIGTERM, grace=0.5, reason="asked by a test")
    assert outcome(final) == ("stopped", None, "asked by a test")
    assert launcher.processes(job) == []


def test_everything(launcher, builtin, record_property):
    """every process of a job is killed | lost, reason killed, at the first look; what it had written is there"""
    job = launcher.ready("echo so far; sleep 60")
    kill(*launcher.keeper(job), *(one.pid for one in launcher.processes(job)))
    found = status.look(job)
    assert (*outcome(found), found["stdout"]) == ("lost", None, "killed", "so far")
    record_property("builtin", kill_of_builtin(builtin, "wrappers", "module", "command"))


# -- many who look -------------------------------------------------------------------------------------------

READER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from _job import status, store
job = store.Store.open(sys.argv[2], create=False).job(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps(status.look(job)), flush=True)
"""


@pytest.mark.parametrize("_round", range(5))
def test_many_look_at_once(launcher, _round):
    """
    30 look at once at a job of which nothing is left
    | all see the same: lost, reason killed; it is written down once
    """
    job = launcher.ready("echo so far; sleep 60")
    engine = os.path.dirname(os.path.dirname(launcher.program))
    arguments = [sys.executable, "-I", "-S", "-c", READER, engine, launcher.store.path, job.jid]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    readers = [subprocess.Popen(arguments, **pipes) for _reader in range(READERS)]
    for reader in readers:
        assert reader.stdout.readline() == "ready\n"
    kill(*launcher.keeper(job), *(one.pid for one in launcher.processes(job)))
    for reader in readers:
        reader.stdin.write("go\n")
        reader.stdin.flush()
    seen = [reader.communicate()[0] for reader in readers]
    assert {outcome(json.loads(one)) for one in seen} == {("lost", None, "killed")}
    assert len(set(seen)) == 1
    assert job.read_record()["state"] == "lost"
