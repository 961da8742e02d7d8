# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs that cannot have a unit, and what a unit means for a record. Real units: extensions/molecule."""

from __future__ import annotations

import os

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    cgroup,
    schema,
    systemd,
    unit,
)
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.tests.unit.support import request

FOUND = {"name": "durable-1-2.scope", "groups": ["/g", "/h"], "controllers": ["memory"]}
PLACE = {
    "epoch": 990.0,
    "monotonic": 90.0,
    "boot_id": "b",
    "user": "me",
    "containment": "systemd",
    "keeper": 5,
    "results_file": "/r",
    "stdout_file": "/o",
    "stderr_file": "/e",
}


def test_a_place_in_a_unit():
    there = unit.Unit(FOUND, "")
    assert there.place(request("true", containment="process"), "j1.1") is None
    place = there.place(request("true", containment="auto", memory_max=5), "j1.1")
    assert place == {
        "name": "durable-1-2.scope",
        "groups": ["/g/j1.1", "/h/j1.1"],
        "limits": {"memory_max": 5},
    }


def test_a_limit_that_nothing_enforces_is_refused():
    with pytest.raises(JobError, match="tasks_max cannot be enforced: .* the controller pids"):
        unit.Unit(FOUND, "").place(request("true", containment="auto", tasks_max=5), "j1.1")


def test_without_a_unit():
    none = unit.Unit(None, "systemd is asleep")
    assert none.place(request("true", containment="auto"), "j1.1") is None
    with pytest.raises(JobError, match="containment=systemd cannot be had: systemd is asleep"):
        none.place(request("true", containment="systemd"), "j1.1")
    with pytest.raises(JobError, match="memory_max cannot be had: systemd is asleep"):
        none.place(request("true", containment="auto", memory_max=1), "j1.1")


def launch(launcher, *requests):
    reply = launcher.reply(*requests, manager=os.path.join(launcher.store.path, "none"))
    return reply["jobs"], reply["no_unit"]


def test_a_systemd_that_cannot_be_reached(launcher):
    """What must have a unit is refused and leaves nothing; what may have one runs without it, and why is told."""
    wanted = [request("true", containment=asked) for asked in ("systemd", "auto", "process")]
    (refused, without, never), why = launch(launcher, *wanted)
    assert "/none: No such file or directory" in why
    assert refused["error"]["msg"] == "containment=systemd cannot be had: " + why
    assert without["record"]["containment"] == never["record"]["containment"] == "process"
    jids = {answer["record"]["ansible_job_id"] for answer in (without, never)}
    assert set(os.listdir(os.path.join(launcher.store.path, ".durable", "jobs"))) == jids


def test_a_limit_fails_alone_where_there_is_no_unit(launcher):
    limited = request("true", containment="auto", cpu_quota=50)
    (refused, without), why = launch(launcher, limited, request("true", containment="auto"))
    assert refused["error"]["msg"] == "cpu_quota cannot be had: " + why
    assert "record" in without


def test_groups_that_cannot_be_made_fail_the_launch(tmp_path):
    with pytest.raises(cgroup.Refused) as refused:
        cgroup.enter([str(tmp_path / "none" / "j1.1")], {})
    assert refused.value.parameter == "containment" and "none" in refused.value.subject
    with pytest.raises(cgroup.Refused) as refused:
        cgroup.enter([str(tmp_path / "j1.1")], {"tasks_max": 5})
    assert (refused.value.parameter, refused.value.subject) == ("tasks_max", "5")


@pytest.fixture
def unified_group():
    """A control group of version 2, removed at the end."""
    for _root, point in systemd._mounted(""):
        path = os.path.join(point, "durable-test-%d" % os.getpid())
        try:
            os.mkdir(path)
        except OSError:
            break
        yield path
        cgroup.remove([path])
        return
    pytest.skip("needs a hierarchy of version 2 in which this user may make control groups")


def test_keepers_are_signalled_before_commands(unified_group):
    halves = systemd.halves(unified_group)
    listed = [entry.path for entry in os.scandir(unified_group) if entry.is_dir()]
    assert listed == list(halves)
    assert os.path.basename(halves[0]).startswith("keepers")


def finished(status, *, limits=None, ending=None, **exited):
    place = {"name": "u.scope", "groups": ["/g"], "limits": limits or {}}
    record = schema.new_record("j1.1", request("true"), dict(PLACE, unit=place))
    how = dict({"status": status, "epoch": 1000.0, "monotonic": 100.0}, **exited)
    return schema.finish(record, state="exited", reason=None, exited=how, ending=ending)


def test_a_kill_for_lack_of_memory_is_the_reason_of_a_failure():
    job = finished(9, limits={"memory_max": 4096}, oom=True)
    assert (job["state"], job["reason"], job["rc"], job["signal"]) == (
        "failed",
        "oom",
        -9,
        "SIGKILL",
    )
    assert job["msg"] == (
        "job j1.1 was killed by SIGKILL (rc -9); the kernel has killed a process of it for lack of memory, "
        "of which it may have memory_max=4096 bytes"
    )
    assert finished(137 << 8, oom=True)["reason"] == "oom"  # a shell says so of what it has started


def test_a_kill_for_lack_of_memory_is_not_the_reason_of_anything_else():
    assert finished(0, oom=True)["reason"] is None
    assert finished(9, oom=False)["reason"] is None
    assert finished(9)["reason"] is None
    ending = {"state": "stopped", "reason": "asked", "signal": 15, "survivors": []}
    assert finished(9, oom=True, ending=ending)["reason"] == "asked"


@pytest.mark.parametrize(
    "events",
    [
        ("memory.events", "low 0\nhigh 0\nmax 7\noom 1\noom_kill %d\noom_group_kill 0\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill %d\n"),
    ],
)
def test_what_both_versions_of_the_kernel_tell_of_kills(tmp_path, events):
    name, text = events
    assert not cgroup.oom_killed([])
    assert not cgroup.oom_killed([str(tmp_path)])
    (tmp_path / name).write_text(text % 0)
    assert not cgroup.oom_killed([str(tmp_path)])
    (tmp_path / name).write_text(text % 3)
    assert cgroup.oom_killed(["/none", str(tmp_path)])
