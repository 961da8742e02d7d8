# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs that come after others: what decides about them, walked through, and what becomes of real ones."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils import _job
from ansible_collections.durable.jobs.plugins.module_utils._job import (
    after,
    names,
    processes,
    record_io,
    removing,
    retrying,
    schema,
    status,
    stopping,
    verdicts,
)
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.tests.bench import processes as processes_of_bench
from ansible_collections.durable.jobs.tests.unit.support import PATIENCE, request, until

DESIGN = Path(_job.__file__).parents[3] / "docs" / "design" / "attempts.md"
JOBS = int(os.environ.get("DURABLE_GRAPH_JOBS", "100"))
SLOTS = 4
ENDS = {"succeeded": "true", "failed": "false"}
WRONG = ["failed", "timed_out", "stopped", "lost"]


# -- what decides ---------------------------------------------------------------------------------------------------


def test_every_end_of_another_job_decides():
    ends = {*schema.FINISHED_STATES, after.REFUSED}
    assert set(after.TABLE) == set(after.WANTED)
    assert {frozenset(row) for row in after.TABLE.values()} == {frozenset(ends)}


def test_the_design_shows_the_table():
    text = DESIGN.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| `(\w+)` \| `(\w+)` \| `(\w+)` \|$", text, re.M)
    shown = {wanted: {} for wanted in after.WANTED}
    for states, *events in rows:
        for state in re.findall(r"`(\w+)`", states):
            for wanted, event in zip(after.WANTED, events):
                shown[wanted][state] = event
    assert shown == after.TABLE


GRAPHS = {
    "a chain": {"b": ["a"], "c": ["b"]},
    "two before one": {"c": ["a", "b"]},
    "a diamond": {"b": ["a"], "c": ["a"], "d": ["b", "c"]},
}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("wanted", after.WANTED)
def test_whatever_happens_to_the_others(graph, wanted):
    """Walk through all that can become of a few jobs: each is waiting, pending, running, or has ended in some way."""
    others = GRAPHS[graph]
    jobs = sorted({*others, *itertools.chain(*others.values())})
    first = tuple("waiting" if job in others else "pending" for job in jobs)
    seen, todo = set(), [first]
    while todo:
        states = todo.pop(0)
        if states in seen:
            continue
        seen.add(states)
        following = []
        for at, job in enumerate(jobs):
            for state in moves(
                states[at], [states[jobs.index(one)] for one in others.get(job, ())], wanted
            ):
                following.append((*states[:at], state, *states[at + 1 :]))
        finished = [state in schema.FINISHED_STATES for state in states]
        assert bool(following) != all(finished), f"{states} is not the end, and nothing follows"
        for at, job in enumerate(jobs):
            ended = [states[jobs.index(one)] for one in others.get(job, ())]
            if states[at] in ("pending", "running", "succeeded", "failed"):
                assert all(after.TABLE[wanted].get(one) == retrying.MET for one in ended), (
                    "it began too early"
                )
            if states[at] == "skipped":
                assert any(after.TABLE[wanted].get(one) == retrying.UNMET for one in ended)
        todo += following


def moves(state, others, wanted):
    """Return what a job can become."""
    if state == "waiting":
        ended = [one if one in schema.FINISHED_STATES else None for one in others]
        event, place = after.decide(wanted, ended)
        if event is not None:
            phase = retrying.TABLE[retrying.WAITING, event]
            if phase == retrying.OVER:
                return [after.skipped(wanted, "other", ended[place])["state"], "stopped"]
            return [phase, "stopped"]
        return ["stopped", "lost"]
    if state == "pending":
        return ["running", "stopped", "lost"]
    return ["succeeded", *WRONG] if state == "running" else []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"after": [""]}, "after cannot hold '': give names or jids of jobs, such as build"),
        ({"after": [None]}, "after cannot hold None: give names or jids of jobs, such as build"),
        ({"after": ["a/b"]}, "after cannot hold name 'a/b' cannot be the name of a job"),
        (
            {"after": ["deploy"]},
            "after has the job's own name, deploy: a job cannot wait for itself",
        ),
        ({"after_state": "failed"}, "after_state is of no use without after"),
        (
            {"after": ["a"], "after_state": "lost"},
            "after_state must be one of succeeded, finished, failed, not",
        ),
        ({"after": [f"job{n}" for n in range(1001)]}, "after has 1001 jobs, and may have 1000"),
    ],
)
def test_what_cannot_be_asked_for(given, says):
    with pytest.raises(JobError, match=says):
        after.checked({"name": "deploy", **given})


def test_what_is_asked_for():
    assert after.checked({}) == after.checked({"after": []}) == {}
    assert after.checked({"after": [], "after_state": "failed"}) == {}
    found = after.checked({"after": ["b", "a", "b"]})
    assert found == {"after": ["b", "a"], "after_state": "succeeded"}


def named(*entries):
    return [{"name": name, "after": list(others)} for name, others in entries]


def test_jobs_are_launched_after_those_that_they_come_after():
    jobs = named(
        ("deploy", ["test", "lint", "old"]), ("test", ["build"]), ("lint", ["build"]), ("build", [])
    )
    assert after.levels(jobs) == [2, 1, 1, 0]
    chain = named(*((f"j{n}", [f"j{n + 1}"]) for n in range(5000)))
    assert after.levels(chain) == list(range(4999, -1, -1))


@pytest.mark.parametrize(
    ("jobs", "says"),
    [
        (
            named(("a", ["b"]), ("b", ["a"])),
            r"jobs\[0\] cannot .*: a, which waits for b, which waits for a$",
        ),
        (
            named(("x", []), ("c", ["a"]), ("a", ["b"]), ("b", ["a"])),
            "round in a circle: a, which waits for b, which waits for a$",
        ),
        (
            named(*((f"j{n}", [f"j{(n + 1) % 900}"]) for n in range(900))),
            "j4, which waits for ..., which waits for j896",
        ),
    ],
)
def test_jobs_that_wait_for_each_other(jobs, says):
    with pytest.raises(JobError, match=says):
        after.levels(jobs)


def test_how_long_a_job_that_waits_may_take():
    assert after.longest(60, [10, 20]) == 80
    assert after.longest(60, [10, 0]) == after.longest(0, [10]) == 0
    assert after.longest(60, [float(schema.LONGEST)]) == schema.LONGEST


# -- what becomes of them -------------------------------------------------------------------------------------------


def asked(name, line, *others, state="succeeded", **changes):
    """Return a request for a line of shell that comes after others."""
    given = {"after": list(others), "after_state": state} if others else {}
    return request("/bin/sh", "-c", line, name=name, spec={}, **given, **changes)


def launch(launcher, *requests, **how):
    """Launch jobs and return them by name."""
    answers = launcher.raw(*requests, **how)
    assert [one for one in answers if "record" not in one] == []
    return {
        one["record"]["name"]: launcher.store.job(one["record"]["ansible_job_id"])
        for one in answers
    }


def outcome(found):
    return found["state"], found["rc"], found["reason"]


def gate(folder, line="", name="go"):
    return f"until [ -e {folder}/{name} ]; do sleep 0.02; done; {line}"


def stop(job):
    return stopping.stop(job, number=signal.SIGTERM, grace=1, reason="asked by a test")


def test_a_job_starts_after_another(launcher, tmp_path):
    jobs = launch(
        launcher,
        asked("deploy", f"cat {tmp_path}/built", "build"),
        asked("build", gate(tmp_path, f"echo it > {tmp_path}/built")),
    )
    found = status.look(jobs["deploy"])
    assert outcome(found) == ("queued", None, "waiting")
    assert (found["waits_for"], found["after"], found["after_state"]) == (
        ["build"],
        ["build"],
        "succeeded",
    )
    assert found["started"] is False and schema.waits_text(found) == "waits for build"
    (tmp_path / "go").touch()
    found = status.wait(jobs["deploy"], PATIENCE)
    assert (outcome(found), found["stdout"]) == (("succeeded", 0, None), "it")
    assert (found["waits_for"], found["after"]) == ([], ["build"])


@pytest.mark.parametrize("state", after.WANTED)
@pytest.mark.parametrize("end", ENDS)
def test_what_the_end_of_another_means(launcher, tmp_path, state, end):
    jobs = launch(
        launcher,
        asked("first", gate(tmp_path, ENDS[end])),
        asked("then", "true", "first", state=state),
    )
    (tmp_path / "go").touch()
    found = status.wait(jobs["then"], PATIENCE)
    if after.TABLE[state][end] == retrying.MET:
        assert outcome(found) == ("succeeded", 0, None)
        return
    assert outcome(found) == ("skipped", None, "dependency")
    assert (found["started"], found["failed"], found["changed"]) == (False, False, False)
    assert found["msg"] == f"job then was skipped: job first {end}, and it was to have {state}"


def test_what_is_known_at_the_launch_is_not_waited_for(launcher):
    launcher.finished(launcher("/bin/true", name="good", spec={}))
    bad = launcher("/bin/false", name="bad", spec={})
    launcher.finished(bad)
    answers = launcher.raw(
        asked("a", "true", "good"),
        asked("b", "true", bad.jid),
        asked("c", "true", "bad", state="failed"),
    )
    states = [one["record"]["state"] for one in answers]
    assert states == ["running", "queued", "running"]
    found = status.wait(launcher.jobs[-2], PATIENCE)
    assert outcome(found) == ("skipped", None, "dependency")
    assert f"job {bad.jid} failed" in found["msg"]


def test_a_skipped_job_decides_about_those_after_it(launcher, tmp_path):
    jobs = launch(
        launcher,
        asked("a", gate(tmp_path, "false")),
        asked("b", "true", "a"),
        asked("c", "true", "b"),
        asked("d", "true", "b", state="finished"),
        asked("e", "true", "b", state="failed"),
    )
    (tmp_path / "go").touch()
    found = {name: status.wait(job, PATIENCE) for name, job in jobs.items()}
    states = {name: one["state"] for name, one in found.items()}
    assert states == {
        "a": "failed",
        "b": "skipped",
        "c": "skipped",
        "d": "succeeded",
        "e": "skipped",
    }
    assert "job b is skipped, and it was to have succeeded" in found["c"]["msg"]


def test_a_job_of_a_batch_that_cannot_be_started_has_failed(launcher):
    answers = launcher.raw(
        asked("cleanup", "true", "broken", state="failed"),
        asked("deploy", "true", "broken"),
        request("/no/such/program", name="broken", spec={}),
    )
    assert "No such file" in answers[2]["error"]["msg"]
    ends = [status.wait(job, PATIENCE) for job in launcher.jobs]
    assert [one["state"] for one in ends] == ["succeeded", "skipped"]
    assert "job broken failed, and it was to have succeeded" in ends[1]["msg"]


def test_a_job_that_was_refused_has_not_failed(launcher, tmp_path):
    launch(launcher, asked("other", gate(tmp_path)))
    answers = launcher.raw(
        dict(asked("other", "true", timeout=5), spec={"timeout": 5}),
        asked("cleanup", "true", "other", state="failed"),
    )
    assert "another specification" in answers[0]["error"]["msg"]
    found = status.wait(launcher.jobs[-1], PATIENCE)
    assert (found["state"], "job other was not launched" in found["msg"]) == ("skipped", True)
    (tmp_path / "go").touch()


@pytest.mark.parametrize(
    ("requests", "says"),
    [
        ([asked("a", "true"), asked("b", "true", "x")], "after has x, and there is no such job in"),
        (
            [asked("a", "true"), asked("b", "true", "j1795301990843259553.1")],
            "and there is no such job in",
        ),
        (
            [asked("a", "true"), asked("b", "true", "c"), asked("c", "true", "b")],
            "goes round in a circle: b, which",
        ),
    ],
)
def test_what_is_refused_starts_nothing(launcher, requests, says):
    reply = launcher.reply(*requests)
    assert re.search(says, reply["refused"])
    assert launcher.store.jids() == []
    assert not os.path.exists(launcher.store.private_path("names", "x.lock"))


def test_a_job_of_async_cannot_be_waited_for(launcher):
    jid = "j123456789012.3456"
    Path(launcher.store.path, jid).write_text(
        json.dumps({"started": True, "finished": False}), encoding="ascii"
    )
    reply = launcher.reply(asked("a", "true", jid))
    assert "which async has launched: nothing tells when such a job ends" in reply["refused"]


def test_a_launch_that_was_not_needed_counts_as_done(launcher):
    answers = launcher.raw(
        asked("a", "true", schema.PREDICTED_JID),
        asked("b", "true", "made"),
        known={"made": "succeeded"},
    )
    assert [one["record"]["state"] for one in answers] == ["running", "running"]


def test_both_the_time_and_the_others_are_waited_for(launcher, tmp_path):
    begun = time.time()
    jobs = launch(
        launcher,
        asked("a", gate(tmp_path)),
        asked("late", f"date +%s.%N > {tmp_path}/late", "a", start_in=1.2),
        asked("later", "true", "a", start_in=3600),
    )
    assert status.look(jobs["late"])["reason"] == "waiting"
    (tmp_path / "go").touch()
    until(lambda: status.look(jobs["later"])["reason"] == "delayed", "the end of the other")
    assert status.look(jobs["later"])["waits_for"] == []
    assert status.wait(jobs["late"], PATIENCE)["state"] == "succeeded"
    assert float((tmp_path / "late").read_text(encoding="ascii")) - begun >= 1.2
    assert outcome(stop(jobs["later"])) == ("stopped", None, "asked by a test")


def test_a_job_that_pauses_is_not_over(launcher, tmp_path):
    policy = {
        "retries": 1,
        "on": ["failed"],
        "delay": 3600,
        "backoff": 1,
        "delay_max": 3600,
        "jitter": 0,
    }
    jobs = launch(
        launcher,
        asked("a", gate(tmp_path, "false"), retry=policy),
        asked("b", "true", "a", state="failed"),
    )
    (tmp_path / "go").touch()
    until(lambda: status.look(jobs["a"])["reason"] == "retry", "the pause")
    assert status.look(jobs["b"])["waits_for"] == ["a"]
    stop(jobs["a"])
    assert status.wait(jobs["b"], PATIENCE)["state"] == "succeeded"


def test_a_waiting_job_can_be_stopped(launcher, tmp_path):
    jobs = launch(
        launcher,
        asked("a", gate(tmp_path)),
        asked("b", f"touch {tmp_path}/b", "a"),
        asked("c", "true", "b"),
    )
    final = stop(jobs["b"])
    assert outcome(final) == ("stopped", None, "asked by a test")
    assert final["started"] is False
    assert "job b is stopped" in status.wait(jobs["c"], PATIENCE)["msg"]
    (tmp_path / "go").touch()
    assert (
        status.wait(jobs["a"], PATIENCE)["state"] == "succeeded" and not (tmp_path / "b").exists()
    )


def test_a_job_that_is_replaced_is_the_one_that_is_waited_for(launcher, tmp_path):
    jobs = launch(launcher, asked("a", gate(tmp_path)), asked("b", "true", "a"))
    launcher.raw(dict(asked("a", "true", on_conflict="replace", timeout=5), spec={"timeout": 5}))
    found = status.wait(jobs["b"], PATIENCE)
    assert (found["state"], "job a is stopped" in found["msg"]) == ("skipped", True)


def test_waiting_takes_no_time_of_the_processor(launcher, tmp_path):
    jobs = launch(launcher, asked("a", gate(tmp_path)), asked("b", "true", "a"))
    keeper = jobs["b"].read_record()["durable_jobs"]["keeper"]
    time.sleep(0.3)
    before = processes_of_bench.cpu(keeper)
    time.sleep(1.5)
    assert processes_of_bench.cpu(keeper) == before
    (tmp_path / "go").touch()
    assert status.wait(jobs["b"], PATIENCE)["state"] == "succeeded"


@pytest.mark.parametrize("end", ENDS)
def test_a_job_that_was_removed_counts_by_its_last_state(launcher, tmp_path, end):
    """The keeper of a waiting job is held while another job ends and is removed."""
    jobs = launch(launcher, asked("a", gate(tmp_path, ENDS[end])), asked("b", "true", "a"))
    keeper = jobs["b"].read_record()["durable_jobs"]["keeper"]
    os.kill(keeper, signal.SIGSTOP)
    (tmp_path / "go").touch()
    assert status.wait(jobs["a"], PATIENCE)["state"] == end
    removing.remove(jobs["a"])
    assert status.look(jobs["b"])["waits_for"] == []
    os.kill(keeper, signal.SIGCONT)
    assert status.wait(jobs["b"], PATIENCE)["state"] == (
        "succeeded" if end == "succeeded" else "skipped"
    )


def test_a_job_is_removed_while_another_is_launched_after_it(launcher, tmp_path):
    """The launch has listed itself with one job, and waits for the record of the next, when the first is removed."""
    first = launch(launcher, asked("a", gate(tmp_path)))["a"]
    second = launch(launcher, asked("b", gate(tmp_path, name="go2")))["b"]
    lock = record_io.lock_record(second, wait=True)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answers = pool.submit(launcher.raw, asked("c", "true", "a", "b"))
        until(lambda: os.path.exists(first.path("dependants")), "the launch")
        (tmp_path / "go").touch()
        assert status.wait(first, PATIENCE)["state"] == "succeeded"
        removing.remove(first)
        os.close(lock)
        found = answers.result()[0]["record"]
    assert (found["state"], status.look(launcher.jobs[-1])["waits_for"]) == ("queued", ["b"])
    (tmp_path / "go2").touch()
    assert status.wait(launcher.jobs[-1], PATIENCE)["state"] == "succeeded"


def test_a_keeper_decides_as_the_one_before_it(launcher, tmp_path):
    """A job has ended and is removed by hand; then the keeper that has seen its end is killed."""
    jobs = launch(
        launcher,
        asked("a", gate(tmp_path)),
        asked("b", gate(tmp_path, name="go2")),
        asked("c", "true", "a", "b"),
    )
    (tmp_path / "go").touch()
    until(lambda: verdicts.told(jobs["c"], 2)[0], "the look at it")
    os.unlink(jobs["a"].results_file)
    processes.send(
        processes.process(jobs["c"].read_record()["durable_jobs"]["keeper"]), signal.SIGKILL
    )
    (tmp_path / "go2").touch()
    assert status.wait(jobs["c"], PATIENCE)["state"] == "succeeded"


def test_a_job_with_a_damaged_record_counts_by_what_else_is_known(launcher, tmp_path):
    """Its record is damaged, its end is in another file, and then it is removed."""
    jobs = launch(launcher, asked("a", gate(tmp_path)), asked("b", "true", "a"))
    keeper = jobs["b"].read_record()["durable_jobs"]["keeper"]
    os.kill(keeper, signal.SIGSTOP)
    (tmp_path / "go").touch()
    status.wait(jobs["a"], PATIENCE)
    until(lambda: not jobs["a"].is_held("keeper"), "the end of its keeper")
    for path in (jobs["a"].results_file, jobs["a"].path("record")):
        Path(path).write_text("{", encoding="ascii")
    assert status.look(jobs["a"])["state"] == "succeeded"
    removing.remove(jobs["a"])
    os.kill(keeper, signal.SIGCONT)
    assert status.wait(jobs["b"], PATIENCE)["state"] == "succeeded"


def test_a_thousand_others(launcher, tmp_path):
    few = launch(launcher, *(asked(f"j{n}", gate(tmp_path)) for n in range(3)))
    launcher.finished(launcher("/bin/true", name="done", spec={}))
    done = names.latest_job(launcher.store, "done").jid
    for n in range(997):  # records of jobs that have finished
        copy = json.loads(Path(launcher.store.path, done).read_text(encoding="utf-8"))
        copy["ansible_job_id"] = f"j1795301990843259{n:03}.1"
        Path(launcher.store.path, copy["ansible_job_id"]).write_text(
            json.dumps(copy), encoding="utf-8"
        )
    others = [f"j1795301990843259{n:03}.1" for n in range(997)] + list(few)
    job = launch(launcher, asked("last", "true", *others))["last"]
    assert status.look(job)["waits_for"] == ["j0", "j1", "j2"]
    (tmp_path / "go").touch()
    assert status.wait(job, PATIENCE)["state"] == "succeeded"


def test_a_free_slot_goes_to_the_first_of_the_batch_that_is_ready(launcher, tmp_path):
    mark = f"echo $DURABLE_JOB_NAME >> {tmp_path}/order"
    jobs = launch(
        launcher,
        asked("blocked", mark, "gate"),
        asked("gate", gate(tmp_path, mark)),
        asked("long", f"{mark}; {gate(tmp_path, name='go2')}"),
        asked("third", mark),
        asked("fourth", mark),
        asked("after third", mark, "third"),
        slots=2,
    )
    assert [status.look(job)["state"] for job in jobs.values()] == [
        "queued",
        "running",
        "running",
        *["queued"] * 3,
    ]
    (
        tmp_path / "go2"
    ).touch()  # its slot goes to the others, one after the other, and not to who is blocked
    for name in ("third", "fourth", "after third"):
        assert status.wait(jobs[name], PATIENCE)["state"] == "succeeded"
    assert status.look(jobs["blocked"])["state"] == "queued"
    (tmp_path / "go").touch()
    assert status.wait(jobs["blocked"], PATIENCE)["state"] == "succeeded"
    order = (tmp_path / "order").read_text(encoding="ascii").split("\n")
    assert order[0] == "long" and order[-3:-1] == ["gate", "blocked"]
    assert order.index("third") < order.index("after third")


def graph(number, seed):
    """Return for each job of a random acyclic graph the earlier ones after which it comes."""
    chance = random.Random(seed)
    order = list(range(number))
    chance.shuffle(order)  # of the batch: anything may come after anything
    others = {}
    for at, job in enumerate(order):
        others[job] = chance.sample(order[:at], min(at, chance.choice((0, 0, 1, 2, 3))))
    return others


def test_a_graph_of_jobs_over_a_few_slots(launcher, tmp_path):
    seed = random.randrange(10**6)
    others = graph(JOBS, seed)
    mark = "echo {} {} $(date +%s%N) >> {}/marks"
    line = "; ".join(
        (mark.format("begin", "{0}", tmp_path), "sleep 0.05", mark.format("end", "{0}", tmp_path))
    )
    requests = [
        asked(f"j{n}", line.format(n), *(f"j{other}" for other in others[n])) for n in range(JOBS)
    ]
    jobs = launch(launcher, *requests, slots=SLOTS)
    for job in jobs.values():
        assert status.wait(job, PATIENCE + JOBS)["state"] == "succeeded", f"seed {seed}"
    marks = [line.split() for line in (tmp_path / "marks").read_text(encoding="ascii").splitlines()]
    at = {(what, int(job)): place for place, (what, job, _time) in enumerate(marks)}
    assert len(marks) == len(at) == 2 * JOBS, f"seed {seed}: something ran twice, or never"
    early = [(n, m) for n, them in others.items() for m in them if at["begin", n] < at["end", m]]
    assert early == [], f"seed {seed}"
    running, most = 0, 0
    for what, _number, _time in marks:
        running += 1 if what == "begin" else -1
        most = max(most, running)
    assert most <= SLOTS, f"seed {seed}"


def test_a_batch_over_slots_survives_the_keepers_of_jobs_that_are_ready(launcher, tmp_path):
    mark = f"echo $DURABLE_JOB_NAME >> {tmp_path}/order"
    jobs = launch(
        launcher,
        asked("first", gate(tmp_path)),
        *(asked(f"j{n}", mark, "quick", state="finished") for n in range(4)),
        asked("quick", "true"),
        slots=1,
    )
    stop(jobs["quick"])  # now the others are ready
    until(
        lambda: all(status.look(jobs[f"j{n}"])["waits_for"] == [] for n in range(4)), "the others"
    )
    for n in (0, 2):
        one = processes.process(jobs[f"j{n}"].read_record()["durable_jobs"]["keeper"])
        processes.send(one, signal.SIGKILL)
    (tmp_path / "go").touch()
    for n in range(4):
        assert status.wait(jobs[f"j{n}"], PATIENCE)["state"] == "succeeded"
    assert sorted((tmp_path / "order").read_text(encoding="ascii").split()) == [
        "j0",
        "j1",
        "j2",
        "j3",
    ]
