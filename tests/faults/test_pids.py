# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Strangers get the pids of dead processes of ours, in a pid namespace in which a test chooses the next pid.

Every scenario runs this file in such a namespace (:func:`main`), below a PID 1 that reaps.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import processes, status, stopping
from ansible_collections.durable.jobs.tests.faults import modules
from ansible_collections.durable.jobs.tests.unit.support import Launcher, until

LAST_PID = "/proc/sys/kernel/ns_last_pid"
PATIENCE = 120  # seconds for a scenario
TRIES = 20  # to have a pid reused within the same clock tick


# -- inside -----------------------------------------------------------------------------------------------------------


class Stranger:
    """A process that has nothing to do with any job. It notes every signal that it can note.

    :param pid: the pid that it is to have, free at the moment.
    :param leads: whether it founds a session, which then has the same number.
    """

    def __init__(self, pid, *, leads=False):
        self.pid = 0
        while self.pid != pid:
            with open(LAST_PID, "w", encoding="ascii") as last:
                last.write(str(pid - 1))
            ready_out, ready_in = os.pipe()
            self.pid = os.fork()
            if self.pid == 0:
                self._live(ready_in, stays=os.getpid() == pid, leads=leads)
            os.close(ready_in)
            os.read(ready_out, 1)
            os.close(ready_out)

    @staticmethod
    def _live(ready_in, *, stays, leads):
        # Blocked signals stay pending, where /proc shows them.
        signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, signal.NSIG)) - {32, 33})
        if leads:
            os.setsid()
        os.write(ready_in, b"x")
        while stays:
            time.sleep(1000)
        os._exit(0)

    def assert_untouched(self):
        with open(f"/proc/{self.pid}/status", encoding="utf-8") as code:
            fields = dict(line.split(":\t", 1) for line in code.read().splitlines())
        assert int(fields["SigPnd"], 16) == int(fields["ShdPnd"], 16) == 0, fields
        assert fields["State"].startswith("S"), fields["State"]

    def close(self):
        os.kill(self.pid, signal.SIGKILL)


def kill(*pids):
    """Kill processes and wait until their pids are free. A runner comes before its keeper: it is stopped first."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in reversed(pids):
            os.kill(pid, number)
    until(lambda: not any(processes.process(pid) for pid in pids), "free pids")


def pids(launcher, job):
    """Return keeper, runner and command."""
    return (*launcher.keeper(job), job.read_record()["durable_jobs"]["command"]["pid"])


def all_of_them(launcher):
    """keeper, runner and command were killed, and strangers have their pids"""
    job = launcher.shell("exec sleep 61", timeout=1)
    taken = pids(launcher, job)
    kill(*taken)
    strangers = [Stranger(pid, leads=True) for pid in taken]
    time.sleep(1.1)  # now a sweep for its deadline would be due
    found = status.look(job, settle=False)
    assert (found["state"], found["reason"]) == ("lost", "killed"), "at the first look"
    launcher.raw(adopt=[job.jid])
    found = status.wait(job, 30)  # an adopter may still be writing that down
    assert (found["state"], found["reason"], found["rc"]) == ("lost", "killed", None), found
    stopped = stopping.stop(job, number=15, grace=0.5, reason="test")
    assert (stopped["state"], stopped["reason"]) == ("lost", "killed")
    assert modules.job_status(job)["state"] == "lost"
    launcher.raw(adopt=[job.jid])
    return strangers


def only_ours(launcher):
    """keeper and runner were killed, strangers have their pids; the command goes on until its deadline"""
    job = launcher.shell("setsid sleep 61 & exec sleep 62", timeout=3)
    keeper, runner, command = pids(launcher, job)
    kill(keeper, runner)
    strangers = [Stranger(pid, leads=True) for pid in (keeper, runner)]
    found = status.look(job)
    assert (found["state"], found["reason"]) == ("running", "unsupervised")
    found = modules.job_status(job, wait=30)  # which gives it a new keeper
    assert (found["state"], found["rc"]) == ("timed_out", None)
    assert processes.process(command) is None and launcher.processes(job) == []
    return strangers


def stop_what_is_left(launcher):
    """keeper and runner were killed, strangers have their pids; the job is stopped"""
    job = launcher.shell("setsid sleep 61 & exec sleep 62")
    keeper, runner, _command = pids(launcher, job)
    kill(keeper, runner)
    strangers = [Stranger(pid, leads=True) for pid in (keeper, runner)]
    found = stopping.stop(job, number=15, grace=5, reason="test")
    assert (found["state"], launcher.processes(job)) == ("stopped", [])
    return strangers


def while_the_tree_is_ended(launcher):
    """a keeper that was not there from the beginning ends a tree;
    the command obeys, and a stranger gets its pid and session
    """
    stubborn = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    job = launcher.ready(f'setsid sh -c "{stubborn}" & exec sleep 61', timeout=3, grace=3)
    keeper, runner, command = pids(launcher, job)
    kill(keeper, runner)
    launcher.raw(adopt=[job.jid])
    until(lambda: processes.process(command) is None)
    stranger = Stranger(command, leads=True)
    assert launcher.processes(job), "the tree has been ended too early for this test"
    found = status.wait(job, 30)
    assert (found["state"], launcher.processes(job)) == ("timed_out", [])
    return [stranger]


def within_a_tick(launcher):
    """the command's pid goes to a stranger at once, within the same 10 ms where possible"""
    strangers, hits = [], 0
    for _try in range(TRIES):
        job = launcher.shell("exec sleep 61", timeout=1)
        *ours, command = pids(launcher, job)
        started = job.read_record()["durable_jobs"]["command"]["started"]
        kill(*ours, command)
        strangers.append(Stranger(command))
        hits += processes.process(command).started == started
        found = status.look(job, settle=False)
        assert (found["state"], found["reason"]) == ("lost", "killed"), "at the first look"
        launcher.raw(adopt=[job.jid])
        found = status.wait(job, 30)
        assert (found["state"], found["reason"]) == ("lost", "killed"), found
    print(json.dumps({"in the same tick": hits}))
    return strangers


def main(name, folder):
    """Run a scenario, below a PID 1 that reaps whatever it is left with. Exit with 0 if it holds."""
    scenario = os.fork()
    if scenario:
        while True:
            pid, code = os.wait()
            if pid == scenario:
                os._exit(os.waitstatus_to_exitcode(code) and 1)
    held = False
    try:
        strangers = globals()[name](Launcher(os.path.join(folder, "async")))
        for one in strangers:
            one.assert_untouched()
        held = True
    finally:
        if not held:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(0 if held else 1)


# -- outside ----------------------------------------------------------------------------------------------------------


def run_inside(name, folder):
    """Run a scenario in a pid namespace and return what it has printed."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("root or unshare is missing")
    namespace = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    probe = ("sh", "-c", f"echo 100 > {LAST_PID}")
    if subprocess.run([*namespace, *probe], check=False, capture_output=True).returncode:
        pytest.skip("no pid namespace in which pids can be chosen")
    module = Path(__file__).stem
    program = f"from ansible_collections.durable.jobs.tests.faults import {module} as inside; "
    program += f"inside.main({name!r}, {str(folder)!r})"
    done = subprocess.run(
        [*namespace, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_strangers_have_all_pids(tmp_path):
    """
    keeper, runner and command are killed, strangers get their pids
    | lost, killed; no signal reaches the strangers
    """
    run_inside("all_of_them", tmp_path)


def test_strangers_have_the_pids_of_keeper_and_runner(tmp_path):
    """
    keeper and runner are killed, strangers get their pids
    | the deadline ends the command, no signal reaches the strangers
    """
    run_inside("only_ours", tmp_path)


def test_stopping_when_strangers_have_the_pids(tmp_path):
    """the same, and the job is stopped | its tree is ended, no signal reaches the strangers"""
    run_inside("stop_what_is_left", tmp_path)


def test_a_stranger_gets_the_commands_pid_and_session_while_the_tree_is_ended(tmp_path):
    """
    a stranger gets the command's pid and session while the tree is ended
    | the tree is ended, no signal reaches the stranger
    """
    run_inside("while_the_tree_is_ended", tmp_path)


def test_a_stranger_gets_the_commands_pid_within_a_tick(tmp_path, record_property):
    """
    a stranger gets the command's pid within the same clock tick
    | lost, killed; no signal reaches the stranger
    """
    for key, value in json.loads(run_inside("within_a_tick", tmp_path)).items():
        record_property(key, f"{value} of {TRIES}")
