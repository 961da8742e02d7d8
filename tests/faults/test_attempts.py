# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs that start later, and again: processes of ours are killed while such a job goes on by itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    names,
    processes,
    status,
    stopping,
)
from ansible_collections.durable.jobs.tests.faults import machine as machines
from ansible_collections.durable.jobs.tests.faults import test_every_step as every_step
from ansible_collections.durable.jobs.tests.faults import truth
from ansible_collections.durable.jobs.tests.faults.test_killed import kill, outcome
from ansible_collections.durable.jobs.tests.unit.support import PATIENCE, request, until

SOON = {"retries": 3, "on": ["failed"], "delay": 0.1, "backoff": 1, "delay_max": 0.1, "jitter": 0}
LONG = dict(SOON, delay=3600, delay_max=3600)
# How a job goes on by itself, and which child of the launcher each of its processes is then, see paused.py.
SHAPES = {
    "again": (
        {"retry": SOON},
        {
            "keeper": "0",
            "standby": "0.0",
            "runner": "0.1",
            "writer of the pause": "0.2",
            "second runner": "0.3",
            "second command": "0.3.0",
        },
    ),
    "later": (
        {"retry": SOON, "start_in": 0.1},
        {"keeper": "0", "standby": "0.0", "writer of the record": "0.1"},
    ),
}
VICTIMS = [(shape, victim) for shape, (_changes, victims) in SHAPES.items() for victim in victims]


class Step(every_step.Step):
    """One launch of a job that succeeds at its second attempt, and the process of it that is to die."""

    def __init__(self, launcher, shape, victim, number):
        super().__init__(launcher, victim, "ends by itself", number)
        self.changes, victims = SHAPES[shape]
        self.victim = victims[victim]
        self.name = f"{shape}-{victim.replace(' ', '-')}-{number}"
        self.marks = truth.Marks(self.folder / f"{self.name}.marks")
        self.mark = f"{every_step.MARK}={self.marks.path}"
        self.log = self.folder / f"{self.name}.strace"

    def request(self, **changes):
        number = "$DURABLE_JOB_ATTEMPT"
        file = self.marks.path
        line = f"echo begin {number} >> {file}; sleep 0.05; echo end {number} >> {file}; [ {number} -ge 2 ]"
        asked = {"name": self.name, "spec": every_step.SPEC, "grace": 0.1, **changes}
        return request("/bin/sh", "-c", line, **asked)

    def wrong(self, answer):
        """Return what is not true after everything is over."""
        job = names.latest_job(self.launcher.store, self.name)
        if job is None:
            return ["the command ran, and there is no job"] if self.marks.lines() else []
        self.launcher.jobs.append(job)
        found = status.look(job)
        ran = self.marks.lines()
        tried = [one["attempt"] for one in found["attempts"]]
        wrong = []
        if "record" not in (answer or {}) and found["state"] == "lost" and not ran:
            return []  # killed before the launch was over, which said so
        if (found["state"], found["rc"]) != ("succeeded", 0):
            wrong.append(f"it is {found['state']} ({found['reason']}), rc {found['rc']}")
        if tried != list(range(1, len(tried) + 1)):
            wrong.append(f"it tells of the attempts {tried}")
        numbers = [int(line.split()[1]) for line in ran if line.startswith("begin")]
        if ran != [f"{what} {number}" for number in numbers for what in ("begin", "end")]:
            wrong.append(f"two attempts were alive: {ran}")
        if (
            numbers != sorted(set(numbers))
            or set(numbers) < {2}
            or max(numbers) != found["attempt"]
        ):
            wrong.append(f"it ran the attempts {numbers}, and its attempt is {found['attempt']}")
        return wrong


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize(("shape", "victim"), VICTIMS)
def test_killed_at_every_step_of_a_job_that_goes_on_by_itself(
    launcher, shape, victim, record_property
):
    """
    keeper, standby, a runner, or a process that writes a record is killed at each system call that changes something,
    of a job that starts later, and again after it has failed
    | it succeeds at its next attempt; each attempt runs once, and no two at the same time
    """
    launcher.shell("true")  # compiles the engine
    dry = Step(launcher, shape, victim, "dry")
    answer = dry.run(None)
    wrong = {"dry": dry.wrong(answer)} if dry.wrong(answer) else {}
    steps = dry.calls()
    killed = 0
    for number, call in enumerate(steps):
        step = Step(launcher, shape, victim, number)
        answer = step.run(call)
        killed += step.killed()
        said = step.wrong(answer)
        if said:
            wrong[f"{number}: {call}"] = said
    record_property("steps killed", f"{victim} ({shape}) {killed}")
    assert not wrong, json.dumps(wrong, indent=1)
    assert killed >= len(steps) * 0.8, f"only {killed} of {steps} were reached"


# -- the pause, and the time before the start ----------------------------------------------------------------


def pausing(launcher, **changes):
    """Launch a job that has failed once, and pauses for an hour."""
    job = launcher.shell("echo $DURABLE_JOB_ATTEMPT; exit 3", **{"retry": LONG, **changes})
    until(lambda: job.read_record()["state"] == "queued", "the pause")
    return job


def delayed(launcher, **changes):
    return launcher.shell("exit 3", **{"start_in": 3600, **changes})


KINDS = {"pausing": pausing, "delayed": delayed}
both = pytest.mark.parametrize("kind", KINDS)


def holder(job, role):
    """Return the pid of the process that holds the lock of a role, if there is one and no other."""
    path = job.path(role)
    found = []
    for pid in processes.all_processes():
        for fd in os.scandir(f"/proc/{pid}/fd") if os.access(f"/proc/{pid}/fd", os.R_OK) else ():
            with contextlib.suppress(OSError):
                mode = os.lstat(fd.path).st_mode & 0o600
                if os.readlink(fd.path) == path and mode == 0o600:
                    found.append(pid)
    return found[0] if len(set(found)) == 1 else None


def pid_of(job, role):
    return until(lambda: holder(job, role), f"one {role}")


@both
def test_the_keeper_of_a_waiting_job(launcher, kind):
    """
    the keeper of a job that waits for its time, or for its next attempt, is killed, then the next one, and the next
    | the job waits on, and can be stopped
    """
    job = KINDS[kind](launcher)
    for _again in range(3):
        kill(pid_of(job, "keeper"))
        assert status.look(job)["state"] == "queued"
    until(lambda: job.is_held("keeper"), "a new keeper")
    final = stopping.stop(job, number=signal.SIGTERM, grace=1, reason="asked by a test")
    assert outcome(final) == ("stopped", None, "asked by a test")
    until(lambda: not job.is_held("standby"), "the end of the standby")


@both
def test_the_standby_of_a_waiting_job(launcher, kind):
    """
    the standby of a job that waits for its time, or for its next attempt, is killed, and later its keeper
    | there is another standby, the job waits on, and can be stopped
    """
    job = KINDS[kind](launcher)
    first = pid_of(job, "standby")
    kill(first)
    assert until(lambda: holder(job, "standby"), "another standby") != first
    kill(pid_of(job, "keeper"))
    assert status.look(job)["state"] == "queued"
    final = stopping.stop(job, number=signal.SIGTERM, grace=1, reason="asked by a test")
    assert outcome(final) == ("stopped", None, "asked by a test")


@both
def test_keeper_and_standby_of_a_waiting_job(launcher, kind):
    """
    keeper and standby of a job that waits for its time, or for its next attempt, are killed together
    | lost, reason killed; it is not started
    """
    job = KINDS[kind](launcher)
    kill(pid_of(job, "keeper"), pid_of(job, "standby"))
    found = status.look(job)
    assert outcome(found) == ("lost", None, "killed")
    assert [one["rc"] for one in found["attempts"]] == ([3] if kind == "pausing" else [])


def test_the_keeper_of_an_attempt_and_then_its_end(launcher):
    """the keeper is killed during an attempt, and the next one during the next | each is tried again as asked for"""
    line = "until [ -e go ]; do sleep 0.02; done; rm go; echo $DURABLE_JOB_ATTEMPT; exit 3"
    job = launcher.shell(line, retry=dict(SOON, retries=2), chdir=launcher.store.path)
    for number in (1, 2, 3):
        until(lambda number=number: status.look(job)["attempt"] == number, f"attempt {number}")
        until(lambda: job.read_record()["state"] == "running", "its start")
        kill(pid_of(job, "keeper"))
        until(lambda: job.is_held("keeper"), "a new keeper")
        launcher.release()
    found = status.wait(job, PATIENCE)
    assert outcome(found) == ("failed", 3, None)
    assert [(one["rc"], one["stdout"]) for one in found["attempts"]] == [
        (3, "1"),
        (3, "2"),
        (3, "3"),
    ]


@pytest.mark.parametrize("on", ["failed", "lost"])
def test_keeper_and_runner_of_an_attempt(launcher, on):
    """
    keeper and runner of an attempt are killed together, and then its command ends
    | the attempt is lost, for nobody knows its rc; it is tried again only if retry_on has `lost`
    """
    line = "echo $DURABLE_JOB_ATTEMPT; [ $DURABLE_JOB_ATTEMPT = 2 ] || until [ -e go ]; do sleep 0.02; done"
    job = launcher.ready(line, retry=dict(SOON, on=[on]), chdir=launcher.store.path)
    kill(*launcher.keeper(job))
    assert status.look(job)["state"] == "running"
    launcher.release()
    found = status.wait(job, PATIENCE)
    tried = [(one["state"], one["stdout"]) for one in found["attempts"]]
    if on == "lost":
        assert (outcome(found), tried) == (
            ("succeeded", 0, None),
            [("lost", "1"), ("succeeded", "2")],
        )
    else:
        assert (outcome(found), tried) == (("lost", None, "killed"), [("lost", "1")])


def test_a_stop_while_the_keeper_is_dead(launcher):
    """a pausing job is asked to stop, and its keeper is killed before it hears of it | it is stopped, and over"""
    job = pausing(launcher)
    keeper = pid_of(job, "keeper")
    os.kill(keeper, signal.SIGSTOP)
    stop = stopping.Stop(job, number=signal.SIGTERM, grace=1, reason="asked by a test")
    stop.request()
    kill(keeper)
    until(lambda: stop.request() or status.look(job)["finished"], "the end")
    assert outcome(status.look(job)) == ("stopped", None, "asked by a test")


def test_the_clock_of_a_waiting_job_goes_on_while_the_machine_sleeps(launcher):
    """
    the machine is suspended while a job waits for its time
    | the clock that it waits by goes on meanwhile, so the job starts when the machine wakes
    """
    job = delayed(launcher)
    pid = pid_of(job, "keeper")

    def timers():
        found = []
        for fd in os.listdir(f"/proc/{pid}/fdinfo"):
            with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as info:
                text = info.read()
            if "clockid:" in text:
                found.append(dict(line.split(":", 1) for line in text.splitlines()))
        return found

    timer = until(timers, "a timer")[0]
    assert int(timer["clockid"]) == time.CLOCK_BOOTTIME
    assert int(timer["settime flags"], 8) & 1, "it is set to a moment, not to a duration"
    stopping.stop(job, number=signal.SIGTERM, grace=1, reason="asked by a test")


@pytest.fixture
def machine(tmp_path):
    machines.require()
    made = machines.Machine(tmp_path)
    made.boot()
    yield made
    made.power_off()


@pytest.mark.parametrize("asked", [{"start_in": 3600}, {"retry": LONG}], ids=["delayed", "pausing"])
def test_a_reboot_while_a_job_waits(machine, launcher, asked):
    """
    the machine is switched off while a job waits for its time, or for its next attempt
    | lost, reason rebooted; the attempts that were over before are told, and nothing is started
    """
    jid = machine.start(launcher, "exit 3", **asked)
    until(lambda: launcher.store.job(jid).read_record()["state"] == "queued", "the pause")
    machine.power_off()
    machine.boot(uptime=2)
    found = machine.look(launcher, jid)
    assert outcome(found) == ("lost", None, "rebooted")
    assert [one["rc"] for one in found["attempts"]] == ([3] if "retry" in asked else [])
    assert machine.look(launcher, jid) == found
