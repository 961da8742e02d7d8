# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import sys

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import schema
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._job.printable import printable

# Of each kind of what a terminal, or whoever reads it, could be deceived by.
CONTROL = [*map(chr, range(32)), *map(chr, range(127, 160))]
DIRECTION = [
    chr(one) for one in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
]
OTHER = ["\u2028", "\u2029", "\ufeff", "\u200b", "\ud800", "\udcff", "\U000e0041"]
EVIL = "".join([*CONTROL, *DIRECTION, *OTHER])


@pytest.mark.parametrize("character", EVIL)
def test_no_such_character_gets_through(character):
    assert printable("a%sb" % character) in ("a b", "a\ufffdb")


def test_what_can_be_shown_stays_as_it_is():
    text = "备份 naïve — 40 %, \u201cok\u201d: /srv/data_1 ✓"
    assert printable(text) == text


def test_every_character_that_stays_can_be_shown():
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    assert printable(every).isprintable() and len(printable(every)) == len(every)


def test_an_error_is_printable_whatever_it_is_about():
    error = JobError("%s: No such file or directory" % EVIL)
    assert error.msg.isprintable() and str(error) == error.msg


def test_the_message_about_a_job_is_printable_and_its_output_stays():
    job = dict(
        schema.unknown("j1.1"), state=schema.FAILED, rc=3, stderr="first\n" + EVIL + "last\n"
    )
    job["survivors"] = [{"pid": 7, "name": EVIL}]
    assert schema.message(job).isprintable()
    assert schema.present(job)["stderr"] == job["stderr"]


@pytest.mark.parametrize("key", ["reason", "user", "containment", "output_error"])
def test_what_a_record_says_is_printable_in_a_result(key):
    record = dict(schema.unknown("j1.1"), state=schema.LOST, **{key: EVIL})
    assert schema.present(record)[key].isprintable()
    assert record[key] == EVIL


def test_what_a_record_says_of_processes_and_people_is_printable():
    record = dict(schema.unknown("j1.1"), state=schema.STOPPED)
    record.update(
        survivors=[{"pid": 7, "name": EVIL}], stopped_by={"user": EVIL}, msg="one\n" + EVIL
    )
    shown = schema.present(record)
    assert shown["survivors"][0]["name"].isprintable() and shown["survivors"][0]["pid"] == 7
    assert shown["stopped_by"]["user"].isprintable()
    # A module's own message may have lines.
    assert (
        shown["msg"].startswith("one\n")
        and shown["msg"].replace("\n", "").replace("\t", "").isprintable()
    )
