# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from ansible_collections.durable.jobs.plugins.action import job_wait

GOOD = {"name": "good", "state": "running", "elapsed": 1.5, "timeout": 60, "finished": False}
STATE = ["running", None, None]


@pytest.mark.parametrize(
    ("job", "line"),
    [
        (GOOD, "good: running, 1.5/60 s"),
        ({"ansible_job_id": "j1.1"}, "j1.1: missing"),
        ({**GOOD, "elapsed": "0:00:05", "timeout": "x"}, "good: running"),
        ({**GOOD, "elapsed": 10**400, "timeout": [1]}, "good: running"),
        ({**GOOD, "elapsed": float("nan"), "progress": 5}, "good: running"),
        ({**GOOD, "elapsed": 1, "timeout": float("inf"), "reason": {}}, "good: running, 1.0 s"),
        ({"name": 5, "state": ["x"], "reason": 7}, "5: ['x'] (7)"),
    ],
)
def test_a_line_is_written_of_whatever_an_answer_holds(job, line):
    told = []
    news = job_wait._News(told.append)
    news.take([[0, ["before", None, None], GOOD], [1, STATE, job]])
    news.take([[0, STATE, job]])
    assert told[0].startswith("2 jobs: ")
    assert told[1].startswith(line + " | ")


@pytest.mark.parametrize(
    "answer",
    [None, 5, "x", [None], [[0]], [["0", STATE, GOOD]], [[0, 5, GOOD]], [[0, STATE, 5]]],
)
def test_news_that_are_none_are_passed_over(answer):
    told = []
    news = job_wait._News(told.append)
    news.take(answer)
    news.take([[7, STATE, GOOD], *(answer if isinstance(answer, list) else [])])
    assert told == ["0 jobs, nothing to wait for"]
