# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`job_prune`: it is killed half-way, and others launch, look, stop and prune at the same time."""

from __future__ import annotations

import collections
import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import removing, status
from ansible_collections.durable.jobs.plugins.module_utils._job.names import latest_job
from ansible_collections.durable.jobs.tests.faults import conftest, modules, surroundings
from ansible_collections.durable.jobs.tests.unit.support import ask, request, until

CHANGING = "mkdir,mkdirat,openat,rename,renameat,renameat2,unlink,unlinkat,rmdir,flock,fsync,write,pwrite64,utimensat"
# Of these, only what changes something that others can see.
ONLY = {"openat": "O_CREAT", "write": r"/\.durable/"}


def prune(place, **arguments):
    return modules.run(modules.OURS + "job_prune", {"async_dir": place.path, **arguments})


def named(launcher, line, name, **changes):
    launcher.raw(request("/bin/sh", "-c", line, name=name, spec={}, **changes))
    return launcher.jobs[-1]


def furnish(launcher):
    """Make one live job and finished ones of every kind; return the live one."""
    finished = [named(launcher, "exit 3", name) for name in ("both", "last", "last")]
    finished += [launcher.shell("true"), launcher.shell("echo out; exit 4")]
    for job in finished:
        launcher.finished(job)
        until(lambda job=job: not job.is_held("keeper") and not job.is_held("runner"))
    return named(launcher, "sleep 600", "both")


def strangeness(launcher, live, rest=None):
    """Return what is not as it must be, however far a prune has come; ``rest``: how many records may be left."""
    place = launcher.store
    wrong = []
    for jid in place.jids():
        found = status.look(place.job(jid), settle=False)
        if (found["state"] == "running") != (jid == live.jid) or found["state"] == "lost":
            wrong.append(f"{jid} is {found['state']}: {found['reason']}")
    if status.look(live, settle=False)["state"] != "running":
        wrong.append("the live job is not live")
    if latest_job(place, "both") is None or latest_job(place, "both").jid != live.jid:
        wrong.append("the name of the live job does not mean it")
    if rest is None:
        return wrong
    expected = {
        "": [".durable", live.jid],
        ".durable/jobs": [live.jid],
        ".durable/gone": [],
        ".durable/names": ["both.jid", "both.lock"],
    }
    for folder, names in expected.items():
        there = os.path.join(place.path, folder)
        found = sorted(os.listdir(there)) if os.path.exists(there) else []
        if found != names:
            wrong.append(f"in {folder} there are {found}")
    return wrong


def traced(launcher, kill=None):
    """Prune under strace, which kills the engine at one call; return the calls that changed something."""
    log = os.path.join(os.path.dirname(launcher.store.path), "strace")
    arguments = ["strace", "-qq", "-y", "-o", log, "-e", "trace=" + CHANGING.replace(",", ",?")]
    arguments[-1] = "trace=" + ",".join("?" + name for name in CHANGING.split(","))
    if kill:
        arguments += ["-e", "inject={}:signal=KILL:when={}".format(*kill)]
    params = {"states": None, "older_than": None, "keep_last": None, "max_bytes": None}
    begun, answer = ask(launcher.store.path, "job_prune", prefix=arguments, params=params)
    assert begun and (kill or not answer.get("failed")), answer
    counted = collections.Counter()
    found = []
    with open(log, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            call = re.match(r"(\w+)\(", line)
            if call:
                counted[call[1]] += 1
                ours = launcher.store.path in line
                if ours and re.search(ONLY.get(call[1], ""), line):
                    found.append((call[1], counted[call[1]]))
    return found


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_killed_at_every_step(launcher, record_property):
    """
    `job_prune` is killed at each system call that changes something
    | every job is there with its end, or is not; the live one runs on; the next prune leaves nothing, and each name
    can be launched
    """
    live = furnish(launcher)
    ask(launcher.store.path, whole=True)  # installs the engine
    steps = traced(launcher)
    wrong = {"dry": strangeness(launcher, live, rest=0)}
    for step in steps:
        launcher.jobs.remove(live)
        for one in launcher.processes(live):
            os.kill(one.pid, signal.SIGKILL)
        launcher.finished(live)
        until(lambda job=live: not job.is_held("keeper"))
        prune(launcher.store)
        live = furnish(launcher)
        traced(launcher, step)
        said = strangeness(launcher, live)
        answer = launcher.raw(request("false", name="last", spec={}, rerun="never"))[0]
        if "error" in answer:
            said.append(f"the next launch of the name answered {answer}")
        elif "record" in answer:
            launcher.finished(launcher.jobs[-1])
        result = prune(launcher.store)
        if result["failed"]:
            said.append(result["msg"])
        wrong[str(step)] = said + strangeness(launcher, live, rest=0)
    record_property("steps killed", len(steps))
    wrong = {step: said for step, said in wrong.items() if said}
    assert not wrong, json.dumps(wrong, indent=1)
    assert len(steps) > 20


class Tumult:
    """Some who launch jobs under a few names, and some who prune and are killed at random moments."""

    NAMES = ("one", "two", "three")

    def __init__(self, launcher, rounds):
        self.launcher = launcher
        self.rounds = rounds
        self.chance = random.Random(conftest.SEED)
        self.wrong = []
        self.launched = set()
        self.counts = collections.Counter()
        self.over = threading.Event()

    def launch(self, number):
        """Launch again and again: each time there must be a job, whatever has become of those before."""
        chance = random.Random(f"{conftest.SEED} {number}")
        for _round in range(self.rounds):
            asked = {
                "name": chance.choice(self.NAMES),
                "rerun": chance.choice(["always", "never", "on_failure"]),
                "on_conflict": "attach",
                "shell": chance.choice(["true", "exit 3", "sleep 0.2"]),
                "async_dir": self.launcher.store.path,
            }
            found = modules.run(modules.OURS + "job_start", asked)
            if found["ansible_job_id"] is None if "ansible_job_id" in found else True:
                self.wrong.append(f"{asked}: {found.get('msg')}")
                continue
            if found["changed"] and not found["attached"]:
                self.launched.add(found["ansible_job_id"])
            self.counts["launches"] += 1

    def prune(self):
        """Prune again and again, and be killed now and then."""
        while not self.over.is_set():
            with subprocess.Popen(
                surroundings.module_argv("job_prune"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(surroundings.TREE)},
            ) as module:
                limits = self.chance.choice([{}, {"keep_last": 1}, {"states": ["failed"]}])
                module.stdin.write(
                    surroundings.module_input(async_dir=self.launcher.store.path, **limits)
                )
                module.stdin.close()
                if self.chance.random() < 0.5:
                    self.over.wait(self.chance.uniform(0.1, 0.6))
                    modules.kill(module)
                    self.counts["killed"] += 1
                    continue
                result = json.loads(module.stdout.read())
                self.counts["prunes"] += 1
                if result.get("failed"):
                    self.wrong.append(result["msg"])

    def run(self):
        """Let all of them run, and wait for those who launch."""
        launchers = [threading.Thread(target=self.launch, args=(number,)) for number in range(3)]
        pruners = [threading.Thread(target=self.prune) for _number in range(2)]
        for thread in (*launchers, *pruners):
            thread.start()
        for thread in launchers:
            thread.join()
        self.over.set()
        for thread in pruners:
            thread.join()


def test_prunes_and_launches_at_the_same_time(launcher, record_property):
    """
    jobs of the same few names are launched again and again while others prune and are killed at random moments
    | each launch finds or starts a job, no prune fails, no live job is touched, and the last prune leaves nothing
    """
    place = launcher.store
    live = launcher("sleep", "600", name="four", spec={})
    tumult = Tumult(launcher, rounds=8)
    tumult.run()
    record_property("counts", dict(tumult.counts))
    assert not tumult.wrong, "\n".join(map(str, tumult.wrong[:10]))
    for jid in place.jids():
        if jid != live.jid:
            found = status.wait(place.job(jid), 30)
            assert found["finished"] and found["state"] in ("succeeded", "failed"), found
            assert jid in tumult.launched
    result = prune(place)
    assert (result["failed"], result["kept"]) == (False, 1)
    assert place.jids() == [live.jid]
    assert os.listdir(place.private_path("jobs")) == [live.jid]
    assert os.listdir(place.private_path("gone")) == []
    assert removing.names(place) == ["four"]
    assert status.look(live)["state"] == "running"
