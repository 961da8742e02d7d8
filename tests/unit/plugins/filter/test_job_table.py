# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.durable.jobs.plugins.filter.job_table import FilterModule, duration

job_table = FilterModule().filters()["job_table"]


def job(jid="j1.1", **known):
    return dict({"ansible_job_id": jid, "state": "succeeded", "rc": 0}, **known)


def test_one_table_has_the_jobs_of_all_hosts_aligned_and_sorted():
    answers = {
        "web10": {"jobs": [job(name="deploy", elapsed=4.18, timeout=60)]},
        "web9": {
            "jobs": [
                job("j3.1", state="failed", rc=3, elapsed=61, timeout=3600),
                job("j2.1", state="stopped", rc=-15, signal="SIGTERM", elapsed=2, timeout=0),
                job(
                    "j1.1",
                    state="running",
                    rc=None,
                    elapsed=7384.9,
                    timeout=86400,
                    progress={"percent": 40, "status": "copying", "at": "2026-01-01 00:00:00.0"},
                ),
            ]
        },
    }
    assert job_table(answers) == [
        "HOST   JOB     STATE      TIME      DONE  RC   REASON",
        "web9   j1.1    running    2h03m/1d  40 %  -    copying",
        "web9   j3.1    failed     1m01s/1h  -     3    -",
        "web9   j2.1    stopped    2s/none   -     -15  SIGTERM",
        "web10  deploy  succeeded  4.1s/1m   -     0    -",
        "2 hosts, 4 jobs: 1 running, 1 succeeded, 1 failed, 1 stopped",
    ]


def test_hosts_without_jobs_and_without_an_answer_are_named():
    also = "; there are async dirs of user root in /root/.ansible_async: look as that user"
    answers = {
        "a": {"unreachable": True, "msg": "no route to host"},
        "b": {"msg": "there is no Python", "failed": True},
        "c": {"jobs": [], "total": 0, "msg": "0 jobs in /a as user b" + also},
        "d": {},
    }
    assert job_table(answers, width=50) == [
        "a: no answer: unreachable: no route to host",
        "b: no answer: there is no Python",
        "c: 0 jobs in /a as user b; there are async dirs of",
        "  user root in /root/.ansible_async: look as that",
        "  user",
        "d: no answer: it said nothing",
        "4 hosts, 0 jobs; no answer from a, b, d",
    ]


def test_nothing_is_a_line_too():
    assert job_table({}) == ["0 hosts, 0 jobs"]


def test_what_is_not_shown_is_counted():
    answers = {"a": {"jobs": [job()], "total": 5}, "b": {"jobs": [job()], "total": 3}}
    assert job_table(answers)[-1] == "2 hosts, 2 jobs: 2 succeeded; 6 more not shown"


@pytest.mark.parametrize("width", [69, 80, "100"])
def test_no_line_is_wider_than_asked_for_and_nothing_is_lost(width):
    long = "the migration of all customers to the new release " * 3
    jid = "j1795301990843259553.10311"
    answers = {
        "a-host-with-a-long-name.example.com": {
            "jobs": [job(name=long.strip(), reason="unsupervised"), job(jid, reason="rebooted")]
        }
    }
    lines = job_table(answers, width=width)
    assert max(map(len, lines)) <= int(width)
    at = lines[0].index("JOB"), lines[0].index("STATE")
    cells = "".join(line[slice(*at)].strip() for line in lines[1:-1])
    assert (
        cells == long.replace(" ", "") + jid
        or cells.replace(" ", "") == long.replace(" ", "") + jid
    )
    assert len(job_table(answers, width=0)) == 4


def test_wide_characters_are_counted_as_terminals_do():
    lines = job_table({"a": {"jobs": [job(name="備份"), job(name="back")]}})
    assert lines[1].startswith("a     備份  succeeded")
    assert lines[2].startswith("a     back  succeeded")


def test_a_terminal_is_not_steered_by_what_is_shown():
    evil = "\x1b[31mred\x9b\r\n\u202eback"
    answers = {
        evil: {
            "jobs": [
                job(
                    name=evil, state="running", reason=evil, progress={"percent": 1, "status": evil}
                )
            ]
        },
        "b": {"unreachable": True, "msg": evil},
    }
    assert all(line.isprintable() for line in job_table(answers))


def test_a_job_of_which_nothing_is_known_says_why():
    found = job(state=None, rc=None, msg="another machine has it", elapsed="soon", progress="?")
    assert job_table({"a": {"jobs": [found]}})[1].split(None, 6) == [
        *("a", "j1.1", "unknown", "-/-", "-", "-"),
        "another machine has it",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.56, "0.5s"),
        (59.99, "59.9s"),
        (60, "1m"),
        (119.9, "1m59s"),
        (3600, "1h"),
        (3661, "1h01m"),
        (90000, "1d01h"),
    ],
)
def test_durations_are_short_and_never_rounded_up(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([],), "a dictionary of hosts and results of job_info, not list"),
        (({"a": {"jobs": ["j1.1"]}},), "jobs of host a: 'j1.1' is not a job dictionary"),
        (({}, "wide"), "width must be a number of columns, not 'wide'"),
        (({}, -1), "width must be"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, says):
    with pytest.raises(AnsibleFilterError, match=f"job_table: .*{says}"):
        job_table(*arguments)
