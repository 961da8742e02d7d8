# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs are ended whose processes do not want to."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import processes, status, stopping
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._job.names import latest_job
from ansible_collections.durable.jobs.tests.faults import freezer, offspring
from ansible_collections.durable.jobs.tests.faults.builtin import Builtin
from ansible_collections.durable.jobs.tests.unit.support import (
    PACKAGE,
    Launcher,
    install,
    request,
    until,
)

OFFSPRING = Path(offspring.__file__)
PATIENCE = 60
TRIES = 24  # jobs that reach their timeout under load
BUSY = 6  # processes that are the load
# What only the kernel's help finds: without ctypes there is no subreaper.
ONLY_AS_SUBREAPER = {
    "clears its environment and calls setsid",
    "daemonizes with an empty environment",
}


@pytest.fixture(params=["subreaper", "no ctypes"])
def either(request, tmp_path):
    """A launcher, of an interpreter with ctypes and of one without."""
    made = Launcher(tmp_path / "async")
    if request.param == "no ctypes":
        there = (PACKAGE / "kernel.py").read_bytes()
        other = there.replace(b"import ctypes", b"import ctypes.is_missing_here")
        assert other != there
        made.program = install(tmp_path / "other", {"kernel.py": other})
    made.subreaper = request.param == "subreaper"
    yield made
    made.close()


@pytest.fixture(scope="module")
def builtins_survivors():
    """Let the builtin's timeout end a command with children of every kind, and return what is left of each."""
    with tempfile.TemporaryDirectory(prefix="durable_builtin.") as name:
        made = Builtin(Path(name))
        folders = {}
        for number, kind in enumerate(offspring.KINDS):
            folders[kind] = Path(name) / f"words{number}"
            folders[kind].mkdir()
        try:
            hosts = {
                f"host{number}": [sys.executable, str(OFFSPRING), kind, str(folders[kind])]
                for number, kind in enumerate(offspring.KINDS)
            }
            launch_with_builtin(made, hosts, timeout=10)
            until(lambda: not made.wrappers("j"), "the builtin's timeouts")
            yield {kind: fate(folder) for kind, folder in folders.items()}
        finally:
            for folder in folders.values():
                for pid, started in noted(folder):
                    if processes.is_alive(pid, started):
                        os.kill(pid, signal.SIGKILL)
            made.close()


def fate(folder):
    """Say what a timeout has left of a command and its offspring."""
    if len(noted(folder)) < 2:
        return "not started in time"
    left = len(alive(folder))
    return f"{left} live on" if left else "gone"


def launch_with_builtin(builtin, commands, timeout):
    """Launch one job for each of these hosts, which are all this machine, at once."""
    lines = {host: shlex.join(argv) for host, argv in commands.items()}
    subprocess.run(
        [
            *(Path(sys.executable).with_name("ansible"), "all", "-c", "local"),
            *("-i", ",".join(lines) + ",", "-e", json.dumps({"lines": lines})),
            *("-e", f"ansible_python_interpreter={os.path.realpath(sys.executable)}"),
            *("-f", str(len(lines)), "-B", str(timeout), "-P", "0"),
            *("-m", "ansible.builtin.shell", "-a", "exec {{ lines[inventory_hostname] }}"),
        ],
        env=builtin.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=3 * PATIENCE,
        check=True,
    )


@pytest.fixture
def bystander(launcher):
    """Another job, and a process of nobody's: neither may be touched."""
    other = launcher.shell("exec sleep 1000")
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield
    assert status.look(other)["state"] == "running"
    assert process.poll() is None
    process.kill()
    process.wait()


def noted(folder):
    """Return the processes that have left word, as (pid, started)."""
    return [
        (int(name), int((folder / name).read_bytes() or 0))
        for name in os.listdir(folder)
        if (folder / name).stat().st_size
    ]


def alive(folder):
    return [one for one in noted(folder) if processes.is_alive(*one)]


def unruly(launcher, folder, kind, **changes):
    folder.mkdir()
    changes.setdefault("grace", 0.3)
    job = launcher(sys.executable, str(OFFSPRING), kind, str(folder), **changes)
    until(lambda: len(noted(folder)) >= 2, "the first words of the offspring")
    return job


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("kind", offspring.KINDS)
def test_a_deadline_ends_children_of_every_kind(
    either, tmp_path, kind, builtins_survivors, record_property
):
    """
    a child ignores SIGTERM, is stopped, forks on, leaves session, group or parent, or has no environment
    | all gone after the timeout
    """
    if not either.subreaper and kind in ONLY_AS_SUBREAPER:
        pytest.skip("without ctypes nothing links such a child to its job; see docs/reliability.md")
    folder = tmp_path / "words"
    job = unruly(either, folder, kind, timeout=1.5)
    found = status.wait(job, PATIENCE)
    assert (found["state"], found["failed"]) == ("timed_out", True)
    assert found["survivors"] == [] and "survivors" not in found["msg"]
    assert alive(folder) == []
    assert either.processes(job) == []
    if either.subreaper:
        record_property("builtin", f"{kind}: {builtins_survivors[kind]}")


@pytest.mark.usefixtures("bystander")
def test_a_storm_is_ended_by_a_keeper_that_took_over(launcher, tmp_path):
    """the keeper of a job that forks while it is killed is killed itself | its successor ends all of it"""
    folder = tmp_path / "words"
    job = unruly(launcher, folder, "forks while it is killed", timeout=1.5)
    os.kill(launcher.keeper(job)[0], signal.SIGKILL)
    assert status.wait(job, PATIENCE)["state"] == "timed_out"
    assert alive(folder) == [] and launcher.processes(job) == []


# -- what not even SIGKILL ends ---------------------------------------------------------------------------------------


@pytest.fixture
def stuck(tmp_path):
    """A frozen disk: whoever writes to it cannot be killed."""
    with freezer.mounted(tmp_path) as disk:
        disk.freeze()
        yield disk


def is_uninterruptible(job, launcher):
    """Return the processes of a job that sleep uninterruptibly."""
    return [one.pid for one in launcher.processes(job) if state(one.pid) == "D"]


def state(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.mark.parametrize("who", ["child", "command"])
def test_a_process_that_cannot_be_killed(launcher, stuck, who):
    """
    a process hangs in the kernel, and the deadline passes
    | timed_out in time, the process named in survivors
    """
    touch = f"touch {stuck.folder}/file"
    job = launcher.shell(
        f"exec {touch}" if who == "command" else f"setsid {touch} & exec sleep 61",
        timeout=1.5,
        grace=0.3,
    )
    (pid,) = until(lambda: is_uninterruptible(job, launcher))
    found = status.wait(job, PATIENCE)
    assert (found["state"], found["finished"], found["failed"]) == ("timed_out", True, True)
    assert found["survivors"] == [{"pid": pid, "name": "touch"}]
    assert f"still alive: touch (pid {pid})" in found["msg"]
    assert found["rc"] == (None if who == "command" else -15)
    assert processes.process(pid) is not None
    stuck.thaw()
    until(lambda: processes.process(pid) is None, "the end of what was stuck")
    again = status.look(job)
    assert (again["state"], again["rc"]) == (found["state"], found["rc"])
    until(
        lambda: all(processes.process(one) is None for one in launcher.keeper(job)), "our own end"
    )


def test_replacing_a_job_that_cannot_be_killed(launcher, stuck):
    """
    on_conflict=replace meets a process that hangs in the kernel
    | refused, it is named, and nothing is started
    """

    def named(line):
        return request("/bin/sh", "-c", line, name="work", spec={"cmd": line}, grace=0.3)

    (answer,) = launcher.raw(named(f"setsid touch {stuck.folder}/file & exec sleep 61"))
    assert "record" in answer, answer
    old = launcher.jobs[-1]
    (pid,) = until(lambda: is_uninterruptible(old, launcher))
    (answer,) = launcher.raw(dict(named("exec sleep 62"), on_conflict="replace"))
    error = answer["error"]
    assert f"cannot stop job {old.jid}" in error["msg"] and f"touch (pid {pid})" in error["msg"]
    assert error["survivors"] == [{"pid": pid, "name": "touch"}]
    assert latest_job(launcher.store, "work").jid == old.jid
    assert status.look(old)["state"] == "stopped"


def test_stopping_what_cannot_be_killed_without_a_keeper(launcher, stuck):
    """the same, and keeper and runner have been killed | the stop fails and names it"""
    job = launcher.shell(f"setsid touch {stuck.folder}/file & exec sleep 61")
    (pid,) = until(lambda: is_uninterruptible(job, launcher))
    keeper, runner = launcher.keeper(job)
    os.kill(runner, signal.SIGSTOP)  # or it would give the job a new keeper
    for one in (keeper, runner):
        os.kill(one, signal.SIGKILL)
    until(lambda: not job.is_held("keeper") and not job.is_held("runner"))
    with pytest.raises(JobError) as caught:
        stopping.stop(job, number=15, grace=0.3, reason="test")
    assert caught.value.details["survivors"] == [{"pid": pid, "name": "touch"}]


# -- the builtin ------------------------------------------------------------------------------------------------------


def test_timeouts_under_load(launcher, builtin, record_property):
    """jobs reach their timeout on a machine that is overloaded | no process of any of them is left"""
    load = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _number in range(BUSY)]
    try:
        asked = request("/bin/sh", "-c", "sleep 1000 & sleep 1001", timeout=1, grace=1)
        launcher.raw(*[asked] * TRIES)
        for job in launcher.jobs:
            assert status.wait(job, PATIENCE)["state"] == "timed_out"
            assert launcher.processes(job) == []
    finally:
        for one in load:
            one.kill()
            one.wait()
    # Its launches, all at once, are load enough.
    line = ["sh", "-c", "sleep 1000 & sleep 1001"]
    launch_with_builtin(builtin, {f"host{number}": line for number in range(TRIES)}, timeout=1)
    until(lambda: not builtin.wrappers("j"), "the builtin's timeouts")
    record_property("builtin", f"{len(builtin.command('j'))} processes of {TRIES} jobs go on")
