# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""job_stop, as a target runs it, against real jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ansible_collections.durable.jobs.plugins.module_utils import _builtin
from ansible_collections.durable.jobs.plugins.module_utils._job import tree
from ansible_collections.durable.jobs.tests.faults import modules
from ansible_collections.durable.jobs.tests.unit.support import request, until

DEAF = "trap '' TERM; echo ready; while :; do sleep 0.2; done"
CONTROLLER = {"user": "ada", "host": "control.example"}


def job_stop(where, *jobs, check=False, **arguments):
    """Run the module as ansible-core does, and return its result."""
    asked = {"jobs": list(jobs), "async_dir": where.path, "_ansible_version": "2.19.0"}
    asked["_ansible_check_mode"] = check
    return modules.run(modules.OURS + "job_stop", {**asked, **arguments})


def ready(launcher, count, line=DEAF, **changes):
    """Launch jobs of the same line in one call, and return when each has written something."""
    changes.setdefault("timeout", 600)
    launcher.raw(*[request("/bin/sh", "-c", line, **changes) for _number in range(count)])
    jobs = launcher.jobs[-count:]
    until(lambda: all(os.stat(job.path("stdout")).st_size for job in jobs), "the jobs' output")
    return jobs


def test_a_job_is_stopped_with_all_that_it_has_started_and_its_dictionary_says_who_asked(launcher):
    job = launcher.ready("setsid sleep 61 & (sleep 62 &) ; echo ready; sleep 63")
    found = job_stop(launcher.store, job.jid, _controller=CONTROLLER)
    assert launcher.processes(job) == []
    assert (found["changed"], found["stopped_jobs"]) == (True, [job.jid])
    assert found["counts"]["stopped"] == 1
    (stopped,) = found["jobs"]
    assert (stopped["state"], stopped["rc"], stopped["stdout"]) == ("stopped", -15, "ready")
    by = stopped["stopped_by"]
    assert by == job.read_record()["stopped_by"]
    assert (by["via"], by["controller_user"]) == ("ansible", "ada")
    assert by["user"] == stopped["user"]
    assert f"on request of {by['user']}" in stopped["msg"]
    assert "run by ada on control.example" in stopped["msg"]
    again = job_stop(launcher.store, job.jid)
    assert (again["changed"], again["stopped_jobs"]) == (False, [])
    assert again["jobs"] == found["jobs"]


def test_whoever_runs_the_module_by_hand_has_asked_locally(launcher):
    job = launcher.ready("echo ready; sleep 61")
    found = job_stop(launcher.store, job.jid, _ansible_version=None)
    assert found["jobs"][0]["stopped_by"]["via"] == "local"
    assert "ansible" not in found["jobs"][0]["reason"]


def test_what_has_finished_stays_as_it_is(launcher):
    job = launcher.shell("exit 3")
    before = launcher.finished(job)
    found = job_stop(launcher.store, job.jid)
    assert (found["changed"], found["jobs"][0]["state"]) == (False, "failed")
    assert found["msg"] == "nothing to stop"
    assert job.read_record() == before


def test_the_signal_and_the_grace_of_the_task_win_over_those_of_the_job(launcher):
    polite = launcher.ready("trap 'echo bye; exit 5' USR1; echo ready; while :; do sleep 0.05; done")
    found = job_stop(launcher.store, polite.jid, signal="USR1")
    assert (found["jobs"][0]["rc"], found["jobs"][0]["stdout"]) == (5, "ready\nbye")
    deaf = launcher.ready(DEAF, grace=600)
    found = job_stop(launcher.store, deaf.jid, grace=0.2)
    assert (found["jobs"][0]["rc"], found["jobs"][0]["signal"]) == (-9, "SIGKILL")
    own = launcher.ready(
        "trap 'exit 6' HUP; echo ready; while :; do sleep 0.05; done", stop_signal=signal.SIGHUP
    )
    assert job_stop(launcher.store, own.jid)["jobs"][0]["rc"] == 6


def test_a_hundred_jobs_that_ignore_the_signal_take_as_long_as_one(launcher):
    jobs = ready(launcher, 100)
    begun = time.monotonic()
    found = job_stop(launcher.store, *[job.jid for job in jobs], grace=2)
    took = time.monotonic() - begun
    assert found["counts"]["stopped"] == 100
    assert {job["signal"] for job in found["jobs"]} == {"SIGKILL"}
    assert [job["ansible_job_id"] for job in found["jobs"]] == [job.jid for job in jobs]
    assert all(launcher.processes(job) == [] for job in jobs[::10])
    print(f"100 jobs took {took:.2f} s")
    assert 2 <= took < 20  # one after the other: 200 s
