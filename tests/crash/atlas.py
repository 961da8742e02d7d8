# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A page of the atlas: one protocol is traced, and what a crash can leave of it is judged on a machine of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.tests.crash import flushes, judge, models, protocols, tracing
from ansible_collections.durable.jobs.tests.faults import machine as machines

TEARS = int(os.environ.get("DURABLE_JOBS_CRASH_TEARS", "8"))
EVERY = os.environ.get("DURABLE_JOBS_CRASH_EVERY") == "1"
MODELS = os.environ.get("DURABLE_JOBS_CRASH_MODELS", " ".join(models.USUAL)).split()
ONLY = os.environ.get("DURABLE_JOBS_CRASH_STATE", "")
BOUNDS = {"models": MODELS, "tears": TEARS, "every": EVERY, "only": ONLY, "shown": 5}
TRACE_PATIENCE = 300  # seconds after which a protocol hangs


class Page:
    """A folder for one protocol.

    :param folder: in memory, as many small trees are made there.
    :param machine: is booted after the trace.
    """

    def __init__(self, folder, machine):
        self.folder = folder
        self.machine = machine

    def trace(self, protocol, failing=None):
        """Let a protocol run, and return its operations.

        :param failing: the number of the flush that is to fail, counted from 0; or flushes.NONE.
        """
        for name in ("home", "notes", "engine"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / "notes.count").unlink(missing_ok=True)  # see flushes.py
        for name in ("home", "notes"):
            (self.folder / name).mkdir(mode=0o700)
        home, notes, log = (self.folder / name for name in ("home", "notes", "log"))
        environment = dict(os.environ, **{flushes.NOTES: str(notes)})
        if failing is not None:
            environment[flushes.FAILING] = str(failing)
        argv = [sys.executable, "-B", protocols.__file__, protocol, str(home), str(notes)]
        tracing.trace(argv, log, env=environment, timeout=TRACE_PATIENCE)
        operations, tree = tracing.read(log, home, notes)
        assert not tree.differences(home), "the trace does not tell all that was done"
        return operations

    def judge(self, **bounds):
        """Judge what a crash can leave of what was traced, and return the counts."""
        asked = json.dumps({**BOUNDS, "failed": False, **bounds})
        argv = [sys.executable, "-B", judge.__file__, str(self.folder), asked]
        done = subprocess.run([*self.machine.prefix, *argv], stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)


@pytest.fixture
def page():
    """Make an empty page, on a machine that has been booted since whatever is traced on ours."""
    machines.require()
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="durable_crash.", dir=fast) as made:
        machine = machines.Machine(Path(made))
        machine.boot()
        yield Page(Path(made), machine)
        machine.power_off()
