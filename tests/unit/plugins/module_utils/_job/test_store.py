# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import select
import stat
import subprocess

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import host, removing, store, trust
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._job.record_io import (
    SLOT_BYTES,
    DamagedRecord,
    MissingRecord,
)

ME = host.user_name(os.geteuid())


@pytest.fixture
def place(tmp_path):
    return store.Store.open(str(tmp_path / "deep" / "async"), create=True)


@pytest.fixture
def job(place):
    made = place.create_job()
    made.furnish()
    return made


def refusal(path, create=True):
    with pytest.raises(JobError) as caught:
        store.Store.open(str(path), create=create)
    assert f"cannot use async_dir {path} as user {ME}" in caught.value.msg
    return caught.value.msg


def test_a_new_dir_is_private_whatever_the_umask(tmp_path):
    old = os.umask(0)
    try:
        place = store.Store.open(str(tmp_path / "a" / "b"), create=True)
        job = place.create_job()
        job.furnish()
    finally:
        os.umask(old)
    for folder, _folders, files in os.walk(str(tmp_path / "a")):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        for name in files:
            assert stat.S_IMODE(os.lstat(os.path.join(folder, name)).st_mode) == 0o600


def test_a_symlink_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert "symlink to real" in refusal(tmp_path / "link")
    assert not list((tmp_path / "real").iterdir())


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "not a directory" in refusal(tmp_path / "file")
    assert "cannot be made" in refusal(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_relative_path_and_an_unknown_home_are_refused():
    assert "not an absolute path" in refusal("jobs")
    assert "not an absolute path" in refusal("~nobody-of-that-name/jobs")


def test_somebody_elses_dir_is_refused(tmp_path):
    if os.geteuid() == 0:
        os.chown(str(tmp_path), 12345, -1)
        assert "belongs to user 12345" in refusal(tmp_path)
    else:
        assert "belongs to user root" in refusal("/usr")


def test_a_dir_that_users_share_is_refused_and_what_to_set_is_said(tmp_path):
    tmp_path.chmod(0o777)
    said = refusal(tmp_path)
    assert "other users can write to it" in said
    assert "set ansible_async_dir to ~/.ansible_async" in said
    if os.geteuid() == 0:
        os.chown(str(tmp_path), 12345, -1)
        assert "set ansible_async_dir to ~/.ansible_async" in refusal(tmp_path)


def test_a_missing_dir_is_not_made_for_a_look(tmp_path):
    with pytest.raises(FileNotFoundError):
        store.Store.open(str(tmp_path / "none"), create=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("planted", ["file", "symlink"])
def test_a_planted_private_folder_is_refused(tmp_path, planted):
    place = store.Store.open(str(tmp_path), create=True)
    if planted == "file":
        (tmp_path / ".durable").write_text("")
    else:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / ".durable").symlink_to("elsewhere")
    with pytest.raises(JobError, match=rf"/\.durable is a {planted}, not a directory"):
        place.create_job()


def test_jids_are_unique_and_sort_by_launch_time(place):
    jids = [place.create_job().jid for _count in range(50)]
    assert sorted(set(jids)) == jids


def installed(job):
    """Return what lies in a record's place, whatever readers think of it."""
    with open(job.results_file, encoding="utf-8") as source:
        return json.load(source)


def test_the_record_is_replaced_atomically_and_the_final_one_needs_no_new_room(job):
    job.publish({"state": "running"})
    assert installed(job) == {"state": "running"}
    before = os.stat(job.path("record")).st_blocks
    assert before * 512 >= SLOT_BYTES
    job.conclude({"state": "succeeded"})
    assert installed(job) == {"state": "succeeded"}
    job.conclude({"state": "again"})
    assert installed(job) == {"state": "again"}


def test_what_a_writer_of_records_left_when_it_died_is_in_nobodys_way(job):
    job.publish({"state": "queued"})
    os.mkfifo(job.path("next"))
    job.replace({"state": "running"})
    assert installed(job) == {"state": "running"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"\0" * 50, "empty"),
        (b'{"started": tr', "not JSON"),
        (b"\xff\xfe\0", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"durable_jobs": {"version": 99}}', "format"),
        (b'{"durable_jobs": 1}', "format"),
    ],
)
def test_a_damaged_record_is_told_from_a_missing_one(job, content, why):
    with pytest.raises(MissingRecord):
        job.read_record()
    with open(job.results_file, "wb") as record:
        record.write(content)
    with pytest.raises(DamagedRecord, match=why):
        job.read_record()


@pytest.mark.parametrize("kind", ["directory", "fifo", "symlink"])
def test_what_is_no_file_is_no_record_and_nothing_hangs(job, kind):
    {
        "directory": os.mkdir,
        "fifo": os.mkfifo,
        "symlink": lambda path: os.symlink("/etc/passwd", path),
    }[kind](job.results_file)
    with pytest.raises(DamagedRecord):
        job.read_record()


def test_a_slot_counts_only_when_it_is_whole(job):
    assert job.slot("exit") is None
    job.fill("exit", {"status": 0, "epoch": 1.5, "monotonic": 2})
    assert job.slot("exit") == {"status": 0, "epoch": 1.5, "monotonic": 2}
    with open(job.path("exit"), "r+b") as slot:
        slot.write(b'{"status": 25')
    assert job.slot("exit") is None
    assert job.slot("nothing") is None


def test_a_lock_ends_with_its_holder_and_wakes_who_watches(job):
    assert not job.is_held("keeper")
    ready_out, ready_in = os.pipe()
    pid = os.fork()
    if pid == 0:
        job.lock("keeper")
        os.write(ready_in, b"x")
        while True:
            os.read(ready_out, 0)
            os.sched_yield()
    os.read(ready_out, 1)
    assert job.is_held("keeper") and job.lock("keeper") is None
    watch = job.watch("keeper")
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    poll = select.poll()
    poll.register(watch, 0)
    assert poll.poll(10000) == [(watch, select.POLLHUP)]
    os.close(watch)
    assert not job.is_held("keeper")
    lock = job.lock("keeper")
    assert lock is not None
    os.close(lock)


def test_remove_leaves_nothing(job, place):
    job.publish({"state": "running"})
    removing.remove(job)
    removing.remove(job)
    assert os.listdir(place.path) == [".durable"]
    assert os.listdir(place.private_path("jobs")) == []


def fill_up(path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError, match="No space left"):
        while os.write(fd, b"x" * 4096):
            pass
    os.close(fd)


def test_a_full_disk_costs_the_output_not_the_end(tmp_path):
    if os.geteuid() != 0 or subprocess.call(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(tmp_path)],
        stderr=subprocess.DEVNULL,
    ):
        pytest.skip("needs root and the right to mount a tmpfs")
    try:
        place = store.Store.open(str(tmp_path), create=True)
        job = place.create_job()
        job.furnish()
        job.publish({"state": "running", "stdout": ""})
        fill_up(str(tmp_path / "filler"))
        job.fill("exit", {"status": 0, "epoch": 1.5, "monotonic": 2})
        job.conclude({"state": "succeeded", "stdout": "x" * 100_000, "stderr": ""})
        assert installed(job) == {
            "state": "succeeded",
            "stdout": "",
            "stderr": "",
            "truncated": True,
        }
        os.close(job.fd)
        os.close(place.fd)
    finally:
        subprocess.check_call(["umount", "-l", str(tmp_path)])


def test_whose_names_another_users_dir(tmp_path, monkeypatch):
    class Entry:
        pw_name, pw_dir = "somebody", str(tmp_path)

    monkeypatch.setattr(trust.pwd, "getpwall", lambda: [Entry])
    (tmp_path / ".ansible_async").mkdir()
    (tmp_path / ".ansible_async" / "j1.2").write_text(json.dumps({}))
    assert list(trust.whose("/elsewhere", "j1.2")) == [
        f"user somebody in {tmp_path}/.ansible_async"
    ]
    assert not list(trust.whose("/elsewhere", "j9.9"))
