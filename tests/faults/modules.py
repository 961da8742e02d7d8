# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules as a target runs them, each in a process of its own, without the two seconds that a controller takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from ansible_collections.durable.jobs.plugins.module_utils import _job
from ansible_collections.durable.jobs.plugins.module_utils._job import processes

PATIENCE = 60  # seconds after which a module that does not end is a failure
OURS = _job.__name__.rpartition(".module_utils.")[0] + ".modules."


class Hangs(Exception):
    """A module did not end in time."""


def run(name, arguments, *, environment=(), patience=PATIENCE):
    """Run a module and return its result.

    :raises Hangs: it did not end within ``patience`` seconds.
    :raises AssertionError: it ended with a traceback.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", name],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            env=dict(os.environ, PYTHONWARNINGS="ignore", **dict(environment)),
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Hangs(name) from None
    assert done.stdout.lstrip().startswith("{") and "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout)


def kill(process):
    """Kill a module, and the engine that answers it."""
    found = [one for one in processes.all_processes().values() if one.parent == process.pid]
    process.kill()
    for one in found:
        processes.send(one, signal.SIGKILL)


def job_status(job, environment=(), **arguments):
    """Look at a job, as a task on its host does."""
    asked = {"jid": job.jid, "async_dir": job.store.path, **arguments}
    return run(OURS + "job_status", asked, environment=environment)


def async_status(job):
    """Return what the builtin's module says of what lies in a record's place, in a few words."""
    asked = {"jid": job.jid, "_async_dir": job.store.path}
    try:
        found = run("ansible.modules.async_status", asked, patience=3)
    except Hangs:
        return "it hangs"
    except AssertionError as error:
        return "traceback: " + str(error).strip().rpartition("\n")[2][:60]
    if not found.get("finished"):
        return "started for ever"
    if found.get("failed"):
        return "failed: " + str(found.get("msg")).partition(":")[0][:60]
    return "succeeded" if not found.get("rc") else "rc %s" % found["rc"]
