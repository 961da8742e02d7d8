# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table that decides when a job starts, starts again and is over: walked through, and compared with the design."""

from __future__ import annotations

import collections
import re
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils import _job
from ansible_collections.durable.jobs.plugins.module_utils._job import retrying, schema
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError

DESIGN = Path(_job.__file__).parents[3] / "docs" / "design" / "attempts.md"
PARAMS = {**retrying.DEFAULTS, "timeout": 60, "rerun": "always", "retries": 3}
POLICY = retrying.checked(PARAMS)["retry"]
RETRIES = 2

State = collections.namedtuple("State", "phase begun alive over stopped succeeded unborn")
FIRST = State(retrying.WAITING, 0, 0, 0, stopped=False, succeeded=False, unborn=False)


def ended(state, *, succeeded, policy):
    """Return what follows when an attempt ends, as a keeper decides it."""
    outcome = {"state": "succeeded" if succeeded else "failed", "rc": 0 if succeeded else 1}
    outcome.update(signal=None, reason=None)
    if state.stopped:
        outcome.update(state="stopped", rc=-15)
    number = state.over + 1
    pause = retrying.pause_after(policy, outcome, number=number, left=None, chance=0.5)
    event = retrying.ENDED if pause is None else retrying.AGAIN
    return event, state._replace(alive=0, over=number, succeeded=succeeded and not state.stopped)


def steps(state, policy):
    """Yield each event that can happen to a job, and what it changes beside the phase."""
    if state.phase in (retrying.WAITING, retrying.PAUSING):
        yield retrying.DUE, state
        yield retrying.STOP, state
        yield retrying.SHUTDOWN, state
    elif state.phase == retrying.STARTING:
        yield retrying.BEGUN, state._replace(begun=state.begun + 1, alive=state.alive + 1)
        yield retrying.ABORTED, state
        yield ended(state, succeeded=False, policy=policy)  # it could not be exec'ed
        # The keeper is killed before it lets the command go on; the next one finds the record of a running job.
        yield None, state._replace(phase=retrying.RUNNING, unborn=True)
    elif state.unborn:
        yield retrying.ABORTED, state._replace(unborn=False)
        event, changed = ended(state, succeeded=False, policy=policy)
        yield event, changed._replace(unborn=False)
    elif state.phase == retrying.RUNNING:
        if not state.stopped:
            yield (
                None,
                state._replace(stopped=True),
            )  # somebody asks for a stop: the attempt is ended
        for succeeded in (False, True):
            yield ended(state, succeeded=succeeded, policy=policy)
    elif state.phase == retrying.CLEARING:
        yield retrying.CLEARED, state
        yield retrying.LEFT, state


def reachable(policy):
    """Return all states that a job can come to, each with those that follow, breadth first."""
    seen = {}
    todo = collections.deque([FIRST])
    while todo:
        state = todo.popleft()
        if state in seen:
            continue
        seen[state] = []
        for event, changed in steps(state, policy):
            phase = changed.phase if event is None else retrying.TABLE[state.phase, event]
            seen[state].append(changed._replace(phase=phase))
        todo.extend(seen[state])
    return seen


@pytest.mark.parametrize("policy", [None, dict(POLICY, retries=RETRIES)], ids=["once", "again"])
def test_whatever_happens_to_a_job(policy):
    most = 1 + (RETRIES if policy else 0)
    states = reachable(policy)
    for state, following in states.items():
        assert state.alive <= 1, "two attempts are alive"
        assert state.begun <= most and state.over <= most, "more attempts than asked for"
        assert (state.alive == 1) == (state.phase == retrying.RUNNING and not state.unborn)
        if state.succeeded or (state.stopped and not state.alive):
            assert state.phase == retrying.OVER, "something may follow a success, or a stop"
        assert bool(following) == (state.phase != retrying.OVER), "a job without an end"
        for after in following:
            may_start = (retrying.STARTING, retrying.RUNNING)
            assert after.begun == state.begun or state.phase in may_start
    used = {(state.phase, event) for state in states for event, _changed in steps(state, policy)}
    if policy:
        assert used - {(phase, None) for phase, _event in used} == set(retrying.TABLE)
    # From everywhere there is a way to the end.
    ends = {state for state in states if state.phase == retrying.OVER}
    while True:
        more = {state for state, following in states.items() if ends.intersection(following)} - ends
        if not more:
            break
        ends |= more
    assert ends == set(states)


def test_the_design_shows_the_table():
    rows = re.findall(
        r"^\| `(\w+)` \| `(\w+)`[^|]*\| `(\w+)` \|$", DESIGN.read_text(encoding="utf-8"), re.M
    )
    assert {(phase, event): after for phase, event, after in rows} == retrying.TABLE


@pytest.mark.parametrize(
    ("on", "outcome", "is_cause"),
    [
        (["failed"], ("failed", 3, None, None), True),
        (["failed"], ("failed", -11, "SIGSEGV", None), True),
        (["failed"], ("failed", None, None, "not started"), True),
        (["failed"], ("timed_out", -15, "SIGTERM", None), False),
        (["failed"], ("succeeded", 0, None, None), False),
        (["failed"], ("stopped", -15, "SIGTERM", "x"), False),
        (["failed"], ("lost", None, None, "killed"), False),
        ([75], ("failed", 75, None, None), True),
        ([75], ("failed", 76, None, None), False),
        ([75], ("timed_out", 75, None, None), False),
        (["SIGSEGV"], ("failed", -11, "SIGSEGV", None), True),
        (["SIGSEGV"], ("failed", -9, "SIGKILL", None), False),
        (["SIGTERM"], ("timed_out", -15, "SIGTERM", None), False),
        (["timed_out"], ("timed_out", -15, "SIGTERM", None), True),
        (["timed_out"], ("timed_out", -15, "SIGTERM", "watchdog"), True),
        (["timed_out"], ("timed_out", -15, "SIGTERM", "timeout_total"), False),
        (["watchdog"], ("timed_out", -15, "SIGTERM", "watchdog"), True),
        (["watchdog"], ("timed_out", -15, "SIGTERM", None), False),
        (["oom"], ("failed", -9, "SIGKILL", "oom"), True),
        (["oom"], ("failed", 1, None, None), False),
        (["lost"], ("lost", None, None, "killed"), True),
        (["lost"], ("lost", None, None, "rebooted"), False),
    ],
)
def test_what_is_tried_again(on, outcome, is_cause):
    ended_so = dict(zip(("state", "rc", "signal", "reason"), outcome))
    assert retrying.is_cause(on, ended_so) is is_cause


def test_pauses_grow_within_their_limits():
    policy = dict(POLICY, delay=10, backoff=2, delay_max=60, jitter=0.5, retries=20)
    spans = [retrying.longest_pause(policy, number) for number in (1, 2, 3, 4, 20)]
    assert spans == [(10, 15), (20, 30), (40, 60), (40, 60), (40, 60)]
    same = dict(policy, jitter=0, backoff=1)
    assert {retrying.longest_pause(same, number) for number in range(1, 9)} == {(10, 10)}
    assert retrying.longest_pause(dict(policy, backoff=1000, retries=1000), 1000) == (40, 60)
    assert retrying.longest_pause(dict(policy, delay=0), 7) == (0, 0)
    for chance in (0, 0.5, 1):
        failed = {"state": "failed", "rc": 1, "signal": None, "reason": None}
        pause = retrying.pause_after(policy, failed, number=1, left=None, chance=chance)
        assert 10 <= pause <= 15
        assert retrying.pause_after(policy, failed, number=1, left=pause, chance=chance) is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"timeout_total": 30},
            "timeout_total is 30, which must not be less than timeout, 60: it covers all",
        ),
        (
            {"rerun": "never"},
            "retries cannot be used with rerun=never, which keeps the first result",
        ),
        ({"retry_on": []}, "retry_on is empty, so nothing would be tried again"),
        (
            {"retry_on": ["stopped"]},
            "retry_on cannot hold stopped: what was stopped on request stays stopped",
        ),
        ({"retry_on": ["succeeded"]}, "retry_on cannot hold succeeded: what has succeeded is done"),
        ({"retry_on": [0]}, "retry_on cannot hold 0: an exit code that is tried again is 1 to 255"),
        (
            {"retry_on": [256]},
            "retry_on cannot hold 256: an exit code that is tried again is 1 to 255",
        ),
        (
            {"retry_on": ["sometimes"]},
            "retry_on cannot hold 'sometimes': give an exit code such as 75, a signal",
        ),
        ({"retry_on": [True]}, "retry_on cannot hold True: give an exit code"),
        ({"retry_on": [None]}, "retry_on cannot hold None: give an exit code"),
        ({"retry_on": [["failed"]]}, r"retry_on cannot hold \['failed'\]: give an exit code"),
    ],
)
def test_what_cannot_be_asked_for(given, says):
    with pytest.raises(JobError, match=says):
        retrying.checked({**PARAMS, **given})


def test_what_is_asked_for():
    on = ["failed", "75", 75, "segv", "SIGKILL", "oom"]
    found = retrying.checked({**PARAMS, "retry_on": on, "start_in": 5.0, "timeout_total": 600.0})
    assert (found["start_in"], found["timeout_total"]) == (5, 600)
    assert found["retry"] == {
        "retries": 3,
        "on": [75, "SIGKILL", "SIGSEGV", "failed", "oom"],
        "delay": 10,
        "backoff": 2,
        "delay_max": 300,
        "jitter": 0.1,
    }
    long = retrying.checked({**PARAMS, "retry_delay": 900.0})
    assert long["retry"] == {**found["retry"], "on": ["failed"], "delay": 900, "delay_max": 900}, (
        "a pause is never shorter than retry_delay"
    )
    assert retrying.checked({"timeout": 60, "rerun": "never"}) == {
        "start_in": 0,
        "timeout_total": None,
        "retry": None,
    }


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 60),
        ({"start_in": 100}, 160),
        ({"timeout": 0}, 0),
        ({"timeout": 0, "timeout_total": 500}, 500),
        ({"timeout_total": 90}, 60),
        ({"retry": dict(POLICY, jitter=0)}, 4 * 60 + 3 * 10 + 10 + 20 + 40),
        ({"retry": POLICY, "timeout_total": 90, "start_in": 1}, 91),
        ({"retry": dict(POLICY, retries=1000), "timeout": 86400.0 * 30}, schema.LONGEST),
    ],
)
def test_how_long_a_job_may_take(changes, seconds):
    asked = {"timeout": 60, "max_timeout": None, "grace": 10, "start_in": 0}
    assert retrying.longest({**asked, "timeout_total": None, "retry": None, **changes}) == seconds
