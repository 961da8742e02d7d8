# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.durable.jobs.plugins.filter.job_report import FilterModule
from ansible_collections.durable.jobs.tests.browser.invented import AT, answer, few, job, local

job_report = FilterModule().filters()["job_report"]


def page(answers, **more):
    return json.loads(job_report(answers, at=AT, **more))


def only(answers, **more):
    (host,) = page(answers, **more)["hosts"]
    (found,) = host["jobs"]
    return found


def test_the_same_jobs_give_the_same_text():
    assert job_report(few(), at=AT) == job_report(dict(reversed(few().items())), at=AT)


def test_the_moment_may_be_a_text():
    assert page(few()) == json.loads(job_report(few(), at=str(AT)))


@pytest.mark.parametrize(
    "evil", ["</script>", "<!--<script>", "&lt;", "\u2028\u2029", "\udc80", "\x00\x1b", "備份"]
)
def test_what_hosts_say_cannot_end_the_element_that_holds_it(evil):
    found = job("failed", ago=5, name=evil, stderr=evil, cmd=evil)
    text = job_report({evil: answer(found), "b": {"msg": evil}}, at=AT)
    assert text.isascii() and text.isprintable()
    assert not set(text) & set("<>&")
    one = json.loads(text)["hosts"][0 if json.loads(text)["hosts"][0]["jobs"] else 1]
    shown = one["jobs"][0]
    assert (one["name"], shown["name"], shown["stderr"], shown["cmd"]) == (evil,) * 4


@pytest.mark.parametrize("zone", [0, 5.75, -8, 14])
def test_times_do_not_depend_on_the_zone_of_the_host(zone):
    shown = only({"a": answer(job("failed", ago=100, wait=10, ran=50, zone=zone, timeout=60))})
    times = [shown[key] - AT for key in ("submitted_at", "start_at", "end_at", "deadline_at")]
    assert times == pytest.approx([-100, -90, -40, -30], abs=0.01)


@pytest.mark.parametrize(("zone", "hours"), [("+0545", 5.75), ("-0800", -8), ("", 0)])
def test_a_job_of_async_is_placed_by_the_zone_of_its_host(zone, hours):
    known = {"start": local(AT - 60, hours), "end": local(AT - 20, hours), "state": "succeeded"}
    shown = only({"a": answer({"ansible_job_id": "j77.1", **known})}, zones={"a": zone})
    assert (shown["start_at"], shown["end_at"]) == (AT - 60, AT - 20)


def test_a_job_of_async_is_placed_as_the_other_jobs_of_its_host():
    ours = job("succeeded", ago=500, ran=1, zone=-3)
    theirs = {"ansible_job_id": "j77.1", "start": local(AT - 60, -3), "state": "succeeded"}
    jobs = page({"a": answer(ours, theirs)}, zones={"a": "+0000"})["hosts"][0]["jobs"]
    assert {one["id"]: one["start_at"] for one in jobs}["j77.1"] == AT - 60


def test_a_running_job_has_run_as_long_as_its_host_says():
    shown = only({"a": answer(job("running", ago=100, wait=10))})
    assert shown["end_at"] - shown["start_at"] == pytest.approx(90)


def test_output_comes_from_the_second_look_and_so_does_the_state():
    before = job("running", ago=100)
    after = dict(before, state="failed", rc=3, stderr="no space", stderr_bytes=8)
    shown = only({"a": answer(before)}, tails={"a": answer(after), "b": {"skipped": True}})
    assert (shown["state"], shown["stderr"]) == ("failed", "no space")


def test_only_the_newest_keep_their_output_where_there_is_too_much():
    jobs = [job("failed", ago=ago, ran=1, stderr="x" * 60) for ago in (1, 2, 3)]
    jobs.append(job("failed", ago=4, ran=1))
    shown = page({"a": answer(*jobs[2:]), "b": answer(*jobs[:2])}, output_total=130)["hosts"]
    kept = [(one.get("stderr", ""), one.get("left_out")) for host in shown for one in host["jobs"]]
    assert kept == [("", True), ("", None), ("x" * 60, None), ("x" * 60, None)]


def test_commands_are_shown_as_a_shell_takes_them():
    shown = only({"a": answer(job("failed", ago=1, cmd=["sh", "-c", "echo it's"]))})
    assert shown["cmd"] == """sh -c 'echo it'"'"'s'"""


def test_what_a_job_of_async_says_may_be_anything():
    odd = {"start": ["x"], "end": 7, "elapsed": float("nan"), "timeout": True, "progress": "40"}
    shown = only({"a": answer({"ansible_job_id": "j7.7", "state": "odd", "msg": "why", **odd})})
    flaws = "unusable: state, elapsed, timeout, progress, start, end"
    assert (shown["state"], shown["reason"]) == ("unknown", "why; " + flaws)
    assert not {"start_at", "end_at", "elapsed", "progress"} & set(shown)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("rc", value) for value in (float("nan"), 10**400, "3", [3])),
        *(("elapsed", value) for value in (1e18, float("inf"), 10**400, "0:00:05")),
        *(("timeout", value) for value in (1e300, -1)),
        *(("stdout_bytes", value) for value in (float("nan"), 10**30)),
        ("stderr", {"a": 1}),
        ("cmd", [["deep"], 1]),
        ("progress", {"percent": float("nan"), "status": ["x"]}),
        ("name", {"a": 1}),
        ("truncated", float("nan")),
    ],
    ids=lambda value: str(value)[:12],
)
def test_one_bad_job_is_shown_as_such_and_hides_no_other(key, value):
    bad = dict(job("failed", ago=5, ran=1), **{key: value})
    good = job("failed", ago=50, ran=1, stderr="why")
    shown = page({"a": answer(bad, good), "b": {"jobs": 5}, "c": 7, "d": {"jobs": [7, None]}})
    hosts = {host["name"]: host for host in shown["hosts"]}
    assert [one.get("stderr") for one in hosts["a"]["jobs"]][1] == "why"
    assert (key in hosts["a"]["jobs"][0].get("reason", "")) == (key != "progress")
    assert [hosts[name]["problem"] for name in "bc"] == ["its answer is not one of job_info"] * 2
    assert [one["state"] for one in hosts["d"]["jobs"]] == ["unknown", "unknown"]


@pytest.mark.parametrize("moment", ["0001-01-01 00:00:00.0", "9999-12-31 23:59:59.9", "soon"])
@pytest.mark.parametrize("key", ["submitted", "start", "end", "deadline"])
def test_a_moment_that_cannot_be_drawn_is_left_out(key, moment):
    bad = dict(job("failed", ago=5, ran=1), elapsed=None, **{key: moment})
    found = only({"a": answer(bad)})
    names = {"submitted": "submitted_at", "start": "start_at", "end": "end_at"}
    assert names.get(key, "deadline_at") not in found


def test_what_needs_attention_comes_first():
    found = {
        "a": answer(
            job("succeeded", ago=1, ran=1), job("running", ago=5), job("lost", ago=9, ran=1)
        ),
        "b": answer(job("succeeded", ago=1, ran=1)),
        "c": {"msg": "no route"},
    }
    hosts = page(found)["hosts"]
    assert [host["name"] for host in hosts] == ["c", "a", "b"]
    assert [one["state"] for one in hosts[1]["jobs"]] == ["lost", "running", "succeeded"]


def test_progress_is_one_text():
    shown = only({"a": answer(job("running", ago=1, progress={"percent": 0, "status": None}))})
    assert shown["progress"] == "0 %"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"at": "now"}, "at must be a number of seconds, not 'now'"),
        ({"at": 1, "tails": []}, "a dictionary of hosts .* not list"),
        ({"at": 1, "answers": "all"}, "a dictionary of hosts .* not str"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, says):
    with pytest.raises(AnsibleFilterError, match=f"job_report: .*{says}"):
        job_report(arguments.pop("answers", {}), **arguments)
