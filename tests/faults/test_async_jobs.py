# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs that `async` launched lose their processes, or seem to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import processes
from ansible_collections.durable.jobs.tests.faults import modules
from ansible_collections.durable.jobs.tests.faults.surroundings import (
    module_argv,
    module_input,
    needs_root,
)
from ansible_collections.durable.jobs.tests.unit.support import until

PATIENCE = 60
OLD = 10  # seconds: a first record is not believed as long as that


def kill(*members, numbers=(signal.SIGSTOP, signal.SIGKILL)):
    """Kill processes, the watcher before what it watches."""
    for number in numbers:
        for one in members:
            processes.send(one, number)
    until(
        lambda: not any(processes.is_alive(one.pid, one.started) for one in members), "their deaths"
    )


def running(builtin):
    """Launch a job and return its jid when its command runs."""
    word = builtin.folder / "word"
    jid = builtin.launch(f"touch {word}; sleep 61; exit 3")
    until(word.exists, "the command")
    return jid


def kill_rest(builtin, jid):
    """Kill what is left of a job without wrappers, also what is being born."""

    def is_gone():
        kill(*builtin.command(jid))
        return not builtin.command(jid)

    until(is_gone, "the end of what is left")


def age(builtin, jid):
    """Let the job's record be old enough to be doubted."""
    path = builtin.async_dir / jid
    moment = path.stat().st_mtime - OLD
    os.utime(path, (moment, moment))


def run(builtin, module, **arguments):
    """Run a module of ours, as a task on that host does."""
    return modules.run(modules.OURS + module, {"async_dir": str(builtin.async_dir), **arguments})


def state(builtin, jid):
    """Return what `job_status` and `job_info` say of a job."""
    found = run(builtin, "job_status", jid=jid)
    (listed,) = run(builtin, "job_info", jids=[jid])["jobs"]
    assert (listed["state"], listed["reason"]) == (found["state"], found["reason"])
    return found["state"], found["reason"]


def test_all_its_processes_are_killed(builtin, record_property):
    """
    every process of a job of `async` is killed
    | lost, killed; a wait ends, there is nothing to stop, and it can be pruned
    """
    jid = running(builtin)
    kill(*builtin.wrappers(jid))
    kill_rest(builtin, jid)
    waited = run(builtin, "job_wait", jobs=[jid])  # without a limit
    assert waited["failed"] and waited["counts"]["lost"] == 1
    assert state(builtin, jid) == ("lost", "killed")
    record_property("builtin", builtin.sees(jid))
    stopped = run(builtin, "job_stop", jobs=[jid])
    assert (stopped["failed"], stopped["changed"]) == (False, False), stopped
    pruned = run(builtin, "job_prune")
    assert [one["state"] for one in pruned["pruned"]] == ["lost"]
    assert not (builtin.async_dir / jid).exists()


def test_its_wrappers_are_killed_and_its_command_lives_on(builtin, record_property):
    """
    both wrappers of a job of `async` are killed, and its command goes on
    | running as long as the command lives, then lost, killed
    """
    jid = running(builtin)
    # Not stopped first: of a process group with stopped members that is orphaned, the kernel hangs up all.
    kill(*builtin.wrappers(jid), numbers=[signal.SIGKILL])
    age(builtin, jid)
    record_property("builtin", "started for ever")
    assert state(builtin, jid) == ("running", None)
    refused = run(builtin, "job_stop", jobs=[jid])
    assert refused["failed"] and "Nothing was signalled" in refused["msg"]
    assert run(builtin, "job_prune")["pruned"] == []
    kill_rest(builtin, jid)
    until(lambda: state(builtin, jid) == ("lost", "killed"), "the verdict")


def test_only_its_watcher_is_killed(builtin, record_property):
    """the watcher of a job of `async` is killed | running; its end is reported with its exit code"""
    jid = builtin.gated("exit 3")
    until(lambda: builtin.module(jid), "the module")
    age(builtin, jid)
    kill(builtin.wrappers(jid)[0])
    assert state(builtin, jid) == ("running", None)
    builtin.release()
    found = run(builtin, "job_wait", jobs=[jid])["jobs"][0]
    assert (found["state"], found["rc"]) == ("failed", 3)
    record_property("builtin", builtin.sees(jid))


def elsewhere(builtin, prefix, module, **arguments):
    done = subprocess.run(
        [*prefix, *module_argv(module)],
        input=module_input(async_dir=str(builtin.async_dir), **arguments),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return json.loads(done.stdout)


def test_it_is_looked_at_from_where_its_processes_cannot_be_seen(builtin, record_property):
    """
    a job of `async` is looked at from another pid namespace that has a /proc of its own
    | running: nothing shows that it is gone; it is not pruned
    """
    needs_root()
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    jid = builtin.gated("exit 3")
    until(lambda: builtin.module(jid), "the module")
    age(builtin, jid)
    inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    assert elsewhere(builtin, inside, "job_status", jid=jid)["state"] == "running"
    assert elsewhere(builtin, inside, "job_info")["counts"]["running"] == 1
    assert elsewhere(builtin, inside, "job_prune")["pruned"] == []
    builtin.release()
    assert run(builtin, "job_wait", jobs=[jid])["jobs"][0]["rc"] == 3
    record_property("builtin", builtin.sees(jid))


def test_its_module_returns_what_looks_like_a_running_job(builtin, record_property):
    """
    `async` runs a module whose result has keys called started and finished, as our `job_start` has
    | succeeded: what it returned is its result; it can be pruned
    """
    # job_start itself refuses the keyword: a module of somebody else returns what it returned.
    asked = {"shell": "exit 0", "async_dir": str(builtin.folder / "ours")}
    result = modules.run(modules.OURS + "job_start", asked)
    assert (result["started"], result["finished"]) == (True, False)
    library = builtin.folder / "library"
    library.mkdir()
    (library / "starter.py").write_text(
        f"#!/usr/bin/python\n# WANT_JSON\nprint({json.dumps(result)!r})\n"
    )
    builtin.environment["ANSIBLE_LIBRARY"] = str(library)
    jid = builtin.ansible("starter", "", "-B", "60", "-P", "0")["ansible_job_id"]
    found = run(builtin, "job_wait", jobs=[jid])["jobs"][0]
    assert (found["state"], found["finished"], found["failed"]) == ("succeeded", True, False), found
    assert [one["ansible_job_id"] for one in run(builtin, "job_prune")["pruned"]] == [jid]
    record_property("builtin", "started for ever")
