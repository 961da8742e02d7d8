# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real commands, and this process in their place, report to real keepers."""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import stat
import sys
import time

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    notify_socket,
    processes,
    schema,
    status,
    stopping,
)
from ansible_collections.durable.jobs.tests.unit.support import Launcher, request, until

# As any program may do it; systemd-notify is not everywhere.
SAY = """
import os, socket, sys
where = os.environ["NOTIFY_SOCKET"]
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto("\\n".join(sys.argv[1:]).encode(), where)
"""


def say(job, *lines, fds=()):
    """Report in the place of the command."""
    message = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(reached(job))
        sender.sendmsg([message], rights)


def is_heard(job, line):
    """Report, and tell whether somebody takes it."""
    try:
        say(job, line)
    except OSError:
        return False
    return True


def reached(job):
    return f"/proc/self/fd/{job.fd}/notify"


def progress(job):
    found = status.look(job, show="none")["progress"]
    return found and (found["percent"], found["status"])


def reports_of(job, *expected):
    until(lambda: progress(job) == expected, f"progress {expected}")


def waits(launcher, **changes):
    """Launch a job that ends when it is told to."""
    return launcher.gated("exit 0", **changes)


def quoted(*lines):
    return " ".join(["'%s' -c '%s'" % (sys.executable, SAY), *(f"'{line}'" for line in lines)])


def test_what_a_command_reports_is_its_progress(launcher):
    job = launcher.gated(quoted("STATUS=copying files", "X_PROGRESS=40"))
    assert progress(job) is None
    launcher.release()
    found = launcher.finished(job)["progress"]
    assert (found["percent"], found["status"]) == (40, "copying files")
    assert launcher.finished(job)["start"] <= found["at"] <= launcher.finished(job)["end"]


def test_what_is_read_after_the_end_was_reported_before(launcher):
    job = launcher.gated(quoted("STATUS=last words"))
    keeper, _runner = launcher.keeper(job)
    os.kill(keeper, signal.SIGSTOP)
    launcher.release()
    until(lambda: job.slot("exit"), "the end of the command")
    os.kill(keeper, signal.SIGCONT)
    final = launcher.finished(job)
    assert final["progress"]["at"] == final["end"]


def test_it_is_seen_while_the_job_runs_and_replaced_by_the_next(launcher):
    job = waits(launcher)
    say(job, "X_PROGRESS=1")
    reports_of(job, 1, None)
    say(job, "STATUS=reading")
    reports_of(job, 1, "reading")
    say(job, "READY=1", "X_PROGRESS=99.5", "STATUS=", "MAINPID=1", "FDSTORE=1")
    reports_of(job, 99.5, None)
    launcher.release()
    assert launcher.finished(job)["progress"]["percent"] == 99.5
    until(
        lambda: not {"notify", "progress"} & set(os.listdir(job.fd)), "what is needed no more goes"
    )


def test_a_command_that_reports_nothing_has_no_progress_and_leaves_nothing(launcher):
    job = waits(launcher)
    say(job, "READY=1", "WATCHDOG=1", "STOPPING=1")
    launcher.release()
    assert launcher.finished(job)["progress"] is None
    assert status.look(job)["progress"] is None


@pytest.mark.parametrize(
    "lines",
    [
        *[
            [f"X_PROGRESS={one}"]
            for one in ("101", "-1", "1e1", " 5", "", "nan", "\u0661", "0x1", "9" * 90)
        ],
        [b"\x00\xff\xfe" * 100],
        ["status=small", "XSTATUS=x", "STATUS"[:3], "x_progress=3"],
        ["\n" * 40 + "STATUS=beyond the lines that are looked at"],
        ["STATUS=" + "x" * 4096],
        [],
    ],
)
def test_what_makes_no_sense_is_ignored(launcher, lines):
    job = waits(launcher)
    say(job, *lines)
    say(job, "X_PROGRESS=7")
    reports_of(job, 7, None)
    launcher.release()
    launcher.finished(job)
    assert not os.path.exists(job.path("keeper.log"))


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("  two   blanks ", "two blanks"),
        ("a\ttab \x1b[31mred\x07", "a tab [31mred"),
        ("über 日本 \u202eevil\u2066 \u0085end", "über 日本 evil end"),
        (b"half \xff a character", "half \ufffd a character"),
        ("x" * 300, "x" * 200),
        ('{"a": "b"} {{ c }}', '{"a": "b"} {{ c }}'),
    ],
)
def test_a_status_is_shown_as_one_plain_line(launcher, sent, shown):
    job = waits(launcher)
    say(job, b"STATUS=" + (sent if isinstance(sent, bytes) else sent.encode()))
    reports_of(job, None, shown)
    launcher.release()


def test_a_status_of_the_greatest_length_fits_its_slot(launcher):
    job = waits(launcher)
    say(job, "STATUS=" + "\U0001f40c" * 1000)
    reports_of(job, None, "\U0001f40c" * 200)
    launcher.release()


def test_of_a_job_with_no_log_only_the_percentage_is_seen(launcher):
    job = waits(launcher, no_log=True)
    say(job, "STATUS=s3cret", "X_PROGRESS=40")
    reports_of(job, 40, schema.HIDDEN)
    with open(job.path("progress"), "rb") as shown:
        assert b"s3cret" not in shown.read()
    launcher.release()
    assert "s3cret" not in str(launcher.finished(job))


def test_a_flood_is_read_written_seldom_and_its_last_message_counts(launcher):
    flood = (
        "import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.connect(os.environ['NOTIFY_SOCKET'])\n"
        "for n in range(5000): s.send(b'STATUS=%d' % n)\n"
    )
    job = launcher.gated(f'exec "{sys.executable}" -c "{flood}"')
    launcher.release()
    seen = set()
    begin = time.monotonic()
    while not job.read_record()["finished"]:
        try:
            seen.add(os.stat(job.path("progress")).st_mtime_ns)
        except FileNotFoundError:
            pass
    assert len(seen) <= (time.monotonic() - begin) / notify_socket.SAVE_INTERVAL + 2
    assert launcher.finished(job)["progress"]["status"] == "4999"


def test_descriptors_that_come_along_are_closed_at_once(launcher):
    job = waits(launcher)
    keeper = launcher.keeper(job)[0]
    say(job, "STATUS=first")
    reports_of(job, None, "first")
    before = len(os.listdir(f"/proc/{keeper}/fd"))
    out, into = os.pipe()
    say(job, "BARRIER=1", fds=[into])
    os.close(into)
    waiting = select.poll()
    waiting.register(out, 0)
    assert waiting.poll(10_000), "systemd-notify would wait for that"
    os.close(out)
    say(job, "STATUS=last", fds=[0] * 200)
    reports_of(job, None, "last")
    assert len(os.listdir(f"/proc/{keeper}/fd")) == before
    launcher.release()


def test_the_socket_is_private(launcher):
    job = waits(launcher)
    found = os.stat(job.path("notify"))
    assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o600
    launcher.release()


def test_a_path_that_is_too_long_for_a_socket_leads_through_the_runner(tmp_path):
    launcher = Launcher(tmp_path / ("x" * 100) / "async")
    job = launcher.gated('echo "$NOTIFY_SOCKET"; ' + quoted("X_PROGRESS=3"))
    runner = launcher.keeper(job)[1]
    launcher.release()
    found = launcher.finished(job)
    assert found["stdout"].startswith(f"/proc/{runner}/fd/") and found["progress"]["percent"] == 3
    launcher.close()


def test_where_there_can_be_no_socket_nothing_is_told(launcher):
    job = launcher.store.create_job()
    assert job.fd >= 0
    os.rmdir(job.path(""))
    assert not notify_socket.listen(job) and job.inbox < 0
    assert notify_socket.environment(job, request("true"), 1) == {}


def test_nobody_elses_socket_is_passed_on_and_the_users_own_wins(launcher):
    show = 'env | grep -e NOTIFY_SOCKET -e WATCHDOG | sort; echo "$$"'
    outer = dict(os.environ, NOTIFY_SOCKET="/run/outer", WATCHDOG_USEC="1", WATCHDOG_PID="1")
    launcher.raw(request("/bin/sh", "-c", show), env=outer)
    told, _pid = launcher.finished(launcher.jobs[-1])["stdout"].splitlines()
    assert told.startswith("NOTIFY_SOCKET=/") and told.endswith("/notify")
    watched = launcher.shell(show, watchdog=2.5)
    assert "WATCHDOG_USEC=2500000" in launcher.finished(watched)["stdout"]
    own = launcher.shell(show, env={"NOTIFY_SOCKET": ""})
    assert launcher.finished(own)["stdout"].splitlines()[0] == "NOTIFY_SOCKET="


def test_a_queued_job_reports_when_it_runs(launcher):
    launcher.raw(
        request("/bin/sh", "-c", "until [ -e go ]; do sleep 0.02; done", chdir=launcher.store.path),
        request("/bin/sh", "-c", quoted("X_PROGRESS=12")),
        slots=1,
    )
    say(launcher.jobs[1], "STATUS=of a stranger")
    launcher.release()
    found = launcher.finished(launcher.jobs[1])
    assert (found["progress"]["percent"], found["progress"]["status"]) == (12, None)
    assert found["start"] <= found["progress"]["at"] <= found["end"]


# -- without a keeper --------------------------------------------------------------------------------------------------


def test_reports_go_on_when_the_keeper_is_killed(launcher):
    job = waits(launcher)
    say(job, "STATUS=before", "X_PROGRESS=1")
    reports_of(job, 1, "before")
    os.kill(launcher.keeper(job)[0], signal.SIGKILL)
    say(job, "STATUS=meanwhile")  # the runner holds the socket: nobody is refused
    assert progress(job)[0] == 1
    until(lambda: progress(job) == (1, "meanwhile"), "the new keeper's reading")
    launcher.release()
    assert launcher.finished(job)["progress"]["status"] == "meanwhile"


def test_a_job_that_has_lost_keeper_and_runner_gets_a_new_socket(launcher):
    job = waits(launcher)
    say(job, "STATUS=before")
    reports_of(job, None, "before")
    keeper, runner = launcher.keeper(job)
    os.kill(runner, signal.SIGSTOP)  # else it would start another
    os.kill(keeper, signal.SIGKILL)
    os.kill(runner, signal.SIGKILL)
    until(lambda: not job.is_held("keeper") and not job.is_held("runner"), "their end")
    with pytest.raises(ConnectionRefusedError):
        say(job, "STATUS=lost")
    assert progress(job) == (None, "before")
    launcher.raw(adopt=[job.jid])
    until(lambda: is_heard(job, "X_PROGRESS=50"), "a new socket")
    reports_of(job, 50, "before")
    launcher.release()
    found = until(lambda: next((one for one in [status.look(job)] if one["finished"]), None))
    assert (found["state"], found["progress"]["percent"]) == ("lost", 50)


def test_a_verdict_without_a_keeper_keeps_what_was_reported(launcher):
    job = waits(launcher)
    say(job, "STATUS=before")
    reports_of(job, None, "before")
    keeper, runner = launcher.keeper(job)
    os.kill(runner, signal.SIGSTOP)
    os.kill(keeper, signal.SIGKILL)
    os.kill(runner, signal.SIGKILL)
    until(lambda: not job.is_held("keeper") and not job.is_held("runner"), "their end")
    found = stopping.stop(job, number=signal.SIGTERM, grace=5, reason="test")
    assert (found["state"], found["progress"]["status"]) == ("stopped", "before")


def test_a_keeper_that_was_killed_while_somebody_removed_the_record_blocks_nobody(launcher):
    job = waits(launcher)
    keeper = launcher.keeper(job)[0]
    for path in (job.results_file, job.path("record")):
        os.rename(path, path + ".away")
    os.kill(keeper, signal.SIGKILL)
    for number in range(200):  # more than the socket holds (net.unix.max_dgram_qlen)
        say(job, f"STATUS={number}")
    for path in (job.results_file, job.path("record")):
        os.rename(path + ".away", path)
    until(lambda: job.is_held("keeper"), "a new keeper")
    say(job, "STATUS=heard")
    reports_of(job, None, "heard")
    launcher.release()


# -- more time ---------------------------------------------------------------------------------------------------------


def test_a_command_gets_the_time_that_it_asks_for(launcher):
    job = launcher.shell("sleep 100", timeout=5)
    say(job, "EXTEND_TIMEOUT_USEC=7500000")
    first = job.read_record()["deadline"]
    until(lambda: status.look(job)["deadline"] > first, "the later deadline")
    say(job, "EXTEND_TIMEOUT_USEC=1")  # it is never taken back
    found = launcher.finished(job)
    assert (found["state"], found["reason"]) == ("timed_out", None)
    assert found["elapsed"] > 7.4 and found["timeout"] == 5
    assert "its limit of 5 s, which it had extended to " in found["msg"]
    assert found["deadline"] > first


def test_asking_for_less_than_there_is_changes_nothing(launcher):
    job = waits(launcher, timeout=50)
    say(job, "EXTEND_TIMEOUT_USEC=1000000", "X_PROGRESS=1")
    reports_of(job, 1, None)
    assert status.look(job)["deadline"] == job.read_record()["deadline"]
    launcher.release()
    found = launcher.finished(job)
    assert found["state"] == "succeeded" and found["deadline"] is not None


def test_max_timeout_is_a_promise(launcher):
    job = launcher.shell("sleep 100", timeout=4, max_timeout=5.5)
    say(job, "EXTEND_TIMEOUT_USEC=18446744073709551615")
    found = launcher.finished(job)
    assert found["state"] == "timed_out" and 5.4 < found["elapsed"] < 30
    assert "extended to 5.5 s" in found["msg"]


def test_any_number_may_be_asked_for(launcher):
    job = launcher.shell("sleep 5; exit 4", timeout=4)
    say(job, "EXTEND_TIMEOUT_USEC=" + "9" * 20)
    assert launcher.finished(job)["rc"] == 4


@pytest.mark.parametrize("asked", ["-5", "1e9", "", "9" * 21, "five"])
def test_what_is_no_time_extends_nothing(launcher, asked):
    job = launcher.shell("sleep 100", timeout=0.3)
    say(job, f"EXTEND_TIMEOUT_USEC={asked}")
    assert launcher.finished(job)["elapsed"] < 30


def test_a_new_keeper_knows_the_extended_limit(launcher):
    job = waits(launcher, timeout=5)
    say(job, "EXTEND_TIMEOUT_USEC=60000000")
    until(lambda: status.look(job)["deadline"] > job.read_record()["deadline"])
    os.kill(launcher.keeper(job)[0], signal.SIGKILL)
    until(lambda: status.look(job)["elapsed"] > 5.3, "the first limit")
    launcher.release()
    assert launcher.finished(job)["state"] == "succeeded"


def test_a_limit_of_more_than_a_month_can_be_waited_for(launcher):
    job = launcher.shell("sleep 0.3; exit 6", timeout=90 * 86400)
    assert launcher.finished(job)["rc"] == 6
    assert not os.path.exists(job.path("keeper.log"))


# -- signs of life -----------------------------------------------------------------------------------------------------


def test_a_job_that_gives_no_sign_of_life_is_ended(launcher):
    job = launcher.shell("sleep 100 & setsid sleep 100 & wait", watchdog=0.5)
    found = launcher.finished(job)
    assert (found["state"], found["reason"], found["rc"]) == ("timed_out", "watchdog", -15)
    assert 0.5 <= found["elapsed"] < 30
    assert "no sign of life (WATCHDOG=1) for 0.5 s" in found["msg"]
    assert launcher.processes(job) == []


def test_a_job_that_gives_signs_of_life_is_left_alone_until_it_stops_doing_so(launcher):
    job = launcher.shell("sleep 100", watchdog=4)
    begin = time.monotonic()
    while time.monotonic() < begin + 5:
        say(job, "WATCHDOG=1")
        time.sleep(0.1)
    assert status.look(job)["state"] == "running"
    found = launcher.finished(job)
    assert found["reason"] == "watchdog" and found["elapsed"] > 8.5


def test_other_reports_are_no_sign_of_life_and_the_deadline_holds_beside_the_watchdog(launcher):
    silent = launcher.shell("sleep 100", watchdog=3)
    say(silent, "STATUS=I am here", "WATCHDOG=0", "EXTEND_TIMEOUT_USEC=60000000")
    lively = launcher.shell("sleep 100", watchdog=50, timeout=0.7)
    assert launcher.finished(silent)["reason"] == "watchdog"
    found = launcher.finished(lively)
    assert (found["state"], found["reason"]) == ("timed_out", None)


def test_signs_that_came_while_the_keeper_was_stopped_count(launcher):
    job = waits(launcher, watchdog=4)
    keeper = launcher.keeper(job)[0]
    os.kill(keeper, signal.SIGSTOP)
    time.sleep(5)
    say(job, "WATCHDOG=1")
    os.kill(keeper, signal.SIGCONT)
    launcher.release()
    assert launcher.finished(job)["state"] == "succeeded"


def test_a_new_keeper_waits_for_signs_of_life_from_its_beginning(launcher):
    job = launcher.shell("sleep 100", watchdog=1)
    os.kill(launcher.keeper(job)[0], signal.SIGKILL)
    found = launcher.finished(job)
    assert (found["state"], found["reason"]) == ("timed_out", "watchdog")
    command = found["durable_jobs"]["command"]
    assert not processes.is_alive(command["pid"], command["started"])


def test_the_watchdog_of_a_queued_job_counts_from_its_start(launcher):
    launcher.raw(
        request("/bin/sh", "-c", "sleep 5"),
        request("/bin/sh", "-c", "sleep 0.2", watchdog=4),
        slots=1,
    )
    assert launcher.finished(launcher.jobs[1])["state"] == "succeeded"
