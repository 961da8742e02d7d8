# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slow machines: many launches at once, a disk or a process that stands still for seconds."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import processes, status
from ansible_collections.durable.jobs.tests.faults import freezer
from ansible_collections.durable.jobs.tests.unit.support import Launcher, request, until

LAUNCHES = 200
PATIENCE = 180  # seconds for all of them on a loaded machine
STALL = 5  # seconds; the figure of the promise


class Launching:
    """One launch in the background, by a launcher process of its own.

    :param ran: a file that gets a line from every command that is executed.
    """

    def __init__(self, launcher, ran, *, prefix=(), then="", **changes):
        self.launcher = launcher
        asked = request("/bin/sh", "-c", f"echo $DURABLE_JOB_ID >> {ran}; {then}", **changes)
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-I", "-S", launcher.program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        wish = {"async_dir": launcher.store.path, "jobs": [asked], "adopt": []}
        self.process.stdin.write(json.dumps(wish).encode())
        self.process.stdin.close()
        self.process.stdin = None

    def answer(self):
        """Wait for the launcher's answer and return the job; fail if it could not be launched."""
        out, _none = self.process.communicate(timeout=PATIENCE)
        (answer,) = json.loads(out)["jobs"]
        assert "record" in answer, answer
        job = self.launcher.store.job(answer["record"]["ansible_job_id"])
        self.launcher.jobs.append(job)
        return job


def lines(path):
    return path.read_text().split() if path.exists() else []


def records(launcher):
    return sorted(name for name in os.listdir(launcher.store.path) if name.startswith("j"))


def test_200_launches_at_once(launcher, tmp_path):
    """
    200 processes launch a job at once on a small machine
    | all are launched, each command runs once, all end well
    """
    ran = tmp_path / "ran"
    launches = [Launching(launcher, ran) for _number in range(LAUNCHES)]
    jobs = [one.answer() for one in launches]
    for job in jobs:
        assert launcher.finished(job)["state"] == "succeeded"
    jids = sorted(job.jid for job in jobs)
    assert sorted(lines(ran)) == jids == records(launcher)


def test_200_launches_at_once_of_which_half_cannot_succeed(launcher, tmp_path):
    """
    200 jobs in one call, every other one's program missing
    | 100 run once, 100 fail with the reason and leave nothing
    """
    ran = tmp_path / "ran"
    good = request("/bin/sh", "-c", f"echo $DURABLE_JOB_ID >> {ran}")
    answers = launcher.raw(*[good, request("/no/such/program")] * (LAUNCHES // 2))
    assert all("record" in one for one in answers[::2])
    assert all("No such file" in one["error"]["msg"] for one in answers[1::2])
    for job in launcher.jobs:
        assert launcher.finished(job)["state"] == "succeeded"
    assert sorted(lines(ran)) == sorted(job.jid for job in launcher.jobs) == records(launcher)


@contextlib.contextmanager
def frozen(disk, seconds=STALL):
    """Freeze a disk, and thaw it after so many seconds."""
    disk.freeze()
    timer = threading.Timer(seconds, disk.thaw)
    timer.start()
    try:
        yield
    finally:
        timer.join()


@pytest.fixture
def on_disk(tmp_path):
    with freezer.mounted(tmp_path) as disk:
        launcher = Launcher(disk.folder / "async")
        try:
            yield launcher, disk
        finally:
            disk.thaw()
            launcher.close()
            release(disk.folder)


def release(folder):
    """Close what this process holds open below a folder: a disk is not gone before."""
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}").startswith(f"{folder}/"):
                os.close(int(fd))


def test_the_disk_stalls_during_a_launch(on_disk, tmp_path, builtin, record_property):
    """
    the disk stalls for 5 s during a launch
    | the launch takes that long and succeeds; the command runs once
    """
    launcher, disk = on_disk
    ran = tmp_path / "ran"
    begin = time.monotonic()
    with frozen(disk):
        launching = Launching(launcher, ran)
        job = launching.answer()
    assert time.monotonic() - begin >= STALL - 0.5, "the disk has not stalled"
    assert launcher.finished(job)["state"] == "succeeded"
    assert lines(ran) == [job.jid] == records(launcher)

    builtin.environment["ANSIBLE_ASYNC_DIR"] = str(disk.folder / "builtin")
    jid = builtin.launch("true")  # which makes the folder
    builtin.sees(jid)
    with frozen(disk):
        try:
            seen = builtin.sees(builtin.launch("sleep 1"))
        except (AssertionError, KeyError) as error:
            seen = f"the launch fails: {str(error).strip()[:60]}"
    record_property("builtin", seen)


def test_the_disk_stalls_while_a_job_ends(on_disk, tmp_path):
    """
    the disk stalls for 5 s when a command ends
    | looks answer at once: running; then the result is there
    """
    launcher, disk = on_disk
    go = tmp_path / "go"
    job = launcher.shell(f"until [ -e {go} ]; do sleep 0.02; done; exit 3")
    with frozen(disk):
        go.touch()
        until(lambda: not launcher.processes(job), "the end of the command")
        begin = time.monotonic()
        found = status.look(job)
        assert time.monotonic() - begin < 2
        assert (found["state"], found["finished"], found["rc"]) == ("running", False, None)
    found = status.wait(job, PATIENCE)
    assert (found["state"], found["rc"]) == ("failed", 3)


def test_the_disk_stalls_at_the_deadline(on_disk):
    """the disk stalls for 5 s at the deadline | the job is ended when the disk goes on, and timed_out"""
    launcher, disk = on_disk
    job = launcher.shell("setsid sleep 61 & exec sleep 62", timeout=1)
    with frozen(disk):
        until(lambda: status.look(job)["elapsed"] > 1.5)
        assert status.look(job)["state"] == "running"
    found = status.wait(job, PATIENCE)
    assert (found["state"], found["rc"]) == ("timed_out", -15)
    assert launcher.processes(job) == []


@pytest.mark.parametrize("calls", ["setsid", "fsync,fdatasync"])
def test_every_process_stalls_once(launcher, tmp_path, calls):
    """
    each process of ours stalls for 5 s at its first call or its first fsync
    | the launch succeeds, the command runs once
    """
    if not shutil.which("strace"):
        pytest.skip("strace is missing")
    ran = tmp_path / "ran"
    delay = f"inject={calls}:delay_enter={STALL}s:when=1"
    prefix = ("strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={calls}", "-e", delay)
    probe = subprocess.run([*prefix, "true"], check=False, capture_output=True)
    if probe.returncode:
        pytest.skip("strace cannot delay system calls here")
    begin = time.monotonic()
    # strace stays until the end of all that it follows: the keeper's answer is in the pipe long before.
    job = Launching(launcher, ran, prefix=prefix).answer()
    assert time.monotonic() - begin >= STALL, "nothing has stalled"
    assert status.wait(job, PATIENCE)["state"] == "succeeded"
    assert lines(ran) == [job.jid] == records(launcher)


def children(pid):
    return [one for one in processes.all_processes().values() if one.parent == pid]


def launch_and_stop_the_keeper(launcher, ran):
    """Launch until a keeper could be stopped before its launcher had answered; return that launch and the keeper."""
    for _try in range(50):
        launching = Launching(launcher, ran, then="exec sleep 60")
        pid = launching.process.pid
        while launching.process.poll() is None:
            for keeper in children(pid):
                os.kill(keeper.pid, signal.SIGSTOP)
                if launching.process.poll() is None:
                    return launching, keeper.pid
                os.kill(keeper.pid, signal.SIGCONT)
        launching.answer()
    raise AssertionError("all launches were too fast to be caught")


def test_the_keeper_is_stopped_before_its_launcher_answers(launcher, tmp_path):
    """
    the keeper is stopped for 5 s while it launches
    | no launch is reported that did not happen; it succeeds, and the command runs once
    """
    ran = tmp_path / "ran"
    launching, keeper = launch_and_stop_the_keeper(launcher, ran)
    before = len(launcher.jobs)
    until_then = time.monotonic() + STALL
    try:
        while time.monotonic() < until_then:
            if launching.process.poll() is not None:
                until(lambda: len(lines(ran)) == before + 1, "what has been reported")
            time.sleep(0.1)
    finally:
        os.kill(keeper, signal.SIGCONT)
    job = launching.answer()
    until(lambda: len(lines(ran)) >= len(launcher.jobs), "a line from every command")
    assert status.look(job)["state"] == "running"
    assert sorted(lines(ran)) == sorted(one.jid for one in launcher.jobs) == records(launcher)
