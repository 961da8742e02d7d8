# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk is full, refuses writes or is gone; somebody removes folders under a running job."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    boot,
    installation,
    processes,
    status,
    store,
)
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._job.record_io import MissingRecord
from ansible_collections.durable.jobs.tests.faults import disk as disks
from ansible_collections.durable.jobs.tests.unit.support import Launcher, request, until

PAGE = 4096
INODES = 4000


class Full:
    """A small file system in memory, and what fills it up.

    :param scarce: ``bytes`` or ``inodes``.
    """

    def __init__(self, path, scarce):
        self.path = path
        self.scarce = scarce
        self._fillers = path / "fillers"

    def mount(self):
        self.path.mkdir()
        options = f"size=4m,nr_inodes={INODES},mode=700"
        mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(self.path)]
        if os.geteuid() or subprocess.call(mount, stderr=subprocess.DEVNULL):
            pytest.skip("needs root and the right to mount a tmpfs")
        self._fillers.mkdir()

    def unmount(self):
        subprocess.run(["umount", "-l", str(self.path)], check=True)

    def fill(self, left=0):
        """Fill it up, but for so many pages or inodes."""
        if self.scarce == "bytes":
            with open(self._fillers / "bytes", "ab", buffering=0) as filler:
                self._until_full(lambda _number: filler.write(b"x" * PAGE))
                filler.truncate(filler.tell() - left * PAGE)
        else:
            self._until_full(lambda number: os.mknod(self._fillers / f"{number}"))
            for name in os.listdir(self._fillers)[:left]:
                os.unlink(self._fillers / name)

    @staticmethod
    def _until_full(add):
        number = time.monotonic_ns()
        try:
            while True:
                number += 1
                add(number)
        except OSError as error:
            assert error.strerror == "No space left on device"

    def drain(self):
        shutil.rmtree(self._fillers)
        self._fillers.mkdir()


@pytest.fixture(params=["bytes", "inodes"])
def full(tmp_path, request):  # pytest's request, not the launcher's
    made = Full(tmp_path / "full", request.param)
    made.mount()
    yield made
    made.unmount()


@pytest.fixture
def crowded(full):
    """Return a launcher on that file system; its engine is elsewhere, as if it had been read."""
    made = Launcher(full.path / "jobs", engine=full.path.parent / "engine")
    yield made
    made.close()


@pytest.fixture
def on_disk(disk):
    """Return a launcher on that disk; its engine is there."""
    made = Launcher(disk.path / "jobs")
    yield made
    made.close()
    made.let_go()


@pytest.fixture
def disk(tmp_path):
    made = disks.Disk(tmp_path)
    made.attach()
    yield made
    made.detach()


def files(folder):
    """Return every file of jobs and names; a lock of a name is none: it says nothing and is used again."""
    found = []
    for where, folders, names in os.walk(folder):
        if "engine" in folders:
            folders.remove("engine")
        found += [os.path.join(where, name) for name in names if not name.endswith(".lock")]
        found += [os.path.join(where, name) for name in folders if name.startswith("j1")]
    return sorted(found)


def ended(job):
    """Return a function that tells whether every process of a job is gone."""
    private = job.read_record()["durable_jobs"]
    pids = [private["keeper"], private["runner"], private["command"]["pid"]]
    ours = [one for one in map(processes.process, pids) if one is not None]
    assert len(ours) == len(pids)
    return lambda: not any(processes.is_alive(one.pid, one.started) for one in ours)


class Gate:
    """Where a job waits, on a disk that nothing happens to."""

    def __init__(self, path):
        self.path = path
        self.wait = f"until [ -e {path} ]; do sleep 0.02; done"

    def open(self):
        self.path.touch()


@pytest.fixture
def gate(tmp_path):
    return Gate(tmp_path / "gate")


def test_launch_on_a_full_disk(full, crowded, tmp_path, builtin, record_property):
    """
    a launch on a disk with no, one, two, ... pages or inodes left
    | it fails, names the directory and what has run out, leaves nothing and has run nothing; or, with enough room, the
    job runs
    """
    where = str(full.path / "jobs")
    before = files(where)
    left = -1
    job = None
    while job is None:
        left += 1
        full.drain()
        full.fill(left)
        try:
            job = crowded("/usr/bin/touch", str(tmp_path / "ran"), name="work", spec={"cmd": "x"})
        except JobError as error:
            assert f"cannot launch a job in async_dir {where} as user root" in error.msg
            assert "No space left on device; its file system has " in error.msg
            assert files(where) == before
            assert not (tmp_path / "ran").exists()
    assert crowded.finished(job)["state"] == "succeeded", "though nothing was left but its room"
    assert left > 3
    record_property(f"{full.scarce} needed", left)
    full.fill()
    builtin.environment["ANSIBLE_ASYNC_DIR"] = where
    answer = builtin.ansible("shell", f"touch {tmp_path}/theirs", "-B", "60", "-P", "0")
    launch = "the launch is reported as done" if answer.get("started") else "the launch fails"
    said = builtin.status(answer.get("ansible_job_id", "j0.0")).get("msg", "")
    ran = "the command ran" if (tmp_path / "theirs").exists() else "the command did not run"
    record_property("builtin", f"{full.scarce}: {launch}, {ran}, then: {said}")


def test_first_launch_on_a_full_disk(full):
    """
    the first launch ever, on a disk with less room than the engine needs
    | it fails and leaves nothing; with room again it works
    """
    where = store.Store.open(str(full.path / "jobs"), create=True)
    name = boot.installed_name("0" * 32)
    content = boot.sealed(name, {"main": os.urandom(200_000)})
    for left in range(0, 60, 6):
        full.drain()
        full.fill(left)
        try:
            installation.install(where, name, content, needed=True)
        except JobError as error:
            assert "No space left on device" in error.msg
            engines = full.path / "jobs" / ".durable" / "engine"
            assert not engines.exists() or not list(engines.glob("*.new"))
    full.drain()
    launcher = Launcher(full.path / "jobs", engine=full.path.parent / "engine")
    installation.install(where, name, content, needed=True)
    assert boot.installed(where.path, name) == content
    assert launcher.finished(launcher.shell("true"))["state"] == "succeeded"


@pytest.mark.parametrize("loud", [True, False], ids=["writing", "silent"])
def test_the_disk_fills_up_while_a_job_runs(full, crowded, gate, loud, builtin, record_property):
    """
    the disk fills up while a job runs, and is full when it ends
    | state and rc are recorded, and the output that found room; where there was none for more, `truncated`,
    `output_error` and `msg` say so
    """
    output = "i=0; while [ $i -lt 9000 ]; do echo more; i=$((i+1)); done 2>/dev/null; " * loud
    line = f"echo begin; {gate.wait}; {output}echo end >&2; exit 3"
    job = crowded.shell(line)
    builtin.environment["ANSIBLE_ASYNC_DIR"] = crowded.store.path
    theirs = builtin.launch(line)
    until(lambda: os.stat(job.path("stdout")).st_size)
    full.fill()
    gate.open()
    crowded.finished(job)
    record = status.look(job)
    assert (record["state"], record["rc"], record["stdout_lines"][0]) == ("failed", 3, "begin")
    if full.scarce == "bytes":
        assert (record["truncated"], record["output_error"]) == (True, "No space left on device")
        assert f"the disk of {crowded.store.path} said: No space left on device" in record["msg"]
        assert record["stdout_bytes"] == os.stat(job.path("stdout")).st_size <= PAGE
    else:
        assert (record["truncated"], record["output_error"]) == (False, None)
        assert len(record["stdout_lines"]) == 1 + 9000 * loud
    record_property("builtin", f"{full.scarce}: {builtin.sees(theirs)}")


def test_the_disk_fills_up_when_a_job_ends(full, crowded, gate):
    """
    a job has written 1 MB, and no room is left for a record that holds it too
    | state, rc and, in each look, the output
    """
    job = crowded.shell(f"head -c 1000000 /dev/zero | tr '\\0' y; {gate.wait}; exit 3")
    until(lambda: os.stat(job.path("stdout")).st_size == 1_000_000)
    full.fill()
    gate.open()
    assert (crowded.finished(job)["state"], crowded.finished(job)["rc"]) == ("failed", 3)
    assert status.look(job)["stdout"] == "y" * 1_000_000


def test_the_disk_is_full_when_a_queued_job_is_to_start(
    full, crowded, gate, tmp_path, record_property
):
    """
    the disk is full when the turn of a queued job comes, and whatever room is freed is filled again
    | it runs; or it is `failed`, `msg` names the directory and what has run out, and its command has not run
    """
    asked = [
        request("/bin/sh", "-c", gate.wait),
        request("/usr/bin/touch", str(tmp_path / "ran")),
    ]
    crowded.raw(*asked, slots=1)
    first, queued = crowded.jobs
    assert status.look(queued)["state"] == "queued"
    full.fill()
    gate.open()
    found = {"finished": False}
    while not found["finished"]:
        full.fill()
        found = status.wait(queued, 0.01)
    assert crowded.finished(first)["state"] == "succeeded"
    ran = (tmp_path / "ran").exists()
    record_property(full.scarce, found["state"])
    if ran:
        assert (found["state"], found["rc"]) == ("succeeded", 0)
    else:
        assert (found["state"], found["rc"]) == ("failed", None)
        assert f"async_dir {crowded.store.path} as user root" in found["msg"]
        assert "No space left on device; its file system has " in found["msg"]


@pytest.mark.parametrize("fault", ["read-only", "gone"])
def test_the_disk_breaks_while_jobs_run(disk, on_disk, gate, fault, builtin, record_property):
    """
    the disk refuses to be written, so that ext4 makes itself read-only; or it is gone
    | what had finished is shown as before; what runs is `running`; what ends now has its result
    if the kernel has taken it, else it is `lost`, and `reason` and `msg` say what the disk said; a launch fails;
    nothing hangs, no process remains
    """
    launcher = on_disk
    done = launcher.shell("echo out; exit 3")
    launcher.finished(done)
    before = status.look(done)
    ending = launcher.shell(f"echo begin; {gate.wait}; exit 4")
    lasting = launcher.shell("exec sleep 600")
    until(lambda: os.stat(ending.path("stdout")).st_size)
    builtin.environment["ANSIBLE_ASYNC_DIR"] = str(disk.path / "builtin")
    theirs = builtin.launch(f"{gate.wait}; exit 4")
    gone = [ended(job) for job in (ending, lasting)]
    if fault == "gone":
        disk.vanish()
    else:
        disk.refuse_writes()
    said = {"read-only": {"Read-only file system"}, "gone": {"Input/output error"}}[fault]
    until(lambda: refusal(disk.path) in said | {"Read-only file system"}, "the disk's refusal")

    assert status.look(done) == before
    assert status.wait(lasting, 0.5)["state"] == "running"
    gate.open()
    until(gone[0], "the end of all processes")
    found = status.wait(ending, 60)
    known = (found["state"], found["rc"]) == (
        "failed",
        4,
    )  # it came into the kernel's cache at least
    lost = (found["state"], found["rc"], found["reason"] in said) == ("lost", None, True)
    assert found["finished"] and (known or lost), found
    assert "could not be written down: " in found["msg"]
    record_property(fault, found["state"])
    with pytest.raises((JobError, subprocess.CalledProcessError)):
        launcher.shell("true")
    os.kill(lasting.read_record()["durable_jobs"]["command"]["pid"], signal.SIGKILL)
    until(gone[1], "the end of all processes")
    state = status.wait(lasting, 60)["state"]
    assert state in ("lost", "failed")
    record_property("builtin", f"{fault}: {builtin.sees(theirs)}")


@pytest.mark.parametrize("removed", ["async dir", "private folder", "job's folder", "record"])
def test_a_folder_is_removed_under_a_running_job(
    launcher, gate, tmp_path, removed, builtin, record_property
):
    """
    somebody removes the async dir, the folder `.durable`, the job's own folder or its record, while the job runs
    | without its record it is not found; else it is `running`; the command ends as it would, and then its result is
    there, unless the whole async dir was removed; no process remains
    """
    job = launcher.shell(f"echo out; {gate.wait}; echo ran > {tmp_path}/ran; exit 3")
    until(lambda: os.stat(job.path("stdout")).st_size)
    gone = ended(job)
    where = launcher.store.path
    private = os.path.dirname(job.path("stdout"))
    theirs = builtin.launch(f"{gate.wait}; exit 3")
    if removed == "record":
        os.unlink(job.results_file)
        os.unlink(builtin.async_dir / theirs)
    else:
        folder = {"async dir": where, "private folder": where + "/.durable"}.get(removed, private)
        shutil.rmtree(folder)
        if removed == "async dir":
            shutil.rmtree(builtin.async_dir)

    during = look(where, job.jid)
    assert during == ("running" if removed in ("private folder", "job's folder") else "not found")
    gate.open()
    looks = set()

    def over():
        looks.add(look(where, job.jid))
        return gone()

    until(over, "the end of all processes")
    after = look(where, job.jid)
    assert (tmp_path / "ran").exists()
    assert after == ("not found" if removed == "async dir" else "failed, rc 3, out")
    assert looks <= {during, after}, "and nothing else in between"
    if removed != "async dir":
        assert launcher.finished(launcher.shell("true"))["state"] == "succeeded"
    if removed in ("async dir", "record"):
        record_property("builtin", f"{removed}: {builtin.sees(theirs)}")


def look(where, jid):
    """Take one look as a user does: nothing is open from before."""
    try:
        found = status.look(store.Store.open(where, create=False).job(jid))
    except (FileNotFoundError, MissingRecord):
        return "not found"
    if not found["finished"]:
        return found["state"]
    return f"{found['state']}, rc {found['rc']}, {found['stdout']}"


def refusal(path):
    """Return what a disk says to somebody who writes; None if it takes it."""
    try:
        with open(path / "probe", "wb", buffering=0) as probe:
            probe.write(b"x")
            os.fsync(probe.fileno())
    except OSError as error:
        return error.strerror
    return None
