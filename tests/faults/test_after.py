# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs that come after others: processes of ours are killed while such a job waits, and others are removed."""

from __future__ import annotations

import collections
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    names,
    processes,
    removing,
    status,
)
from ansible_collections.durable.jobs.tests.faults import machine as machines
from ansible_collections.durable.jobs.tests.faults import test_every_step as every_step
from ansible_collections.durable.jobs.tests.faults.conftest import SEED
from ansible_collections.durable.jobs.tests.faults.test_attempts import holder, pid_of
from ansible_collections.durable.jobs.tests.faults.test_killed import kill, outcome
from ansible_collections.durable.jobs.tests.unit.support import PATIENCE, request, until

GRAPH = int(os.environ.get("DURABLE_GRAPH_JOBS", "40"))
# How the other job ends, and what that means for the one that waits.
ENDS = {"fulfilled": ("true", "succeeded"), "unfulfilled": ("false", "skipped")}
# Which child of the launcher each process is, see paused.py. The last one looks at the other job when that has ended.
VICTIMS = {"keeper": "0", "standby": "0.0", "writer of the record": "0.1", "looker": "0.2"}
REMOVE = """
import sys
sys.path.insert(0, sys.argv[1])
from _job import removing, store
removing.remove(store.Store.open(sys.argv[2], create=False).job(sys.argv[3]))
"""


def first(launcher, name, line, gate):
    """Launch a job that ends when a file is there."""
    line = f"until [ -e {gate} ]; do sleep 0.01; done; {line}"
    launcher.raw(request("/bin/sh", "-c", line, name=name, spec=every_step.SPEC))
    return launcher.jobs[-1]


class Step(every_step.Step):
    """One launch of a job that comes after another, and the process of it that is to die."""

    def __init__(self, launcher, end, victim, number):
        super().__init__(launcher, victim, "ends by itself", number)
        self.name = f"{end}-{victim.replace(' ', '-')}-{number}"
        self.line, self.end = ENDS[end]
        self.victim = VICTIMS[victim]
        self.marks = every_step.truth.Marks(self.folder / f"{self.name}.marks")
        self.mark = f"{every_step.MARK}={self.marks.path}"
        self.log = self.folder / f"{self.name}.strace"

    def request(self, **changes):
        before = first(
            self.launcher, f"{self.name}-first", self.line, self.folder / f"{self.name}.go"
        )
        asked = {"name": self.name, "spec": every_step.SPEC, "grace": 0.1, **changes}
        order = {"after": [before.jid], "after_state": "succeeded"}
        return request("/bin/sh", "-c", self.marks.line("true", 0), **asked, **order)

    def let_victim_be_born(self, process):
        if self.victim != VICTIMS["looker"]:
            return b""
        answer = process.stdout.read()
        (self.folder / f"{self.name}.go").touch()
        return answer

    def wrong(self, answer):
        """Return what is not true after everything is over."""
        job = names.latest_job(self.launcher.store, self.name)
        if job is None:
            return ["the command ran, and there is no job"] if self.marks.lines() else []
        found = status.look(job)
        ran = self.marks.begun
        if "record" not in (answer or {}) and found["state"] == "lost" and not ran:
            return []  # killed before the launch was over, which said so
        if found["state"] != self.end or ran != (self.end == "succeeded"):
            return [f"it is {found['state']} ({found['reason']}), and ran {ran} times"]
        return []


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_at_every_step_of_a_job_that_comes_after_another(
    launcher, end, victim, record_property
):
    """
    keeper, standby, or a process that writes or reads a record for them, is killed at each system call that changes
    something, of a job that comes after another
    | it starts once, after the other has succeeded; if that has failed, it is skipped
    """
    launcher.shell("true")  # compiles the engine
    dry = Step(launcher, end, victim, "dry")
    answer = dry.run(None)
    wrong = {"dry": dry.wrong(answer)} if dry.wrong(answer) else {}
    steps = dry.calls()
    killed = 0
    for number, call in enumerate(steps):
        step = Step(launcher, end, victim, number)
        answer = step.run(call)
        killed += step.killed()
        said = step.wrong(answer)
        if said:
            wrong[f"{number}: {call}"] = said
    record_property("steps killed", f"{victim} ({end}) {killed}")
    assert not wrong, json.dumps(wrong, indent=1)
    assert killed >= len(steps) * 0.8, f"only {killed} of {steps} were reached"


def waiting(launcher, name, line):
    """Launch a job that waits for another, and return both, and the gate of the other."""
    gate = f"{launcher.store.path}/{name}.go"
    before = first(launcher, name, line, gate)
    job = launcher.shell(f"echo after {name}", after=[name], after_state="succeeded")
    return before, job, gate


def touch(path):
    with open(path, "wb"):
        pass


@pytest.mark.parametrize("end", ENDS)
def test_the_other_is_removed_while_nobody_looks(launcher, end):
    """
    the keeper of a job that waits for another is killed; the other ends and is removed before there is a new keeper
    | the other counts by its last state
    """
    before, job, gate = waiting(launcher, "first", ENDS[end][0])
    standby = pid_of(job, "standby")
    os.kill(standby, signal.SIGSTOP)
    kill(pid_of(job, "keeper"))
    touch(gate)
    assert status.wait(before, PATIENCE)["finished"]
    removing.remove(before)
    os.kill(standby, signal.SIGCONT)
    assert status.wait(job, PATIENCE)["state"] == ENDS[end][1]


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_a_removal_that_is_killed(launcher, tmp_path):
    """
    the removal of a job for which another one waits is killed at each system call that changes something
    | the other one starts: the removed job counts by its last state
    """

    def remove(number, at):
        before, job, gate = waiting(launcher, f"first-{number}", "true")
        keeper = pid_of(job, "keeper")
        os.kill(keeper, signal.SIGSTOP)
        touch(gate)
        assert status.wait(before, PATIENCE)["state"] == "succeeded"
        log = tmp_path / f"{number}.strace"
        command = [sys.executable, "-I", "-S", "-c", REMOVE, f"{launcher.store.path}.engine"]
        trace = ["strace", "-qq", "-y", "-o", log]
        trace += ["-e", "trace=" + ",".join(f"?{name}" for name in every_step.CHANGING)]
        trace += ["-e", "inject={}:signal=KILL:when={}".format(*at)] if at else []
        subprocess.run([*trace, *command, launcher.store.path, before.jid], check=not at)
        os.kill(keeper, signal.SIGCONT)
        assert status.wait(job, PATIENCE)["state"] == "succeeded", f"killed at {at}"
        return log

    counted = collections.Counter()
    steps = []
    for line in remove("dry", None).read_text(encoding="utf-8", errors="replace").splitlines():
        call = re.match(r"(\w+)\(", line)
        if call:
            counted[call[1]] += 1
            is_ours = launcher.store.path + "/" in line or launcher.store.path + ">" in line
            if is_ours and call[1] not in ("close", "openat"):
                steps.append((call[1], counted[call[1]]))
    assert len(steps) > 10
    for number, step in enumerate(steps):
        remove(number, step)


def test_the_others_keeper_and_runner_are_killed(launcher):
    """
    keeper and runner of a job for which another one waits are killed together, and then its command ends
    | that job is lost, and the one that waits is skipped
    """
    before, job, gate = waiting(launcher, "first", "true")
    kill(*launcher.keeper(before))
    assert status.look(job)["reason"] == "waiting"
    touch(gate)
    assert outcome(status.wait(job, PATIENCE)) == ("skipped", None, "dependency")
    assert status.look(before)["state"] == "lost"


def test_the_others_keeper_is_killed(launcher):
    """the keeper of a job for which another one waits is killed | the other one starts when that job has succeeded"""
    before, job, gate = waiting(launcher, "first", "true")
    kill(launcher.keeper(before)[0])
    until(lambda: before.is_held("keeper"), "a new keeper")
    assert status.look(job)["reason"] == "waiting"
    touch(gate)
    assert status.wait(job, PATIENCE)["state"] == "succeeded"


@pytest.fixture
def machine(tmp_path):
    machines.require()
    made = machines.Machine(tmp_path)
    made.boot()
    yield made
    made.power_off()


def test_the_same_launch_after_a_reboot(machine, launcher, tmp_path):
    """
    the machine is switched off while steps run one after the other, and then the same jobs are launched again by name,
    with `rerun: on_failure`
    | what has succeeded is kept, and counts for the others; what was lost starts again, each step in its turn
    """
    marks, gate = tmp_path / "marks", tmp_path / "go"
    mark = f"echo $DURABLE_JOB_NAME >> {marks}; "
    steps = {
        "deploy": (mark, ["test", "lint"]),
        "test": (f"{mark} until [ -e {gate} ]; do sleep 0.02; done; ", ["build"]),
        "lint": (mark, ["build"]),
        "build": (mark, []),
    }
    asked = []
    for name, (line, others) in steps.items():
        order = {"after": others, "after_state": "succeeded"} if others else {}
        words = ("/bin/sh", "-c", line)
        asked.append(request(*words, name=name, spec=every_step.SPEC, rerun="on_failure", **order))
    before = {one["record"]["name"]: one["record"] for one in machine.launch(launcher, *asked)}
    jids = {name: record["ansible_job_id"] for name, record in before.items()}
    assert machine.look(launcher, jids["lint"], PATIENCE)["state"] == "succeeded"
    until(lambda: "test" in marks.read_text(encoding="ascii"), "the step that does not end")
    machine.power_off()
    machine.boot(uptime=2)
    assert outcome(machine.look(launcher, jids["test"])) == ("lost", None, "rebooted")
    assert outcome(machine.look(launcher, jids["deploy"])) == ("lost", None, "rebooted")
    marks.write_text("", encoding="ascii")
    gate.touch()
    again = machine.launch(launcher, *asked)
    assert ["record" in one for one in again] == [True, True, False, False]
    assert [one["jid"] for one in again[2:]] == [jids["lint"], jids["build"]]
    jid = again[0]["record"]["ansible_job_id"]
    assert outcome(machine.look(launcher, jid, PATIENCE)) == ("succeeded", 0, None)
    assert marks.read_text(encoding="ascii").split() == ["test", "deploy"]


def victim(job, chance):
    """Return a process of those of which one may be killed, at this moment, without a loss; None if there is none.

    A job that waits for nothing but a slot has no standby, so until its command runs it is lost with its keeper.
    """
    record = job.read_record()
    private = record["durable_jobs"]
    has_standby = "after" in private
    if record["state"] == "running" and (has_standby or os.stat(job.path("stdout")).st_size):
        pid = chance.choice([private["keeper"], private["runner"]])
    elif record["state"] == "queued" and has_standby:
        pid = chance.choice([private["keeper"], holder(job, "standby")])
    else:
        return None
    one = processes.process(pid) if pid else None
    return one if one is not None and processes.serves(one.pid, job.jid) else None


def test_a_graph_of_jobs_of_which_each_loses_a_process(launcher, tmp_path):
    """
    a batch is a random graph over 4 slots, and of each of its jobs a process of ours is killed at a random moment
    | each job runs once, after those that it comes after, and no more than 4 at a time
    """
    chance = random.Random(f"{SEED} graph")
    before = {
        n: chance.sample(range(n), min(n, chance.choice((0, 1, 1, 2, 3)))) for n in range(GRAPH)
    }
    marks, gate = tmp_path / "marks", tmp_path / "go"
    line = f"echo begin {{0}} | tee -a {marks}; until [ -e {gate} ]; do sleep 0.1; done; echo end {{0}} >> {marks}"
    asked = {}
    for n in chance.sample(range(GRAPH), GRAPH):
        others = {"after": [f"j{m}" for m in before[n]], "after_state": "succeeded"}
        words = ("/bin/sh", "-c", line.format(n))
        asked[n] = request(*words, name=f"j{n}", spec={}, **(others if before[n] else {}))
    launcher.raw(*asked.values(), slots=4)
    jobs = dict(zip(asked, launcher.jobs))
    left = list(jobs.values())
    while left:
        job = chance.choice(left)
        one = victim(job, chance)
        if one is not None:
            processes.send(one, signal.SIGKILL)
        if one is not None or job.read_record()["finished"]:
            left.remove(job)
        if len(left) < GRAPH / 2:
            gate.touch()
        time.sleep(chance.uniform(0, 0.02))
    states = {n: outcome(status.wait(job, PATIENCE)) for n, job in jobs.items()}
    assert set(states.values()) == {("succeeded", 0, None)}, states
    seen = [one.split() for one in marks.read_text(encoding="ascii").splitlines()]
    at = {(what, int(number)): place for place, (what, number) in enumerate(seen)}
    assert len(seen) == len(at) == 2 * GRAPH, "a job ran twice, or never"
    assert [n for n in before for m in before[n] if at["begin", n] < at["end", m]] == []
    assert max(itertools.accumulate(1 if what == "begin" else -1 for what, _job in seen)) <= 4
