# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.durable.jobs.plugins.module_utils._job import naming
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._job.record_io import MissingRecord
from ansible_collections.durable.jobs.tests.unit.support import request

KEY = b"k" * 32


def asked(*argv, **changes):
    return request(*(argv or ("sleep", "60")), **{"name": "work", **changes})


def spec(*argv, **changes):
    return naming.specification(asked(*argv, **changes), KEY)


def test_what_is_asked_for_is_compared_and_nothing_else():
    assert spec() == spec(cmd="sleep 60", no_log=True, on_conflict="replace", rerun="never")
    for change in (
        {"chdir": "/"}, {"env": {"A": "1"}}, {"stdin": "x"}, {"timeout": 1}, {"max_timeout": 99},
        {"watchdog": 1}, {"grace": 1}, {"umask": 1},
        {"nice": 1}, {"output_limit": 1}, {"stop_signal": 2},
        {"memory_max": 1}, {"cpu_quota": 1}, {"tasks_max": 1},
    ):  # fmt: skip
        assert spec(**change) != spec(), change
    assert spec("sleep", "61") != spec()
    assert spec(env={"A": "1"}) != spec(env={"A": "2"})
    assert spec(env={"A": "1", "B": "2"}) == spec(env={"B": "2", "A": "1"})


def test_secrets_are_kept_as_digests_that_mean_nothing_without_the_key():
    kept = str(spec("cat", "s3cret", env={"A": "s3cret"}, stdin="s3cret"))
    assert "s3cret" not in kept and "A" in kept
    other = naming.specification(asked(env={"A": "1"}), b"other key")
    assert other["env"] != spec(env={"A": "1"})["env"]


@pytest.fixture
def running(launcher):
    def start(**changes):
        wanted = asked(**changes)
        wanted["spec"] = naming.specification(wanted, launcher.store.secret())
        launcher.raw(wanted)
        return launcher.jobs[-1]

    return start


def test_a_prediction_touches_nothing(launcher, running):
    assert naming.predict(None, asked()) == ("start", None)
    assert naming.predict(launcher.store, asked()) == ("start", None)
    job = running()
    decision, there = naming.predict(launcher.store, asked())
    assert (decision, there.jid) == ("attach", job.jid)
    with pytest.raises(JobError, match=r"timeout \(60, now 61"):
        naming.predict(launcher.store, asked(timeout=61))
    assert naming.predict(launcher.store, asked(timeout=61, on_conflict="replace"))[0] == "replace"
    assert job.read_record()["state"] == "running"


def test_attaching_shows_the_live_job_and_keeping_the_recorded_one(launcher, running):
    job = running()
    shown = naming.found(job, "attach", settle=True)
    assert (shown["attached"], shown["changed"], shown["failed"], shown["state"]) == (
        True,
        False,
        False,
        "running",
    )
    ended = running(argv=["false"], name="other")
    launcher.finished(ended)
    shown = naming.found(ended, "keep", settle=True)
    assert (shown["attached"], shown["changed"], shown["failed"], shown["rc"]) == (
        False,
        False,
        True,
        1,
    )


def test_a_job_that_is_removed_at_this_moment_is_told_of(launcher):
    with pytest.raises(MissingRecord):
        naming.found(launcher.store.job("j1.2"), "keep", settle=True)


def test_a_diff_masks_secrets(launcher, running):
    running(env={"PASSWORD": "s3cret-1"}, stdin="s3cret-2")
    shown = naming.diff(
        launcher.store, asked(env={"PASSWORD": "s3cret-3"}, timeout=61), create=True
    )
    assert "s3cret" not in str(shown)
    assert (shown["before"]["timeout"], shown["after"]["timeout"]) == (60, 61)
    assert shown["before"]["env"]["PASSWORD"] != shown["after"]["env"]["PASSWORD"]
    assert shown["before"]["cmd"] == ["sleep", "60"]
    assert naming.diff(launcher.store, asked(name="new"), create=True)["before"]["cmd"] is None


@given(st.binary(max_size=200), st.binary())
def test_the_keyed_digest_is_what_records_of_earlier_releases_hold(key, data):
    assert naming.keyed_digest(key, data) == hmac.new(key, data, "sha256").hexdigest()
