# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The models themselves: what each allows of a file that is replaced, with and without its flushes."""

from __future__ import annotations

import stat

import pytest

from ansible_collections.durable.jobs.tests.crash import flushes, models
from ansible_collections.durable.jobs.tests.crash.operations import ROOT, Operation

OLD, NEW = b"o" * 600, b"n" * 600
FILE, SCRATCH = 2, 3


def history(*flushed, **bounds):
    """Return how a file is replaced by rename, with a flush of the scratch file (3) or of the folder (1)."""
    made = stat.S_IFREG | 0o600
    operations = [
        Operation("create", file=FILE, folder=ROOT, name="file", mode=made),
        Operation("write", file=FILE, data=OLD),
        Operation("create", file=SCRATCH, folder=ROOT, name="new", mode=made),
        Operation("write", file=SCRATCH, data=NEW),
    ]
    if SCRATCH in flushed:
        operations.append(Operation("sync", file=SCRATCH, begun=len(operations)))
    old = {"old_folder": ROOT, "old_name": "new"}
    operations.append(Operation("rename", file=SCRATCH, folder=ROOT, name="file", **old))
    if ROOT in flushed:
        operations.append(Operation("sync", file=ROOT, begun=len(operations)))
    return models.History(operations, 2, **{"tears": 8, **bounds})


def contents(model, past, last=False):
    """Return what may be in the file: at any moment, or after everything."""
    found = set()
    for state in models.MODELS[model](past):
        if not last or state.moment == past.end:
            number = state.tree.find("/file")
            found.add(state.tree.nodes[number].data if number else None)
    return found


@pytest.mark.parametrize("model", models.MODELS)
def test_a_file_that_is_replaced_as_it_should_be_is_old_or_new(model):
    assert contents(model, history(SCRATCH, ROOT)) == {OLD, NEW}
    assert contents(model, history(SCRATCH, ROOT), last=True) == {NEW}
    assert contents(model, history(SCRATCH), last=True) == {OLD, NEW}


@pytest.mark.parametrize("model", models.MODELS)
def test_without_a_flush_it_may_be_empty(model):
    found = contents(model, history(ROOT), last=True)
    assert b"" in found and OLD not in found


def test_what_makes_a_file_longer_is_torn_only_at_its_end():
    assert contents("ordered", history(ROOT), last=True) == {b"", NEW[:512], NEW}


def overwritten(*more, data_only=False):
    """Return how a file is overwritten in its place, and flushed."""
    operations = [
        Operation("create", file=FILE, folder=ROOT, name="file", mode=stat.S_IFREG | 0o600),
        Operation("write", file=FILE, data=OLD, time=1),
        Operation("write", file=FILE, data=NEW, time=2),
        *more,
    ]
    operations.append(Operation("sync", file=FILE, begun=len(operations), data_only=data_only))
    return models.History(operations, 2, tears=8)


def test_sectors_that_are_overwritten_are_old_or_new_each():
    mixed = {NEW[:512] + OLD[512:], OLD[:512] + NEW[512:]}
    assert contents("ordered", overwritten()) == {OLD, NEW, *mixed}
    assert contents("copying", overwritten()) == {OLD, NEW}
    assert contents("ordered", overwritten(), last=True) == {NEW}


@pytest.mark.parametrize("model", ["ordered", "loose"])
@pytest.mark.parametrize("data_only", [False, True])
def test_only_a_full_flush_covers_the_time(model, data_only):
    past = overwritten(data_only=data_only)
    times = {
        state.tree.nodes[FILE].time
        for state in models.MODELS[model](past)
        if state.moment == past.end
    }
    assert times == ({1, 2} if data_only else {2})


@pytest.mark.parametrize("model", ["ordered", "loose"])
def test_what_was_written_before_a_flush_that_failed_needs_to_be_written_again(model):
    failed = Operation("failed sync", file=FILE)
    assert OLD in contents(model, overwritten(failed), last=True)
    again = Operation("write", file=FILE, data=NEW, time=3)
    assert contents(model, overwritten(failed, again), last=True) == {NEW}


def test_a_name_needs_a_flush_of_its_folder_or_of_its_file():
    past = history(SCRATCH)
    after = [
        state
        for state in models.loose(past)
        if state.moment == past.end and state.tree.find("/file") != SCRATCH
    ]
    assert after and all(one.tree.find("/new") == SCRATCH for one in after)
    lost = [one for one in models.strict(past) if one.moment == past.end]
    assert any(not one.tree.find("/new") and one.tree.find("/file") == FILE for one in lost)


def test_a_protocol_without_flushes_is_found_out(page):
    page.trace("launch", failing=flushes.NONE)
    found = page.judge(models=["ordered"], tears=0)
    assert found["flushes"] == 0
    assert found["wrong"] > 0
