# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A flush fails, and later the power goes: what had been written before it never reaches the disk."""

from __future__ import annotations

import collections

import pytest

from ansible_collections.durable.jobs.tests.crash import protocols

# One flush after the other fails in a run of its own, so these have no more than they need.
CHOSEN = (
    *("launch", "later", "deadline", "end_by_runner", "end_by_keeper", "verdict_by_reader"),
    *("stop", "name", "attempts", "notify", "cleanup", "prune", "engine", "engine_again"),
)


@pytest.mark.parametrize("protocol", CHOSEN)
def test_every_flush_fails_once(page, protocol, record_property):
    kinds = [(one.kind, one.text) for one in page.trace(protocol)]
    begin = kinds.index(("mark", "notes: begin"))
    before = sum(kind == "sync" for kind, _text in kinds[:begin])
    flushes = sum(kind == "sync" for kind, _text in kinds[begin:])
    states = collections.Counter()
    wrong = []
    for number in range(before, before + flushes):
        page.trace(protocol, failing=number)
        found = page.judge(failed=True, tears=0, models=["ordered"])
        states.update(found["states"])
        wrong += [f"flush {number} failed, {one}" for one in found["shown"][:1]]
    what = protocols.PROTOCOLS[protocol].__doc__
    counts = {"operations": len(kinds) - begin, "flushes": flushes, "states": states}
    record_property("counts", {"what": "a flush fails", "protocol": what, **counts})
    assert not wrong, "\n\n".join([f"{len(wrong)} of {flushes} are wrong", *wrong])
