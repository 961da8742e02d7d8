# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A launch is cut off: its processes are killed, or its connection, at random moments."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import processes
from ansible_collections.durable.jobs.plugins.module_utils._job.names import latest_job
from ansible_collections.durable.jobs.tests.faults import modules, truth
from ansible_collections.durable.jobs.tests.faults.conftest import SEED
from ansible_collections.durable.jobs.tests.faults.hosts import reached
from ansible_collections.durable.jobs.tests.unit.support import PATIENCE, Launcher, request, until

CUTS = int(os.environ.get("DURABLE_JOBS_CUTS", "300"))  # of a launcher; a module and SSH have fewer
MARK = "DURABLE_JOBS_CUT"
SPEC = {"cmd": "digest", "timeout": 60, "env": {}}
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A launcher whose engine has been compiled; launches of all tests lie side by side in its async dir."""
    made = Launcher(tmp_path_factory.mktemp("cut") / "async")
    made.raw(request("true"))
    yield made
    made.close()


class Launch:
    """A launch that is cut off.

    :param place: the async dir.
    :param kind: with the number, the job's name.
    """

    def __init__(self, place, kind, number):
        self.place = place
        self.name = f"{kind}-{number}"
        self.marks = truth.Marks(Path(place.store.path).parent / self.name)
        self.line = self.marks.line("true", 0)
        self.random = random.Random(f"{SEED} {self.name}")

    def start(self, arguments, asked):
        """Start the process that launches."""
        process = subprocess.Popen(
            arguments,
            env={**os.environ, MARK: self.name, "PYTHONWARNINGS": "ignore"},
            start_new_session=True,
            **PIPES,
        )
        process.stdin.write(json.dumps(asked).encode())
        process.stdin.close()
        return process

    def launcher(self):
        asked = request("/bin/sh", "-c", self.line, name=self.name, spec=SPEC)
        return self.start(
            [sys.executable, "-I", "-S", self.place.program],
            {"async_dir": self.place.store.path, "jobs": [asked]},
        )

    def module(self, **more):
        asked = {"shell": self.line, "name": self.name, "async_dir": self.place.store.path, **more}
        return self.start(
            [sys.executable, "-m", modules.OURS + "job_start"], {"ANSIBLE_MODULE_ARGS": asked}
        )

    def cut(self, process, longest, kill):
        """Kill at a random moment, and wait until nothing of the launch is left."""
        time.sleep(self.random.uniform(0, longest))
        kill(process)
        process.stdout.read()
        process.wait()
        until(lambda: not truth.carrying(f"{MARK}={self.name}"), f"the end of {self.name}")

    def check(self, record_property):
        """See that there is a complete job, or none, and that a second launch makes the command run once."""
        job = latest_job(self.place.store, self.name)
        record_property("afterwards", "the job" if job else "none")
        if job is None:
            assert not self.marks.begun, "the command ran, and there is no job"
            if self.random.random() < 0.1:
                said = modules.run(
                    modules.OURS + "job_status",
                    {"name": self.name, "async_dir": self.place.store.path},
                )
                assert said["failed"] and said["msg"].startswith("could not find job"), said
        else:
            self.place.jobs.append(job)
            found = modules.job_status(job) if self.random.random() < 0.1 else truth.final(job, 0)
            assert (found["state"], found["rc"], self.marks.ended) == ("succeeded", 0, [0]), found
        self.place.raw(
            request("/bin/sh", "-c", self.line, name=self.name, spec=SPEC, rerun="never")
        )
        assert (
            truth.final(latest_job(self.place.store, self.name), PATIENCE)["state"] == "succeeded"
        )
        assert self.marks.begun == 1


def duration(start):
    """Return how long a launch takes that is left alone."""
    begin = time.monotonic()
    with start() as process:
        process.stdout.read()
    return time.monotonic() - begin


def kill_alone(process):
    process.kill()


def kill_children(process):
    for one in processes.all_processes().values():
        if one.parent == process.pid:
            processes.send(one, signal.SIGKILL)


def kill_session(process):
    """Kill what a logout kills: everything that has not made a session of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def durations(place):
    return {
        kind: duration(getattr(Launch(place, "alone", kind), kind))
        for kind in ("launcher", "module")
    }


@pytest.mark.parametrize("number", range(CUTS))
def test_the_launcher_is_killed(place, durations, number, record_property):
    """
    the launcher is killed at a random moment of a launch
    | the complete job, or none; launched again, the command ran once
    """
    launch = Launch(place, "launcher", number)
    launch.cut(launch.launcher(), durations["launcher"] * 1.1, kill_alone)
    launch.check(record_property)


@pytest.mark.parametrize("kill", [kill_alone, kill_children, kill_session])
@pytest.mark.parametrize("number", range(CUTS // 15))
def test_the_module_is_killed(place, durations, number, kill, record_property):
    """
    the module job_start, its children, or all of its session are killed at a random moment of a launch
    | the complete job, or none; launched again, the command ran once
    """
    launch = Launch(place, kill.__name__, number)
    launch.cut(launch.module(), durations["module"] * 1.1, kill)
    launch.check(record_property)


# -- the connection ------------------------------------------------------------------------------------------


class Connection:
    """A host that is reached through an sshd of its own, whose connections can be cut."""

    def __init__(self, folder, variables):
        self.folder = folder
        # What runs on this host is found by the path of its Python.
        self.python = folder / "python"
        self.python.symlink_to(os.path.realpath(sys.executable))
        self.place = Launcher(folder / "jobs")
        variables = {**variables, "ansible_python_interpreter": str(self.python)}
        inventory = {"all": {"hosts": {"target": variables}}}
        (folder / "inventory.yml").write_text(json.dumps(inventory))
        self.environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(truth.ROOT.parents[2]),
            "ANSIBLE_CONFIG": str(truth.ROOT / "tests" / "tools" / "ansible.cfg"),
            "ANSIBLE_HOME": str(folder / "home"),
            "ANSIBLE_REMOTE_TEMP": str(folder / "remote"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder / "cp"),
        }
        self.longest = duration(lambda: self.start(Launch(self.place, "ssh", "alone"), True))

    def start(self, launch, pipelining):
        """Start ansible with a launch."""
        asked = {"shell": launch.line, "name": launch.name, "async_dir": self.place.store.path}
        module = (
            "-m",
            modules.OURS.replace("ansible_collections.", "").replace(".plugins.modules.", ".")
            + "job_start",
        )
        return subprocess.Popen(
            [
                *(Path(sys.executable).with_name("ansible"), "target", *module),
                *("-i", self.folder / "inventory.yml", "-a", json.dumps(asked)),
            ],
            env={**self.environment, "ANSIBLE_PIPELINING": str(pipelining)},
            **{**PIPES, "stdin": subprocess.DEVNULL},
        )

    def hang_up(self, server_side):
        """Kill the processes of all connections, at one end."""
        found = processes.all_processes()
        cmdlines = {pid: Path(f"/proc/{pid}/cmdline") for pid in found}
        config, sockets = str(self.folder / "sshd_config"), str(self.folder / "cp")
        for one in found.values():
            if server_side:
                ours = one.name.startswith("sshd") and self._below_sshd(one, found, config)
            else:
                ours = one.name == "ssh" and sockets in truth.read(cmdlines[one.pid])
            if ours:
                processes.send(one, signal.SIGKILL)

    def _below_sshd(self, one, found, config):
        while one.parent in found:
            one = found[one.parent]
            if config in truth.read(Path(f"/proc/{one.pid}/cmdline")):
                return True
        return False

    def quiet(self):
        """Tell whether nothing runs on the host any more."""
        python = str(self.python)
        return not [
            pid
            for pid in processes.all_processes()
            if truth.read(Path(f"/proc/{pid}/cmdline")).startswith(python)
        ]


@pytest.fixture(scope="module")
def connection():
    with reached("ssh") as (folder, variables):
        made = Connection(folder, variables)
        yield made
        made.place.close()


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "files"])
@pytest.mark.parametrize("server_side", [True, False], ids=["server", "client"])
@pytest.mark.parametrize("number", range(CUTS // 50))
def test_the_connection_is_cut(connection, number, server_side, pipelining, record_property):
    """
    the SSH connection is cut at a random moment of a launch
    | the complete job, or none; launched again, the command ran once
    """
    launch = Launch(connection.place, f"ssh-{server_side}-{pipelining}", number)
    with connection.start(launch, pipelining) as process:
        time.sleep(launch.random.uniform(connection.longest / 3, connection.longest))
        connection.hang_up(server_side)
        process.stdout.read()
    until(connection.quiet, "the end of what the connection had started")
    launch.check(record_property)


def test_the_launch_is_repeated_by_somebody_who_has_no_jid(
    builtin, place, tmp_path, record_property
):
    """
    ansible is killed when it has launched a job, before it knows the jid
    | launched again under its name, the command ran once
    """
    launch = Launch(place, "no-jid", 0)
    with launch.module() as process:
        until(lambda: launch.marks.begun, "the command")
        process.kill()
    with launch.module(rerun="never") as process:
        assert json.loads(process.stdout.read())["name"] == launch.name
    assert launch.marks.begun == 1
    marks = truth.Marks(tmp_path / "builtin")
    for _again in range(2):
        builtin.launch(marks.line("true", 0))
    until(lambda: marks.begun == 2, "the builtin's second run")
    record_property("builtin", "no name to find it by: the command ran twice")
