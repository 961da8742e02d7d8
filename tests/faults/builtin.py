# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The builtin async, as a user runs it: what becomes of it when the same things go wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from ansible_collections.durable.jobs.plugins.module_utils import _job
from ansible_collections.durable.jobs.plugins.module_utils._job import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ansible_collections.durable.jobs.plugins.module_utils._job.store import Job

ROOT = Path(_job.__file__).parents[3]
MARK = "DURABLE_JOBS_BUILTIN"  # environment variable by which the processes of a test are found
PATIENCE = 60  # seconds after which a job that neither finishes nor dies is reported as it is


class Builtin:
    """Launches jobs with ``ansible -B ... -P 0`` and looks at them with ``async_status``.

    :param folder: for the async dir and all that ansible writes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.async_dir = folder / "builtin"
        self.gate = folder / "go"
        self.mark = f"{MARK}={folder}"
        self.prefix: list[str] = []  # put before every ansible, for example to enter a namespace
        self.environment = {
            **os.environ,
            MARK: str(folder),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT.parents[2]),
            "ANSIBLE_CONFIG": str(ROOT / "tests" / "tools" / "ansible.cfg"),
            "ANSIBLE_HOME": str(folder / "home"),
            "ANSIBLE_REMOTE_TEMP": str(folder / "remote"),
            "ANSIBLE_ASYNC_DIR": str(self.async_dir),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
            "ANSIBLE_NOCOLOR": "true",
        }

    def launch(self, shell: str, timeout: int = 60) -> str:
        """Launch a line of shell and return its jid."""
        options = ("-B", str(timeout), "-P", "0")
        return str(self.ansible("ansible.builtin.shell", shell, *options)["ansible_job_id"])

    def gated(self, shell: str) -> str:
        """Launch a line of shell that runs when :meth:`release` has been called, however slow the machine is."""
        self.gate = self.folder / f"go.{time.monotonic_ns()}"
        return self.launch(f"until [ -e {self.gate} ]; do sleep 0.05; done; {shell}")

    def release(self) -> None:
        """Let the job go on that waits at its gate."""
        self.gate.touch()

    def status(self, jid: str) -> dict[str, object]:
        """Return what async_status says of a job at this moment."""
        return self.ansible("ansible.builtin.async_status", f"jid={jid}")

    def wrappers(self, jid: str) -> list[processes.Process]:
        """Return the job's living async_wrapper processes; the watcher, which has the timeout, comes first."""
        return [
            one
            for one in self._marked()
            if b"async_wrapper" in _cmdline(one.pid)
            and jid.partition(".")[0].encode() in _cmdline(one.pid)
        ]

    def module(self, jid: str) -> list[processes.Process]:
        """Return the living process of the job's module."""
        wrappers = {one.pid for one in self.wrappers(jid)}
        return [one for one in self._marked() if one.parent in wrappers and one.pid not in wrappers]

    def command(self, jid: str) -> list[processes.Process]:
        """Return the living processes that the job's module has started."""
        ours = {one.pid for one in (*self.wrappers(jid), *self.module(jid))}
        return [one for one in self._marked() if one.pid not in ours]

    def sees(self, jid: str) -> str:
        """Wait until the job is over, as far as anybody can see, and say in a few words what a user sees of it."""
        limit = time.monotonic() + PATIENCE
        while True:
            alive = self._marked()
            status = self.status(jid)
            if status.get("finished") or time.monotonic() >= limit or not alive:
                return _phrase(status, alive)

    def job_status(self, job: Job, **options: object) -> dict[str, object]:
        """Look at a job of ours, as a user does."""
        asked = {"jid": job.jid, "async_dir": job.store.path, **options}
        return self.ansible("durable.jobs.job_status", json.dumps(asked))

    def ansible(self, module: str, arguments: str, *options: str) -> dict[str, object]:
        """Run one module on this machine and return its result."""
        done = subprocess.run(
            [
                *self.prefix,
                *(Path(sys.executable).with_name("ansible"), "localhost", "-c", "local"),
                *("-e", f"ansible_python_interpreter={os.path.realpath(sys.executable)}"),
                *("-m", module, "-a", arguments, *options),
            ],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        _host, arrow, result = done.stdout.partition("=> ")
        assert arrow, done.stdout + done.stderr
        found: dict[str, object] = json.loads(result)
        return found

    def close(self) -> None:
        """End what is left of the jobs."""
        for one in self._marked():
            processes.send(one, signal.SIGKILL)

    def _marked(self) -> list[processes.Process]:
        mark = self.mark.encode()
        return sorted(
            (
                one
                for one in processes.all_processes().values()
                if not one.zombie and mark in _environ(one.pid)
            ),
            key=lambda one: (one.started, one.pid),
        )


def _phrase(status: dict[str, object], alive: list[processes.Process]) -> str:
    if not status.get("finished"):
        names = ", ".join(sorted({one.name for one in alive}))
        return f"started, while {names} runs" if alive else "started for ever"
    said = str(status.get("msg", "")).partition("\n")[0]
    said = "a Python traceback" if said.startswith("Traceback") else said[:60]
    rc = status.get("rc")
    known = f"rc {rc}" if rc is not None else "no rc"
    outcome = "failed" if status.get("failed") or rc else "succeeded"
    return f"{outcome}, {known}" + (f": {said}" if said else "")


def _environ(pid: int) -> list[bytes]:
    return _read(f"/proc/{pid}/environ").split(b"\0")


def _cmdline(pid: int) -> bytes:
    return _read(f"/proc/{pid}/cmdline")


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
