# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs that start later, and again: what becomes of them, with real processes."""

from __future__ import annotations

import os
import signal
import time

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    processes,
    reading,
    schema,
    status,
    stopping,
)
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.tests.bench import processes as processes_of_bench
from ansible_collections.durable.jobs.tests.unit.support import PATIENCE, request, until

SOON = {"retries": 3, "on": ["failed"], "delay": 0.1, "backoff": 1, "delay_max": 0.1, "jitter": 0}


def again(**changes):
    """Return a policy as ``retrying.checked`` makes it."""
    return dict(SOON, **changes)


def outcome(found):
    return found["state"], found["rc"], found["reason"]


def test_a_job_is_tried_again_until_it_succeeds(launcher, tmp_path):
    line = f"echo try $DURABLE_JOB_ATTEMPT; echo $DURABLE_JOB_NAME >&2; echo >> {tmp_path}/n"
    job = launcher.shell(
        f"{line}; [ $(wc -l < {tmp_path}/n) = 3 ]", retry=again(), name="again", spec={}
    )
    found = status.wait(job, PATIENCE)
    assert outcome(found) == ("succeeded", 0, None)
    assert (found["attempt"], found["max_attempts"], found["stdout"]) == (3, 4, "try 3")
    tried = [(one["attempt"], one["state"], one["rc"], one["stdout"]) for one in found["attempts"]]
    assert tried == [
        (1, "failed", 1, "try 1"),
        (2, "failed", 1, "try 2"),
        (3, "succeeded", 0, "try 3"),
    ]
    assert found["stderr"] == "again"


def test_the_last_attempt_decides(launcher):
    job = launcher.shell("echo out; echo err >&2; exit 3", retry=again(retries=1))
    found = status.wait(job, PATIENCE)
    assert outcome(found) == ("failed", 3, None)
    assert found["msg"].startswith(f"job {job.jid} failed: rc 3 (attempt 2 of 2)")
    assert [one["rc"] for one in found["attempts"]] == [3, 3]


def test_between_attempts_a_job_is_queued(launcher):
    job = launcher.shell("echo $DURABLE_JOB_ATTEMPT; exit 3", retry=again(delay=60, delay_max=60))
    until(lambda: job.read_record()["state"] == "queued", "the pause")
    found = status.look(job)
    assert (found["state"], found["reason"], found["started"], found["rc"]) == (
        *("queued", "retry"),
        *(True, None),
    )
    assert (found["attempt"], len(found["attempts"]), found["stdout"]) == (1, 1, "1")
    assert (
        50
        < time.mktime(time.strptime(found["start_at"][:19], "%Y-%m-%d %H:%M:%S")) - time.time()
        < 61
    )
    final = stopping.stop(job, number=signal.SIGTERM, grace=5, reason="asked by a test")
    assert outcome(final) == ("stopped", None, "asked by a test")
    assert final["started"] is True and len(final["attempts"]) == 1
    assert "before attempt 2 of 4" in final["msg"]


def test_a_job_starts_later(launcher, tmp_path):
    asked = time.time()
    line = f"date +%s.%N > {tmp_path}/began"
    told = launcher.raw(request("/bin/sh", "-c", line, start_in=0.7))[0]["record"]
    assert (told["state"], told["reason"], told["started"]) == ("queued", "delayed", False)
    final = status.wait(launcher.jobs[-1], PATIENCE)
    assert outcome(final) == ("succeeded", 0, None)
    began = float((tmp_path / "began").read_text(encoding="ascii"))
    assert began - asked >= 0.7
    assert final["start_at"] is None and final["start"] >= told["start_at"]


def test_a_keeper_that_has_waited_for_its_time_sleeps_while_the_command_runs(launcher):
    job = launcher.ready("echo; sleep 60", start_in=0.1)
    keeper = launcher.keeper(job)[0]
    before = processes_of_bench.cpu(keeper)
    time.sleep(0.5)
    assert processes_of_bench.cpu(keeper) - before < 0.1


def test_a_job_that_is_to_start_later_is_stopped_before(launcher, tmp_path):
    job = launcher.shell(f"touch {tmp_path}/began", start_in=60)
    final = stopping.stop(job, number=signal.SIGTERM, grace=5, reason="asked by a test")
    assert outcome(final) == ("stopped", None, "asked by a test")
    assert final["started"] is False and not (tmp_path / "began").exists()
    assert final["attempts"] == []


def test_jobs_that_start_later_let_others_of_their_batch_go_first(launcher, tmp_path):
    line = f"echo $DURABLE_JOB_NAME >> {tmp_path}/order"
    asked = [("late", 1.0), ("first", 0), ("later", 1.2), ("second", 0)]
    shells = [
        request("/bin/sh", "-c", line, name=name, spec={}, start_in=seconds)
        for name, seconds in asked
    ]
    answers = launcher.raw(*shells, slots=1)
    assert [one["record"]["name"] for one in answers] == [name for name, _seconds in asked]
    for job in launcher.jobs:
        assert status.wait(job, PATIENCE)["state"] == "succeeded"
    order = (tmp_path / "order").read_text(encoding="ascii").split()
    assert order == ["first", "second", "late", "later"]


def test_what_an_attempt_leaves_behind_is_ended_before_the_next(launcher, tmp_path):
    pid = f"{tmp_path}/$DURABLE_JOB_ATTEMPT"
    line = f"setsid sh -c 'echo $$ > {pid}; exec sleep 60' & until [ -s {pid} ]; do :; done; exit 1"
    job = launcher.shell(line, retry=again(retries=2), grace=1)
    assert len(status.wait(job, PATIENCE)["attempts"]) == 3
    alive = [
        processes.process(int((tmp_path / number).read_text(encoding="ascii"))) for number in "123"
    ]
    # What the last one leaves behind lives on, as after any job.
    assert [one is not None for one in alive] == [False, False, True]


def test_timed_out_attempts_are_tried_again_if_asked_for(launcher):
    job = launcher.shell(
        "sleep 60", retry=again(retries=1, on=["timed_out"]), timeout=0.2, grace=0.1
    )
    found = status.wait(job, PATIENCE)
    assert outcome(found) == ("timed_out", -15, None)
    assert [one["state"] for one in found["attempts"]] == ["timed_out"] * 2
    other = launcher.shell("sleep 60", retry=again(), timeout=0.2, grace=0.1)
    assert [one["state"] for one in status.wait(other, PATIENCE)["attempts"]] == ["timed_out"]


def test_all_attempts_together_have_a_limit(launcher):
    job = launcher.shell(
        "sleep 60", retry=again(on=["timed_out"]), timeout=0.5, timeout_total=0.8, grace=0.1
    )
    found = status.wait(job, PATIENCE)
    assert outcome(found) == ("timed_out", -15, "timeout_total")
    assert [one["reason"] for one in found["attempts"]] == [None, "timeout_total"]
    assert "0.8 s for all attempts" in found["msg"]


def test_a_pause_for_which_there_is_no_time_is_not_made(launcher):
    job = launcher.shell("exit 3", retry=again(delay=60, delay_max=60), timeout_total=30)
    found = status.wait(job, PATIENCE)
    assert outcome(found) == ("failed", 3, None) and len(found["attempts"]) == 1


def test_a_program_that_is_gone_counts_as_a_failed_attempt(launcher, tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho ran\nrm $0\nexit 1\n", encoding="ascii")
    program.chmod(0o700)
    job = launcher(str(program), retry=again(retries=2))
    found = status.wait(job, PATIENCE)
    assert outcome(found) == ("failed", None, "not started")
    tried = [(one["attempt"], one["rc"], one["reason"], one["stdout"]) for one in found["attempts"]]
    assert tried == [
        (1, 1, None, "ran"),
        (2, None, "not started", ""),
        (3, None, "not started", ""),
    ]


def test_the_output_of_earlier_attempts_is_kept_within_the_limit(launcher):
    line = "head -c 60000 /dev/zero; echo $DURABLE_JOB_ATTEMPT; [ $DURABLE_JOB_ATTEMPT = 4 ]"
    job = launcher.shell(line, retry=again(), output_limit=131072)
    assert status.wait(job, PATIENCE)["attempt"] == 4
    names = sorted(name for name in os.listdir(job.path("")) if name.startswith("stdout"))
    assert names == ["stdout", "stdout.2", "stdout.3"]


def test_an_old_record_has_one_attempt(launcher):
    job = launcher.shell("echo out; exit 3")
    status.wait(job, PATIENCE)
    record = job.read_record()
    for key in ("attempt", "max_attempts", "attempts", "start_at", "timeout_total"):
        del record[key]
    shown = schema.present(record)
    assert (shown["attempt"], shown["max_attempts"], shown["start_at"]) == (1, 1, None)
    assert [(one["attempt"], one["rc"], one["stdout"]) for one in shown["attempts"]] == [
        (1, 3, "out")
    ]


def test_no_log_hides_the_output_of_attempts(launcher):
    job = launcher.shell("echo secret; exit 3", retry=again(retries=1), no_log=True)
    found = status.wait(job, PATIENCE)
    assert "secret" not in str(found) and len(found["attempts"]) == 2


def read(job, attempt=None, **how):
    reader = reading.Reader(job, "stdout", reveal=False, settle=True, attempt=attempt)
    if how:
        reader.wait(0, **how)
    found = reader.piece(0, 1000)
    reader.close()
    return reader.attempt, found["content"], found["eof"]


def test_the_output_of_each_attempt_can_be_read(launcher):
    job = launcher.shell("echo try $DURABLE_JOB_ATTEMPT; exit 3", retry=again(retries=1))
    status.wait(job, PATIENCE)
    assert read(job) == read(job, 2) == (2, "try 2\n", True)
    assert read(job, 1) == (1, "try 1\n", True)
    with pytest.raises(JobError, match="has no attempt 3: its latest one is 2"):
        read(job, 3)
    os.unlink(job.path("stdout.1"))
    with pytest.raises(JobError, match="output of attempt 1 of job .* is not kept any more"):
        read(job, 1)


def test_the_output_of_the_next_attempt_can_be_waited_for(launcher, tmp_path):
    line = f"[ $DURABLE_JOB_ATTEMPT = 1 ] && exit 3; echo begun; until [ -e {tmp_path}/go ]; do sleep 0.02; done"
    job = launcher.shell(line, retry=again(delay=1, delay_max=1))
    until(lambda: job.read_record()["state"] == "queued", "the pause")
    assert read(job) == (1, "", True)
    assert read(job, 2, seconds=PATIENCE) == (2, "begun\n", False)
    (tmp_path / "go").touch()
    assert status.wait(job, PATIENCE)["state"] == "succeeded"


def test_an_attempt_that_never_comes_has_no_output(launcher):
    job = launcher.shell("exit 3", retry=again(delay=60, delay_max=60))
    until(lambda: job.read_record()["state"] == "queued", "the pause")
    reader = reading.Reader(job, "stdout", reveal=False, settle=True, attempt=2)
    stopping.stop(job, number=signal.SIGTERM, grace=5, reason="asked by a test")
    reader.wait(0, PATIENCE)
    assert (reader.piece(0, 100)["content"], reader.piece(0, 100)["eof"]) == ("", True)
