# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import threading
import time
import tracemalloc

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import schema
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._job.reading import UNSURE, Reader
from ansible_collections.durable.jobs.plugins.module_utils._job.record_io import MissingRecord
from ansible_collections.durable.jobs.tests.unit.support import until

LONG = 60  # seconds; a wait that lasts so long has missed what it waited for
MIB = 1024 * 1024
MIXED = "aé€😀\n" * 3


def piece(job, offset=0, max_bytes=MIB, **options):
    reader = reading(job, **options)
    try:
        return reader.piece(offset, max_bytes)
    finally:
        reader.close()


def reading(job, stream="stdout", *, reveal=False):
    return Reader(job, stream, reveal=reveal, settle=True)


def tail(job, lines, limit=MIB):
    """Return the last lines of what a job has written."""
    reader = reading(job)
    begin = reader.tail(lines, limit)
    found = reader.piece(begin, limit)["content"]
    reader.close()
    return found


def wrote(launcher, data, **changes):
    """Return a job that has written these bytes, ended, and let go of its locks."""
    line = "; ".join(
        "printf '%s'" % "".join("\\%03o" % byte for byte in data[at : at + 4000])
        for at in range(0, len(data), 4000)
    )
    job = launcher.shell(line or "true", **changes)
    launcher.finished(job)
    until(lambda: not job.is_held("keeper") and not job.is_held("runner"))
    return job


def pieces(job, max_bytes):
    """Read a stream to its end, piece by piece."""
    found, offset = [], 0
    while True:
        one = piece(job, offset, max_bytes)
        found.append(one)
        assert one["next_offset"] > offset or one["eof"], "there is progress"
        offset = one["next_offset"]
        if one["eof"]:
            return found


@pytest.mark.parametrize("max_bytes", [1, 2, 3, 4, 5, 7, 1000])
def test_pieces_of_any_size_make_up_the_whole(launcher, max_bytes):
    found = pieces(wrote(launcher, MIXED.encode()), max_bytes)
    assert "".join(one["content"] for one in found) == MIXED
    assert all(len(one["content"].encode()) <= max(4, max_bytes) for one in found)
    assert found[-1]["next_offset"] == found[-1]["size"] == len(MIXED.encode())
    assert all(one["lost_bytes"] == 0 and one["cut_from"] is None for one in found)


@pytest.mark.parametrize("max_bytes", [1, 2, 3, 4, 5, 1000])
def test_bytes_that_are_not_utf8_are_replaced_and_stop_nobody(launcher, max_bytes):
    data = b"\xff\xfea\x80\xe2\x82b\xf0\x9f\x98c\xc3"
    job = wrote(launcher, data)
    found = pieces(job, max_bytes)
    assert "".join(one["content"] for one in found) == data.decode("utf-8", "replace")


def test_a_character_that_is_not_whole_yet_is_waited_for(launcher):
    job = launcher.shell(
        r"printf 'a\342'; until [ -e go ]; do sleep 0.02; done; printf '\202\254'",
        chdir=launcher.store.path,
    )
    until(lambda: os.stat(job.path("stdout")).st_size == 2)
    first = piece(job)
    assert (first["content"], first["next_offset"], first["size"], first["eof"]) == (
        "a",
        1,
        2,
        False,
    )
    held = piece(job, 1)
    assert (held["content"], held["next_offset"], held["eof"]) == ("", 1, False)
    launcher.release()
    launcher.finished(job)
    rest = piece(job, 1)
    assert (rest["content"], rest["next_offset"], rest["eof"]) == ("€", 4, True)


def test_more_will_come_until_the_job_has_finished_and_all_was_read(launcher):
    job = launcher.gated("echo late; echo bad >&2")
    assert piece(job)["eof"] is False
    launcher.release()
    launcher.finished(job)
    assert piece(job, max_bytes=2)["eof"] is False
    found = piece(job, 2)
    assert (found["content"], found["content_lines"], found["eof"]) == ("te\n", ["te"], True)
    assert piece(job, stream="stderr")["content"] == "bad\n"


def test_an_offset_beyond_the_end_reads_nothing(launcher):
    job = launcher.ready("echo out; sleep 60")
    beyond = piece(job, 100)
    assert (beyond["content"], beyond["next_offset"], beyond["eof"]) == ("", 100, False)
    done = wrote(launcher, b"out")
    for offset in (3, 4, 10**15):
        found = piece(done, offset)
        assert (found["content"], found["next_offset"], found["eof"]) == ("", offset, True)


@pytest.mark.parametrize("ends", [True, False])
def test_the_last_lines(launcher, ends):
    text = "".join("é%d\n" % number for number in range(5))
    job = wrote(launcher, (text if ends else text[:-1]).encode())
    end = "\n" if ends else ""
    assert tail(job, 2) == "é3\né4" + end
    assert tail(job, 0) == ""
    assert tail(job, 5) == tail(job, 6) == tail(job, 10**9) == text[:-1] + end
    assert tail(job, 5, limit=7) == ("3\né4\n" if ends else "é3\né4"), "whole characters only"


def test_the_last_lines_of_nothing_and_of_empty_lines(launcher):
    assert tail(wrote(launcher, b""), 3) == ""
    assert tail(wrote(launcher, b"\n\n\n"), 2) == "\n\n"
    assert tail(wrote(launcher, b"x"), 1) == "x"


def test_the_last_lines_lie_across_blocks(launcher):
    job = launcher.shell("head -c 100000 /dev/zero | tr '\\0' x; echo; seq 20000")
    launcher.finished(job)
    assert tail(job, 15000).splitlines() == [str(number) for number in range(5001, 20001)]
    assert len(tail(job, 20001)) == 100000 + 1 + 108894


def test_of_a_huge_stream_only_the_end_is_read(launcher):
    job = wrote(launcher, b"end\n")
    with open(job.path("stdout"), "r+b") as stream:
        stream.truncate(2**40)
        stream.seek(0, os.SEEK_END)
        stream.write(b"\nlast\n")
    tracemalloc.start()
    assert tail(job, 1) == "last\n"
    assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    tracemalloc.stop()


def test_what_the_output_limit_cut_is_said_and_where(launcher):
    job = launcher.shell("seq 1 300000", output_limit=100_000)
    launcher.finished(job)
    found = pieces(job, 20000)
    size = found[-1]["size"]
    assert size == len("".join("%d\n" % number for number in range(1, 300001)))
    cut = [one for one in found if one["lost_bytes"]]
    assert len(cut) == 1
    begin, end = cut[0]["cut_from"], cut[0]["cut_to"]
    assert cut[0]["offset"] == end and cut[0]["lost_bytes"] == end - begin
    assert sum(len(one["content"]) for one in found) == size - (end - begin)
    assert found[0]["content"].startswith("1\n2\n") and found[-1]["content"].endswith("300000\n")
    assert "\0" not in "".join(one["content"] for one in found)
    inside = piece(job, begin + 5)
    assert (inside["offset"], inside["lost_bytes"]) == (end, end - begin - 5)
    assert tail(job, 10**6).endswith("300000\n") and "\0" not in tail(job, 10**6)


def test_a_reader_who_is_slower_than_the_limit_never_sees_what_was_cut(launcher):
    job = launcher.shell(
        "seq 1 400000; until [ -e go ]; do sleep 0.02; done; seq 1 400000",
        output_limit=50_000,
        chdir=launcher.store.path,
    )
    text, offset, lost = "", 0, 0
    while True:
        found = piece(job, offset, 10000)
        assert "\0" not in found["content"]
        text, offset = text + found["content"], found["next_offset"]
        lost += found["lost_bytes"]
        launcher.release()
        if found["eof"]:
            break
    assert len(text) + lost == found["size"] and text.endswith("400000\n")


def test_holes_that_the_command_made_itself_are_zeros_and_nothing_was_cut(launcher):
    job = launcher.shell("truncate -s 100000 /proc/self/fd/1; echo end")
    launcher.finished(job)
    found = piece(job)
    assert found["cut_from"] is None and len(found["content"]) == found["size"]


def test_a_cursor_beyond_a_stream_that_has_been_truncated_is_told_so(launcher):
    truncate = (
        "until [ -e go ]; do sleep 0.02; done; truncate -s 0 /proc/self/fd/1; echo new; sleep 60"
    )
    job = launcher.ready("echo a longer line; " + truncate, chdir=launcher.store.path)
    first = piece(job)
    assert (first["content"], first["shrunk"]) == ("a longer line\n", False)
    threading.Timer(0.3, launcher.release).start()
    reader = reading(job)
    reader.wait(first["next_offset"], LONG)
    reader.close()
    until(lambda: piece(job, 14)["size"] == 4, "the new line")
    found = piece(job, first["next_offset"])
    assert (found["content"], found["shrunk"], found["next_offset"]) == ("", True, 14)
    assert piece(job, 0)["content"] == "new\n"


def test_waiting_ends_with_more_output_and_costs_little(launcher):
    job = launcher.gated("echo more; sleep 60")
    threading.Timer(0.5, launcher.release).start()
    reader = reading(job)
    begin, used = time.monotonic(), time.process_time()
    reader.wait(0, LONG)
    assert time.monotonic() - begin < LONG and time.process_time() - used < 0.3
    assert reader.piece(0, MIB)["content"] == "more\n" and not reader.record["finished"]
    reader.close()


def test_waiting_ends_with_the_job(launcher):
    job = launcher.gated("exit 3")
    threading.Timer(0.3, launcher.release).start()
    reader = reading(job)
    reader.wait(0, LONG)
    assert reader.piece(0, MIB)["eof"] and reader.record["state"] == "failed"
    reader.close()


def test_waiting_ends_after_its_time(launcher):
    reader = reading(launcher.shell("sleep 60"))
    reader.wait(0, 0.3)
    assert not reader.piece(0, MIB)["eof"]
    reader.close()


def test_an_end_whose_bell_has_not_rung_is_seen_by_the_last_look(launcher):
    job = launcher.gated("exit 0")
    reader = reading(job)
    # Somebody else who has the other end open delays the hang-up, as a keeper does that is not gone yet.
    fd = os.open(job.path("keeper"), os.O_RDWR)
    launcher.release()
    launcher.finished(job)
    reader.wait(0, 0)
    assert not reader.record["finished"]
    reader.wait(0, 0.3)
    os.close(fd)
    assert reader.piece(0, MIB)["eof"] and reader.record["state"] == "succeeded"
    reader.close()


def test_a_job_that_no_log_hides_is_hidden_unless_it_is_revealed(launcher):
    job = launcher.shell("echo secret", no_log=True)
    launcher.finished(job)
    found = piece(job)
    assert (found["content"], found["eof"], found["size"]) == (schema.HIDDEN, True, None)
    assert piece(job, reveal=True)["content"] == "secret\n"
    running = launcher.shell("echo secret; sleep 60", no_log=True)
    assert piece(running)["eof"] is False and "secret" not in piece(running)["content"]


def test_of_a_job_without_a_record_nobody_knows_whether_its_output_may_be_shown(launcher):
    job = wrote(launcher, b"perhaps secret")
    with open(job.results_file, "w", encoding="utf-8") as record:
        record.write("{")
    found = piece(job)
    assert (found["content"], found["eof"]) == (UNSURE, True)
    assert piece(job, reveal=True)["content"] == "perhaps secret"


def test_when_the_file_is_gone_the_record_tells_what_it_holds(launcher):
    job = wrote(launcher, "é saved\n".encode())
    os.unlink(job.path("stdout"))
    found = piece(job)
    assert (found["content"], found["eof"]) == ("é saved", True)


def test_something_else_in_the_place_of_a_stream_is_refused(launcher, tmp_path):
    job = wrote(launcher, b"out")
    (tmp_path / "secret").write_text("secret")
    os.unlink(job.path("stdout"))
    os.symlink(tmp_path / "secret", job.path("stdout"))
    with pytest.raises(JobError, match="symlink"):
        piece(job)
    os.unlink(job.path("stdout"))
    os.mkfifo(job.path("stdout"))
    with pytest.raises(JobError, match="FIFO"):
        piece(job)


def test_a_job_of_the_builtin_has_output_when_it_has_finished(launcher):
    job = launcher.store.job("j5.5")
    path = job.results_file
    with pytest.raises(MissingRecord):
        piece(job)

    def write(record):
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(record, file)
        os.rename(path + ".new", path)

    write({"started": 1, "finished": 0})
    assert (piece(job)["content"], piece(job)["eof"]) == ("", False)
    final = {"finished": 1, "rc": 1, "failed": True, "stdout": "a\né", "stderr": "bad"}
    threading.Timer(0.3, write, [final]).start()
    reader = reading(job)
    reader.wait(0, LONG)
    found = reader.piece(0, MIB)
    assert (found["content_lines"], found["eof"]) == (["a", "é"], True)
    assert piece(job, stream="stderr")["content"] == "bad"
    assert tail(job, 1) == "é"
    write({"finished": 1, "ping": "pong", "stdout": None})
    assert (piece(job)["content"], piece(job)["eof"]) == ("", True)


def test_no_descriptor_stays_open(launcher):
    job = launcher.ready("echo out; sleep 60")
    piece(job)
    before = os.listdir("/proc/self/fd")
    piece(job)
    reader = reading(job)
    reader.wait(10, 0.3)
    reader.close()
    assert os.listdir("/proc/self/fd") == before
