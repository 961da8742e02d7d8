# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller dies: the guide's playbook is killed at random moments, and run again."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils import _job
from ansible_collections.durable.jobs.plugins.module_utils._job import processes, store
from ansible_collections.durable.jobs.plugins.module_utils._job.names import latest_job
from ansible_collections.durable.jobs.tests.faults.conftest import SEED
from ansible_collections.durable.jobs.tests.faults.hosts import reached

ROOT = Path(_job.__file__).parents[3]
PLAYBOOK = ROOT / "docs" / "examples" / "resume.yml"
MOMENTS = int(os.environ.get("DURABLE_JOBS_MOMENTS", "20"))
WORK = ("reindex", "migrate")
PATIENCE = 120  # seconds after which a play that does not end is a failure


class Controller:
    """Runs the playbook against one host."""

    def __init__(self, folder, variables):
        self.folder = folder
        self.jobs = folder / "jobs"
        self.times = []  # see undisturbed
        inventory = {"all": {"hosts": {"target": variables}}}
        (folder / "inventory.yml").write_text(json.dumps(inventory))
        self.environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT.parents[2]),
            "ANSIBLE_CONFIG": str(ROOT / "tests" / "tools" / "ansible.cfg"),
            "ANSIBLE_HOME": str(folder / "home"),  # what killed plays leave goes with the folder
            "ANSIBLE_REMOTE_TEMP": str(folder / "remote"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder / "cp"),
            "ANSIBLE_NOCOLOR": "true",
        }

    def start(self, release):
        """Start the playbook in a session of its own; each command of it leaves a line per execution."""
        values = {"release": release}
        for work in WORK:
            line = f"echo ran >> {self.folder}/{release}.{work}; sleep 1; echo {work} is done"
            values[work] = f"/bin/sh -c '{line}'"
        program = Path(sys.executable).with_name("ansible-playbook")
        return subprocess.Popen(
            [program, "-i", self.folder / "inventory.yml", "-e", json.dumps(values), PLAYBOOK],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def ran(self, release, work):
        """Return how often a command was executed."""
        path = self.folder / f"{release}.{work}"
        return path.read_text().count("ran") if path.exists() else 0

    def record(self, name):
        """Return the record of the latest job of a name, as it lies on the target."""
        return latest_job(store.Store.open(str(self.jobs), create=False), name).read_record()


@pytest.fixture(scope="module")
def controllers():
    """Return what makes the controller of a host, once: a parametrized fixture would be made for every moment."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def made(host):
            controller = Controller(*stack.enter_context(reached(host)))
            controller.times = undisturbed(controller)
            return controller

        yield made


def undisturbed(controller):
    """Run the playbook once and return when it launched its first job, its second, and when it ended."""
    times = []
    begin = time.monotonic()
    with controller.start("undisturbed") as play:
        for work in WORK:
            while not controller.ran("undisturbed", work):
                assert play.poll() is None, play.stdout.read()
                time.sleep(0.01)
            times.append(time.monotonic() - begin)
        out, _none = play.communicate(timeout=PATIENCE)
    assert play.returncode == 0, out
    return [*times, time.monotonic() - begin]


def kill(play):
    """Kill a play as the death of its machine would: all its processes at once.

    Workers of ansible-playbook have sessions of their own. Jobs have, too, and are not the play's.
    """
    os.kill(play.pid, signal.SIGSTOP)  # it starts nothing more
    members = processes.all_processes()
    workers = {one.pid for one in members.values() if one.parent == play.pid}
    sessions = {play.pid} | {os.getsid(pid) for pid in workers if os.path.exists(f"/proc/{pid}")}
    for one in members.values():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(one.pid) in sessions:
                os.kill(one.pid, signal.SIGKILL)
    os.killpg(play.pid, signal.SIGKILL)
    play.wait()


@pytest.mark.parametrize(
    ("host", "number"),
    [("local", number) for number in range(MOMENTS)]
    + [("ssh", number) for number in range(MOMENTS // 5)],
)
def test_a_play_that_was_killed_is_run_again(controllers, host, number, record_property):
    """
    ansible-playbook is killed while it launches or waits
    | run again, it joins its jobs: each command ran once, and its result is shown
    """
    controller = controllers(host)
    first, second, end = controller.times
    rng = random.Random(f"{SEED} {number}")
    moment = rng.uniform(first / 2, second) if number % 2 else rng.uniform(second, end)
    release = f"{number}"
    with controller.start(release) as play:
        with contextlib.suppress(subprocess.TimeoutExpired):
            play.wait(moment)
        gone = play.poll() is not None
        if not gone:
            kill(play)
    started = sum(controller.ran(release, work) for work in WORK)
    record_property("killed", "too late" if gone else f"with {started} of 2 jobs launched")

    with controller.start(release) as play:
        out, _none = play.communicate(timeout=PATIENCE)

    assert play.returncode == 0, out
    check(controller, release, out, f"killed after {moment} s")


def check(controller, release, out, fault):
    for work, name in zip(WORK, (f"reindex for {release}", f"migrate to {release}")):
        assert controller.ran(release, work) == 1, f"{work} {fault}: {out}"
        record = controller.record(name)
        assert (record["state"], record["rc"]) == ("succeeded", 0)
        assert record["stdout"].rstrip() == f"{work} is done"
        assert f"Job {record['ansible_job_id']} succeeded: {work} is done" in out
