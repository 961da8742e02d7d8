# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every step: each process of ours is killed at each of its system calls that change something.

strace stops the process on its way into the call, so nothing of that call happens; whatever two neighbouring
calls leave behind is thus met once. strace counts the calls of one system call in one process; therefore the
process that is meant stops itself at its birth (see paused.py) until strace has been attached to it alone.
"""

from __future__ import annotations

import collections
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import processes, schema, status
from ansible_collections.durable.jobs.plugins.module_utils._job.names import latest_job
from ansible_collections.durable.jobs.tests.faults import truth
from ansible_collections.durable.jobs.tests.unit.support import PATIENCE, request, until

PAUSED = Path(truth.__file__).with_name("paused.py")
MARK = "DURABLE_JOBS_STEP"
CHANGING = (
    *("openat", "mkdirat", "mknodat", "renameat", "renameat2", "unlinkat", "linkat"),
    *("write", "pwrite64", "fsync", "fdatasync", "ftruncate", "fallocate", "flock", "close"),
    *("clone", "clone3", "fork", "vfork", "execve", "wait4", "waitid", "exit_group"),
    *("kill", "tgkill", "pidfd_send_signal", "setsid", "prctl", "dup2", "dup3", "chdir"),
)
# Of these, only what names one of these changes something that others can see.
ONLY = {"openat": r"O_CREAT|/keeper|/runner", "close": r"pipe:|/keeper|/runner|\.lock"}
SPEC = {"cmd": "digest", "timeout": 60, "env": {}}


# How the job ends: what it is launched with, and the state that whoever is killed must not change.
SHAPES = {
    "ends by itself": ({}, schema.FAILED),
    "is ended by its deadline": ({"timeout": 0.3}, schema.TIMED_OUT),
}


class Step:
    """One launch, and the process in it that is to die.

    :param launcher: the launcher fixture.
    :param victim: who is traced: launcher, keeper, runner, command, or successor for the second keeper.
    :param shape: how the job ends.
    :param number: tells this launch from the others.
    """

    def __init__(self, launcher, victim, shape, number):
        self.launcher = launcher
        self.victim = victim
        self.changes, self.state = SHAPES[shape]
        self.name = f"{victim}-{number}"
        self.folder = Path(launcher.store.path).parent
        self.marks = truth.Marks(self.folder / f"{self.name}.marks")
        self.mark = f"{MARK}={self.marks.path}"
        self.log = self.folder / f"{self.name}.strace"

    def request(self, **changes):
        """Return the request for a job that waits for its gate, and then ends with rc 7."""
        gate = self.folder / f"{self.name}.go"
        line = self.marks.line(f"until [ -e {gate} ]; do sleep 0.01; done", 7)
        asked = {"name": self.name, "spec": SPEC, "grace": 0.1, **changes}
        return request("/bin/sh", "-c", line, **asked)

    def run(self, kill):
        """Launch with the victim under strace, which kills it at one call, or at none; return the launcher's answer."""
        note = self.folder / f"{self.name}.pid"
        asked = {"async_dir": self.launcher.store.path, "jobs": [self.request(**self.changes)]}
        arguments = [sys.executable, "-I", "-S", PAUSED, self.launcher.program, self.victim, note]
        environment = {**os.environ, MARK: str(self.marks.path)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(arguments, env=environment, **pipes) as process:
            process.stdin.write(json.dumps(asked).encode())
            process.stdin.close()
            answer = self.let_victim_be_born(process)
            until(note.exists, f"the birth of the {self.victim}")
            with self.strace(int(note.read_text()), kill):
                answer = answer or process.stdout.read()
                self.look()
                if self.state == schema.FAILED:
                    (self.folder / f"{self.name}.go").touch()
        self.look()
        try:
            until(lambda: not truth.carrying(self.mark), f"the end of everything of {self.name}")
        finally:
            for one in truth.carrying(self.mark):
                processes.send(one, signal.SIGKILL)
        return json.loads(answer)["jobs"][0] if answer else None

    def let_victim_be_born(self, process):
        """Do what must be done before there is a victim; return the launcher's answer if it has been read for that."""
        if self.victim != "successor":
            return b""
        answer = process.stdout.read()
        job = latest_job(self.launcher.store, self.name)
        os.kill(self.launcher.keeper(job)[0], signal.SIGKILL)
        return answer

    def look(self):
        """Look at the job in the middle of it: whoever comes to a final verdict too early writes it down."""
        job = latest_job(self.launcher.store, self.name)
        if job is not None:
            status.look(job)

    def strace(self, pid, kill):
        """Attach strace to a stopped process, and let it go on."""
        arguments = ["strace", "-qq", "-y", "-o", self.log, "-p", str(pid)]
        arguments += ["-e", "trace=" + ",".join(f"?{name}" for name in CHANGING)]
        if kill:
            arguments += ["-e", "inject={}:signal=KILL:when={}".format(*kill)]
        tracer = subprocess.Popen(arguments)
        code = Path(f"/proc/{pid}/status")
        until(lambda: "State:\tt" in code.read_text(encoding="ascii"), "strace's attachment")
        os.kill(pid, signal.SIGCONT)
        return tracer

    def calls(self):
        """Return the calls of the victim that changed something, in order: each name, and its how many-th it was."""
        counted = collections.Counter()
        found = []
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            call = re.match(r"(\w+)\(", line)
            if call:
                name = call[1]
                counted[name] += 1
                if re.search(ONLY.get(name, ""), line):
                    found.append((name, counted[name]))
                if name == "execve":
                    break  # from here on it is the user's program
        return found

    def killed(self):
        """Tell whether strace has killed the victim."""
        return "+++ killed by SIGKILL +++" in self.log.read_text(encoding="utf-8", errors="replace")

    def wrong(self, answer):
        """Return what is not true in the answer and in the first look after everything is over."""
        job = latest_job(self.launcher.store, self.name)
        if job is None:
            wrong = ["the command ran, and there is no job"] if self.marks.begun else []
            return wrong + (["an answer without a job"] if "record" in (answer or {}) else [])
        self.launcher.jobs.append(job)
        found = status.look(job)
        wrong = truth.lies(found, self.marks, may_be_lost=False)
        if self.marks.begun and found["state"] != self.state:
            wrong.append(f"it is {found['state']} instead of {self.state}")
        if "error" in (answer or {}) and answer["error"].get("ansible_job_id") != job.jid:
            wrong.append(f"there is a job, and the answer does not name it: {answer}")
        if status.look(job) != found:
            wrong.append("two looks differ")
        return wrong

    def again(self):
        """Launch the same name once more, and return what is wrong with that."""
        before = self.marks.begun
        (self.folder / f"{self.name}.go").touch()
        asked = self.request()
        answer = self.launcher.raw(asked)[0]
        if "record" not in answer:
            return [f"the next launch of this name answered {answer}"]
        found = truth.final(self.launcher.jobs[-1], PATIENCE)
        ran = self.marks.begun - before
        if (found["state"], found["rc"], ran) != ("failed", 7, 1):
            return [f"the next launch of this name ended as {found}, and ran {ran} times"]
        return []


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("victim", ["launcher", "keeper", "runner", "command", "successor"])
def test_killed_at_every_step(launcher, victim, shape, record_property):
    """
    launcher, keeper, runner, the command before its exec, which writes the record, or the second keeper is killed at
    each system call that changes something
    | the job that really was, or none: never running for ever, never rc 0 for nothing, never twice; the name can be
    launched again
    """
    launcher.shell("true")  # compiles the engine
    dry = Step(launcher, victim, shape, "dry")
    dry.run(None)
    wrong = {"dry": dry.wrong(None)} if dry.wrong(None) else {}
    steps = dry.calls()
    killed = 0
    for number, call in enumerate(steps):
        step = Step(launcher, victim, shape, number)
        answer = step.run(call)
        killed += step.killed()
        said = step.wrong(answer) + step.again()
        if said:
            wrong[f"{number}: {call}"] = said
    record_property("steps killed", f"{victim} {killed}")
    assert not wrong, json.dumps(wrong, indent=1)
    # The same launch may poll once more or less.
    assert killed >= len(steps) * 0.9, f"only {killed} of {steps} were reached"
