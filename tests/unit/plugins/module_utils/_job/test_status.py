# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    async_jobs,
    host,
    processes,
    record_io,
    removing,
    status,
    store,
)
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._job.record_io import (
    MissingRecord,
    lock_record,
)
from ansible_collections.durable.jobs.tests.unit.support import until


def kill_all(launcher, job):
    """Kill keeper, runner and command, and wait until the kernel has let go of them."""
    os.kill(launcher.keeper(job)[1], signal.SIGSTOP)  # or it would give the job a new keeper
    pids = (*launcher.keeper(job), job.read_record()["durable_jobs"]["command"]["pid"])
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(
        lambda: all(processes.process(pid) is None or processes.process(pid).zombie for pid in pids)
    )


def test_a_running_job(launcher):
    job = launcher.shell("echo so far; sleep 60")
    until(lambda: os.stat(job.path("stdout")).st_size)
    found = status.look(job)
    assert (found["state"], found["finished"], found["rc"], found["failed"], found["changed"]) == (
        "running",
        False,
        None,
        False,
        False,
    )
    assert (
        found["stdout"],
        found["stdout_lines"],
        found["stderr_lines"],
        found["stdout_bytes"],
    ) == ("so far", ["so far"], [], 7)
    assert found["elapsed"] > 0 and found["erased"] is None
    assert "durable_jobs" not in found


@pytest.mark.parametrize(
    ("show", "stdout"), [("full", "x" * 5000 + "\nend"), ("tail", "end"), ("none", "")]
)
def test_how_much_output_is_shown(launcher, show, stdout):
    job = launcher.shell("head -c 5000 /dev/zero | tr '\\0' x; echo; echo end")
    launcher.finished(job)
    found = status.look(job, show=show)
    assert found["stdout"] == stdout and found["stdout_bytes"] == 5005


def test_waiting_ends_with_the_job_and_costs_no_processor_time(launcher):
    job = launcher.shell("sleep 1; echo done")
    before = time.process_time()
    found = status.wait(job, 60)
    assert (found["state"], found["stdout"]) == ("succeeded", "done")
    assert time.process_time() - before < 0.2


def test_waiting_ends_after_its_time(launcher):
    job = launcher.shell("sleep 60")
    assert status.wait(job, 0.3)["state"] == "running"


def test_a_wait_may_be_longer_than_the_kernel_knows(launcher):
    """poll(2) takes no more milliseconds than a month has."""
    job = launcher.gated("exit 3")
    threading.Timer(0.3, launcher.release).start()
    assert status.wait(job, 3653 * 86400.0)["rc"] == 3


def test_a_job_whose_processes_were_all_killed_is_lost_at_the_first_look_and_for_ever(launcher):
    job = launcher.shell("echo before; sleep 60")
    until(lambda: os.stat(job.path("stdout")).st_size)
    kill_all(launcher, job)
    found = status.look(job)
    assert (found["state"], found["reason"], found["rc"], found["finished"], found["failed"]) == (
        "lost",
        "killed",
        None,
        True,
        True,
    )
    assert found["stdout"] == "before" and "lost (killed)" in found["msg"]
    assert job.read_record()["state"] == "lost", "the verdict has been written down"


def test_a_reader_that_writes_a_verdict_down_is_not_taken_for_a_keeper(launcher):
    job = launcher.shell("sleep 60")
    kill_all(launcher, job)
    writing = lock_record(job, wait=False)
    found = status.look(launcher.store.job(job.jid))
    assert (found["state"], found["reason"]) == ("lost", "killed")
    assert not job.read_record()["finished"], "there is one writer at a time"
    os.close(writing)
    assert status.look(job)["state"] == "lost" and job.read_record()["finished"]


def test_the_first_final_record_holds(launcher):
    job = launcher.shell("exit 3")
    final = launcher.finished(job)
    for by_reader in (False, True):
        assert job.conclude(dict(final, state="lost", rc=None), by_reader=by_reader) == final
    assert job.read_record() == final


def test_a_reader_does_not_bring_back_what_has_been_cleaned_up(launcher):
    job = launcher.shell("exit 3")
    final = launcher.finished(job)
    late = launcher.store.job(job.jid)
    assert late.slot("exit")
    removing.remove(job)
    with contextlib.suppress(MissingRecord, FileNotFoundError):
        late.conclude(final, by_reader=True)
    assert not os.path.exists(job.results_file)


def test_waiters_are_woken_by_a_death(launcher):
    job = launcher.shell("sleep 60")
    pid = os.fork()
    if pid == 0:
        time.sleep(0.3)
        kill_all(launcher, job)
        os._exit(0)
    assert status.wait(job, 60)["state"] == "lost"
    os.waitpid(pid, 0)


def test_an_exit_record_decides_when_nobody_wrote_the_final_one(launcher):
    job = launcher.gated("echo late; exit 4")
    keeper, runner = launcher.keeper(job)
    running = job.read_record()
    os.kill(runner, signal.SIGSTOP)
    os.kill(keeper, signal.SIGKILL)
    until(lambda: not job.is_held("keeper"))
    found = status.look(job)
    assert (found["state"], found["reason"], found["rc"]) == ("running", "unsupervised", None)
    launcher.release()
    os.kill(runner, signal.SIGCONT)
    final = status.wait(job, 60)
    assert (final["state"], final["rc"], final["stdout"]) == ("failed", 4, "late")
    until(lambda: not job.is_held("keeper") and not job.is_held("runner"))
    with open(job.results_file, "w", encoding="utf-8") as target:
        json.dump(running, target)
    assert status.look(job, settle=False)["rc"] == 4
    assert job.read_record()["finished"] is False, "a look that must not write has not written"
    assert status.look(job)["rc"] == 4
    assert job.read_record()["rc"] == 4


def test_an_orphaned_command_is_running_until_it_is_gone(launcher):
    job = launcher.shell("exec sleep 60")
    os.kill(launcher.keeper(job)[1], signal.SIGSTOP)
    for pid in launcher.keeper(job):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not job.is_held("keeper") and not job.is_held("runner"))
    assert status.look(job)["reason"] == "unsupervised"
    os.kill(job.read_record()["durable_jobs"]["command"]["pid"], signal.SIGKILL)
    assert status.wait(job, 60)["state"] == "lost"


def test_a_folder_removed_under_a_running_job_costs_no_result(launcher):
    job = launcher.gated("exit 3")
    shutil.rmtree(os.path.dirname(job.path("stdout")))
    found = status.look(launcher.store.job(job.jid))
    assert (found["state"], found["reason"]) == ("running", None), "its keeper is seen to live"
    launcher.release()
    final = launcher.finished(job)
    assert (final["state"], final["rc"], final["stdout"]) == ("failed", 3, "")


def test_after_a_reboot_a_job_is_lost(launcher):
    job = launcher.shell("sleep 60")
    kill_all(launcher, job)
    record = job.read_record()
    record["durable_jobs"]["boot_id"] = "another"
    with open(job.results_file, "w", encoding="utf-8") as target:
        json.dump(record, target)
    found = status.look(job)
    assert (found["state"], found["reason"]) == ("lost", "rebooted")


@pytest.mark.parametrize("cut", [None, -1, 0])
def test_a_final_record_that_was_not_renamed_to_its_place_is_believed_if_it_is_whole(launcher, cut):
    job = launcher.shell("sleep 60")
    kill_all(launcher, job)
    final = dict(job.read_record(), state="failed", rc=3, finished=True, failed=True, stdout="kept")
    text = record_io.sealed(final)
    with open(job.path("record"), "r+b") as room:
        room.write(text[:cut])
        if cut is None:
            room.truncate()
    found = status.look(job)
    if cut is None:
        assert (found["state"], found["rc"], found["stdout"]) == ("failed", 3, "kept")
        assert job.read_record() == json.loads(text), "and now it is in its place"
    else:
        assert (found["state"], found["reason"]) == ("lost", "killed")


@pytest.mark.parametrize("theirs", ["another", ""])
def test_a_job_of_another_machine_is_not_called_lost(launcher, theirs):
    job = launcher.shell("sleep 60")
    kill_all(launcher, job)
    record = job.read_record()
    record["durable_jobs"].update(boot_id="another", machine={"id": theirs, "name": "web1"})
    text = json.dumps(record)
    with open(job.results_file, "w", encoding="utf-8") as target:
        target.write(text)
    if theirs and host.machine()["id"]:
        with pytest.raises(JobError, match=f"{job.jid} was launched on the machine web1"):
            status.look(job)
        with open(job.results_file, encoding="utf-8") as target:
            assert target.read() == text, "nothing is written down"
    else:
        assert status.look(job)["reason"] == "rebooted"


def test_no_log_hides_a_running_jobs_output(launcher):
    job = launcher.shell("echo s3cret; sleep 60", no_log=True)
    until(lambda: os.stat(job.path("stdout")).st_size)
    found = status.look(job)
    assert "s3cret" not in str(found) and "no_log" in found["stdout"] and "no_log" in found["cmd"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_a_damaged_record_is_lost_or_what_the_exit_record_says(launcher, content):
    job = launcher.shell("exit 3")
    launcher.finished(job)
    until(lambda: not job.is_held("keeper") and not job.is_held("runner"))
    with open(job.results_file, "wb") as target:
        target.write(content)
    found = status.look(job)
    assert (found["state"], found["rc"], found["reason"], found["finished"]) == (
        "failed",
        3,
        "record damaged",
        True,
    )
    os.unlink(job.path("exit"))
    found = status.look(job)
    assert (found["state"], found["rc"], found["reason"]) == ("lost", None, "record damaged")
    assert found["failed"] and job.results_file in found["msg"]


# -- jobs that the builtin launched -----------------------------------------------------------------------------------

BUILTIN = {
    "changed": True,
    "rc": 0,
    "cmd": ["true"],
    "stdout": "out",
    "stderr": "",
    "start": "a",
    "end": "b",
    "delta": "c",
}


@pytest.mark.parametrize(
    ("record", "state", "finished", "rc", "failed"),
    [
        ({"started": 1, "finished": 0, "ansible_job_id": "j1.2"}, "running", False, None, False),
        (BUILTIN, "succeeded", True, 0, False),
        (
            {**BUILTIN, "rc": 2, "failed": True, "msg": "non-zero return code"},
            "failed",
            True,
            2,
            True,
        ),
        ({**BUILTIN, "rc": -9, "failed": True}, "failed", True, -9, True),
        (
            {"msg": "Timeout exceeded", "failed": True, "child_pid": 7},
            "timed_out",
            True,
            None,
            True,
        ),
        ({"ping": "pong", "_ansible_parsed": True}, "succeeded", True, None, False),
        # Results of modules that have such keys of their own, as our job_start has.
        ({"ping": "pong", "started": True, "finished": False}, "succeeded", True, None, False),
        ({"ansible_job_id": "j7.8", "started": 1, "finished": 0}, "succeeded", True, None, False),
        ({"started": True, "failed": True, "msg": "no"}, "failed", True, None, True),
    ],
)
def test_a_record_of_the_builtin(tmp_path, record, state, finished, rc, failed):
    job = store.Store.open(str(tmp_path), create=True).job("j1.2")
    with open(job.results_file, "w", encoding="utf-8") as target:
        json.dump(record, target)
    found = status.wait(job, 0)
    assert (found["state"], found["finished"], found["rc"], found["failed"]) == (
        state,
        finished,
        rc,
        failed,
    )
    assert found["started"] is True and found["ansible_job_id"] == "j1.2"
    assert found["stdout_lines"] == record.get("stdout", "").splitlines()
    assert found["signal"] == ("SIGKILL" if rc == -9 else None)
    assert (
        {key: value for key, value in record.items() if not key.startswith("_")}.items()
        - {("started", 1), ("finished", 0), ("ansible_job_id", "j7.8")}
        <= found.items()
        if "cmd" not in record
        else True
    )


FIRST = {"started": 1, "finished": 0, "ansible_job_id": "j1.2"}


def first_record(where, age):
    """Write the first record of a job of the builtin's of which there is no process, so many seconds old."""
    job = where.job("j1.2")
    with open(job.results_file, "w", encoding="utf-8") as target:
        json.dump(FIRST, target)
    moment = time.time() - age
    os.utime(job.results_file, (moment, moment))
    return job


@pytest.mark.parametrize(("years", "reason"), [(0, "killed"), (10, "rebooted")])
def test_a_job_of_the_builtin_without_a_process_is_lost(launcher, years, reason):
    job = first_record(launcher.store, 60 + years * 365 * 86400)
    found = status.wait(job, 0)
    assert (found["state"], found["reason"], found["rc"]) == ("lost", reason, None)
    assert found["finished"] and found["failed"] and "is lost (%s)" % reason in found["msg"]
    with open(job.results_file, encoding="utf-8") as source:
        assert json.load(source) == FIRST, "a look changes no record of others"


WRONG = """{
    "elapsed": "0:00:05", "timeout": "soon", "rc": NaN, "name": 5, "reason": [1],
    "start": 5, "end": {}, "delta": 1.5, "deadline": [], "cmd": {"a": 1}, "changed": "yes",
    "stdout": 5, "stderr": null, "stdout_bytes": -1, "truncated": "no", "survivors": "all",
    "output_error": 7, "progress": "half", "signal": 9, "containment": 1, "user": [],
    "ansible_facts": 5
}"""


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"failed": True},
        {"failed": True, "msg": {"a": 1}, "rc": 10**100},
        {"elapsed": float("inf"), "timeout": 10**400, "rc": True},
        {"elapsed": -1, "start": 10**400, "stdout": ["x"], "stdout_lines": 5},
    ],
)
def test_what_a_record_of_the_builtin_says_wrongly_is_not_believed(tmp_path, more):
    job = store.Store.open(str(tmp_path), create=True).job("j1.2")
    with open(job.results_file, "w", encoding="utf-8") as target:
        json.dump(
            {"started": 1, "finished": 1, "theirs": 1e999, **json.loads(WRONG), **more}, target
        )
    found = status.look(job)
    nothing = "elapsed timeout rc name reason start end delta deadline cmd signal progress theirs"
    assert {key: found[key] for key in nothing.split()} == dict.fromkeys(nothing.split())
    assert (found["stdout"], found["stderr"], found["stdout_lines"]) == ("", "", [])
    assert found["changed"] is False and found["truncated"] is False
    assert "survivors" not in found and found["output_error"] is None
    assert "ansible_facts" not in found
    assert not found["failed"] or (isinstance(found["msg"], str) and found["msg"])
    json.dumps(found, allow_nan=False)


def test_a_first_record_of_the_builtin_is_believed_for_a_while(launcher):
    job = first_record(launcher.store, -1000)  # the clock was set back
    assert status.look(job)["state"] == "lost"
    assert status.look(first_record(launcher.store, 0))["state"] == "running"
    found = status.wait(job, 30)
    assert (found["state"], found["reason"]) == ("lost", "killed")


@pytest.mark.parametrize(
    "unsure",
    [
        {"LOCAL": frozenset()},  # another machine may have the file system, too
        {"_mount": lambda fd: ("", "")},
    ],
    ids=["shared", "unknown"],
)
def test_a_job_of_the_builtin_that_may_run_elsewhere_is_not_lost(launcher, monkeypatch, unsure):
    job = first_record(launcher.store, 60)
    for name, value in unsure.items():
        monkeypatch.setattr(async_jobs, name, value)
    assert status.look(job)["state"] == "running"


def test_where_a_file_system_is_mounted(tmp_path):
    if os.geteuid() != 0 or subprocess.call(["mount", "-t", "tmpfs", "none", str(tmp_path)]):
        pytest.skip("needs root and the right to mount a tmpfs")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert async_jobs._mount(fd) == (str(tmp_path), "tmpfs")
    finally:
        os.close(fd)
        subprocess.check_call(["umount", "-l", str(tmp_path)])
    assert async_jobs._mount(fd) == ("", "")


def test_a_missing_job(tmp_path):
    with pytest.raises(MissingRecord):
        status.look(store.Store.open(str(tmp_path), create=True).job("j1.2"))
