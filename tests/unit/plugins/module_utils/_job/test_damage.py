# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever lies in the place of a record or a slot: one clear verdict, and no exception but the defined ones."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    host,
    schema,
    status,
    store,
    validation,
)
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._job.record_io import DamagedRecord
from ansible_collections.durable.jobs.tests.unit.support import request, until

JID = "j1.2"
EXITED = {"status": 3 << 8, "epoch": 1000.0, "monotonic": 100.0}
ENDING = {
    "state": "timed_out",
    "reason": None,
    "signal": 15,
    "survivors": [{"pid": 7, "name": "stuck"}],
}
PLACE = {
    "epoch": 990.0,
    "monotonic": 90.0,
    "boot_id": host.boot_id(),
    "user": "me",
    "containment": "process",
    "keeper": 2**22 + 1,
    "results_file": "/r",
    "stdout_file": "/o",
    "stderr_file": "/e",
}
QUEUED = schema.new_record(JID, request("true"), PLACE)
RUNNING = schema.begin(
    QUEUED,
    {
        "epoch": 990.0,
        "monotonic": 90.0,
        "runner": 2**22 + 2,
        "command": {"pid": 2**22 + 3, "started": 5},
        "ahead": [],
    },
)
ASKED = dict(RUNNING, name="n")
FAILED = schema.finish(RUNNING, state="exited", reason=None, exited=EXITED, ending=None)
ENDED = schema.finish(RUNNING, state="exited", reason=None, exited=EXITED, ending=ENDING)
LOST = schema.finish(RUNNING, state="lost", reason="killed", exited=None, ending=None)

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**4000)
    | st.floats()
    | st.text(st.characters(blacklist_categories=()))  # lone surrogates too
    | st.sampled_from(sorted(schema.STATES)),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@contextlib.contextmanager
def a_job():
    with tempfile.TemporaryDirectory() as folder:
        place = store.Store.open(os.path.join(folder, "async"), create=True)
        job = place.job(JID)
        os.close(place.private("jobs", JID))
        job.furnish()
        yield job
        os.close(job.fd)
        os.close(place.fd)


def put(path, data):
    with open(path, "wb") as target:
        target.write(data)


def assert_clear(job):
    """Look without and with settling: the verdict is clear, says the same again, and is nothing but JSON."""
    found = status.look(job, settle=False)
    assert found["state"] in schema.STATES and found["ansible_job_id"] == JID
    assert (found["started"], type(found["finished"]), type(found["failed"])) == (True, bool, bool)
    assert found["finished"] == (found["state"] in schema.FINISHED_STATES)
    assert found["state"] != "lost" or (found["rc"] is None and found["reason"] and found["failed"])
    assert isinstance(found["stdout_lines"], list)
    json.dumps(found)
    settled = status.look(job)
    assert (settled["state"], settled["rc"]) == (found["state"], found["rc"])
    schema.decide(status.judged(job), {}, on_conflict="fail", rerun="on_failure")
    return settled


def changed(record, path, value):
    record = copy.deepcopy(record)
    where = record
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = value
    return record


OPTIONAL = set(validation._OPTIONAL_RULES)  # not every record has them
PATHS = sorted(
    [(key,) for key in RUNNING]
    + [("durable_jobs", key) for key in RUNNING["durable_jobs"]]
    + [("durable_jobs", "command", key) for key in ("pid", "started")]
)


@pytest.mark.parametrize("record", [QUEUED, RUNNING, ASKED, FAILED, ENDED, LOST])
def test_what_we_write_has_no_flaw(record):
    assert validation.record_flaw(JID, record) is None
    assert validation.record_flaw(JID, json.loads(json.dumps(record))) is None
    assert (
        validation.slot_flaw("exit", EXITED) is None
        and validation.slot_flaw("ending", ENDING) is None
    )


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_every_key_is_needed(path):
    wrong = changed(RUNNING, path, 1.5 if path[-1] in ("progress", "spec") else {"a": []})
    assert validation.record_flaw(JID, wrong) is not None
    lacking = copy.deepcopy(RUNNING)
    where = lacking
    for key in path[:-1]:
        where = where[key]
    del where[path[-1]]
    # Without its private part the record would be the builtin's.
    ours = path != (schema.PRIVATE,) and path[-1] not in OPTIONAL
    assert (validation.record_flaw(JID, lacking) is not None) == ours


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (changed(RUNNING, ("finished",), True), "both running and finished"),
        (changed(FAILED, ("finished",), False), "both failed and unfinished"),
        (changed(FAILED, ("rc",), 0), "both failed and rc 0"),
        (changed(FAILED, ("state",), "succeeded"), "both succeeded and rc 3"),
        (changed(RUNNING, ("rc",), 1), "both running and rc 1"),
        (changed(RUNNING, ("started",), False), "both running and never started"),
        (changed(FAILED, ("started",), False), "both failed and never started"),
        (changed(RUNNING, ("failed",), True), "both running and failed"),
        (changed(LOST, ("failed",), False), "both lost and not failed"),
        (changed(RUNNING, ("state",), "queued"), "both queued and started"),
        (changed(FAILED, ("state",), "lost"), "lost, but has an rc"),
        (changed(LOST, ("reason",), None), "no reason"),
        (changed(FAILED, ("rc",), True), "impossible rc"),
        (changed(FAILED, ("ansible_job_id",), "j9.9"), "the record of job 'j9.9'"),
        (changed(RUNNING, ("durable_jobs", "version"), 2), "version 2, and this version of"),
        (changed(RUNNING, ("durable_jobs", "version"), "2"), "format is unknown"),
        (changed(RUNNING, ("durable_jobs", "epoch"), math.nan), "impossible epoch"),
        (changed(RUNNING, ("durable_jobs", "epoch"), math.inf), "impossible epoch"),
        (changed(RUNNING, ("durable_jobs", "monotonic"), -1), "impossible monotonic"),
        (changed(RUNNING, ("durable_jobs", "epoch"), 10**300), "impossible epoch"),
        (changed(RUNNING, ("durable_jobs", "spec"), {"env": 5}), "impossible spec"),
        (changed(RUNNING, ("state",), ["running"]), "impossible state"),
        (changed(RUNNING, ("durable_jobs",), None), "format is unknown"),
    ],
)
def test_a_flaw_is_told_in_a_sentence(record, says):
    assert says in validation.record_flaw(JID, record)


@pytest.mark.parametrize("code", ["x", None, True, 1.5, -1, 0x7F, 0xFFFF, 1 << 16, [3]])
def test_an_exit_slot_of_wrong_types_counts_as_none(code):
    with a_job() as job:
        put(job.results_file, json.dumps(RUNNING).encode())
        job.fill("exit", {"status": code, "epoch": 1.0, "monotonic": 1.0})
        assert job.slot("exit") is None and job.is_corrupt("exit")
        found = assert_clear(job)
        assert (found["state"], found["reason"], found["rc"]) == ("lost", "record damaged", None)
        put(job.results_file, b"")
        found = assert_clear(job)
        assert (found["state"], found["reason"], found["rc"]) == ("lost", "record damaged", None)


@pytest.mark.parametrize("content", [b"", b"[" * 4095 + b"\n", b"\xff\n", b'{"status": 0', b"[]\n"])
@pytest.mark.parametrize("slot", ["exit", "ending"])
def test_a_spoilt_slot(slot, content):
    with a_job() as job:
        put(job.results_file, json.dumps(RUNNING).encode())
        put(job.path(slot), content)
        assert job.slot(slot) is None and job.is_corrupt(slot) == bool(content)
        assert assert_clear(job)["state"] == "lost"


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
@pytest.mark.parametrize("slot", ["exit", "ending"])
def test_a_slot_that_is_no_file_is_refused(slot, make):
    with a_job() as job:
        put(job.results_file, json.dumps(RUNNING).encode())
        os.unlink(job.path(slot))
        make(job.path(slot))
        with pytest.raises(JobError, match="not a file"):
            status.look(job)


def test_a_record_cut_off_anywhere_is_damaged():
    whole = json.dumps(FAILED).encode()
    with a_job() as job:
        job.fill("exit", EXITED)
        for length in range(len(whole)):
            put(job.results_file, whole[:length])
            with pytest.raises(DamagedRecord, match="empty|not JSON"):
                job.read_record()
            found = status.look(job)
            assert (found["state"], found["rc"], found["reason"]) == ("failed", 3, "record damaged")
        put(job.results_file, whole)
        assert status.look(job)["reason"] is None


def test_without_a_record_the_slots_tell_how_the_job_ended():
    with a_job() as job:
        put(job.results_file, b"")
        job.fill("exit", dict(EXITED, status=0))
        job.fill("ending", ENDING)
        found = assert_clear(job)
        assert (found["state"], found["rc"], found["signal"]) == ("timed_out", -15, "SIGTERM")
        assert found["survivors"] == ENDING["survivors"] and "stuck (pid 7)" in found["msg"]
        assert found["stdout_file"] == job.path("stdout"), "the output is still there"


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 1_000_000,
        b'{"a":' * 500 + b"1" + b"}" * 500,
        b'{"a": ' + b"9" * 5_000_000 + b"}",
        b'{"a": 1e999999}',
        b'{"a": NaN, "rc": Infinity, "started": NaN}',
        b'{"started": 1, "started": {}, "finished": "x"}',
        b'\xef\xbb\xbf{"rc": 1}',
        '{"rc": 1}'.encode("utf-16"),
        b'{"stdout": "\\ud800", "msg": ["\\udfff"], "rc": [[]], "failed": {"a": 1}}',
        bytes(number * number % 251 for number in range(5000)),  # noise
        b"null",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_hostile_json(content):
    with a_job() as job:
        put(job.results_file, content)
        assert_clear(job)


@pytest.mark.parametrize("which", [RUNNING, FAILED], ids=lambda which: which["state"])
def test_simple_values_anywhere_in_a_record_of_ours(which):
    for path in PATHS:
        for content in (None, True, False, 0, 1, -1, 0.5, "", "x", [], {}, *schema.STATES):
            with a_job() as job:
                put(job.results_file, json.dumps(changed(which, path, content)).encode())
                assert_clear(job)


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(content=ANYTHING, path=st.sampled_from(PATHS), which=st.sampled_from([RUNNING, FAILED]))
def test_any_value_anywhere_in_a_record_of_ours(content, path, which):
    with a_job() as job:
        put(job.results_file, json.dumps(changed(which, path, content)).encode())
        assert_clear(job)


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(record=ANYTHING, key=st.sampled_from(sorted(FAILED)), slot=ANYTHING, other=ANYTHING)
def test_any_json_as_a_record_and_as_slots(record, key, slot, other):
    with a_job() as job:
        for content in (record, {key: record, "failed": slot}):
            put(job.results_file, json.dumps(content).encode())
            put(job.path("exit"), json.dumps(slot).encode()[:4000] + b"\n")
            put(job.path("ending"), json.dumps(dict(ENDING, state=other)).encode()[:4000] + b"\n")
            assert_clear(job)


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(record=st.binary(), slot=st.binary())
def test_any_bytes_as_a_record_and_as_slots(record, slot):
    with a_job() as job:
        put(job.results_file, record)
        put(job.path("exit"), slot)
        put(job.path("ending"), slot)
        assert_clear(job)


def test_a_copy_takes_the_place_of_a_damaged_record_until_the_job_has_ended(launcher):
    job = launcher.gated("echo out; exit 3")
    first = job.read_record()
    put(job.results_file, b"")
    copied = job.read_record()
    assert copied["durable_jobs"].pop("flaw") == "it is empty"
    assert copied == first
    found = status.look(job)
    assert (found["state"], found["cmd"]) == ("running", first["cmd"])
    launcher.release()
    with open(job.results_file, "rb") as record:
        until(lambda: status.look(job)["finished"])
        assert record.read() == b"", "the final record is a new file"
    found = status.look(job)
    assert (found["state"], found["rc"], found["stdout"], found["reason"]) == (
        "failed",
        3,
        "out",
        None,
    )


def test_sectors_of_a_final_record_among_those_of_the_copy_are_no_final_record():
    # Where both records are the same for longer than a sector, their parts fit together in JSON.
    running = dict(RUNNING, cmd="x" * 4096)
    final = schema.finish(running, state="exited", reason=None, exited=EXITED, ending=None)
    with a_job() as job:
        job.publish(running)
        with open(job.path("record"), "rb") as source:
            copy = source.read()
        job.conclude(final)
        with open(job.results_file, "rb") as source:
            whole = source.read()
        for border in range(512, len(whole), 512):
            for torn in (whole[:border] + copy[border:], copy[:border] + whole[border:]):
                put(job.path("record"), torn)
                assert job.pending_record() is None, border
        put(job.path("record"), whole)
        assert job.pending_record() == json.loads(whole)


def test_the_end_of_an_attempt_is_not_that_of_a_job_that_pauses():
    over = schema.attempt_of(FAILED)
    with a_job() as job:
        job.publish(schema.pause(RUNNING, [over], 10**9, 60.0))
        job.fill("exit", EXITED)  # whoever was to empty it has been killed
        job.fill("ending", ENDING)
        found = status.look(job)
    assert (found["state"], found["rc"], found["reason"]) == ("lost", None, "killed")
    assert [(one["state"], one["rc"]) for one in found["attempts"]] == [("failed", 3)]
