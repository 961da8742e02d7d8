# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots: how many jobs of a batch run at once, and who is next."""

from __future__ import annotations

import os
import signal
import time

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import status, stopping
from ansible_collections.durable.jobs.tests.unit.support import request, until


class Batch:
    """Jobs that note when they begin and end, and end when they are told to."""

    def __init__(self, launcher, number, slots, **changes):
        self.folder = launcher.store.path
        line = "echo begin {0} >> log; until [ -e go ] || [ -e go.{0} ]; do sleep 0.02; done; echo end {0} >> log"
        requests = [
            request("/bin/sh", "-c", line.format(place), chdir=self.folder, **changes)
            for place in range(number)
        ]
        self.answers = launcher.raw(*requests, slots=slots)
        self.jobs = launcher.jobs[-number:]

    def begun(self):
        """Return the places of those that have begun, in the order of their beginning."""
        return [int(line.split()[1]) for line in self.log() if line.startswith("begin")]

    def log(self):
        try:
            with open(os.path.join(self.folder, "log"), encoding="ascii") as log:
                return log.read().splitlines()
        except FileNotFoundError:
            return []

    def at_once(self):
        """Return how many ran at once at the most."""
        running = [0]
        for line in self.log():
            running.append(running[-1] + (1 if line.startswith("begin") else -1))
        return max(running)

    def let(self, place=None):
        """Let one job end, or all."""
        name = "go" if place is None else "go.%d" % place
        with open(os.path.join(self.folder, name), "wb"):
            pass

    def states(self):
        return [status.look(job, show="none")["state"] for job in self.jobs]


def test_what_is_beyond_the_slots_is_queued(launcher):
    batch = Batch(launcher, 4, 2)
    assert [one["record"]["state"] for one in batch.answers] == [
        *["running"] * 2,
        *["queued"] * 2,
    ]
    until(lambda: len(batch.begun()) == 2)
    assert batch.states() == ["running", "running", "queued", "queued"]
    queued = status.look(batch.jobs[3])
    assert (queued["started"], queued["finished"], queued["rc"]) == (False, False, None)
    assert queued["start"] is None
    assert queued["deadline"] is None
    assert queued["submitted"] is not None
    batch.let()
    assert [launcher.finished(job)["state"] for job in batch.jobs] == ["succeeded"] * 4


def test_jobs_start_in_their_order_and_never_more_at_once(launcher):
    batch = Batch(launcher, 12, 3)
    batch.let()
    for job in batch.jobs:
        assert launcher.finished(job)["rc"] == 0
    # Three start at once, in any order. Whoever comes later starts when all but two of those before it have ended.
    assert sorted(batch.begun()) == list(range(12))
    assert batch.at_once() <= 3
    starts = [job.read_record()["start"] for job in batch.jobs[2:]]
    assert starts == sorted(starts)


def test_the_end_of_any_running_job_lets_the_next_one_start(launcher):
    batch = Batch(launcher, 4, 2)
    batch.let(1)
    until(lambda: 2 in batch.begun())
    assert batch.states() == ["running", "succeeded", "running", "queued"]
    batch.let()


def test_a_waiting_keeper_that_is_killed_loses_its_own_job_only(launcher):
    batch = Batch(launcher, 4, 1)
    os.kill(batch.answers[1]["record"]["durable_jobs"]["keeper"], signal.SIGKILL)
    lost = until(lambda: status.look(batch.jobs[1])["finished"] and status.look(batch.jobs[1]))
    assert (lost["state"], lost["reason"], lost["rc"]) == ("lost", "killed", None)
    assert batch.states() == ["running", "lost", "queued", "queued"], "nobody may overtake"
    batch.let()
    assert [launcher.finished(job)["state"] for job in batch.jobs[2:]] == ["succeeded"] * 2
    assert batch.begun() == [0, 2, 3]


@pytest.mark.parametrize("victims", [("keeper",), ("runner",), ("runner", "keeper")])
def test_the_death_of_our_processes_neither_keeps_a_slot_nor_gives_one_away(launcher, victims):
    batch = Batch(launcher, 3, 1)
    until(lambda: batch.begun() == [0])
    private = batch.jobs[0].read_record()["durable_jobs"]
    for victim in victims:
        os.kill(private[victim], signal.SIGKILL)
    if len(victims) == 1:
        until(lambda: batch.jobs[0].is_held("keeper"))
        assert batch.states()[1:] == ["queued", "queued"]
        assert batch.begun() == [0], "the job still has its slot"
    else:
        until(lambda: 1 in batch.begun())
    batch.let()
    for job in batch.jobs[1:]:
        assert launcher.finished(job)["state"] == "succeeded"
    assert batch.begun() == [0, 1, 2]


def test_a_queued_job_can_be_stopped_and_the_others_go_on(launcher):
    batch = Batch(launcher, 3, 1)
    found = stopping.stop(batch.jobs[1], number=signal.SIGTERM, grace=5, reason="by a test")
    assert (found["state"], found["reason"], found["rc"]) == ("stopped", "by a test", None)
    assert found["start"] is None
    assert batch.states()[2] == "queued"
    batch.let()
    assert launcher.finished(batch.jobs[2])["state"] == "succeeded"
    assert batch.begun() == [0, 2]


def test_the_limit_of_a_queued_job_counts_from_its_start(launcher):
    batch = Batch(launcher, 2, 1, timeout=5)
    batch_of_short = launcher.raw(
        request("/bin/sh", "-c", "until [ -e go ]; do sleep 0.02; done", chdir=batch.folder),
        request("/bin/true", timeout=0.3),
        slots=1,
    )
    short = launcher.store.job(batch_of_short[1]["record"]["ansible_job_id"])
    time.sleep(0.5)
    assert status.look(short)["state"] == "queued"
    batch.let()
    record = launcher.finished(short)
    assert record["state"] == "succeeded"
    assert record["submitted"] < record["start"] < record["deadline"]


def test_a_queued_command_that_cannot_be_started(launcher):
    answers = launcher.raw(
        request("/bin/true"), request("/no/such/program"), request("/bin/true"), slots=1
    )
    assert [one["record"]["state"] for one in answers] == ["running", "queued", "queued"]
    bad, last = launcher.jobs[-2:]
    record = launcher.finished(bad)
    assert (record["state"], record["reason"]) == ("failed", "not started")
    assert record["rc"] is None
    assert "could not be started" in record["msg"]
    assert record["msg"].endswith("argv /no/such/program: No such file or directory")
    assert launcher.finished(last)["state"] == "succeeded"


def test_a_launch_that_fails_takes_no_slot(launcher):
    answers = launcher.raw(request("/no/such/program"), request("/bin/true"), slots=1)
    assert "No such file or directory" in answers[0]["error"]["msg"]
    assert launcher.finished(launcher.jobs[-1])["state"] == "succeeded"


def test_a_second_launch_attaches_to_a_queued_job(launcher):
    named = {"name": "work", "spec": {"cmd": "x"}}
    line = "until [ -e go ]; do sleep 0.02; done"
    first = request("/bin/sh", "-c", line, chdir=launcher.store.path)
    answers = launcher.raw(first, request("/bin/true", **named), slots=1)
    jid = answers[1]["record"]["ansible_job_id"]
    assert launcher.raw(request("/bin/true", **named)) == [{"decision": "attach", "jid": jid}]
    launcher.release()
    assert launcher.finished(launcher.store.job(jid))["state"] == "succeeded"


def test_a_name_twice_in_one_batch_is_one_job(launcher):
    named = {"name": "work", "spec": {"cmd": "x"}}
    answers = launcher.raw(request("/bin/sleep", "1", **named), request("/bin/sleep", "1", **named))
    jid = answers[0]["record"]["ansible_job_id"]
    assert answers[1] == {"decision": "attach", "jid": jid}


def test_nothing_is_left_of_the_queue(launcher):
    batch = Batch(launcher, 3, 1)
    batch.let()
    for job in batch.jobs:
        launcher.finished(job)
        assert not os.path.exists(job.path("turn"))
