# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection is lost while somebody waits for jobs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils import _job
from ansible_collections.durable.jobs.plugins.module_utils._job import processes
from ansible_collections.durable.jobs.tests.bench import sshd
from ansible_collections.durable.jobs.tests.faults import machine as machines
from ansible_collections.durable.jobs.tests.faults.hosts import reached
from ansible_collections.durable.jobs.tests.unit.support import until

ROOT = Path(_job.__file__).parents[3]
LOST = "cannot be reached"
LIMIT = 20  # seconds of a wait, enough for it to begin


class Server:
    """The sshd of a host, which can be stopped and started again on its port.

    :param prefix: what to put before the command that starts it, for example to enter a namespace.
    """

    def __init__(self, folder, variables):
        self.folder = folder
        self.variables = variables
        self.prefix = []
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        self._command = [shutil.which("sshd", path=path), "-D", "-f", f"{folder}/sshd_config"]
        self._process = None
        (self.pid,) = (
            one.pid
            for one in _descendants(os.getpid())
            if one.name == "sshd" and str(folder).encode() in _cmdline(one.pid)
        )

    def stop(self):
        """End it and all its connections."""
        for one in [processes.all_processes()[self.pid], *self.sessions()]:
            processes.send(one, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def start(self):
        """Start it again; returns when it lets people in."""
        self._process = subprocess.Popen([*self.prefix, *self._command], stderr=subprocess.DEVNULL)
        self.pid = self._process.pid
        host = self.variables
        sshd._wait_for(
            [
                *("ssh", *host["ansible_ssh_common_args"].split(), "-p", str(host["ansible_port"])),
                *("-i", host["ansible_ssh_private_key_file"]),
                *(f"{host['ansible_user']}@127.0.0.1", "true"),
            ]
        )

    def close(self):
        """End what was started again."""
        if self._process is not None and self._process.poll() is None:
            self.stop()

    def sessions(self):
        """Return its processes that serve a connection."""
        return [one for one in _descendants(self.pid) if one.name.startswith("sshd")]

    def modules(self):
        """Return the processes of modules that run through it."""
        return [one for one in _descendants(self.pid) if one.name.startswith("python")]

    def masters(self):
        """Return the processes that hold the connections of ansible open."""
        mark = str(self.folder / "cp").encode()
        return [
            one
            for one in processes.all_processes().values()
            if mark in _cmdline(one.pid) and b"[mux]" in _cmdline(one.pid)
        ]


class Task:
    """An ``ansible`` that runs one module, and what it has printed."""

    def __init__(self, server, module, arguments, *options, pipelining):
        folder = server.folder
        (folder / "inventory.json").write_text(
            json.dumps({"all": {"hosts": {"target": server.variables}}})
        )
        self.text = ""
        self._process = subprocess.Popen(
            [
                *(Path(sys.executable).with_name("ansible"), "-i", folder / "inventory.json"),
                *("target", "-m", module, "-a", arguments, *options),
            ],
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT.parents[2]),
                "ANSIBLE_CONFIG": str(ROOT / "tests" / "tools" / "ansible.cfg"),
                "ANSIBLE_HOME": str(folder / "home"),
                "ANSIBLE_REMOTE_TEMP": str(folder / "remote"),
                "ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder / "cp"),
                "ANSIBLE_PIPELINING": str(pipelining),
                "ANSIBLE_NOCOLOR": "true",
                "PYTHONUNBUFFERED": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        os.set_blocking(self._process.stdout.fileno(), False)

    def says(self, text, times=1):
        """Wait until it has printed something so many times."""

        def said():
            self.text += (self._process.stdout.read() or b"").decode()
            return self.text.count(text) >= times or self._process.poll() is not None

        until(said, f"{times} x {text!r}")
        assert self.text.count(text) >= times, self.text

    def result(self):
        """Wait for its end, and return its exit status, the word before its result, and that."""
        until(lambda: self._process.poll() is not None, "the end of the wait")
        self.text += (self._process.stdout.read() or b"").decode()
        head, _arrow, tail = self.text.rpartition("target | ")[2].partition(" => ")
        return self._process.returncode, head, json.loads(tail[: tail.rindex("}") + 1])

    def close(self):
        """End it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._process.stdout.close()


class Wait(Task):
    """``ansible -m durable.jobs.job_wait``."""

    def __init__(self, server, launcher, pipelining, **asked):
        jobs = [job.jid for job in launcher.jobs]
        asked = {"jobs": jobs, "async_dir": launcher.store.path, **asked}
        super().__init__(server, "durable.jobs.job_wait", json.dumps(asked), pipelining=pipelining)


@pytest.fixture
def server():
    with reached("ssh") as (folder, variables):
        made = Server(folder, variables)
        yield made
        made.close()


@pytest.fixture
def waits():
    made = []
    yield made
    for wait in made:
        wait.close()


def _begin(server, launcher, waits, pipelining, **asked):
    """Return a wait for two jobs that is in the middle of a look."""
    for gate in ("a", "b"):
        line = f"until [ -e {launcher.store.path}/{gate} ]; do sleep 0.02; done; echo {gate}"
        launcher.shell(line, name=f"job {gate}", spec={"cmd": gate})
    wait = Wait(server, launcher, pipelining, **asked)
    waits.append(wait)
    wait.says("2 jobs: 2 running")
    until(server.modules, "the module at work")
    return wait


def _finish(launcher, wait):
    """Let the jobs end, one after the other, and ensure that the wait has seen both."""
    for gate in ("a", "b"):
        Path(launcher.store.path, gate).touch()
        wait.says(f"job {gate}: succeeded")
    status, head, result = wait.result()
    assert (status, head.split()[0]) == (0, "CHANGED"), wait.text
    assert [job["stdout"] for job in result["jobs"]] == ["a", "b"]
    assert result["counts"]["succeeded"] == 2


def _has_open(pid, path):
    """Tell whether a process has something open below a path."""
    try:
        found = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]
    except OSError:  # it has ended, or closed one of them
        return False
    return any(name.startswith(path) for name in found)


pipelined = pytest.mark.parametrize("pipelining", [False, True])


@pipelined
def test_the_sessions_process_is_killed(server, launcher, waits, pipelining):
    """
    the sshd process of the connection is killed while `job_wait` waits
    | a line says that contact was lost, the wait goes on, and the result is right
    """
    wait = _begin(server, launcher, waits, pipelining)
    for one in server.sessions():
        processes.send(one, signal.SIGKILL)
    wait.says(LOST)
    _finish(launcher, wait)


@pipelined
def test_sshd_is_down_for_a_while(server, launcher, waits, pipelining, record_property):
    """
    sshd is stopped with all connections while `job_wait` waits, and started again after several attempts to reach it
    | a line for each attempt, the wait goes on, and the result is right
    """
    wait = _begin(server, launcher, waits, pipelining)
    server.stop()
    wait.says(LOST, times=3)
    server.start()
    _finish(launcher, wait)

    theirs = Task(server, "command", "sleep 2", "-B", "60", "-P", "0", pipelining=pipelining)
    waits.append(theirs)
    jid = theirs.result()[2]["ansible_job_id"]
    server.stop()
    poll = Task(server, "async_status", f"jid={jid}", pipelining=pipelining)
    waits.append(poll)
    record_property("builtin", f"async_status is {poll.result()[1]} at once, without a retry")


@pipelined
def test_the_control_master_is_killed(server, launcher, waits, pipelining):
    """
    the ssh process that shares the connection (ControlPersist) is killed while `job_wait` waits
    | a line says that contact was lost, the wait goes on, and the result is right
    """
    wait = _begin(server, launcher, waits, pipelining)
    masters = server.masters()
    assert masters
    for one in masters:
        processes.send(one, signal.SIGKILL)
    wait.says(LOST)
    _finish(launcher, wait)


@pipelined
def test_the_control_socket_is_removed(server, launcher, waits, pipelining):
    """
    the socket of the shared connection (ControlPath) is removed while `job_wait` waits
    | the wait goes on, and the result is right
    """
    wait = _begin(server, launcher, waits, pipelining)
    sockets = list((server.folder / "cp").glob("*"))
    assert sockets
    masters = server.masters()
    for path in sockets:
        path.unlink()
    try:
        _finish(launcher, wait)
    finally:
        for one in masters:  # nobody else can reach them now
            processes.send(one, signal.SIGKILL)


@pipelined
def test_the_host_stays_away(server, launcher, waits, pipelining):
    """
    sshd is stopped while `job_wait` waits, and is never started again
    | UNREACHABLE, when `reconnect_timeout` is over; the jobs go on
    """
    wait = _begin(server, launcher, waits, pipelining, reconnect_timeout=1)
    server.stop()
    status, head, result = wait.result()
    assert (status, head) == (4, "UNREACHABLE!"), wait.text
    assert result["unreachable"] is True
    assert LOST in wait.text, "there was at least one more attempt"
    assert all(job.is_held("keeper") for job in launcher.jobs)


@pipelined
def test_the_limit_passes_while_the_host_is_away(server, launcher, waits, pipelining):
    """
    sshd is stopped while `job_wait` waits, and stays so until its `timeout` is over
    | UNREACHABLE when the time is over and not before; the message says both; the jobs go on
    """
    begin = time.monotonic()
    wait = _begin(server, launcher, waits, pipelining, timeout=LIMIT)
    server.stop()
    status, head, result = wait.result()
    assert time.monotonic() - begin >= LIMIT, wait.text
    assert (status, head) == (4, "UNREACHABLE!"), wait.text
    assert f"the timeout of {LIMIT} s is over" in result["msg"], wait.text
    assert LOST in wait.text, "there was at least one more attempt"
    assert all(job.is_held("keeper") for job in launcher.jobs)


@pipelined
def test_the_host_is_back_before_the_limit(server, launcher, waits, pipelining):
    """
    sshd is stopped while `job_wait` waits, and is back before its `timeout` is over
    | the wait goes on until the time is over and not longer; the task fails and names the jobs that are still going
    """
    begin = time.monotonic()
    wait = _begin(server, launcher, waits, pipelining, timeout=LIMIT)
    server.stop()
    wait.says(LOST)
    server.start()
    status, head, result = wait.result()
    assert time.monotonic() - begin >= LIMIT, wait.text
    assert (status, head) == (2, "FAILED!"), wait.text
    assert result["msg"] == f"still going after {LIMIT} s: job a, job b"


@pipelined
def test_the_module_is_killed(server, launcher, waits, pipelining):
    """
    the processes of `job_wait` on the target are killed
    | the wait goes on, and the result is right
    """
    wait = _begin(server, launcher, waits, pipelining)
    # Before it has opened anything, it has done nothing, and another takes its place without a word.
    until(
        lambda: any(_has_open(one.pid, launcher.store.path) for one in server.modules()),
        "the look",
    )
    for one in server.modules():
        processes.send(one, signal.SIGKILL)
    wait.says("gave no answer")
    _finish(launcher, wait)


def test_the_host_is_rebooted(server, launcher, waits, tmp_path):
    """
    the host is rebooted while `job_wait` waits
    | a line for each attempt to reach it, then both jobs are `lost`, reason `rebooted`; the task fails and names them
    """
    machines.require()
    machine = machines.Machine(tmp_path)
    machine.boot()
    try:
        server.stop()
        server.prefix = machine.prefix
        server.start()
        jids = [machine.start(launcher, "sleep 600") for _job in range(2)]
        wait = Wait(server, launcher, True, jobs=jids)
        waits.append(wait)
        wait.says("2 jobs: 2 running")
        machine.power_off()
        wait.says(LOST)
        machine.boot(uptime=2)
        server.prefix = machine.prefix
        server.start()

        status, head, result = wait.result()

        assert (status, head) == (2, "FAILED!"), wait.text
        assert result["failed_jobs"] == jids
        assert {(job["state"], job["reason"]) for job in result["jobs"]} == {("lost", "rebooted")}
    finally:
        machine.power_off()


def _descendants(pid):
    members = processes.all_processes().values()
    found, parents = [], {pid}
    while parents:
        children = [one for one in members if one.parent in parents and not one.zombie]
        found += children
        parents = {one.pid for one in children}
    return found


def _cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
