# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that /proc does not show, or cannot show.

Each scenario runs this file in namespaces of its own (:func:`main`): no mount of this machine is changed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    processes,
    status,
    stopping,
    store,
)
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.tests.faults import modules
from ansible_collections.durable.jobs.tests.faults.surroundings import (
    STRANGER,
    as_user,
    module_argv,
    module_input,
    needs_root,
)
from ansible_collections.durable.jobs.tests.unit.support import Launcher, install, until

PATIENCE = 120  # seconds for a scenario
SYSTEM_PYTHON = "/usr/bin/python3"  # one that every user can run
# A process that is root's alone, as that of sudo is: its real user id is 0 too. Words in front say what it does first.
BECOME_ROOT = """
import os, sys
os.setgid(0), os.setuid(0)
if "setsid" in sys.argv:
    os.setsid()
print(os.getpid(), flush=True)
os.execv("/bin/sleep", ["sleep", "1000"])
"""
UNDUMPABLE = """
import ctypes, os, signal, sys, time
ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(1000)
"""
UNSEEN = "/proc hides the processes of other users here"


# -- inside: as an ordinary user --------------------------------------------------------------------------------------


class Inside:
    """Launches jobs in a folder of its own that use a setuid program.

    :param folder: with that program, ``setuid``.
    """

    def __init__(self, folder: str) -> None:
        self.program = [os.path.join(folder, "setuid"), "-I", "-S", "-c", BECOME_ROOT]
        sys.executable = SYSTEM_PYTHON
        where = store.Store.open(os.path.join(folder, "async"), create=True)
        self.launch = Launcher.__new__(Launcher)
        self.launch.store, self.launch.jobs = where, []
        self.launch.program = install(os.path.join(folder, "engine"))
        self.pid = 0

    def job(self, *argv, **changes):
        """Launch a command that prints the pid of the process that this is about."""
        made = self.launch(*argv, **dict({"grace": 0.2}, **changes))
        output = Path(made.path("stdout"))
        self.pid = int(until(lambda: output.read_text(encoding="ascii").strip(), "the pid"))
        return made

    def with_helper(self, *words, **changes):
        line = '"$@" & exec sleep 61'
        return self.job("/bin/sh", "-c", line, "sh", *self.program, *words, **changes)

    def orphan(self, job):
        """Kill keeper and runner at the same time."""
        keeper, runner = self.launch.keeper(job)
        os.kill(runner, signal.SIGSTOP)  # or it would give the job a new keeper first
        for pid in (keeper, runner):
            os.kill(pid, signal.SIGKILL)
        until(lambda: not job.is_held("keeper") and not job.is_held("runner"))

    def told(self, found):
        """Return what a scenario has to tell."""
        survivors = {one["pid"]: one["name"] for one in found.get("survivors") or []}
        return {**found, "survivors": survivors.get(self.pid), "number": len(survivors)}


def at_the_deadline(inside, *words):
    job = inside.with_helper(*words, timeout=1)
    return inside.told(status.wait(job, 60))


def in_its_own_session(inside):
    return at_the_deadline(inside, "setsid")


def stopped_twice(inside):
    job = inside.with_helper()
    asked = {"async_dir": job.store.path, "jobs": [job.jid], "grace": 0}
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}  # of the interpreter that every user can run
    results = [
        modules.run(modules.OURS + "job_stop", asked, environment=paths) for _number in range(2)
    ]
    return {**inside.told(results[1]["jobs"][0]), "failed": [one["failed"] for one in results]}


def stopped_without_a_keeper(inside):
    job = inside.with_helper()
    inside.orphan(job)
    try:
        stopping.stop(job, number=15, grace=0.2, reason="test")
    except JobError:
        pass
    return inside.told(status.look(job))


def adopted(inside):
    job = inside.with_helper(timeout=3)
    inside.orphan(job)
    inside.launch.raw(adopt=[job.jid])
    return inside.told(status.wait(job, 60))


def command_without_a_keeper(inside):
    job = inside.job(*inside.program)
    inside.orphan(job)
    return inside.told(status.look(job))


def undumpable(inside):
    line = '"$@" & exec sleep 61'
    program = (SYSTEM_PYTHON, "-I", "-c", UNDUMPABLE)
    job = inside.job("/bin/sh", "-c", line, "sh", *program, timeout=1)
    return inside.told(status.wait(job, 60))


def main(name, folder):
    """Run a scenario and print what it has to tell, and whether its process is alive; then end that."""

    def scenario():
        inside = Inside(folder)
        return [globals()[name](inside), inside.pid]

    told, pid = as_user(STRANGER, scenario)
    try:
        os.kill(pid, signal.SIGKILL)
        told["alive"] = True
    except ProcessLookupError:
        told["alive"] = False
    print(json.dumps(told))


# -- outside ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ground():
    """A folder of an ordinary user, with a program that only this user can run, as root."""
    needs_root()
    if not shutil.which("unshare") or not os.path.exists(SYSTEM_PYTHON):
        pytest.skip("unshare, or a Python of the system, is missing")
    with tempfile.TemporaryDirectory(prefix="durable_hidden.") as path:
        os.chown(path, STRANGER, STRANGER)
        program = os.path.join(path, "setuid")
        shutil.copy(os.path.realpath(SYSTEM_PYTHON), program)
        os.chown(program, 0, STRANGER)
        os.chmod(program, 0o4750)
        yield path


def run_inside(name, ground, option):
    """Run a scenario where /proc is mounted with an option, and return what it tells."""
    line = f'mount -t proc -o {option} proc /proc && exec "$@"'
    program = "import sys; from ansible_collections.durable.jobs.tests.faults import "
    program += f"{Path(__file__).stem} as inside; inside.main(*sys.argv[1:])"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", line, "sh", sys.executable, "-c", program, name, ground],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


HIDING = ("hidepid=1", "hidepid=2", "hidepid=ptraceable")
OPTIONS = ("hidepid=0", *HIDING)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("scenario", [at_the_deadline, in_its_own_session])
def test_a_process_of_root_at_the_deadline(ground, option, scenario):
    """
    a job of an ordinary user has a process of root, which /proc hides (hidepid), and reaches its deadline
    | timed_out; the process is named as a survivor, all others are gone
    """
    found = run_inside(scenario.__name__, ground, option)
    assert found["state"] == "timed_out" and found["alive"]
    assert found["survivors"] == ("sleep" if option == "hidepid=0" else "hidden process")
    assert found["number"] == 1 and "still alive: " in found["msg"]


@pytest.mark.parametrize("option", OPTIONS)
def test_a_process_of_root_when_the_job_is_stopped_twice(ground, option):
    """the same job is stopped, and stopped again | both times the stop fails and names the process"""
    found = run_inside("stopped_twice", ground, option)
    assert found["alive"] and found["failed"] == [True, True], found
    assert found["survivors"] == ("sleep" if option == "hidepid=0" else "hidden process")


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("scenario", [stopped_without_a_keeper, adopted])
def test_a_process_of_root_without_a_keeper(ground, option, scenario):
    """
    the same, and keeper and runner have been killed before the end
    | the process is named, or the message says that /proc may hide one
    """
    found = run_inside(scenario.__name__, ground, option)
    assert found["alive"] and found["state"] in ("stopped", "timed_out")
    assert found["survivors"] or (option != "hidepid=0" and UNSEEN in found["msg"]), found["msg"]


@pytest.mark.parametrize("option", OPTIONS)
def test_a_command_of_root_without_a_keeper(ground, option):
    """the command itself is root's, and keeper and runner have been killed | running, unsupervised"""
    found = run_inside("command_without_a_keeper", ground, option)
    assert (found["state"], found["reason"], found["alive"]) == ("running", "unsupervised", True)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_process_that_cannot_be_dumped(ground, option):
    """
    a process of the job is undumpable (PR_SET_DUMPABLE), so /proc hides it from its own user, and ignores SIGTERM
    | it is killed with the others at the deadline
    """
    found = run_inside("undumpable", ground, option)
    assert (found["state"], found["alive"], found["number"]) == ("timed_out", False, 0), found


# -- a /proc that is not ours -----------------------------------------------------------------------------------------

NOT_MOUNTED = "/proc is not mounted here"
FOREIGN = "/proc shows the processes of another pid namespace"
WAYS = {
    # In a mount namespace of its own, whose changes nobody else sees.
    "not mounted": (
        ["unshare", "--mount", "sh", "-c", 'umount -l /proc; exec "$@"', "sh"],
        NOT_MOUNTED,
    ),
    "of another namespace": (["unshare", "--pid", "--fork", "--kill-child"], FOREIGN),
}


@pytest.fixture(params=list(WAYS.values()), ids=list(WAYS))
def elsewhere(request):
    """Run a module where /proc is of no use; with what it has to say about that."""
    needs_root()
    prefix, why = request.param
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no namespaces")

    def run(module, **arguments):
        done = subprocess.run(
            [*prefix, *module_argv(module)],
            input=module_input(**arguments),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.stdout.strip().startswith("{"), done.stdout + done.stderr
        return json.loads(done.stdout)

    run.why = why
    return run


@pytest.mark.parametrize("check", [False, True])
def test_a_launch_where_proc_is_of_no_use(elsewhere, tmp_path, check):
    """
    a job is launched where /proc is not mounted, or is that of another pid namespace
    | the launch is refused and says what to mount; nothing is left
    """
    path = tmp_path / "async"
    found = elsewhere("job_start", shell="sleep 61", async_dir=str(path), check=check)
    assert found["failed"] and elsewhere.why in found["msg"] and "mount -t proc" in found["msg"]
    assert not path.exists()


def test_a_look_where_proc_is_of_no_use(elsewhere, launcher):
    """
    a job that has lost keeper and runner is looked at, awaited, listed, read, stopped and pruned from there
    | each says what to mount, and none says that it is gone; it runs on
    """
    job = launcher.ready("echo ready; exec sleep 61")
    command = job.read_record()["durable_jobs"]["command"]
    for pid in reversed(launcher.keeper(job)):
        os.kill(pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
    until(lambda: not job.is_held("keeper") and not job.is_held("runner"))
    where = {"async_dir": job.store.path}
    for module, arguments in (
        ("job_status", {"jid": job.jid}),
        ("job_wait", {"jobs": [job.jid], "timeout": 1}),
        ("job_output", {"jid": job.jid}),
        ("job_stop", {"jobs": [job.jid]}),
        ("job_info", {}),
        ("job_prune", {}),
    ):
        found = elsewhere(module, **where, **arguments)
        if module == "job_prune" and elsewhere.why == FOREIGN:
            assert found["pruned"] == []
        else:
            assert elsewhere.why in json.dumps(found), (module, found)
    assert processes.is_alive(command["pid"], command["started"])
    assert status.look(job)["state"] == "running"


def test_a_look_that_needs_no_processes(launcher):
    """a job with a keeper is looked at from another pid namespace | running, as its held lock tells"""
    needs_root()
    job = launcher.ready("echo ready; exec sleep 61")
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", *module_argv("job_status")],
        input=module_input(jid=job.jid, async_dir=job.store.path),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert json.loads(done.stdout)["state"] == "running", done.stdout


def test_a_look_from_another_namespace_with_a_proc_of_its_own(launcher):
    """
    a job that has lost keeper and runner is looked at from another pid namespace that has a /proc of its own
    | the look fails and says so, nothing is written down; it runs on
    """
    needs_root()
    job = launcher.ready("echo ready; exec sleep 61")
    for pid in reversed(launcher.keeper(job)):
        os.kill(pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
    until(lambda: not job.is_held("keeper") and not job.is_held("runner"))
    for module, asked in (("job_status", {"jid": job.jid}), ("job_stop", {"jobs": [job.jid]})):
        done = subprocess.run(
            [
                *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *module_argv(module),
            ],
            input=module_input(async_dir=job.store.path, **asked),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        found = json.loads(done.stdout)
        assert found["failed"] and "was launched outside of this pid namespace" in found["msg"]
    assert status.look(job)["state"] == "running"
