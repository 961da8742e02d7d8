# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`job_stop`: jobs are stopped that have lost who keeps them, and whoever stops them is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from ansible_collections.durable.jobs.plugins.module_utils._job import processes, status
from ansible_collections.durable.jobs.tests.faults import freezer, modules
from ansible_collections.durable.jobs.tests.unit.support import request, until

PATIENCE = 60
MANY = 50
TREE = "setsid sleep 61 & (sleep 62 &) ; echo ready; sleep 63"
DEAF = "trap '' TERM; echo ready; while :; do sleep 0.1; done"


def arguments(launcher, *jobs, **options):
    return {"async_dir": launcher.store.path, "jobs": [job.jid for job in jobs], **options}


def job_stop(launcher, *jobs, **options):
    """Stop jobs, as a task on their host does."""
    return modules.run(modules.OURS + "job_stop", arguments(launcher, *jobs, **options))


def orphan(launcher, job):
    """Kill a job's keeper and its runner at the same time."""
    keeper, runner = launcher.keeper(job)
    os.kill(runner, signal.SIGSTOP)  # or it would give the job a new keeper first
    for pid in (keeper, runner):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not job.is_held("keeper") and not job.is_held("runner"))


def killed_half_way(launcher, *jobs, **options):
    """Start to stop jobs, and kill the module when each has begun to end."""
    asked = json.dumps({"ANSIBLE_MODULE_ARGS": arguments(launcher, *jobs, **options)})
    with subprocess.Popen(
        [sys.executable, "-m", modules.OURS + "job_stop"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as module:
        module.stdin.write(asked.encode())
        module.stdin.close()
        until(lambda: all(job.slot("ending") for job in jobs), "the first signals")
        modules.kill(module)


def test_many_jobs_of_which_every_third_has_lost_its_keeper_and_every_third_also_its_runner(
    launcher,
):
    """
    50 jobs are stopped in one call; of a third the keeper has been killed, of a third keeper and runner
    | all are stopped at the same time, and every process of them is gone
    """
    launcher.raw(*[request("/bin/sh", "-c", TREE, timeout=600) for _number in range(MANY)])
    jobs = list(launcher.jobs)
    until(lambda: all(os.stat(job.path("stdout")).st_size for job in jobs), "the jobs' output")
    for job in jobs[1::3]:
        os.kill(launcher.keeper(job)[0], signal.SIGKILL)
    for job in jobs[2::3]:
        orphan(launcher, job)
    found = job_stop(launcher, *jobs)
    assert found["counts"]["stopped"] == MANY, found["msg"]
    assert {job["rc"] for job in found["jobs"]} == {-signal.SIGTERM, None}
    assert all(launcher.processes(job) == [] for job in jobs)


def test_the_module_is_killed_while_it_stops_jobs(launcher):
    """`job_stop` is killed when it has sent the first signal | the jobs are ended all the same, after their grace"""
    jobs = [launcher.ready(DEAF, timeout=600) for _number in range(3)]
    orphan(launcher, jobs[1])
    killed_half_way(launcher, *jobs, grace=1)
    for job, rc in zip(jobs, (-signal.SIGKILL, None, -signal.SIGKILL)):
        found = status.wait(job, PATIENCE)
        assert (found["state"], found["rc"]) == ("stopped", rc)
        assert launcher.processes(job) == []


def test_the_keeper_is_killed_while_it_waits_out_the_grace(launcher):
    """
    a keeper that has sent the first signal of a stop is killed
    | the next one keeps to the grace that was asked for
    """
    job = launcher.ready(DEAF, timeout=600, grace=600)
    killed_half_way(launcher, job, grace=2)
    os.kill(launcher.keeper(job)[0], signal.SIGKILL)
    found = status.wait(job, PATIENCE)
    assert (found["state"], found["rc"]) == ("stopped", -signal.SIGKILL)
    assert found["stopped_by"] is not None
    assert launcher.processes(job) == []


def test_what_could_not_be_killed_is_tried_again(launcher, tmp_path):
    """
    a process of a stopped job hangs in the kernel
    | the stop fails and names it, also when it is repeated; as soon as the process can be ended it succeeds
    """
    with freezer.mounted(tmp_path) as disk:
        disk.freeze()
        job = launcher.shell(f"setsid touch {disk.folder}/file & exec sleep 61")
        (stuck,) = until(
            lambda: [one for one in launcher.processes(job) if one.name == "touch"], "the touch"
        )
        for _again in range(2):
            found = job_stop(launcher, job, grace=0.2)
            assert found["failed"] and f"touch (pid {stuck.pid})" in found["msg"]
            assert found["failed_jobs"] == [job.jid]
            assert found["jobs"][0]["survivors"] == [{"pid": stuck.pid, "name": "touch"}]
        disk.thaw()
        until(lambda: not processes.is_alive(stuck.pid, stuck.started), "the end of what was stuck")
        found = job_stop(launcher, job)
        assert (found["failed"], found["changed"]) == (False, False)


def test_a_job_of_async_whose_watcher_has_been_killed(builtin, record_property):
    """
    the watcher of a job of `async` is killed, and `job_stop` stops it
    | all its processes are gone; `async_status` says failed
    """
    jid = builtin.launch("sleep 62 & sleep 61; exit 3")
    until(lambda: builtin.command(jid), "the command")
    os.kill(builtin.wrappers(jid)[0].pid, signal.SIGKILL)
    everybody = [*builtin.wrappers(jid), *builtin.module(jid), *builtin.command(jid)]
    asked = {"async_dir": str(builtin.async_dir), "jobs": [jid]}
    found = modules.run(modules.OURS + "job_stop", asked)
    assert found["jobs"][0]["state"] == "stopped", found
    assert not any(processes.is_alive(one.pid, one.started) for one in everybody)
    assert builtin.sees(jid).startswith("failed, rc -15")
    record_property("builtin", "has no way to stop a job")
