# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A soak: jobs of all kinds are launched, looked at and killed at random, and each is checked in the end."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from ansible_collections.durable.jobs.plugins.module_utils._job import processes, schema, status
from ansible_collections.durable.jobs.plugins.module_utils._job.record_io import (
    DamagedRecord,
    MissingRecord,
)
from ansible_collections.durable.jobs.tests.faults import truth
from ansible_collections.durable.jobs.tests.faults.conftest import SEED
from ansible_collections.durable.jobs.tests.unit.support import request, until

SECONDS = float(os.environ.get("DURABLE_JOBS_SOAK", "90"))  # of launching and killing
PATIENCE = 60  # seconds after that until every job must have ended
LIVE = 24  # jobs at the most; more would only make the machine slow
NAMES = 4
BUILTIN_JOBS = 6
LIMIT = 100_000  # bytes of output that are kept
ROLES = ("keeper", "runner", "command", "keeper and runner", "everything")
MARK = "DURABLE_JOBS_SOAK_TEST"


class Soak:
    """What is going on.

    :param launcher: the launcher fixture.
    """

    def __init__(self, launcher):
        self.launcher = launcher
        self.random = random.Random(f"{SEED} soak")
        self.marks = Path(launcher.store.path).parent / "marks"
        self.marks.mkdir()
        self.until = time.monotonic() + SECONDS
        self.killed = collections.defaultdict(list)  # by jid: roles of those who were killed
        self.launchers_killed = 0
        self.wrong = []
        self.kinds = {
            "succeeds": self._succeeds,
            "fails": self._fails,
            "named": self._named,
            "times out": self._times_out,
            "ignores TERM": self._ignores_term,
            "double forks": self._double_forks,
            "writes much": self._writes_much,
        }

    # -- jobs ------------------------------------------------------------------------------------------------

    def job(self, work, rc=0, **changes):
        file = f'{self.marks}/"$DURABLE_JOB_ID"'
        line = truth.marked_line(file, work, rc)
        return request("/bin/sh", "-c", line, grace=0.3, **changes)

    def _nap(self):
        return f"sleep {self.random.uniform(0, 3):.2f}"

    def _succeeds(self):
        return self.job(self._nap())

    def _fails(self):
        return self.job(self._nap(), self.random.randrange(1, 256))

    def _named(self):
        """Return a job whose command notices if another of its name runs: it holds a lock for as long as it lives."""
        name = f"name {self.random.randrange(NAMES)}"
        lock = f"{self.marks}/{name}.lock".replace(" ", "-")
        overlap = f'echo overlap >> {self.marks}/"$DURABLE_JOB_ID"'
        work = (
            f"exec 9>> {lock}; flock -n 9 || {overlap}; sleep {self.random.uniform(0, 2):.2f} 9>&-"
        )
        conflict = self.random.choice(["attach", "replace", "fail"])
        spec = {"cmd": work}
        return self.job(work, name=name, spec=spec, on_conflict=conflict)

    def _times_out(self):
        return self.job("sleep 60", timeout=self.random.uniform(0.2, 2))

    def _ignores_term(self):
        work = "trap '' TERM; while :; do sleep 0.2; done"
        return self.job(work, timeout=self.random.uniform(0.2, 2))

    def _double_forks(self):
        work = "(setsid sleep 60 & ) ; (sleep 60 & ) ; sleep 60"
        return self.job(work, timeout=self.random.uniform(0.2, 2))

    def _writes_much(self):
        return self.job("head -c 3000000 /dev/zero; " + self._nap(), output_limit=LIMIT)

    # -- what happens to them --------------------------------------------------------------------------------

    def jids(self):
        """Return the jids of all records, launched by whomever."""
        return [name for name in os.listdir(self.launcher.store.path) if schema.valid_jid(name)]

    def live(self):
        found = []
        for jid in self.jids():
            job = self.launcher.store.job(jid)
            with contextlib.suppress(MissingRecord, DamagedRecord):
                record = job.read_record()
                if not record["finished"]:
                    found.append((job, record))
        return found

    def launch(self):
        """Launch jobs; every tenth launcher is killed meanwhile."""
        while time.monotonic() < self.until:
            if len(self.live()) >= LIVE:
                time.sleep(0.05)
                continue
            kinds = [self.random.choice(list(self.kinds.values())) for _job in range(3)]
            asked = {"async_dir": self.launcher.store.path, "jobs": [kind() for kind in kinds]}
            arguments = [sys.executable, "-I", "-S", self.launcher.program]
            environment = {**os.environ, MARK: str(self.marks)}
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            with subprocess.Popen(arguments, env=environment, **pipes) as process:
                process.stdin.write(json.dumps(asked).encode())
                process.stdin.close()
                if self.random.random() < 0.1:
                    time.sleep(self.random.uniform(0, 0.3))
                    process.kill()
                    self.launchers_killed += 1
                data = process.stdout.read()
            if data:
                for answer in json.loads(data)["jobs"]:
                    self.check_answer(answer)

    def check_answer(self, answer):
        if "record" in answer and not os.path.exists(answer["record"]["results_file"]):
            self.wrong.append(f"answered, and there is no record: {answer}")
        if "error" in answer and not answer["error"]["msg"].startswith(
            ("job name", "the job's keeper died", "cannot start the command: its runner died")
        ):
            self.wrong.append(f"an error that nobody has made: {answer}")

    def look(self):
        """Look at jobs as job_status does: whose keeper is missing gets a new one."""
        while time.monotonic() < self.until:
            for job, _record in self.live():
                self.look_at(job)
            time.sleep(0.1)

    def look_at(self, job):
        found = status.look(job)
        if found["reason"] == schema.UNSUPERVISED:
            self.launcher.raw(adopt=[job.jid])
        return found

    def kill(self):
        """Kill a process of a job, or several."""
        while time.monotonic() < self.until:
            live = self.live()
            if live:
                job, record = self.random.choice(live)
                self.kill_one(job, record, self.random.choice(ROLES))
            time.sleep(self.random.uniform(0, 0.15))

    def kill_one(self, job, record, role):
        private = record[schema.PRIVATE]
        runner = self.ours(job, private["runner"])
        keepers = [self.ours(job, private["keeper"])]
        command = processes.process(private["command"]["pid"])
        if command is not None and command.started != private["command"]["started"]:
            command = None
        if runner is not None:  # its other children are keepers, the job's second and later ones
            keepers += [
                one
                for one in processes.all_processes().values()
                if one.parent == runner.pid and one.pid != private["command"]["pid"]
            ]
        victims = {"keeper": keepers, "runner": [runner], "command": [command]}
        parts = [part for part in victims if part in role or role == "everything"]
        targets = [(part, one) for part in parts for one in victims[part] if one is not None]
        self.killed[job.jid] += [part for part, _one in targets]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for _part, one in targets:
                processes.send(one, number)

    def ours(self, job, pid):
        """Return the keeper or runner of that pid, if it is one of this job's."""
        one = processes.process(pid)
        held = any(self.launcher.store.path in link for link in _open_files(pid) if job.jid in link)
        return (
            one
            if held and self.launcher.program in truth.read(Path(f"/proc/{pid}/cmdline"))
            else None
        )

    # -- the end ---------------------------------------------------------------------------------------------

    def run(self):
        threads = [
            threading.Thread(target=self.guarded, args=(one,))
            for one in (self.launch, self.launch, self.look, self.kill)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        limit = time.monotonic() + PATIENCE
        while self.live() and time.monotonic() < limit:
            for job, _record in self.live():
                self.look_at(job)
            time.sleep(0.1)

    def guarded(self, work):
        try:
            work()
        except Exception as error:  # pylint: disable=broad-exception-caught  # the test fails by it
            self.wrong.append(f"{work.__name__}: {error!r}")

    def check(self):
        """Return the states of all jobs, and note what is not true."""
        states = collections.Counter()
        jids = self.jids()
        for jid in jids:
            job = self.launcher.store.job(jid)
            self.launcher.jobs.append(job)
            found = status.look(job)
            states[found["state"]] += 1
            self.wrong += [
                f"{jid}: {lie}; killed: {self.killed[jid]}" for lie in self.lies(job, found)
            ]
        ran = {path.name for path in self.marks.glob("j*")}
        self.wrong += [f"{jid} ran, and there is no such job" for jid in ran - set(jids)]
        return states

    def lies(self, job, found):
        marks, killed = truth.Marks(self.marks / job.jid), self.killed[job.jid]
        wrong = truth.lies(found, marks, may_be_lost="keeper" in killed and "runner" in killed)
        state = found["state"]
        if state == schema.LOST and len(killed) < 2:
            wrong.append(f"it is lost ({found['reason']})")
        if state == schema.FAILED and found["rc"] < 0 and "command" not in killed:
            wrong.append(f"it is said to have been killed: {found['signal']}")
        if state == schema.TIMED_OUT and (found["elapsed"] or found["timeout"]) < found["timeout"]:
            wrong.append(f"it timed out after {found['elapsed']} of {found['timeout']} s")
        if state == schema.STOPPED and found["reason"] != "replaced":
            wrong.append("it was stopped by nobody")
        if state in (schema.TIMED_OUT, schema.STOPPED) and self.launcher.processes(job):
            wrong.append("its processes live")
        if "overlap" in marks.lines():
            wrong.append("two of its name ran at once")
        until(lambda: not job.is_held("keeper") and not job.is_held("runner"), "the end of ours")
        return wrong


def soak_builtin(builtin, marks, rng):
    """Do the same to some of the builtin's jobs, and return how often its user is told the truth."""
    seen = collections.Counter()
    for number in range(BUILTIN_JOBS):
        rc = number % 2
        one = truth.Marks(marks / f"builtin.{number}")
        jid = builtin.gated(one.line("true", rc))
        victim = rng.choice(("wrappers", "module", "command"))
        for process in getattr(builtin, victim)(jid):
            processes.send(process, signal.SIGKILL)
        builtin.release()
        phrase = builtin.sees(jid)
        really = rc if one.ended else -signal.SIGKILL
        seen["the truth" if f", rc {int(really)}" in phrase else phrase] += 1
    return "; ".join(f"{count} of {BUILTIN_JOBS}: {what}" for what, count in seen.most_common())


def _open_files(pid):
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def test_soak(launcher, builtin, record_property):
    """
    jobs that succeed, fail, time out, ignore TERM, double-fork, write much or share names are killed at random, and so
    are their keepers, runners and launchers
    | every job ends, and its status is what really happened to it
    """
    soak = Soak(launcher)
    soak.run()
    states = soak.check()
    roles = collections.Counter(part for killed in soak.killed.values() for part in killed)
    record_property("builtin", soak_builtin(builtin, soak.marks, soak.random))
    record_property("seed", SEED)
    record_property("jobs", f"{sum(states.values())}: {dict(states)}")
    record_property("killed", f"{dict(roles)}, launchers {soak.launchers_killed}")
    assert not soak.wrong, "\n".join(soak.wrong)
