# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Leftovers: processes, zombies and files after jobs, and after what was killed half-way."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    boot,
    installation,
    removing,
    status,
    stopping,
    store,
)
from ansible_collections.durable.jobs.plugins.module_utils._job.names import (
    latest_job,
    lock_name,
    mend_name,
)
from ansible_collections.durable.jobs.plugins.module_utils._job.record_io import SLOT_BYTES
from ansible_collections.durable.jobs.tests.faults.surroundings import (
    PATIENCE,
    TREE,
    run_module,
)
from ansible_collections.durable.jobs.tests.unit.support import request, until

JOBS = 3


def counts(tmp_path, reaps, what):
    """Run jobs below somebody who reaps so, and return what was counted, see reaping."""
    program = "ansible_collections.durable.jobs.tests.faults.reaping"
    command = [sys.executable, "-B", "-m", program, reaps, what, str(JOBS), str(tmp_path)]
    if reaps != "subreaper":
        namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        if os.geteuid() != 0 or shutil.which("unshare") is None:
            pytest.skip("needs root and unshare for a PID 1 of its own")
        if subprocess.call([*namespace, "true"], stderr=subprocess.DEVNULL):
            pytest.skip("no right to make a pid namespace")
        command = [*namespace, *command]
    result = tmp_path / "counts"
    environment = {**os.environ, "PYTHONPATH": str(TREE)}
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        try:
            until(lambda: result.exists() or process.poll() is not None, "the count", patience=300)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    return json.loads(result.read_text())


# -- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reaps", ["init", "subreaper"])
def test_nothing_and_no_zombie_is_left(tmp_path, reaps):
    """
    jobs fork orphans and daemons, below a PID 1 or a subreaper that reaps (systemd --user, containerd-shim)
    | while they run there is no zombie, after they have ended there is none, and no process of ours
    """
    assert counts(tmp_path, reaps, "ours") == {"running": 0, "alive": 0, "zombies": 0}


def test_below_a_pid_1_that_does_not_reap(tmp_path, record_property):
    """
    the same below a PID 1 that never reaps, as in many containers
    | while they run there is no zombie; each job that has ended leaves one, its keeper, which only PID 1 could reap
    """
    assert counts(tmp_path, "never", "ours") == {"running": 0, "alive": 0, "zombies": JOBS}
    other = tmp_path / "builtin"
    other.mkdir()
    left = counts(other, "never", "builtin")["zombies"]
    record_property("builtin", f"{left / JOBS:g} zombies a job")


# -- files of jobs ----------------------------------------------------------------------------------------------------


def disk_use(folder):
    """Return how many bytes of the disk the files of a folder take."""
    return sum(os.lstat(os.path.join(folder, name)).st_blocks * 512 for name in os.listdir(folder))


def test_the_files_of_a_finished_job_are_bounded(launcher):
    """
    a job has ended, whatever it wrote
    | beside its record and its output there are two FIFOs and two files of 4 KiB; a cleanup leaves nothing
    """
    line = "head -c 20000000 /dev/zero | tr '\\0' x"
    jobs = [launcher.shell("true"), launcher.shell(line, output_limit=100_000)]
    for job, output in zip(jobs, (0, 120_000)):
        launcher.finished(job)
        until(lambda job=job: not job.is_held("keeper") and not job.is_held("runner"))
        folder = os.path.dirname(job.path("x"))
        assert sorted(os.listdir(folder)) == [
            *("ending", "exit", "keeper", "runner", "stderr", "stdout")
        ]
        assert disk_use(folder) <= output + 2 * SLOT_BYTES
        removing.remove(job)
    assert os.listdir(launcher.store.path) == [".durable"]
    assert os.listdir(launcher.store.private_path("jobs")) == []


def test_what_a_crash_left_is_swept_up_by_a_later_cleanup(launcher):
    """
    a launcher, or a cleanup, was killed half-way: a folder without a record is left
    | a cleanup of any job removes it when it is a day old, but nothing younger and nothing that lives
    """
    place = launcher.store
    old, young = place.create_job(), place.create_job()
    for job in (old, young):
        job.furnish()
    living = launcher.shell("sleep 61")
    os.rename(
        living.results_file, living.results_file + "x"
    )  # a folder without a record, but it lives
    past = time.time() - removing.ABANDONED_AFTER - 60
    for job in (old, living):
        os.utime(os.path.dirname(job.path("x")), (past, past))
    done = launcher.shell("true")
    launcher.finished(done)
    result = run_module("job_status", async_dir=place.path, jid=done.jid, mode="cleanup")
    assert result["erased"] == done.results_file
    left = sorted(os.listdir(place.private_path("jobs")))
    assert left == sorted([young.jid, living.jid])
    os.rename(living.results_file + "x", living.results_file)
    assert status.look(living)["state"] == "running"


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_name_is_forgotten_with_its_last_job(launcher):
    """
    all jobs of a name have been cleaned up
    | nothing is kept of the name; with one of them left it is
    """
    names = launcher.store.private_path("names")
    for _number in range(2):
        launcher.raw(request("true", name="work", spec={}))
        launcher.finished(launcher.jobs[-1])
    first, second = launcher.jobs
    removing.remove(second)
    assert sorted(os.listdir(names)) == ["work.jid", "work.lock"]
    assert latest_job(launcher.store, "work").jid == first.jid
    removing.remove(first)
    assert os.listdir(names) == []


def test_forgetting_a_name_and_taking_its_lock_at_once(launcher):
    """
    a name is forgotten while others wait for its lock
    | at no moment do two hold it
    """
    inside = os.path.join(launcher.store.path, "inside")
    children = []
    for _child in range(4):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                place = store.Store.open(launcher.store.path, create=False)
                for _round in range(200):
                    lock = lock_name(place, "work")
                    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails if somebody is in
                    os.unlink(inside)
                    os.close(lock)
                    mend_name(place, "work")
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4


# -- engines ----------------------------------------------------------------------------------------------------------


def put(place, number, moment):
    """Install an engine of that number, as if that had been at that moment; return the name of its file."""
    name = boot.installed_name(f"{number:032}")
    installation.install(place, name, boot.sealed(name, {"main": b"code"}), needed=True)
    os.utime(place.private_path("engine", name), (moment, moment))
    return name


def test_engines_of_other_releases_do_not_pile_up(launcher):
    """
    many releases have launched jobs, and installations were killed half-way
    | the latest three engines stay; a job whose engine has gone is kept, adopted and ended all the same
    """
    place = launcher.store
    engines = Path(place.private_path("engine"))
    job = launcher.shell("sleep 61 & wait", grace=1, timeout=0)
    shutil.rmtree(os.path.dirname(os.path.dirname(launcher.program)))  # that of the job
    os.close(place.private("engine"))
    for name in ("0" * 32 + ".123", "1" * 32 + ".new"):  # of release 0.1
        os.makedirs(engines / name / "_job", 0o700)
        os.utime(engines / name, (0, 0))
    (engines / "2.new").write_bytes(b"half of an engine")
    os.utime(engines / "2.new", (0, 0))
    names = [put(place, number, number + 1) for number in range(6)]
    assert sorted(os.listdir(engines)) == names[3:]

    keeper, _runner = launcher.keeper(job)
    os.kill(keeper, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{keeper}") or job.is_held("keeper"))
    assert (
        until(lambda: status.look(job)["reason"] is None and status.look(job))["state"] == "running"
    )
    final = stopping.stop(job, number=signal.SIGTERM, grace=5, reason="asked by a test")
    assert final["state"] == "stopped" and launcher.processes(job) == []


def test_an_engine_in_use_is_not_removed(launcher):
    """
    a module of release 0.1 launches from its engine, a folder, while others install theirs
    | it stays until that launch is over
    """
    place = launcher.store
    os.close(place.private("engine"))
    old = Path(place.private_path("engine", "a" * 32))
    (old / "_job").mkdir(0o700, parents=True)
    os.chmod(old, 0o700)
    os.utime(old, (0, 0))
    lock = os.open(old / "_job", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    for number in range(5):
        put(place, number, number + 1)
    assert old.exists()
    os.close(lock)
    put(place, 6, 7)
    assert not old.exists()
    assert len(os.listdir(old.parent)) == installation.KEPT


def test_a_damaged_engine_is_replaced(tmp_path):
    """
    files of the engine have been removed or cut, by a cleaner of /tmp for example
    | the next launch installs it anew
    """
    async_dir = str(tmp_path / "other")
    launch = {"cmd": "true", "async_dir": async_dir}
    assert run_module("job_start", **launch)["state"] == "running"
    engine = next((tmp_path / "other" / ".durable" / "engine").iterdir())
    for damage in ("removed", "cut", "emptied", "changed"):
        if damage == "removed":
            engine.unlink()
        elif damage == "changed":
            engine.write_bytes(engine.read_bytes()[:-1] + b"X")
        else:
            os.truncate(engine, 1000 if damage == "cut" else 0)
        found = run_module("job_start", **launch)
        assert found["state"] == "running", found
        jid = found["ansible_job_id"]
        done = run_module("job_status", async_dir=async_dir, jid=jid, wait=PATIENCE)
        assert done["state"] == "succeeded"
    assert len(list((tmp_path / "other" / ".durable" / "engine").iterdir())) == 1
