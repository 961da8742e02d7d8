# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import random

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import poll_plan
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError


def covered(plan):
    """Return when the last look of a task with ``until`` ends: ``retries`` + 1 looks, and sleeps in between."""
    return (plan["retries"] + 1) * plan["wait"] + plan["retries"] * plan["delay"]


def some(count):
    random_numbers = random.Random(1)
    grid = [
        (timeout, delay, grace)
        for timeout in (1, 2, 7, 15, 45, 360, 3600, 86400)
        for delay in (0.1, 1, 5, 10, 60, 7200)
        for grace in (0, 1, 10, 300)
    ]
    drawn = [
        (
            random_numbers.uniform(0.01, 1e5),
            random_numbers.uniform(0.05, 500),
            random_numbers.uniform(0, 100),
        )
        for _count in range(count)
    ]
    return grid + drawn


def test_a_plan_covers_limit_grace_and_verdict_and_ends_at_most_one_delay_later():
    for timeout, delay, grace in some(20_000):
        plan = poll_plan.poll_plan(timeout, delay=delay, grace=grace)
        needed = timeout + grace
        slack = 1e-6 * needed
        case = (timeout, delay, grace, plan)
        assert plan["retries"] >= 1 and plan["wait"] > 0 and plan["delay"] > 0, case
        assert covered(plan) >= needed + min(poll_plan.VERDICT, plan["wait"]) - slack, case
        assert covered(plan) >= needed + poll_plan.VERDICT - slack, case
        assert covered(plan) <= needed + poll_plan.VERDICT + delay + slack, case
        assert plan["wait"] + plan["delay"] <= delay + slack, case
        assert isinstance(plan["retries"], int)


def test_the_plan_of_the_documentation():
    assert poll_plan.poll_plan(360, delay=10, grace=10) == {"retries": 37, "delay": 1, "wait": 9}


def test_the_longest_limit_counts():
    assert poll_plan.poll_plan("5m", max_timeout="6m") == poll_plan.poll_plan(360)
    assert poll_plan.poll_plan("6m", max_timeout="0s") == poll_plan.poll_plan(360)


def test_a_job_without_limit_is_planned_for_a_year():
    assert covered(poll_plan.poll_plan(0)) >= 365 * 86400


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ((-1, 10, 10), "timeout"),
        ((1, 0, 10), "delay"),
        ((1, 1e-300, 10), "delay"),
        ((1, 1, 1, "soon"), "max_timeout"),
        ((1e300, 1, 1), "timeout"),
        ((1, -1, 10), "delay"),
        ((1, 1, -1), "grace"),
        ((float("nan"), 1, 1), "timeout"),
    ],
)
def test_impossible_numbers_are_refused(numbers, says):
    with pytest.raises(JobError, match=f"^{says} must (be|not be negative)"):
        poll_plan.poll_plan(*numbers)
