# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine that can be switched off: namespaces with their own processes, mounts, clocks and boot id.

What a switched-off machine loses, this one loses: all processes, in the same instant, at whatever they are; and
their locks. What another boot changes is different after the next :meth:`Machine.boot`: the boot id (a file
bind-mounted over the kernel's), the pids, and the clocks that count from the boot (a time namespace).
What it keeps is what lies in files.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import processes
from ansible_collections.durable.jobs.tests.unit import support

# The machine's first process: it collects orphans, as an init does.
INIT = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
print("up", flush=True)
while True:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    signal.sigwait({signal.SIGCHLD})
"""
# A look as a module takes it, by a process of its own.
LOOK = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from _job import status, store
from _job.record_io import MissingRecord
where = store.Store.open(sys.argv[2], create=False)
try:
    found = status.wait(where.job(sys.argv[3]), float(sys.argv[4]))
except MissingRecord:
    found = None
print(json.dumps(found))
"""
NEEDS = ("unshare", "nsenter", "mount")


def require():
    """Skip the test where machines cannot be made."""
    missing = [name for name in NEEDS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    probe = ["unshare", *_namespaces(1), "true"]
    if os.geteuid() != 0 or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("needs root and pid, mount and time namespaces")


class Machine:
    """One machine, switched off at first.

    :param folder: for its boot id.
    """

    def __init__(self, folder):
        self.folder = folder
        self.boots = 0
        self.init = 0
        self._unshare = None

    def boot(self, *, uptime=5):
        """Switch it on.

        :param uptime: seconds that its clocks show now.
        """
        self.boots += 1
        boot_id = self.folder / f"boot_id.{self.boots}"
        boot_id.write_text(f"{uuid.uuid4()}\n")
        line = f"mount --bind {boot_id} /proc/sys/kernel/random/boot_id && exec {sys.executable} -I -S -c '{INIT}'"
        self._unshare = subprocess.Popen(
            ["unshare", *_namespaces(uptime), "/bin/sh", "-c", line],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._unshare.stdout.readline() == b"up\n"
        (self.init,) = (
            one.pid for one in processes.all_processes().values() if one.parent == self._unshare.pid
        )

    def power_off(self):
        """Switch it off. Returns when no process of it is left."""
        if self._unshare is not None:
            os.kill(self.init, signal.SIGKILL)  # the kernel kills all others with it
            self._unshare.wait()
            self._unshare.stdout.close()
            self._unshare = None

    @property
    def prefix(self):
        """What to put before a command so that it runs on this machine."""
        return ["nsenter", "--target", str(self.init), "--pid", "--mount", "--time", "--"]

    def run(self, *argv, **options):
        """Run a command on this machine to its end and return what it prints."""
        done = subprocess.run(
            [*self.prefix, *argv],
            capture_output=True,
            timeout=support.PATIENCE,
            check=True,
            **options,
        )
        return done.stdout

    def python(self, source, *arguments, **options):
        """Run a Python program on this machine and return what it prints, read as JSON."""
        argv = (sys.executable, "-I", "-S", "-B", "-c", source, *map(str, arguments))
        return json.loads(self.run(*argv, **options))

    def launch(self, launcher, *requests, adopt=()):
        """Launch, or adopt, with the engine that is under test; return the launcher's answers."""
        asked = json.dumps({"async_dir": launcher.store.path, "jobs": requests, "adopt": adopt})
        out = self.run(sys.executable, "-I", "-S", launcher.program, input=asked.encode())
        return json.loads(out)["jobs"]

    def start(self, launcher, line, **changes):
        """Launch one line of shell and return its jid."""
        (answer,) = self.launch(launcher, support.request("/bin/sh", "-c", line, **changes))
        return answer["record"]["ansible_job_id"]

    def look(self, launcher, jid, wait=0, where=None):
        """Take one look at a job."""
        engine = os.path.dirname(os.path.dirname(launcher.program))
        return self.python(LOOK, engine, where or launcher.store.path, jid, wait)


def _namespaces(uptime):
    offset = uptime - int(time.clock_gettime(time.CLOCK_BOOTTIME))
    kinds = ["--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--time"]
    return [*kinds, f"--monotonic={offset}", f"--boottime={offset}", "--"]
