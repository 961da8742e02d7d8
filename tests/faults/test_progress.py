# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress: commands misuse the place to report to, and whoever listens there is killed."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import sys
import time

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import status
from ansible_collections.durable.jobs.tests.unit.support import until

PYTHON = f'exec "{sys.executable}" -c "%s"'
CONNECT = (
    "import array, os, socket, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
    "s.connect(os.environ['NOTIFY_SOCKET'])\n"
)
FLOODS = {
    "small messages": "for n in range(30000): s.send(b'STATUS=%d' % n)\n",
    "messages of many lines": "for n in range(3000): s.send(b'X_PROGRESS=1\\n' * 300)\n",
    "huge messages": "for n in range(3000): s.send(b'STATUS=' + b'x' * 100000)\n",
    "binary": "for n in range(3000): s.send(os.urandom(4000))\n",
    "requests for more time": "for n in range(9999): s.send(b'EXTEND_TIMEOUT_USEC=%d' % n)\n",
    "descriptors": (
        "for n in range(2000): s.sendmsg([b'FDSTORE=1'], [(1, 1, array.array('i', [0] * 200))])\n"
    ),
}
LAST = "s.send(b'STATUS=last\\nX_PROGRESS=99')\n"
REPORTER = """
i=0
while [ $i -lt 100 ]; do
    i=$((i + 1))
    "%s" -c "%ss.send(b'X_PROGRESS=$i')"
done
"""


def say(path, message):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(message, path)


def progress(job):
    return status.look(job, show="none")["progress"]


def memory(pid):
    """Return how much memory a process has touched, in KiB."""
    with open(f"/proc/{pid}/status", encoding="ascii") as code:
        return next(int(line.split()[1]) for line in code if line.startswith("VmRSS"))


@pytest.mark.parametrize("flood", list(FLOODS))
def test_a_command_floods_whoever_listens(launcher, flood):
    """
    a command sends thousands of reports without a pause: small, of many lines, huge, binary, with descriptors
    | nobody but the command waits; the last report is seen, memory and files stay as small as they are
    """
    line = PYTHON % (CONNECT + FLOODS[flood] + LAST + "time.sleep(600)")
    job = launcher.gated(line)
    keeper = launcher.keeper(job)[0]
    say(f"/proc/self/fd/{job.fd}/notify", b"STATUS=first")
    until(lambda: progress(job), "the first report")
    begin, descriptors = memory(keeper), len(os.listdir(f"/proc/{keeper}/fd"))
    launcher.release()
    until(lambda: (progress(job) or {}).get("status") == "last", "the last report")
    assert memory(keeper) - begin < 1024
    until(lambda: len(os.listdir(f"/proc/{keeper}/fd")) <= descriptors, "no more descriptors")
    assert os.stat(job.path("progress")).st_size < 4096
    assert status.look(job)["state"] == "running"
    os.kill(job.read_record()["durable_jobs"]["command"]["pid"], signal.SIGKILL)
    assert launcher.finished(job)["progress"]["percent"] == 99


def test_another_user_reports(launcher):
    """
    another user sends a report, through a socket that the job's user has connected for him
    | it is not taken for the job's; that user cannot reach the place by himself
    """
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    job = launcher.shell("sleep 600")
    path = f"/proc/self/fd/{job.fd}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(path)
        pid = os.fork()
        if pid == 0:
            os.setuid(pwd.getpwnam("nobody").pw_uid)
            sender.send(b"STATUS=of nobody")
            os._exit(os.access(job.path("notify"), os.F_OK))
        assert os.waitpid(pid, 0)[1] == 0
    say(path, b"X_PROGRESS=5")
    until(lambda: progress(job), "root's own report")
    assert (progress(job)["percent"], progress(job)["status"]) == (5, None)


def test_the_keeper_is_killed_again_and_again_while_the_command_reports(launcher):
    """
    a shell that runs with `set -e` reports a hundred times, and its keeper is killed again and again
    | no report is refused, and the command ends well; of what it reported at most the last moments are not seen
    """
    job = launcher.shell("set -e" + REPORTER % (sys.executable, CONNECT.replace("\n", "; ")))
    killed = 0
    while not status.look(job)["finished"]:
        for entry in os.listdir("/proc"):
            if entry.isdigit() and holds(entry, job.path("keeper")):
                os.kill(int(entry), signal.SIGKILL)
                killed += 1
        time.sleep(0.3)
    found = status.look(job)
    assert found["rc"] == 0 and killed > 1
    assert found["progress"]["percent"] > 50


def holds(pid, path):
    """Tell whether a process has a file open for reading and writing, as the holder of a FIFO has."""
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{fd}") == path:
                with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as info:
                    flags = next(line.split()[1] for line in info if line.startswith("flags"))
                return int(flags, 8) & os.O_ACCMODE == os.O_RDWR
    except OSError:
        pass
    return False


def test_a_keeper_that_is_stopped_cannot_hear_the_signs_of_life(launcher):
    """
    the keeper of a job with a watchdog is stopped for longer than that, while the command gives its signs of life
    | the job is not ended; when the keeper goes on it has heard them all
    """
    line = "for n in range(60): s.send(b'WATCHDOG=1'); time.sleep(0.1)\n"
    job = launcher.shell(PYTHON % (CONNECT + line), watchdog=2)
    keeper = launcher.keeper(job)[0]
    os.kill(keeper, signal.SIGSTOP)
    time.sleep(4)
    os.kill(keeper, signal.SIGCONT)
    assert launcher.finished(job)["state"] == "succeeded"
