# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import kernel, output
from ansible_collections.durable.jobs.tests.unit.support import until


@pytest.fixture
def stream(tmp_path):
    fd = os.open(str(tmp_path / "stdout"), os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def fill(fd, data):
    os.pwrite(fd, data, os.fstat(fd).st_size)


@pytest.mark.parametrize("limit", [1, 1000, 8192, 100_000, 1_000_000])
def test_head_and_tail_stay_and_the_rest_is_given_back(stream, limit):
    limiter = output.Limiter(stream, limit)
    data = (
        random.Random(limit).randbytes(3_000_000)
        if sys.version_info >= (3, 9)
        else os.urandom(3_000_000)
    )
    for at in range(0, len(data), 100_000):
        fill(stream, data[at : at + 100_000])
        limiter.check()
    found = os.fstat(stream)
    assert found.st_size == len(data), "the size is the stream's"
    assert found.st_blocks * 512 <= limit + 4 * 4096, "disk use is bounded"
    head, tail = limit // 2, limit - limit // 2
    assert os.pread(stream, head, 0) == data[:head]
    assert os.pread(stream, tail, len(data) - tail) == data[-tail:]
    start, end = output.hole(stream, found.st_size)
    assert head <= start < end <= len(data) - tail


def test_a_limit_of_0_keeps_all(stream):
    fill(stream, b"x" * 1_000_000)
    output.Limiter(stream, 0).check()
    assert output.hole(stream, 1_000_000) == (1_000_000, 1_000_000)


def test_without_holes_the_file_is_cut_and_its_tail_put_back(tmp_path):
    """ramfs knows no fallocate, so the emulation is what runs there; mounting it takes root."""
    if os.geteuid() != 0 or subprocess.call(
        ["mount", "-t", "ramfs", "none", str(tmp_path)], stderr=subprocess.DEVNULL
    ):
        pytest.skip("needs root and the right to mount a ramfs")
    try:
        fd = os.open(str(tmp_path / "stdout"), os.O_RDWR | os.O_CREAT)
        try:
            fill(fd, bytes(range(256)) * 400)
            kernel.punch_hole(fd, 8192, 81920)
            assert os.fstat(fd).st_size == 102400
            assert os.pread(fd, 8192, 0) == bytes(range(256)) * 32
            assert os.pread(fd, 20480, 81920) == bytes(range(256)) * 80
            assert os.pread(fd, 73728, 8192) == bytes(73728)
        finally:
            os.close(fd)
    finally:
        subprocess.check_call(["umount", str(tmp_path)])


def test_trailing_newlines_are_stripped(stream):
    fill(stream, b"one\ntwo\r\n\n")
    assert output.excerpt(stream, 100) == ("one\ntwo", 10, False)


def test_invalid_bytes_are_replaced(stream):
    fill(stream, b"a\xff\xfeb\0c")
    assert output.excerpt(stream, 100) == ("a\ufffd\ufffdb\0c", 6, False)


@pytest.mark.parametrize("unit", [b"x", "é".encode(), "€".encode(), "😀".encode(), b"\xff"])
@pytest.mark.parametrize("extra", range(4))
def test_an_excerpt_never_exceeds_its_limit_and_cuts_no_character(stream, unit, extra):
    fill(stream, b"." * extra + unit * 5000 + b"." * extra)
    text, size, cut = output.excerpt(stream, 2000)
    assert size == 2 * extra + 5000 * len(unit) and cut
    assert len(text.encode()) <= 2000
    assert ("\ufffd" in text) == (unit == b"\xff")
    assert "are not shown here" in text
    assert text.startswith("." * extra) and text.endswith("." * extra)


def test_an_excerpt_leaves_out_the_hole(stream):
    limiter = output.Limiter(stream, 20_000)
    fill(stream, b"H" * 50_000 + b"m" * 100_000 + b"T" * 50_000)
    limiter.check()
    text, size, cut = output.excerpt(stream, 1_000_000)
    assert (size, cut) == (200_000, True)
    assert "\0" not in text and "m" not in text.replace("[...", "").replace(
        "bytes are not shown here", ""
    )
    assert text.startswith("H" * 10_000) and text.endswith("T" * 10_000)


def test_nothing_is_read_with_limit_0(stream):
    assert output.excerpt(stream, 0) == ("", 0, False)
    fill(stream, b"x")
    assert output.excerpt(stream, 0) == ("", 1, True)


def test_the_keeper_of_a_command_that_writes_nothing_is_left_asleep(launcher):
    job = launcher.shell("sleep 100", output_limit=10**6)
    keeper, _runner = launcher.keeper(job)

    def switches():
        with open(f"/proc/{keeper}/status", encoding="ascii") as status:
            return int(status.read().partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    time.sleep(2.5)  # it looks once or twice before it trusts the kernel
    before = switches()
    time.sleep(2.5)
    assert switches() - before <= 1


def test_a_burst_after_a_pause_is_kept_within_the_limit(launcher):
    line = "until [ -e go ]; do sleep 0.1; done; head -c 3000000 /dev/zero; until [ -e end ]; do sleep 0.1; done"
    job = launcher.shell(line, output_limit=100_000, chdir=launcher.store.path)
    time.sleep(2.5)
    launcher.release()
    path = job.path("stdout")
    until(lambda: os.stat(path).st_size == 3_000_000, "the output")
    until(lambda: os.stat(path).st_blocks * 512 <= 110_000, "the cut")
    with open(os.path.join(launcher.store.path, "end"), "wb"):
        pass
    assert launcher.finished(job)["stdout_bytes"] == 3_000_000


MEGABYTES = 1_000_000
FILE = "f=$(readlink /proc/$$/fd/1); "


def write(megabytes):
    return f"head -c {megabytes * MEGABYTES} /dev/zero; "


@pytest.mark.parametrize(
    "line",
    [
        write(60) + "truncate -s 0 /proc/self/fd/1; " + write(50),
        write(50) + "truncate -s 0 /proc/self/fd/1; " + write(50),
        write(20) + "truncate -s 5000000 /proc/self/fd/1; " + write(70),
        FILE + write(60) + ": > $f; " + write(50),
        FILE + write(60) + "cp $f $f.1; : > $f; rm $f.1; " + write(50),
        FILE + write(60) + "sleep 1; head -c 50000000 /dev/zero 1<> $f; true",
        FILE + write(60) + "rm $f; " + write(50),
        FILE + write(60) + "rm $f; exec >> $f; " + write(50),
        FILE
        + write(20)
        + "for n in 1 2 3; do : > $f.$n; mv $f.$n $f; exec >> $f; sleep 1; done; "
        + write(50),
    ],
    ids=[
        "more",
        "same",
        "part",
        "reopened",
        "copytruncate",
        "rewritten",
        "removed",
        "new",
        "renamed",
    ],
)
@pytest.mark.parametrize("then", ["exit 3", "sleep 61"], ids=["ended", "runs on"])
def test_the_limit_holds_though_a_stream_shrinks_or_is_replaced(launcher, line, then):
    job = launcher.shell(line + "echo done >&2; " + then, output_limit=MEGABYTES)
    keeper, _runner = launcher.keeper(job)
    if then == "exit 3":
        record = launcher.finished(job)
        assert record["rc"] == 3
    else:
        until(lambda: os.stat(job.path("stderr")).st_size, "all that is written")
        until(lambda: room_of(keeper, job) <= 2.2 * MEGABYTES, "the output is within its limit")
    # The limit is a file's; the keeper holds the one that the command got, and the one that is there.
    assert room_of(keeper, job) <= 2.2 * MEGABYTES


def room_of(keeper, job):
    """Return what the files take that have been, or are, the job's stdout."""
    folder = f"/proc/{keeper}/fd"
    opened = (
        [os.path.join(folder, fd) for fd in os.listdir(folder)] if os.path.isdir(folder) else []
    )
    found = [os.stat(path) for path in (*opened, job.path("stdout")) if os.path.exists(path)]
    return sum({one.st_ino: one.st_blocks * 512 for one in found}.values())


def test_who_writes_the_same_bytes_again_and_again_does_not_keep_the_keeper_awake(launcher):
    program = "import os\nwhile True: os.pwrite(2, b'x', 0)"
    line = FILE + f'exec {sys.executable} -c "{program}" 2<> $f'
    job = launcher.shell(line, output_limit=MEGABYTES)
    until(lambda: os.stat(job.path("stdout")).st_size, "the first byte")
    keeper, _runner = launcher.keeper(job)
    before = ticks(keeper)
    time.sleep(2)
    assert ticks(keeper) - before <= 20
    os.kill(job.read_record()["durable_jobs"]["command"]["pid"], signal.SIGKILL)
    launcher.finished(job)


def ticks(pid):
    """Return the processor time of a process, in ticks of 10 ms."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        return sum(map(int, stat.read().rpartition(b")")[2].split()[11:13]))
