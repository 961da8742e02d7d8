# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wall clock jumps, and processes of ours stand still."""

from __future__ import annotations

import datetime
import glob
import os
import signal
import time

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import status
from ansible_collections.durable.jobs.plugins.module_utils._job.names import latest_job
from ansible_collections.durable.jobs.tests.faults import modules
from ansible_collections.durable.jobs.tests.unit.support import request, until

FAKETIME = glob.glob("/usr/lib*/*/faketime/libfaketime.so.1") + glob.glob(
    "/usr/lib*/faketime/libfaketime.so.1"
)
JUMPS = {"+1d": 86400, "-1d": -86400, "+1y": 365 * 86400, "-1y": -365 * 86400}
SLACK = 30  # seconds that a loaded machine may need
STOPPED_FOR = 30  # seconds; the figure of the promise, once


class Clock:
    """A wall clock for launched processes and modules that a test can move; CLOCK_MONOTONIC stays the kernel's."""

    def __init__(self, path):
        self.path = str(path)
        self.environment = {
            "LD_PRELOAD": FAKETIME[0],
            "FAKETIME_TIMESTAMP_FILE": self.path,
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        self.move(0)

    def move(self, seconds):
        """Set the clock so many seconds off the machine's."""
        with open(self.path + ".new", "w", encoding="ascii") as new:
            new.write(f"{seconds:+d}\n")
        os.rename(self.path + ".new", self.path)


@pytest.fixture
def clock(tmp_path):
    if not FAKETIME:
        pytest.skip("libfaketime is missing")
    return Clock(tmp_path / "clock")


def launch(launcher, clock, line, **changes):
    """Launch a line of shell by this clock."""
    answers = launcher.raw(
        request("/bin/sh", "-c", line, chdir=launcher.store.path, **changes),
        env=dict(os.environ, **clock.environment),
    )
    assert "record" in answers[0], answers
    return launcher.jobs[-1]


def look(job, clock, **arguments):
    """Look at a job by this clock, with the real module."""
    return modules.job_status(job, environment=clock.environment, **arguments)


def moment(text):
    return datetime.datetime.fromisoformat(text)


def assert_consistent(found, offset):
    """Check what is said of times: all by the clock of the launch, and by no jump after it."""
    now = datetime.datetime.now()
    start, end = moment(found["start"]), moment(found["end"])
    shown = datetime.timedelta(seconds=found["elapsed"])
    assert datetime.timedelta(0) <= shown < datetime.timedelta(seconds=2 * SLACK)
    assert abs(end - start - shown) < datetime.timedelta(milliseconds=1)
    assert found["delta"] == (str(shown) if shown.microseconds else f"{shown}.000000")
    launched = start - datetime.timedelta(seconds=offset)
    assert abs(now - launched) < datetime.timedelta(seconds=2 * SLACK), "not by the launch's clock"
    assert moment(found["deadline"]) - start == datetime.timedelta(seconds=found["timeout"])


WAIT = "until [ -e go ]; do sleep 0.02; done; "


@pytest.mark.parametrize("jump", JUMPS)
def test_the_clock_jumps_while_a_job_runs(launcher, clock, jump):
    """
    the wall clock jumps by a day or a year while a job runs
    | it runs on; start, end, delta and elapsed are right
    """
    job = launch(launcher, clock, WAIT + "exit 3", timeout=60)
    clock.move(JUMPS[jump])
    found = look(job, clock)
    assert (found["state"], found["elapsed"] < SLACK) == ("running", True)
    launcher.release()
    found = look(job, clock, wait=SLACK)
    assert (found["state"], found["rc"]) == ("failed", 3)
    assert_consistent(found, 0)


@pytest.mark.parametrize("jump", JUMPS)
def test_the_deadline_does_not_care(launcher, clock, jump):
    """
    the wall clock jumps by a day or a year before the deadline of a job
    | it is ended when its time is over
    """
    begin = time.monotonic()
    job = launch(launcher, clock, "exec sleep 61", timeout=2)
    clock.move(JUMPS[jump])
    found = look(job, clock, wait=SLACK)
    lasted = time.monotonic() - begin
    assert (found["state"], found["rc"]) == ("timed_out", -15)
    assert 2 <= found["elapsed"] <= lasted < SLACK
    assert_consistent(found, 0)


@pytest.mark.parametrize("jump", JUMPS)
def test_the_clock_is_wrong_at_launch_and_set_right_afterwards(launcher, clock, jump):
    """the clock was wrong at launch and is set right | times are by the launch's clock, the deadline holds"""
    clock.move(JUMPS[jump])
    job = launch(launcher, clock, "exec sleep 61", timeout=1)
    clock.move(0)
    found = look(job, clock, wait=SLACK)
    assert (found["state"], found["rc"]) == ("timed_out", -15)
    assert_consistent(found, JUMPS[jump])


@pytest.mark.parametrize("jump", ["+1y", "-1y"])
def test_the_clock_jumps_and_the_keeper_is_killed(launcher, clock, jump):
    """the clock jumps and the keeper is killed | the new keeper has the same deadline"""
    job = launch(launcher, clock, "exec sleep 61", timeout=3)
    clock.move(JUMPS[jump])
    os.kill(launcher.keeper(job)[0], signal.SIGKILL)
    found = look(job, clock, wait=SLACK)
    assert (found["state"], found["rc"]) == ("timed_out", -15)
    assert 3 <= found["elapsed"] < SLACK
    assert_consistent(found, 0)


@pytest.mark.parametrize("jump", ["-1d", "-1y"])
def test_the_clock_goes_back_between_two_launches_of_a_name(launcher, clock, jump):
    """
    the clock goes back between two launches of one name
    | the name means the later job, jids sort by what the clock said
    """
    first = launch(launcher, clock, "exit 1", name="work", spec={"cmd": "1"})
    launcher.finished(first)
    clock.move(JUMPS[jump])
    second = launch(launcher, clock, WAIT + "exit 2", name="work", spec={"cmd": "2"})
    assert latest_job(launcher.store, "work").jid == second.jid
    assert look(second, clock)["state"] == "running"
    order = sorted([first, second], key=lambda job: job.read_record()["start"])
    assert order == sorted([first, second], key=lambda job: job.jid) == [second, first]
    launcher.release()
    assert look(second, clock, wait=SLACK)["rc"] == 2
    assert latest_job(launcher.store, "work").jid == second.jid


# -- what stands still ------------------------------------------------------------------------------------------------


def stop(pid):
    os.kill(pid, signal.SIGSTOP)
    until(lambda: state(pid) == "T", "a stopped process")


def state(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return stat.read().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("seconds", [0.5, STOPPED_FOR])
def test_a_keeper_that_stands_still(launcher, seconds):
    """the keeper is stopped for 30 s, and goes on | running until then; the result and its times are right"""
    job = launcher.gated("echo done; exit 3", timeout=300)
    keeper = launcher.keeper(job)[0]
    stop(keeper)
    try:
        until_then = time.monotonic() + seconds
        while time.monotonic() < until_then:
            found = status.look(job)
            assert (found["state"], found["reason"]) == ("running", None)
            time.sleep(min(1, seconds / 2))
        launcher.release()
        exited = until(lambda: job.slot("exit"))
        assert status.look(job)["state"] == "running", "what its keeper has not recorded yet"
    finally:
        os.kill(keeper, signal.SIGCONT)
    found = status.wait(job, SLACK)
    assert (found["state"], found["rc"], found["stdout"]) == ("failed", 3, "done")
    started = job.read_record()["durable_jobs"]["monotonic"]
    assert abs(found["elapsed"] - (exited["monotonic"] - started)) < 0.001
    assert seconds <= found["elapsed"]


def test_a_deadline_passes_while_the_keeper_stands_still(launcher):
    """
    the deadline passes while the keeper is stopped
    | running, over its limit; ended as soon as the keeper goes on
    """
    job = launcher.shell("setsid sleep 61 & exec sleep 62", timeout=2)
    keeper = launcher.keeper(job)[0]
    stop(keeper)
    try:
        found = until(lambda: next((one for one in [status.look(job)] if one["elapsed"] > 2.5), 0))
        assert (found["state"], found["reason"], found["finished"]) == ("running", None, False)
    finally:
        os.kill(keeper, signal.SIGCONT)
    went_on = time.monotonic()
    found = status.wait(job, SLACK)
    assert (found["state"], found["rc"]) == ("timed_out", -15)
    assert found["elapsed"] > 2.5 and time.monotonic() - went_on < 5
    assert launcher.processes(job) == []


def test_a_runner_that_stands_still(launcher):
    """the runner is stopped while the command ends | running until it goes on; the result is right"""
    job = launcher.gated("exit 3")
    runner = launcher.keeper(job)[1]
    command = job.read_record()["durable_jobs"]["command"]["pid"]
    stop(runner)
    try:
        launcher.release()
        until(lambda: state(command) == "Z", "the end of the command")
        assert status.look(job)["state"] == "running"
    finally:
        os.kill(runner, signal.SIGCONT)
    found = status.wait(job, SLACK)
    assert (found["state"], found["rc"]) == ("failed", 3)


def test_a_deadline_passes_while_the_runner_stands_still(launcher):
    """the deadline passes while the runner is stopped | the tree is ended in time; timed_out"""
    job = launcher.shell("exec sleep 61", timeout=1, grace=1)
    runner = launcher.keeper(job)[1]
    command = job.read_record()["durable_jobs"]["command"]["pid"]
    stop(runner)
    try:
        until(lambda: state(command) == "Z", "the end of the command")
        assert status.look(job)["state"] in ("running", "timed_out")
    finally:
        os.kill(runner, signal.SIGCONT)
    found = status.wait(job, SLACK)
    assert (found["state"], found["failed"]) == ("timed_out", True)
    assert launcher.processes(job) == []
