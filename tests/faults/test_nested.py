# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs that are launched from inside a job: each is a job of its own."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import processes, status, stopping
from ansible_collections.durable.jobs.tests.unit.support import request, until

PATIENCE = 60


def launching(launcher, *requests, slots=0):
    """Return a line of shell that launches jobs."""
    asked = {"async_dir": launcher.store.path, "jobs": requests, "adopt": [], "slots": slots}
    words = (sys.executable, "-I", "-S", launcher.program)
    return f"printf %s {shlex.quote(json.dumps(asked))} | {shlex.join(words)}; echo; "


def launched(launcher, job):
    """Wait until a job has launched others, and return these."""
    until(lambda: b"\n" in read(job), "the launch inside")
    answers = json.loads(read(job).partition(b"\n")[0])["jobs"]
    jobs = [launcher.store.job(one["record"]["ansible_job_id"]) for one in answers]
    launcher.jobs += jobs
    return jobs


def read(job):
    with open(job.path("stdout"), "rb") as stdout:
        return stdout.read()


def waiting(launcher, rc):
    """Return a request for a command that ends when the test says so."""
    line = f"until [ -e go ]; do sleep 0.02; done; setsid true; exit {rc}"
    return request("/bin/sh", "-c", line, chdir=launcher.store.path)


def kill(*pids):
    alive = [processes.process(pid) for pid in pids]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for one in alive:
        until(
            lambda one=one: not processes.is_alive(one.pid, one.started), f"the end of {one.name}"
        )


def outcome(found):
    return found["state"], found["rc"]


@pytest.mark.parametrize("end", ["deadline", "stop", "end"])
def test_the_outer_job_ends(launcher, end):
    """
    a job launches others, one of them launches one too, and the first is ended at its deadline, on request or by itself
    | all of its own processes are gone; the others run on, and their rc is there
    """
    inner = request(
        "/bin/sh", "-c", launching(launcher, waiting(launcher, 5)) + "sleep 61 & exec sleep 62"
    )
    rest = "setsid sleep 63 & " + ("exit 3" if end == "end" else "exec sleep 64")
    line = launching(launcher, inner, waiting(launcher, 4)) + rest
    outer = launcher.shell(line, timeout=3 if end == "deadline" else 60)
    middle, sibling = launched(launcher, outer)
    (innermost,) = launched(launcher, middle)
    if end == "stop":
        stopping.stop(outer, number=signal.SIGTERM, grace=1, reason="test")
    final = status.wait(outer, PATIENCE)
    known = {"deadline": ("timed_out", -15), "stop": ("stopped", -15), "end": ("failed", 3)}
    assert outcome(final) == known[end] and not final.get("survivors")
    if end != "end":
        assert launcher.processes(outer) == []
    assert [status.look(job)["state"] for job in (middle, sibling, innermost)] == ["running"] * 3
    stopping.stop(middle, number=signal.SIGTERM, grace=1, reason="test")
    assert launcher.processes(middle) == []
    launcher.release()
    assert outcome(status.wait(sibling, PATIENCE)) == ("failed", 4)
    assert outcome(status.wait(innermost, PATIENCE)) == ("failed", 5)


def test_the_outer_job_ends_while_others_are_queued(launcher):
    """a job has launched others, of which some are queued, and is stopped | they run, one after the other"""
    asked = [waiting(launcher, 4), waiting(launcher, 5)]
    outer = launcher.shell(launching(launcher, *asked, slots=1) + "exec sleep 62")
    first, second = launched(launcher, outer)
    stopping.stop(outer, number=signal.SIGTERM, grace=1, reason="test")
    assert [status.look(job)["state"] for job in (first, second)] == ["running", "queued"]
    launcher.release()
    assert outcome(status.wait(first, PATIENCE)) == ("failed", 4)
    assert outcome(status.wait(second, PATIENCE)) == ("failed", 5)


@pytest.mark.parametrize("end", ["deadline", "stop"])
def test_the_inner_job_ends(launcher, end):
    """
    a job that another one has launched is ended at its deadline, or on request | the other one runs on
    """
    timeout = 1 if end == "deadline" else 60
    inner = request("/bin/sh", "-c", "setsid sleep 61 & exec sleep 62", timeout=timeout)
    line = "until [ -e go ]; do sleep 0.02; done; exit 3"
    outer = launcher.shell(launching(launcher, inner) + line, chdir=launcher.store.path)
    (job,) = launched(launcher, outer)
    if end == "stop":
        stopping.stop(job, number=signal.SIGTERM, grace=1, reason="test")
    final = status.wait(job, PATIENCE)
    assert final["state"] == {"deadline": "timed_out", "stop": "stopped"}[end]
    assert launcher.processes(job) == []
    assert status.look(outer)["state"] == "running"
    launcher.release()
    assert outcome(status.wait(outer, PATIENCE)) == ("failed", 3)


def test_the_outer_job_has_lost_its_keepers(launcher):
    """
    a job has launched another one, and its keeper is killed, or its runner too
    | at its deadline its own processes are gone; the other one runs on
    """
    line = launching(launcher, waiting(launcher, 4)) + "setsid sleep 61 & exec sleep 62"
    both, one = launcher.shell(line, timeout=4), launcher.shell(line, timeout=4)
    inner = [*launched(launcher, both), *launched(launcher, one)]
    kill(launcher.keeper(one)[0])
    kill(*launcher.keeper(both))
    launcher.raw(adopt=[both.jid])
    for job in (both, one):
        found = status.wait(job, PATIENCE)
        assert (found["state"], launcher.processes(job)) == ("timed_out", [])
    launcher.release()
    for job in inner:
        assert outcome(status.wait(job, PATIENCE)) == ("failed", 4)


def test_the_inner_job_has_lost_its_keeper(launcher):
    """
    a job has launched others, one's keeper is killed and the other's runner, and the job is stopped
    | these two run on, and their rc is there
    """
    asked = waiting(launcher, 4)
    outer = launcher.shell(launching(launcher, asked, asked) + "exec sleep 62")
    first, second = launched(launcher, outer)
    kill(launcher.keeper(first)[0])
    kill(launcher.keeper(second)[1])
    stopping.stop(outer, number=signal.SIGTERM, grace=1, reason="test")
    launcher.release()
    assert outcome(status.wait(first, PATIENCE)) == ("failed", 4)
    assert outcome(status.wait(second, PATIENCE)) == ("failed", 4)


def test_whoever_only_waits_or_claims_to_be_another_job(launcher):
    """
    a process of a job has another job's id in its environment, or waits for another job
    | it is ended with its own job
    """
    other = launcher.shell("exec sleep 62")
    name = "DURABLE_JOB_ID"
    fifo = shlex.quote(other.path("keeper"))
    line = f"{name}={other.jid} setsid sleep 61 & (exec 9<{fifo}; echo ready; exec sleep 61)"
    job = launcher.ready(line)
    found = stopping.stop(job, number=signal.SIGTERM, grace=1, reason="test")
    assert not found.get("survivors")
    command = other.read_record()["durable_jobs"]["command"]["pid"]
    assert [one.pid for one in launcher.processes(other)] == [command]
    assert status.look(other)["state"] == "running"
