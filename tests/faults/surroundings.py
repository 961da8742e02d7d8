# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules as ansible runs them, other users, and time limits: what the scenarios of walls and leftovers share."""

from __future__ import annotations

import codecs
import contextlib
import grp
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils import _job

ROOT = Path(_job.__file__).parents[3]
TREE = ROOT.parents[2]
MODULES = "ansible_collections.durable.jobs.plugins.modules"
PRELOADED = (grp,)
STRANGER = 64321  # a user id that nobody on this machine has
PATIENCE = 60  # seconds; what takes longer hangs


def module_argv(name):
    """Return the command that runs a module; its parameters are read from standard input."""
    return [sys.executable, "-B", "-m", f"{MODULES}.{name}"]


def module_input(no_log=False, check=False, **params):
    """Return what a module reads from standard input."""
    internal = {"_ansible_no_log": no_log, "_ansible_check_mode": check}
    return json.dumps({"ANSIBLE_MODULE_ARGS": {**params, **internal}})


def run_module(module, no_log=False, check=False, **params):
    """Run a module in a process of its own, and return its result. It may fail, but not hang or break."""
    done = subprocess.run(
        module_argv(module),
        input=module_input(no_log, check, **params),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "PYTHONPATH": str(TREE)},
    )
    assert done.stdout.strip().startswith("{"), done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return json.loads(done.stdout)


def needs_root():
    """Skip where one cannot become another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")


def as_user(uid, function):
    """Run a function in a process of another user without any rights, and return what it returned, as JSON has it."""
    codecs.lookup("ascii")  # the other user need not be able to read what Python lies in
    result_out, result_in = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            data = json.dumps(function()).encode()
            with open(result_in, "wb") as target:
                target.write(data)
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)
    os.close(result_in)
    with open(result_out, "rb") as source:
        data = source.read()
    _pid, status = os.waitpid(pid, 0)
    assert status == 0, "see the traceback above"
    return json.loads(data)


@contextlib.contextmanager
def time_limit(seconds=PATIENCE):
    """Fail if something takes too long."""

    def late(_number, _frame):
        raise AssertionError(f"it hangs: no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
