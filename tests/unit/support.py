# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real jobs for tests: the real launcher as a process, in an async dir of its own."""

from __future__ import annotations

import compileall
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from ansible_collections.durable.jobs.plugins.module_utils import _engine, _job
from ansible_collections.durable.jobs.plugins.module_utils._job import errors, processes, store

PACKAGE = Path(_job.__file__).parent
PATIENCE = 30  # seconds after which a condition that does not come true is a failure


def until(condition, what="the condition", patience=PATIENCE):
    """Wait for a condition and return its value."""
    limit = time.monotonic() + patience
    while time.monotonic() < limit:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"{what} did not come true within {patience} s")


def opened(path):
    """Return what this process has open below a path."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # the listing's own
            continue
    return sorted(name for name in found if name.startswith(str(path)))


def request(*argv, **changes):
    """Return a launcher request for a command, with the parameters that a test cares for."""
    asked = {
        "argv": list(argv),
        "cmd": list(argv),
        "parameter": "argv",
        "chdir": None,
        "env": {},
        "stdin": None,
        "umask": None,
        "nice": None,
        "timeout": 60,
        "max_timeout": None,
        "watchdog": None,
        "grace": 5,
        "stop_signal": signal.SIGTERM,
        "output_limit": 0,
        "no_log": False,
        "name": None,
        "spec": None,
        "on_conflict": "fail",
        "rerun": "always",
        "start_in": 0,
        "retry": None,
        "timeout_total": None,
        "containment": "process",
        "memory_max": None,
        "cpu_quota": None,
        "tasks_max": None,
    }
    asked.update(changes)
    return asked


def question(async_dir, verb="job_info", **changes):
    """Return a question to the engine of this collection: without changes, a list of all jobs."""
    params = {"states": None, "names": None, "jids": None, "limit": 0, "order": "newest"}
    asked = {"verb": verb, "params": dict(params, output="none"), "paths": [], "unshown": []}
    asked.update(check_mode=False, diff=False, no_log=False, ansible=True, log=None)
    return _engine.Question({**asked, **changes}, async_dir, {})


def ask(async_dir, verb="job_info", *, whole=False, prefix=(), **changes):
    """Ask the engine, as a face does; return whether it has begun, and its answer.

    :param whole: send the engine along.
    :param prefix: words before the command, to trace it.
    """
    asked = question(async_dir, verb, **changes)
    engine = _engine.Engine()
    done = subprocess.run(
        [*prefix, sys.executable, *engine.words()],
        input=engine.data(asked, whole=whole),
        stdout=subprocess.PIPE,
        check=not prefix,
        timeout=PATIENCE,
    )
    out = done.stdout.decode()
    return asked.has_begun(out), asked.result(out)


def install(folder, changed=None):
    """Put a copy of the engine, and the launcher's program, into a folder; return the path of the program.

    :param changed: by name, the files that are not as they are in the collection.
    """
    package = Path(folder) / "_job"
    package.mkdir(parents=True, exist_ok=True)
    files = {part.name: part.read_bytes() for part in PACKAGE.glob("*.py")}
    files["program.py"] = Path(__file__).with_name("launcher_program.py").read_bytes()
    for name, content in {**files, **(changed or {})}.items():
        (package / name).write_bytes(content)
    compileall.compile_dir(str(package), quiet=1, optimize=2)
    return str(package / "program.py")


def holders(path):
    """Return the pids of those who have a file open: of a bell, they are who delivers notifications."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fds = os.listdir(f"/proc/{pid}/fd")
            if any(os.readlink(f"/proc/{pid}/fd/{fd}") == path for fd in fds):
                found.append(int(pid))
        except OSError:
            continue
    return found


class Launcher:
    """Launches jobs with the engine that is under test, and ends what is left of them."""

    def __init__(self, path, engine=None):
        self.store = store.Store.open(str(path), create=True)
        self.program = install(engine or f"{path}.engine")
        self.jobs = []

    def raw(self, *requests, **how):
        """Launch and adopt, and return the launcher's answers. Parameters are those of reply."""
        return self.reply(*requests, **how)["jobs"]

    def reply(self, *requests, adopt=(), slots=0, manager="", **run):
        """Launch and adopt, and return all that the launcher answers."""
        asked = json.dumps(
            {
                "async_dir": self.store.path,
                "jobs": requests,
                "adopt": adopt,
                "slots": slots,
                "manager": manager,
            }
        )
        done = subprocess.run(
            [sys.executable, "-I", "-S", self.program],
            input=asked.encode(),
            stdout=subprocess.PIPE,
            check=True,
            timeout=PATIENCE,
            **run,
        )
        reply = json.loads(done.stdout.decode())
        self.jobs += [
            self.store.job(one["record"]["ansible_job_id"])
            for one in reply["jobs"]
            if "record" in one
        ]
        return reply

    def __call__(self, *argv, **changes):
        """Launch one command and return its job; raise JobError if it could not be launched."""
        answer = self.raw(request(*argv, **changes))[0]
        if "error" in answer:
            raise errors.JobError(**answer["error"])
        return self.jobs[-1]

    def shell(self, line, **changes):
        """Launch one line of shell."""
        return self("/bin/sh", "-c", line, **changes)

    def gated(self, line, **changes):
        """Launch a line of shell that runs when :meth:`release` has been called, however slow the machine is."""
        changes.setdefault("chdir", self.store.path)
        return self.shell("until [ -e go ]; do sleep 0.02; done; " + line, **changes)

    def release(self):
        """Let the jobs go on that wait at their gate."""
        with open(os.path.join(self.store.path, "go"), "wb"):
            pass

    def ready(self, line, **changes):
        """Launch a line of shell and return when it has written something."""
        job = self.shell(line, **changes)
        until(lambda: os.stat(job.path("stdout")).st_size, "the first output")
        return job

    def finished(self, job):
        """Wait for the keeper's final record and return it."""
        return until(
            lambda: next((one for one in [job.read_record()] if one["finished"]), None),
            f"the end of {job.jid}",
        )

    def processes(self, job):
        """Return the living processes that carry the job's mark."""
        return processes.members(job.jid, roots=[], session=None, spared=set(), marked=True)

    def keeper(self, job):
        """Return the pids of a job's keeper and runner."""
        private = job.read_record()["durable_jobs"]
        return private["keeper"], private["runner"]

    def let_go(self):
        """Close what is open in the async dir, so that its file system can be unmounted."""
        fds = [job._fd for job in self.jobs if job._fd is not None]
        for fd in (*fds, self.store.fd):
            os.close(fd)

    def close(self):
        for job in self.jobs:
            for one in self.processes(job):
                processes.send(one, signal.SIGKILL)
        # Some tests leave what nobody takes. Who delivers would try it for a day.
        bell = self.store.private_path("outbox", "bell")
        if os.path.exists(bell):
            until(lambda: not self._kill(holders(bell)), "the end of who delivers")

    @staticmethod
    def _kill(pids):
        for one in filter(None, map(processes.process, pids)):
            processes.send(one, signal.SIGKILL)
        return pids
