# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records and slots are damaged: something else lies in their place."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import sys

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    processes,
    removing,
    schema,
    staging,
    status,
    stopping,
    store,
)
from ansible_collections.durable.jobs.plugins.module_utils._job.names import latest_job
from ansible_collections.durable.jobs.plugins.module_utils._job.record_io import SLOT_BYTES
from ansible_collections.durable.jobs.tests.faults import modules
from ansible_collections.durable.jobs.tests.unit.support import request, until

NOBODY = 65534


def put(path, content):
    with open(path, "wb") as target:
        target.write(content)


def ended(launcher, line="echo out; exit 3", **changes):
    """Return a job of a name that has ended and has no process any more."""
    asked = request("/bin/sh", "-c", line, name="work", spec={"cmd": line}, **changes)
    (answer,) = launcher.raw(asked)
    assert "record" in answer, answer
    job = launcher.jobs[-1]
    launcher.finished(job)
    until(lambda: not job.is_held("keeper") and not job.is_held("runner"))
    return job


def nothing_left(job):
    """Tell whether neither record nor folder of a job is there."""
    return not os.path.lexists(job.results_file) and not os.path.exists(
        os.path.dirname(job.path("exit"))
    )


def check(launcher, damage, why, record_property):
    """Do the damage to a job that has ended, and see every way in which a user meets it."""
    job = ended(launcher)
    damage(job.results_file)
    record_property("builtin", modules.async_status(job))
    found = modules.job_status(job)
    assert (found["state"], found["rc"], found["reason"]) == ("failed", 3, "record damaged")
    assert found["finished"] and found["failed"] and why in found["msg"]
    assert job.results_file in found["msg"]
    assert stopping.stop(job, number=15, grace=1, reason="test")["state"] == "failed"

    put(job.path("exit"), bytes(SLOT_BYTES))
    found = modules.job_status(job, wait=30)
    assert (found["state"], found["rc"], found["reason"]) == ("lost", None, "record damaged")
    assert found["finished"] and found["failed"] and why in found["msg"]

    other = ended(launcher)  # under the same name: a damaged record does not block it
    assert modules.job_status(job, mode="cleanup")["erased"] == job.results_file
    assert nothing_left(job)
    assert latest_job(launcher.store, "work").jid == other.jid


def changed(path, **changes):
    with open(path, encoding="utf-8") as source:
        record = json.load(source)
    private = changes.pop("private", {})
    record.update(changes)
    record["durable_jobs"].update(private)
    put(path, json.dumps(record).encode())


@pytest.mark.parametrize("size", [0, 4096])
def test_an_empty_record(launcher, record_property, size):
    """the record is empty, or nothing but zeros | rc from the exit record, else lost"""
    check(launcher, lambda path: put(path, bytes(size)), "it is empty", record_property)


def test_a_record_that_is_cut_off(launcher, record_property):
    """the record is cut off in the middle | rc from the exit record, else lost"""
    check(
        launcher,
        lambda path: os.truncate(path, os.path.getsize(path) // 2),
        "it is not JSON",
        record_property,
    )


def test_a_binary_record(launcher, record_property):
    """the record is binary data | rc from the exit record, else lost"""
    check(launcher, lambda path: put(path, os.urandom(3000)), "it is not JSON", record_property)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"finished": "x"}, "impossible finished"),
        ({"rc": "3"}, "impossible rc"),
        ({"finished": False}, "both failed and unfinished"),
        ({"state": "succeeded"}, "both succeeded and rc 3"),
        ({"private": {"command": 5}}, "impossible command"),
        ({"private": {"epoch": float("nan")}}, "impossible epoch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_record_of_wrong_types(launcher, record_property, changes, why):
    """
    a value in the record has the wrong type, or contradicts another
    | rc from the exit record, else lost
    """
    check(launcher, lambda path: changed(path, **changes), why, record_property)


def test_a_record_of_the_future(launcher, record_property):
    """the record is of a later version | the versions are named; rc from the exit record, else lost"""
    check(
        launcher,
        lambda path: changed(path, private={"version": 2}),
        "its format is version 2, and this version of durable.jobs knows 1",
        record_property,
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[" * 100_000, "it is not JSON"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "nested too deeply"),
        (b'{"rc": ' + b"9" * 10_000 + b"}", "it is not JSON"),
        (b"[1]", "it is not a JSON object"),
    ],
    ids=["brackets", "deep", "digits", "list"],
)
def test_json_that_breaks_readers(launcher, record_property, content, why):
    """
    the record is nested a hundred thousand deep, or one huge number
    | rc from the exit record, else lost
    """
    check(launcher, lambda path: put(path, content), why, record_property)


def bare(path):
    """Take the part from a record of ours that shows that it is ours."""
    with open(path, encoding="utf-8") as source:
        record = json.load(source)
    del record["durable_jobs"]
    put(path, json.dumps(record).encode())


def written(record):
    """Return what replaces a record by another object."""
    return lambda path: put(path, json.dumps(record).encode())


# Each could be the record of a job of async, but for our folder, which lies beside it.
UNMARKED = {
    "nothing": written({}),
    "started": written({"started": 1}),
    "finished": written({"finished": 1, "rc": 0}),
    "running": lambda path: written(
        {"started": 1, "finished": 0, "ansible_job_id": os.path.basename(path)}
    )(path),
    "result": written({"changed": True, "rc": 0, "stdout": "fine", "cmd": ["true"]}),
    "ours": bare,
}
LACKS = "it lacks what durable.jobs has written into it"


@pytest.mark.parametrize("damage", UNMARKED.values(), ids=UNMARKED)
def test_an_object_that_could_be_a_record_of_async(launcher, record_property, damage):
    """
    another object lies in the record's place, one as `async` could have written it
    | rc from the exit record, else lost
    """
    check(launcher, damage, LACKS, record_property)


def test_null_is_no_record(launcher, record_property):
    """the word null lies in the record's place | rc from the exit record, else lost"""
    check(launcher, written(None), "it is not a JSON object", record_property)


@pytest.mark.parametrize("damage", UNMARKED.values(), ids=UNMARKED)
def test_every_module_knows_whose_job_it_is(launcher, damage):
    """
    the same, and the job is awaited, listed, stopped, read, launched again by its name, and pruned
    | each takes it for a job of ours that has failed
    """
    job = ended(launcher)
    damage(job.results_file)
    where = {"async_dir": job.store.path}

    def run(module, **arguments):
        return modules.run(modules.OURS + module, {**where, **arguments})

    by_name = {"jobs": ["work"]}
    for found in (
        run("job_wait", **by_name)["jobs"][0],
        run("job_stop", **by_name)["jobs"][0],
        run("job_info")["jobs"][0],
        run("job_status", name="work"),
    ):
        assert (found["state"], found["rc"], found["reason"]) == ("failed", 3, "record damaged")
    found = run("job_output", name="work", stream="stdout")
    assert found["content"] != "fine" and found["eof"], found
    kept = run("job_start", cmd="true", name="work", rerun="on_failure")
    assert kept["changed"] and kept["ansible_job_id"] != job.jid, "it has failed, so it runs again"
    found = run("job_prune", states=["failed"])
    assert [one["ansible_job_id"] for one in found["pruned"]] == [job.jid]
    assert nothing_left(job)


def test_an_object_without_the_folder(launcher):
    """the record is replaced by an empty object, and the job's folder removed | lost: its jid is one of ours"""
    job = ended(launcher)
    put(job.results_file, b"{}")
    shutil.rmtree(os.path.dirname(job.path("exit")))
    found = modules.job_status(job)
    assert (found["state"], found["reason"], found["changed"]) == ("lost", "record damaged", False)
    assert modules.job_status(job, mode="cleanup")["erased"] == job.results_file


@pytest.mark.parametrize("damage", UNMARKED.values(), ids=UNMARKED)
def test_an_object_in_the_place_of_a_queued_job(launcher, damage):
    """the record of a queued job is replaced by such an object | queued, and it runs when its turn comes"""
    gate = os.path.join(launcher.store.path, "go")
    waits = request("/bin/sh", "-c", f"until [ -e {gate} ]; do sleep 0.02; done")
    launcher.raw(waits, request("/bin/sh", "-c", "exit 4"), slots=1)
    first, queued = launcher.jobs[-2:]
    damage(queued.results_file)
    assert modules.job_status(queued)["state"] == "queued"
    launcher.release()
    assert status.wait(first, 30)["state"] == "succeeded"
    found = status.wait(queued, 30)
    assert (found["state"], found["rc"]) == ("failed", 4), found


def instead(make):
    def damage(path):
        os.unlink(path)
        make(path)

    return damage


def test_a_directory(launcher, record_property):
    """a directory lies in the record's place | rc from the exit record, else lost"""
    check(launcher, instead(os.mkdir), "it is a directory", record_property)


def test_a_directory_that_is_not_empty_is_not_removed(launcher):
    """a directory with files in the record's place is to be cleaned up | refused, it says what to do"""
    job = ended(launcher)
    os.unlink(job.results_file)
    os.mkdir(job.results_file)
    put(os.path.join(job.results_file, "precious"), b"1")
    found = modules.job_status(job, mode="cleanup")
    assert found["failed"] and "cannot be removed: Directory not empty" in found["msg"]
    assert os.listdir(job.results_file) == ["precious"]


def test_a_fifo(launcher, record_property):
    """a FIFO lies in the record's place | nothing hangs: rc from the exit record, else lost"""
    check(launcher, instead(os.mkfifo), "it is a FIFO", record_property)


def listen(path):
    with socket.socket(socket.AF_UNIX) as made:
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        made.bind(f"/proc/self/fd/{folder}/{os.path.basename(path)}")  # a short enough address
        os.close(folder)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (listen, "it is a socket"),
        (lambda path: os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5)), "a device"),
        (lambda path: os.symlink("/dev/zero", path), "it is a symlink"),
    ],
    ids=["socket", "/dev/zero", "symlink"],
)
def test_a_special_file(launcher, record_property, make, why):
    """a socket, a device or a symlink lies in the record's place | rc from the exit record, else lost"""
    if os.geteuid() != 0 and "device" in why:
        pytest.skip("only root can make a device")
    check(launcher, instead(make), why, record_property)


def test_the_record_of_another_job(launcher, record_property):
    """another job's record lies in the record's place, as a hard link | rc from the exit record, else lost"""
    other = ended(launcher, "exit 0")
    check(
        launcher,
        instead(lambda path: os.link(other.results_file, path)),
        f"it is the record of job '{other.jid}'",
        record_property,
    )
    assert status.look(other)["state"] == "succeeded"


def test_a_gigabyte(launcher, record_property):
    """
    a sparse file of 1 GiB lies in the record's place
    | it is not read: rc from the exit record, else lost
    """
    check(launcher, lambda path: os.truncate(path, 1 << 30), "it is too large", record_property)


def test_a_record_that_may_not_be_read(tmp_path):
    """the record's mode is 000, and the user is not root | rc from the exit record, else lost"""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    tmp_path.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    told_out, told_in = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(home)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(told_in, json.dumps(_looks_as_nobody()).encode())
        finally:
            os._exit(0)
    os.close(told_in)
    with open(told_out, "rb") as told:
        found, removed = json.loads(told.read())
    os.waitpid(pid, 0)
    assert (found["state"], found["rc"], found["reason"]) == ("failed", 3, "record damaged")
    assert "it cannot be read: Permission denied" in found["msg"] and removed


def _looks_as_nobody():
    # Not below tmp_path, whose folders are root's alone: relative to a folder that is open.
    place = store.Store("/unused", os.open(".", os.O_RDONLY | os.O_DIRECTORY))
    job = place.job("j1.2")
    os.close(place.private("jobs", job.jid))
    job.furnish()
    job.fill("exit", {"status": 3 << 8, "epoch": 1.0, "monotonic": 1.0})
    os.close(os.open(job.jid, os.O_CREAT | os.O_WRONLY, 0))
    found = status.look(job)
    removing.remove(job)
    return found, not os.path.lexists(job.jid)


@pytest.mark.parametrize(
    "content",
    [b'{"status": "x"}\n', b'{"status": 0, "epoch": "", "monotonic": null}\n', b"\xff" * 100],
    ids=["types", "null", "binary"],
)
def test_a_damaged_exit_record(launcher, content):
    """the record is emptied and the exit record damaged | lost, record damaged; never rc 0"""
    job = ended(launcher)
    put(job.results_file, b"")
    put(job.path("exit"), content)
    found = modules.job_status(job)
    assert (found["state"], found["rc"], found["reason"]) == ("lost", None, "record damaged")


# -- while it runs ----------------------------------------------------------------------------------------------------

LIVE = {
    "empty": lambda path: put(path, b""),
    "directory": instead(os.mkdir),
    "fifo": instead(os.mkfifo),
    "future": lambda path: changed(path, private={"version": 2}),
    "object": written({}),
    "result": written({"changed": True, "rc": 0}),
    "without our part": bare,
}


@pytest.mark.parametrize("damage", LIVE.values(), ids=LIVE)
def test_damage_while_the_job_runs(launcher, damage):
    """
    the record is damaged while the job runs
    | the copy tells all; at its end the job is reported in full
    """
    job = launcher.gated("echo out; exit 3")
    before = job.read_record()
    damage(job.results_file)
    found = modules.job_status(job)
    assert (found["state"], found["reason"], found["cmd"]) == ("running", None, before["cmd"])
    refused = modules.job_status(job, mode="cleanup")
    assert refused["failed"] and "it is running" in refused["msg"]
    launcher.release()
    until(lambda: not job.is_held("keeper"))
    found = modules.job_status(job)
    assert (found["state"], found["rc"], found["stdout"]) == ("failed", 3, "out")
    assert modules.job_status(job, mode="cleanup")["changed"] and nothing_left(job)


@pytest.mark.parametrize("damage", LIVE.values(), ids=LIVE)
def test_damage_and_the_death_of_the_keeper(launcher, damage):
    """the record is damaged and the keeper killed | a new keeper works from the copy, the deadline holds"""
    job = launcher.shell("setsid sleep 61 & sleep 62", timeout=3)
    damage(job.results_file)
    keeper, _runner = job_pids(job)
    os.kill(keeper, signal.SIGKILL)
    found = status.wait(job, 30)
    assert (found["state"], found["rc"]) == ("timed_out", -15)
    assert launcher.processes(job) == []


@pytest.mark.parametrize("damage", LIVE.values(), ids=LIVE)
def test_damage_and_the_death_of_all(launcher, damage):
    """the record is damaged and every process of the job killed | lost, record damaged, at the first look"""
    job = launcher.ready("echo out; exec sleep 60")
    command = job.read_record()["durable_jobs"]["command"]["pid"]
    damage(job.results_file)
    keeper, runner = job_pids(job)
    os.kill(runner, signal.SIGSTOP)  # or it would give the job a new keeper
    for pid in (keeper, runner, command):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not processes.process(command) or processes.process(command).zombie)
    until(lambda: not job.is_held("keeper") and not job.is_held("runner"))
    found = modules.job_status(job)
    assert (found["state"], found["reason"], found["rc"]) == ("lost", "record damaged", None)
    assert found["stdout"] == "out" and job.results_file in found["msg"]
    again = modules.job_status(job)
    assert (again["state"], again["reason"]) == ("lost", "record damaged")


def job_pids(job):
    private = job.read_record()["durable_jobs"]
    return private["keeper"], private["runner"]


@pytest.mark.parametrize("end", ["itself", "stop"])
def test_damage_of_record_and_copy_while_the_job_runs(launcher, end):
    """
    record and copy are damaged while the job runs
    | its held lock tells that it runs; its end mends the record
    """
    job = launcher.gated("echo out; exit 3")
    for path in (job.results_file, job.path("record")):
        put(path, b"")
    found = modules.job_status(job)
    assert (found["state"], found["reason"]) == ("running", "record damaged")
    assert "is damaged: it is empty" in found["msg"]
    if end == "stop":
        found = stopping.stop(job, number=15, grace=1, reason="test")
        assert (found["state"], found["rc"]) == ("stopped", -15)
    else:
        launcher.release()
        found = modules.job_status(job, wait=30)
        assert (found["state"], found["rc"], found["stdout"]) == ("failed", 3, "out")
    assert job.read_record()["finished"]


def test_damage_of_record_and_copy_and_the_death_of_the_keeper(launcher):
    """
    record and copy are damaged and the keeper killed
    | running, unsupervised; its rc at the end, and no log that grows
    """
    job = launcher.gated("exit 3")
    keeper, _runner = job_pids(job)
    for path in (job.results_file, job.path("record")):
        put(path, b"")
    os.kill(keeper, signal.SIGKILL)
    until(lambda: not job.is_held("keeper"))
    found = modules.job_status(job, wait=1.5)  # long enough for several attempts at adoption
    assert (found["state"], found["reason"]) == ("running", "unsupervised")
    assert "is damaged: it is empty" in found["msg"]
    assert not os.path.exists(job.path("keeper.log"))
    launcher.release()
    found = modules.job_status(job, wait=30)
    assert (found["state"], found["rc"], found["reason"]) == ("failed", 3, "record damaged")


def test_the_folder_of_a_damaged_record_is_gone_too(launcher):
    """record damaged and the job's folder removed | lost, record damaged; it can be cleaned up"""
    job = ended(launcher)
    put(job.results_file, b"{")
    shutil.rmtree(os.path.dirname(job.path("exit")))
    found = modules.job_status(job)
    assert (found["state"], found["reason"], found["finished"]) == ("lost", "record damaged", True)
    assert modules.job_status(job, mode="cleanup")["changed"]
    assert not os.path.lexists(job.results_file)


# -- what is written must be readable ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("timeout", 300000000000), ("timeout", 1e300), ("grace", 1e12), ("output_limit", 10**20)),
        *(("nice", 10**20 - 1), ("umask", 10**20), ("stop_signal", "9" * 20), ("retention", "11y")),
    ],
)
def test_a_number_that_nothing_can_hold(launcher, name, value):
    """a launch asks for a number that no record, kernel or clock can hold | refused by name, and nothing is left"""
    asked = {"cmd": "sleep 60", "name": "work", "async_dir": launcher.store.path, name: value}
    found = modules.run(modules.OURS + "job_start", asked)
    assert found["failed"] and name in found["msg"] and "such as" in found["msg"], found["msg"]
    assert latest_job(launcher.store, "work") is None and launcher.store.jids() == []


def test_a_result_that_no_record_can_hold(launcher):
    """a module's result is larger than a record may be | succeeded; looks show it whole, the record says where it is"""
    source = (
        "import json, sys",
        "sys.stdout.reconfigure(encoding='utf-8')",
        "print(json.dumps({'changed': True, 'facts': chr(233) * 6000000}, ensure_ascii=False))",
    )
    content, shebang = "\n".join(source).encode(), "#!" + sys.executable
    payload = staging.Payload("acme.thing", name="thing.py", content=content, shebang=shebang)
    staged = staging.stage(launcher.store, payload)
    (answer,) = launcher.raw(request(*staged.argv, **staged.keys))
    staged.settle(answer)
    job = launcher.jobs[-1]
    found = modules.job_status(job, wait=60)
    assert (found["state"], found["rc"], found["changed"]) == ("succeeded", 0, True)
    assert found["facts"] == found["module_result"]["facts"] == chr(233) * 6000000
    assert job.path("stdout") in job.read_record()["msg"]
    assert modules.job_status(job, mode="cleanup")["changed"] and nothing_left(job)


# -- the builtin's ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        {"finished": "x", "started": []},
        {"failed": True, "self": 1, "module": 2, "path": "/etc", "state": "directory"},
        {"failed": {"a": 1}, "msg": ["a"], "exception": [1], "rc": [[]]},
        {"warnings": {"a": 1}, "deprecations": [1, {"msg": None}], "invocation": 3},
        {"warnings": [1, "a", None], "deprecations": "x", "diff": 7},
        {"stdout": {"a": float("nan")}, "stderr": "\ud800", "ansible_job_id": None},
        {"path": ["a\0b"], "changed": "x", "erased": 1, "skipped": [], "reason": {}},
    ],
)
def test_the_result_of_any_module(launcher, record, record_property):
    """the builtin's record holds values that no module should return | they are passed on, no traceback"""
    job = launcher.store.job("j1.2")
    put(job.results_file, json.dumps(record).encode())
    record_property("builtin", modules.async_status(job))
    found = modules.job_status(job)
    unfinished = "started" in record and not record.get("finished")
    assert found["finished"] != unfinished and found["state"] in schema.STATES
    assert found["failed"] == bool(record.get("failed"))
    assert modules.job_status(job, mode="cleanup")["changed"]
