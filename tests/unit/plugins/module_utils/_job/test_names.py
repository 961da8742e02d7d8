# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names: at most one live job, decided on the target, whoever is killed and when."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    processes,
    removing,
    schema,
    status,
    stopping,
)
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._job.names import latest_job
from ansible_collections.durable.jobs.tests.unit.support import request, until

ROUNDS = int(os.environ.get("DURABLE_JOBS_ROUNDS", "5"))  # test-faults runs more
SPEC = {"cmd": "digest", "timeout": 60, "env": {}}


def named(line, **changes):
    """Return a request for a named job."""
    asked = {"name": "work", "spec": {**SPEC, "cmd": line}}
    asked.update(changes)
    return request("/bin/sh", "-c", line, **asked)


def only(launcher, asked):
    """Launch one request and return its answer."""
    return launcher.raw(asked)[0]


def latest(launcher):
    return latest_job(launcher.store, "work")


# -- the decision -----------------------------------------------------------------------------------------------------


def record(state, spec=None):
    finished = state in schema.FINISHED_STATES
    return {"state": state, "finished": finished, "durable_jobs": {"spec": spec or SPEC}}


EXPECTED_LIVE = {
    ("same", "fail"): "attach",
    ("same", "attach"): "attach",
    ("same", "replace"): "attach",
    ("other", "fail"): "conflict",
    ("other", "attach"): "attach",
    ("other", "replace"): "replace",
}


@pytest.mark.parametrize("rerun", ["always", "on_failure", "never"])
@pytest.mark.parametrize("on_conflict", ["fail", "attach", "replace"])
def test_the_decision(on_conflict, rerun):
    def decide(latest_record, spec=None):
        return schema.decide(latest_record, spec or SPEC, on_conflict=on_conflict, rerun=rerun)

    assert decide(None) == "start"
    for state in ("running", "queued"):
        assert decide(record(state)) == EXPECTED_LIVE["same", on_conflict]
        other = decide(record(state), {**SPEC, "cmd": "x"})
        assert other == EXPECTED_LIVE["other", on_conflict]
    for state, spec in itertools.product(schema.FINISHED_STATES, (SPEC, {**SPEC, "cmd": "x"})):
        keeps = rerun == "never" or (rerun == "on_failure" and state == "succeeded")
        assert decide(record(state), spec) == ("keep" if keeps else "start"), state


def test_a_record_that_nobody_knows_differs_in_everything():
    assert schema.differing({"state": "running"}, SPEC) == list(SPEC)


def test_the_conflict_says_what_differs_and_shows_no_secret():
    job = {**record("running"), "name": "work", "ansible_job_id": "j1.2"}
    says = schema.conflict_message(job, {**SPEC, "cmd": "other", "timeout": 120})
    assert (
        "cmd, timeout (60, now 120)" in says
        and "digest" not in says
        and "other" not in says.split("another")[1].partition("cmd")[2]
    )
    assert "keeps the limits that it was launched with" not in says
    says = schema.conflict_message(job, {**SPEC, "timeout": 120})
    assert "timeout (60, now 120)" in says and "keeps the limits that it was launched with" in says


@pytest.mark.parametrize(
    "name", ["a", "nightly backup", "web.check-1_2@host:80+x", "x" * 200, "..", "-", "@"]
)
def test_names_that_people_type(name):
    assert schema.check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", " ", "a ", " a", "a/b", "a\nb", "a\0", "x" * 201, "ä", "a\tb", "$(a)", "a;b"]
)
def test_other_names_are_refused_with_the_rule(name):
    with pytest.raises(JobError, match=r"name .* cannot be the name of a job: .* 1 to 200 of"):
        schema.check_name(name)


# -- launching --------------------------------------------------------------------------------------------------------


def test_a_second_launch_attaches(launcher):
    first = only(launcher, named("sleep 60"))
    assert first["record"]["name"] == "work"
    jid = first["record"]["ansible_job_id"]
    assert only(launcher, named("sleep 60")) == {"decision": "attach", "jid": jid}
    assert latest(launcher).jid == jid


def test_a_job_without_a_name_is_nobodys_latest(launcher):
    launcher.shell("sleep 60")
    assert latest(launcher) is None


def test_another_specification_is_a_conflict(launcher):
    only(launcher, named("sleep 60"))
    answer = only(launcher, named("sleep 61"))
    assert answer["error"]["differs"] == ["cmd"] and "on_conflict=replace" in answer["error"]["msg"]
    assert len(launcher.jobs) == 1
    assert only(launcher, named("sleep 61", on_conflict="attach"))["decision"] == "attach"


def test_after_the_end_rerun_decides(launcher):
    only(launcher, named("exit 3"))
    failed = launcher.finished(launcher.jobs[-1])["ansible_job_id"]
    assert only(launcher, named("exit 3", rerun="never")) == {"decision": "keep", "jid": failed}
    assert "record" in only(launcher, named("true", rerun="on_failure"))
    good = launcher.finished(launcher.jobs[-1])["ansible_job_id"]
    assert only(launcher, named("true", rerun="on_failure")) == {"decision": "keep", "jid": good}
    assert "record" in only(launcher, named("true"))
    assert latest(launcher).jid == launcher.jobs[-1].jid


def test_a_lost_job_counts_as_failed(launcher):
    only(launcher, named("sleep 60"))
    job = launcher.jobs[-1]
    pids = (*launcher.keeper(job), job.read_record()["durable_jobs"]["command"]["pid"])
    os.kill(pids[1], signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: status.look(job)["finished"])
    assert "record" in only(launcher, named("sleep 60", rerun="on_failure"))


def test_a_launch_that_fails_leaves_the_name_as_it_was(launcher):
    only(launcher, named("true"))
    good = launcher.finished(launcher.jobs[-1])["ansible_job_id"]
    broken = request("/nope", name="work", spec=SPEC)
    assert "error" in only(launcher, broken)
    assert latest(launcher).jid == good
    assert "error" in only(launcher, {**broken, "name": "new"})
    assert latest_job(launcher.store, "new") is None


def test_one_call_with_a_name_twice_starts_it_once(launcher):
    first, second = launcher.raw(named("sleep 60"), named("sleep 60"))
    assert second == {"decision": "attach", "jid": first["record"]["ansible_job_id"]}


def test_a_cleaned_up_job_is_no_longer_meant(launcher):
    only(launcher, named("true"))
    launcher.finished(launcher.jobs[-1])
    removing.remove(launcher.jobs[-1])
    assert latest(launcher) is None


def test_a_name_whose_record_is_damaged_can_be_launched_again(launcher):
    only(launcher, named("true"))
    launcher.finished(launcher.jobs[-1])
    with open(launcher.jobs[-1].results_file, "wb"):
        pass
    assert "record" in only(launcher, named("true"))


def test_a_live_job_whose_record_is_damaged_is_still_found_by_its_name(launcher):
    only(launcher, named("sleep 61"))
    old = launcher.jobs[-1]
    with open(old.results_file, "wb"):
        pass
    assert only(launcher, named("sleep 61")) == {"decision": "attach", "jid": old.jid}
    assert "another specification" in only(launcher, named("sleep 62"))["error"]["msg"]


def test_a_live_job_that_lost_its_record_and_its_copy_conflicts_and_can_be_replaced(launcher):
    only(launcher, named("sleep 61"))
    old = launcher.jobs[-1]
    for path in (old.results_file, old.path("record")):
        with open(path, "wb"):
            pass
    assert "error" in only(launcher, named("sleep 61"))
    assert "record" in only(launcher, named("sleep 61", on_conflict="replace"))
    assert launcher.processes(old) == []


# -- replacing --------------------------------------------------------------------------------------------------------


def test_replace_stops_the_whole_tree_before_the_new_job_starts(launcher):
    only(launcher, named("setsid sleep 61 & sleep 62"))
    old = launcher.jobs[-1]
    assert "record" in only(launcher, named("sleep 63", on_conflict="replace"))
    assert launcher.processes(old) == []
    stopped = old.read_record()
    assert (stopped["state"], stopped["reason"], stopped["rc"]) == ("stopped", "replaced", -15)
    new = launcher.jobs[-1].read_record()
    assert (new["state"], new["start"] >= stopped["end"]) == ("running", True)


def test_replace_ends_a_job_that_has_lost_its_keeper_and_its_runner(launcher):
    """keeper and runner of a job are killed | on_conflict=replace ends all of it all the same"""
    only(launcher, named("setsid sleep 61 & trap '' TERM; while :; do sleep 1; done", grace=0.5))
    old = launcher.jobs[-1]
    os.kill(launcher.keeper(old)[1], signal.SIGSTOP)  # or it would give the job a new keeper
    for pid in launcher.keeper(old):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not old.is_held("keeper") and not old.is_held("runner"))
    assert "record" in only(launcher, named("sleep 63", on_conflict="replace"))
    assert launcher.processes(old) == []
    stopped = old.read_record()
    assert (stopped["state"], stopped["rc"], stopped["finished"]) == ("stopped", None, True)


@pytest.mark.parametrize("victim", [0, 1], ids=["keeper", "runner"])
def test_stopping_works_whoever_is_dead(launcher, victim):
    """keeper or runner of a job is killed | stopping the job ends all of it all the same"""
    job = launcher.shell("setsid sleep 61 & sleep 62")
    os.kill(launcher.keeper(job)[victim], signal.SIGKILL)
    final = stopping.stop(job, number=signal.SIGTERM, grace=5, reason="asked by a test")
    assert (final["state"], final["rc"], final["reason"]) == ("stopped", -15, "asked by a test")
    assert launcher.processes(job) == []


def test_stopping_a_finished_job_changes_nothing(launcher):
    job = launcher.shell("exit 3")
    launcher.finished(job)
    final = stopping.stop(job, number=signal.SIGTERM, grace=5, reason="late")
    assert (final["state"], final["rc"]) == ("failed", 3)


def test_nonsense_in_the_mailbox_harms_nothing(launcher):
    job = launcher.gated("echo fine")
    with open(job.path("keeper"), "wb", buffering=0) as mailbox:
        for received in (b"\xff\0\n", b"[]\n", b'{"signal": "x"}\n', b"{}\n", b"x" * 5000):
            mailbox.write(received)
    launcher.release()
    assert launcher.finished(job)["stdout"] == "fine"


# -- many at once, and deaths -----------------------------------------------------------------------------------------


def crowd(launcher, *requests):
    """Launch each request from a process of its own, all at once, and return the answers."""
    arguments = [sys.executable, "-I", "-S", launcher.program]
    with contextlib.ExitStack() as stack:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        members = [
            stack.enter_context(subprocess.Popen(arguments, **pipes)) for _request in requests
        ]
        for process, asked in zip(members, requests):
            data = {"async_dir": launcher.store.path, "jobs": [asked]}
            process.stdin.write(json.dumps(data).encode())
            process.stdin.close()
        answers = [json.loads(process.stdout.read())["jobs"][0] for process in members]
    jids = [one["record"]["ansible_job_id"] for one in answers if "record" in one]
    launcher.jobs += [launcher.store.job(jid) for jid in jids]
    return answers


@pytest.mark.parametrize("_round", range(ROUNDS))
def test_of_fifty_launches_at_once_one_starts_and_the_others_attach(launcher, _round, tmp_path):
    """50 processes launch one name at once | one job starts, 49 launches attach to it"""
    answers = crowd(launcher, *[named(f"echo >> {tmp_path}/ran; sleep 60")] * 50)
    started = [job.jid for job in launcher.jobs]
    assert len(started) == 1
    assert [one["jid"] for one in answers if "jid" in one] == started * 49
    until(lambda: os.path.exists(tmp_path / "ran") and (tmp_path / "ran").read_text())
    assert (tmp_path / "ran").read_text() == "\n"


@pytest.mark.parametrize("_round", range(ROUNDS))
def test_of_two_specifications_at_once_one_wins(launcher, _round):
    """two processes launch one name, differently | one starts its job, the other is refused"""
    answers = crowd(launcher, named("sleep 60"), named("sleep 61"))
    assert sorted(key for one in answers for key in one) == ["error", "record"]


@pytest.mark.parametrize("_round", range(ROUNDS * 2))
def test_whoever_decides_may_be_killed_at_any_moment(launcher, _round, tmp_path):
    """the launcher of a name is killed at any moment | launched again, the command ran once"""
    asked = named(f"echo >> {tmp_path}/ran; sleep 60")
    data = json.dumps({"async_dir": launcher.store.path, "jobs": [asked]}).encode()
    arguments = [sys.executable, "-I", "-S", launcher.program]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        process.stdin.write(data)
        process.stdin.close()
        moment = os.times().elapsed + _round % 20 * 0.01
        until(lambda: os.times().elapsed >= moment)
        process.kill()
    answer = only(launcher, asked)
    if "jid" in answer:
        launcher.jobs.append(launcher.store.job(answer["jid"]))
    until(lambda: os.path.exists(tmp_path / "ran") and (tmp_path / "ran").read_text())
    assert (tmp_path / "ran").read_text() == "\n", "it ran once, whoever started it"
    assert [
        one
        for one in processes.all_processes().values()
        if one.parent == os.getpid() and one.zombie
    ] == []
