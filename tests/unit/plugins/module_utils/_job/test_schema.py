# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import datetime
import itertools
import re
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils import _job
from ansible_collections.durable.jobs.plugins.module_utils._job import schema
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError

DESIGN = Path(_job.__file__).parents[3] / "docs" / "design" / "verdicts.md"
KINDS = (
    *("queued", "keeper", "exited", "same_boot", "runner", "command", "left"),
    "damaged",
)


def all_evidence():
    return [dict(zip(KINDS, seen)) for seen in itertools.product((False, True), repeat=len(KINDS))]


def documented_verdict(evidence):
    """Apply the table of docs/design/verdicts.md: the first row that fits."""
    rows = re.findall(
        r"^\| %s`(\S+)` \| ([^|]+) \|" % (r"(yes|no|any) \| " * 7),
        DESIGN.read_text(),
        re.M,
    )
    assert len(rows) >= 6
    seen = (
        evidence["queued"],
        evidence["keeper"],
        evidence["exited"],
        evidence["same_boot"],
        evidence["runner"] or evidence["command"],
        evidence["left"],
        evidence["damaged"],
    )
    for *wanted, state, reason in rows:
        if all(want == "any" or (want == "yes") == fact for want, fact in zip(wanted, seen)):
            return state, None if reason == "-" else reason.strip("`")
    raise AssertionError("no row fits")


@pytest.mark.parametrize("evidence", all_evidence())
def test_verdict_is_what_the_design_says(evidence):
    assert schema.verdict(schema.Evidence(**evidence)) == documented_verdict(evidence)


@pytest.mark.parametrize("evidence", all_evidence())
def test_verdict_never_lies(evidence):
    state, reason = schema.verdict(schema.Evidence(**evidence))
    started = not evidence["queued"]
    here = started and evidence["same_boot"]
    kept = evidence["keeper"]
    alive = kept or (here and (evidence["runner"] or evidence["command"] or evidence["left"]))
    undecided = kept or (here and evidence["left"]) or not evidence["exited"]
    assert (state in (schema.RUNNING, schema.QUEUED)) == (alive and undecided), (
        "live without anything alive, or the other way round"
    )
    assert (state == schema.QUEUED) <= evidence["queued"], "queued after it has started"
    assert (state == schema.LOST) <= (not alive and not (started and evidence["exited"])), (
        "lost although something is known"
    )
    assert (state == schema.LOST) <= (reason is not None), "lost without a reason"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0, ("succeeded", 0, None)),
        (3 << 8, ("failed", 3, None)),
        (9, ("failed", -9, "SIGKILL")),
        (139, ("failed", -11, "SIGSEGV")),
    ],
)
def test_exit_outcome(status, expected):
    assert schema.exit_outcome(status) == expected


@pytest.mark.parametrize(
    "jid",
    [
        "../x",
        "/etc/passwd",
        "",
        "j1",
        "j1.2/..",
        "j1.2\n",
        "x1.2",
        "j1.2.3",
        "j\u0661.\u0662",
        "j1." + "2" * 200,
    ],
)
def test_a_bad_jid_is_refused_with_the_rule(jid):
    with pytest.raises(JobError) as caught:
        schema.check_jid(jid)
    assert caught.value.msg.startswith(f"could not find job {jid!r}")
    assert "parameter jid" in caught.value.msg and "ansible_job_id" in caught.value.msg


@pytest.mark.parametrize(
    ("name", "number"), [("TERM", 15), ("SIGTERM", 15), ("sigint", 2), ("9", 9), (" hup ", 1)]
)
def test_signal_number(name, number):
    assert schema.signal_number(name) == number


@pytest.mark.parametrize("name", ["", "NOPE", "0", "999", "-9", "SIG"])
def test_an_unknown_signal_is_refused(name):
    with pytest.raises(JobError, match="unknown signal"):
        schema.signal_number(name)


@pytest.mark.parametrize(
    "seconds", [0, 0.000001, 15.004321, 3599.9999999, 86399.5, 86400, 172801.25, 1e7]
)
def test_duration_is_written_as_timedelta_writes_it(seconds):
    delta = datetime.timedelta(seconds=seconds)
    assert schema.duration(seconds) == (str(delta) if delta.microseconds else f"{delta}.000000")


def test_timestamp_is_written_as_datetime_writes_it():
    assert schema.timestamp(1795301990.861902) == str(
        datetime.datetime.fromtimestamp(1795301990.861902)
    )


def record(**private):
    kept = {"monotonic": 100.0, "epoch": 1000.0, "no_log": False}
    kept.update(private)
    return {
        "ansible_job_id": "j1.2",
        "name": None,
        "rc": None,
        "signal": None,
        "stderr": "a\nlast\n",
        "timeout": 2,
        "durable_jobs": kept,
    }


EXIT_0 = {"status": 0, "epoch": 1.0, "monotonic": 102.5}
ENDING = {"state": "timed_out", "signal": 15, "survivors": []}


def test_a_job_ended_by_us_is_never_rc_0():
    final = schema.finish(record(), state="exited", reason=None, exited=EXIT_0, ending=ENDING)
    assert (final["state"], final["rc"], final["signal"], final["failed"]) == (
        "timed_out",
        -15,
        "SIGTERM",
        True,
    )
    assert final["elapsed"] == 2.5 and final["delta"] == "0:00:02.500000"


def test_a_lost_job_has_no_rc_and_a_reason():
    final = schema.finish(record(), state="lost", reason="rebooted", exited=None, ending=None)
    assert (final["state"], final["rc"], final["elapsed"], final["reason"], final["failed"]) == (
        "lost",
        None,
        None,
        "rebooted",
        True,
    )
    assert "rebooted" in final["msg"]


@pytest.mark.parametrize("status", [0, 15, 256])
def test_what_a_shutdown_has_ended_is_lost_however_it_answered(status):
    ending = schema.shut_down(15)
    exited = {**EXIT_0, "status": status}
    final = schema.finish(record(), state="exited", reason=None, exited=exited, ending=ending)
    assert (final["state"], final["rc"], final["signal"], final["reason"], final["elapsed"]) == (
        "lost",
        None,
        None,
        "rebooted",
        2.5,
    )
    assert schema.damaged("j1.2", {"timeout": None}, exited, ending)["rc"] is None


def test_the_message_shows_the_last_line_of_stderr_but_not_of_a_no_log_job():
    shown = schema.finish(
        record(), state="exited", reason=None, exited={**EXIT_0, "status": 256}, ending=None
    )
    assert shown["msg"] == "job j1.2 failed: rc 1; last line of stderr: last"
    hidden = schema.finish(
        record(no_log=True),
        state="exited",
        reason=None,
        exited={**EXIT_0, "status": 256},
        ending=None,
    )
    assert hidden["msg"] == "job j1.2 failed: rc 1"


def test_the_message_names_survivors():
    ending = {**ENDING, "survivors": [{"pid": 7, "name": "stuck"}]}
    final = schema.finish(record(), state="lost", reason=None, exited=None, ending=ending)
    assert "stuck (pid 7)" in final["msg"] and final["rc"] is None


def test_tail_text_begins_with_a_line():
    assert schema.tail_text("short") == "short"
    assert schema.tail_text("first line\nsecond\nthird", 14) == "second\nthird"
    assert schema.tail_text("x" * 50, 10) == "x" * 10
