# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs in real control groups, which somebody makes who answers as systemd does. Real units: extensions/molecule."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    cgroup,
    dbus,
    processes,
    systemd,
)
from ansible_collections.durable.jobs.tests.unit.support import request, until

CONTROLLERS = ("memory", "pids", "cpu")
GREEDY = (sys.executable, "-c", "bytearray(300 * 2**20)")


class ServiceManager(threading.Thread):
    """Makes a control group for each unit that is asked for, in all hierarchies, and puts the launcher into it."""

    def __init__(self, path, points):
        super().__init__()
        self.path = path
        self.units = []
        self._points = points
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(path)
        self._server.listen()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                there, _name = self._server.accept()
                with there:
                    self._serve(there)

    def close(self):
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.join()
        for unit in self.units:
            for point in self._points:
                group = os.path.join(point, unit)
                until(lambda group=group: not cgroup.members([group]), "the end of all in a unit")
                cgroup.remove([group])

    def _serve(self, there):
        data = there.recv(65536)
        there.sendall(b"OK 0123456789abcdef\r\n")
        while not data.endswith(b"\0\0\0\0"):  # of the call, whose last argument is an empty array
            data += there.recv(65536)
        message = data[data.index(b"BEGIN\r\n") + 7 :]
        head = 16 + int.from_bytes(message[12:16], "little")
        body = message[head + -head % 8 :]
        asked_for = dbus.unmarshal("ssa(sv)a(sa(sv))", body)
        name, (pid,) = asked_for[0], dict(asked_for[2])["PIDs"]
        self.units.append(name)
        for point in self._points:
            os.mkdir(os.path.join(point, name))
            cgroup.write(os.path.join(point, name, "cgroup.procs"), str(pid))
        answer = [(5, ("u", 1)), (8, ("g", "o"))]
        there.sendall(_message(2, answer, "o", ["/job"]))
        told = [(3, ("s", "JobRemoved")), (8, ("g", "uoss"))]
        there.sendall(_message(4, told, "uoss", [1, "/job", name, "done"]))


def _message(kind, fields, signature, values):
    body = dbus.marshal(signature, values)
    head = dbus.marshal("yyyyuua(yv)", [ord("l"), kind, 0, 1, len(body), 1, fields])
    return head + bytes(-len(head) % 8) + body


@pytest.fixture
def service_manager(tmp_path):
    """Start one, and return it."""
    points = [point for name in ("", *CONTROLLERS) for _root, point in systemd._mounted(name)]
    if not points or not all(os.access(point, os.W_OK) for point in points):
        pytest.skip("needs to be allowed to make control groups")
    made = ServiceManager(str(tmp_path / "systemd"), sorted(set(points)))
    made.start()
    yield made
    made.close()


@pytest.fixture
def contained(service_manager, launcher):
    """Return a function that launches jobs in a unit, and returns their records when they have finished."""

    def launch(*requests):
        reply = launcher.reply(*requests, manager=service_manager.path)
        wrong = [one["error"]["msg"] for one in reply["jobs"] if "error" in one]
        if any("lacks the controller" in msg for msg in wrong):
            pytest.skip("nobody gives us the controllers")
        assert wrong == []
        return [launcher.finished(job) for job in launcher.jobs]

    return launch


def asked(*argv, **changes):
    return request(*argv, containment="systemd", **changes)


def test_a_limit_of_memory(contained):
    limit = 100 * 2**20
    killed, one_of_many, modest = contained(
        asked(*GREEDY, memory_max=limit),
        asked("/bin/sh", "-c", '"$@"; exit 3', "sh", *GREEDY, memory_max=limit),
        asked("true", memory_max=limit),
    )
    assert (killed["state"], killed["reason"], killed["signal"]) == ("failed", "oom", "SIGKILL")
    assert "memory_max=104857600" in killed["msg"]
    assert (one_of_many["state"], one_of_many["reason"], one_of_many["rc"]) == ("failed", "oom", 3)
    assert (modest["state"], modest["reason"]) == ("succeeded", None)


def test_a_limit_of_processes(contained):
    many = "for one in 1 2 3 4 5 6; do sleep 0.1 & done; wait"
    refused, enough = contained(
        asked("/bin/sh", "-c", many, tasks_max=4), asked("/bin/sh", "-c", many, tasks_max=20)
    )
    assert refused["state"] == "failed" and "fork" in refused["stderr"]
    assert enough["state"] == "succeeded"


def test_a_limit_of_processor_time(contained):
    program = (
        "import os, time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass\n"
        "print(sum(os.times()[:2]))"
    )
    (limited,) = contained(asked(sys.executable, "-c", program, cpu_quota=20))
    assert 0 < float(limited["stdout"]) < 1.5


def test_what_nothing_but_the_group_shows_to_be_the_jobs(contained, tmp_path):
    """Another session, no parent of ours, no mark in the environment, and deaf to the stop signal."""
    pid = str(tmp_path / "pid")
    escaped = "trap '' TERM; echo $$ > %s; exec sleep 1000" % pid
    line = 'setsid env -i sh -c "$1" & until [ -s %s ]; do sleep 0.01; done; sleep 1001' % pid
    (ended,) = contained(asked("/bin/sh", "-c", line, "sh", escaped, timeout=2.0, grace=0.2))
    assert (ended["state"], ended["survivors"]) == ("timed_out", [])
    with open(pid, encoding="ascii") as source:
        found = processes.process(int(source.read()))
    assert found is None or found.zombie


def test_one_unit_serves_all_jobs_of_a_launch_and_shows_which_is_which(service_manager, contained):
    first, second = contained(
        asked("cat", "/proc/self/cgroup"), request("cat", "/proc/self/cgroup", containment="auto")
    )
    assert len(service_manager.units) == 1
    for job in (first, second):
        assert job["containment"] == "systemd"
        assert "/%s/" % service_manager.units[0] in job["stdout"]
        assert "/%s\n" % job["ansible_job_id"] in job["stdout"] + "\n"
