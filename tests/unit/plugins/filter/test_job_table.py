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


def test_one_table_has_the_jobs_of_all_hosts_aligned_and_what_needs_attention_first():
    answers = {
        "web10": {
            "jobs": [job(name="deploy", elapsed=4.18, timeout=60), job("j4.1", state="lost")]
        },
        "web9": {
            "jobs": [
                job("j2.1", state="stopped", rc=-15, signal="SIGTERM", elapsed=2, timeout=0),
                job(
                    "j1.1",
                    state="running",
                    rc=None,
                    elapsed=7384.9,
                    timeout=86400,
                    start="2026-11-21 23:00:02.118301",
                    progress={"percent": 40, "status": "copying", "at": "2026-01-01 00:00:00.0"},
                ),
                job("j3.1", state="failed", rc=3, elapsed=61, timeout=3600),
                job("j5.1", state="running", rc=None, elapsed=3300, timeout=3600),
                job("j6.1", state="queued", rc=None, timeout=60),
            ]
        },
    }
    assert job_table(answers, width=0) == [
        "HOST   JOB     STATE      TIME      DONE  RC   START                JID   REASON",
        "web9   -       failed     1m01s/1h  -     3    -                    j3.1  exit code 3",
        "web10  -       lost       -/-       -     0    -                    j4.1  -",
        "web9   -       running    55m/1h    -     -    -                    j5.1  limit in 5m",
        "web9   -       running    2h03m/1d  40 %  -    2026-11-21 23:00:02  j1.1  copying",
        "web9   -       queued     -/1m      -     -    -                    j6.1  -",
        "web9   -       stopped    2s/none   -     -15  -                    j2.1  SIGTERM",
        "web10  deploy  succeeded  4.1s/1m   -     0    -                    j1.1  -",
        "2 hosts, 7 jobs: 2 running, 1 queued, 1 succeeded, 1 failed, 1 stopped, 1 lost",
    ]


@pytest.mark.parametrize(
    ("known", "says"),
    [
        ({"state": "failed", "rc": 3}, "exit code 3"),
        ({"state": "failed", "rc": -11, "signal": "SIGSEGV"}, "killed by SIGSEGV"),
        ({"state": "failed", "rc": -9, "signal": "SIGKILL", "reason": "oom"}, "oom"),
        ({"state": "failed", "rc": None, "msg": "no such package"}, "no such package"),
        ({"state": "timed_out", "rc": -15, "timeout": 90}, "limit of 1m30s reached"),
        ({"state": "timed_out", "rc": -15, "timeout": 90, "reason": "watchdog"}, "watchdog"),
        ({"state": "lost", "rc": None, "reason": "rebooted"}, "rebooted"),
        ({"state": "running", "rc": None, "reason": "unsupervised"}, "unsupervised"),
        ({"state": "running", "elapsed": 100, "timeout": 90}, "limit in 0s"),
    ],
)
def test_each_row_says_why(known, says):
    assert job_table({"a": {"jobs": [job(**known)]}}, width=0)[1].split()[8:] == says.split() or (
        job_table({"a": {"jobs": [job(**known)]}}, width=0)[1].endswith("  " + says)
    )


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


@pytest.mark.parametrize("width", [60, 80, "110", 150])
def test_no_line_is_wider_than_asked_for_and_nothing_is_lost(width):
    long = "the migration of all customers to the new release " * 3
    jid, start = "j1795301990843259553.10311", "2026-11-21 23:00:02"
    known = {"start": start + ".123456", "reason": "unsupervised"}
    answers = {
        "a-host-with-a-long-name.example.com": {
            "jobs": [job(jid, name=long.strip(), **known), job(jid, name="short", **known)]
        }
    }
    lines = job_table(answers, width=width)
    assert max(map(len, lines)) <= int(width)
    at = lines[0].index("JOB"), lines[0].index("STATE")
    cells = "".join(line[slice(*at)] for line in lines[1:-1] if jid not in line or "migr" in line)
    assert "".join(cells.split()).startswith(long.replace(" ", "")[:60])
    # Whatever the width, a jid and a start can be copied.
    assert [line.count(jid) for line in lines if start in line] == [1, 1]
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
    assert job_table({"a": {"jobs": [found]}}, width=0)[1].split(None, 8) == [
        *("a", "-", "unknown", "-/-", "-", "-", "-", "j1.1"),
        "another machine has it, unusable: elapsed, progress",
    ]


NONSENSE = [
    float("nan"),
    float("inf"),
    -1e308,
    10**400,
    -1,
    True,
    "x" * 10**6,
    "0:00:05",
    [[]] * 9,
    {"a": {}},
]


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: str(value)[:10])
@pytest.mark.parametrize(
    "key",
    ["rc", "elapsed", "timeout", "progress", "state", "reason", "name", "start", "signal", "msg"],
)
def test_one_bad_job_hides_no_other(key, value):
    good = job("j2.2", state="failed", rc=3, name="good")
    bad = dict(job("j3.3", state="running", elapsed=5, timeout=60), **{key: value})
    lines = job_table({"a": {"jobs": [bad, good]}}, width=0)
    assert "a     good" in lines[1] + lines[2]
    (row,) = [line for line in lines if "j3.3" in line]
    assert len(row) < 5000


@pytest.mark.parametrize(
    "bad", [None, 7, "j1.1", [], {}, {"ansible_job_id": 7}, {"ansible_job_id": "j" + "9" * 5000}]
)
def test_what_is_no_job_is_shown_as_such(bad):
    lines = job_table({"a": {"jobs": [bad, job(name="good", state="failed", rc=3)]}}, width=0)
    assert [line.split()[1:3] for line in lines[1:3]] == [["-", "unknown"], ["good", "failed"]]
    assert "unusable: ansible_job_id" in lines[1]


@pytest.mark.parametrize(
    "answer", [None, 7, "no", [], {"jobs": 5}, {"jobs": {"a": 1}}, {"jobs": "all", "msg": 7}]
)
def test_a_host_that_answers_nonsense_hides_no_other(answer):
    lines = job_table(
        {"bad": answer, "a": {"jobs": [job(name="good")], "total": float("nan")}}, width=0
    )
    assert "good" in lines[1]
    assert lines[2:] == [
        "bad: no answer: its answer is not one of job_info",
        "2 hosts, 1 job: 1 succeeded; no answer from bad",
    ]


def test_an_answer_of_which_old_releases_have_made_a_text_is_read_all_the_same():
    answers = {
        "a": {"jobs": [job(rc=float("nan"), elapsed=float("-inf"), name="bad"), job(name="it's")]}
    }
    lines = job_table(str(answers), width=0)
    assert [line.split()[1] for line in lines[1:3]] == ["bad", "it's"]


def test_many_jobs_and_long_host_names_are_sorted():
    names = ["9" * 5000, "web10", "web9", "web09"]
    found = job_table({name: {"jobs": [job()] * 2000} for name in names}, width=0)
    hosts = list(dict.fromkeys(line.split()[0] for line in found[1:-1]))
    assert sorted(hosts) == sorted(names) and hosts.index("web9") < hosts.index("web10")


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
        (({}, "wide"), "width must be a number of columns, not 'wide'"),
        (({}, -1), "width must be"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, says):
    with pytest.raises(AnsibleFilterError, match=f"job_table: .*{says}"):
        job_table(*arguments)
