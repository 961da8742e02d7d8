# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine is switched off and on again."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import schema
from ansible_collections.durable.jobs.tests.faults import machine as machines
from ansible_collections.durable.jobs.tests.unit.support import request, until

# Forks a process with a pid and, as far as the clock allows, a start time of our choice, and tells both.
STRANGER = """
import json, os, sys, time
pid, tick = int(sys.argv[1]), int(sys.argv[2])
while time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") < tick:
    pass
with open("/proc/sys/kernel/ns_last_pid", "w") as last:
    last.write(str(pid - 1))
got = os.fork()
if got == 0:
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    time.sleep(600)
with open("/proc/%d/stat" % got) as stat:
    print(json.dumps([got, int(stat.read().rpartition(")")[2].split()[19])]))
"""
PROCESSES = """
import json, os
print(json.dumps([int(name) for name in os.listdir("/proc") if name.isdigit()]))
"""


@pytest.fixture
def machine(tmp_path):
    machines.require()
    made = machines.Machine(tmp_path)
    made.boot()
    yield made
    made.power_off()


def outcome(found):
    return found["state"], found["rc"], found["reason"], found["finished"]


def test_a_job_that_ran_is_lost(machine, launcher, builtin, record_property):
    """
    the machine is switched off while a job runs
    | the first look after the reboot says `lost`, reason `rebooted`, with the output so far; every later look says the
    same
    """
    jid = machine.start(launcher, "echo so far; sleep 600")
    until(lambda: machine.look(launcher, jid)["stdout"])
    builtin.prefix = machine.prefix
    theirs = builtin.launch("sleep 600", timeout=500)
    machine.power_off()
    machine.boot(uptime=2)

    first = machine.look(launcher, jid)

    assert outcome(first) == ("lost", None, "rebooted", True)
    assert (first["failed"], first["stdout"], first["elapsed"]) == (True, "so far", None)
    assert "lost (rebooted)" in first["msg"]
    assert machine.look(launcher, jid, wait=60) == first, "and a wait ends at once"
    assert launcher.store.job(jid).read_record()["state"] == "lost", "it is written down"
    builtin.prefix = machine.prefix
    record_property("builtin", builtin.sees(theirs))


def test_a_deadline_of_before_ends_nobody(machine, launcher):
    """
    strangers have the pids, and one even the start time, of processes that the reboot ended; the deadline passes
    | `lost`, reason `rebooted`; looks and an adoption signal nobody
    """
    jid = machine.start(launcher, "sleep 600", timeout=6)
    private = launcher.store.job(jid).read_record()[schema.PRIVATE]
    same = False
    while not same:  # a start time is 1/100 s long
        machine.power_off()
        machine.boot(uptime=1)
        command = private["command"]
        pid, started = machine.python(STRANGER, command["pid"], command["started"])
        assert pid == command["pid"]
        same = started == command["started"]
    others = {machine.python(STRANGER, private[role], 0)[0] for role in ("keeper", "runner")}
    strangers = {pid, *others}

    machine.launch(launcher, adopt=[jid])  # before any look has settled it
    found = machine.look(launcher, jid)

    assert outcome(found) == ("lost", None, "rebooted", True)
    machine.launch(launcher, adopt=[jid])
    past = private["monotonic"] + 7
    until(lambda: machine.python("import time; print(time.monotonic())") > past)
    assert strangers <= set(machine.python(PROCESSES))
    assert outcome(machine.look(launcher, jid)) == outcome(found)


def test_a_finished_job_keeps_its_result(machine, launcher, builtin, record_property):
    """
    the machine is switched off after a job has finished
    | its record is as it was, to the last key
    """
    jid = machine.start(launcher, "echo out; echo err >&2; exit 3")
    before = machine.look(launcher, jid, wait=30)
    assert (before["state"], before["rc"]) == ("failed", 3)
    builtin.prefix = machine.prefix
    theirs = builtin.launch("exit 3")
    until(lambda: builtin.status(theirs)["finished"])
    machine.power_off()
    machine.boot(uptime=2)
    assert machine.look(launcher, jid) == before
    builtin.prefix = machine.prefix
    record_property("builtin", builtin.sees(theirs))


def test_a_job_that_ended_without_its_keeper_keeps_its_result(machine, launcher):
    """
    the keeper hangs, the command ends, and the machine is switched off before anybody has looked
    | the result that the runner wrote down, with the duration that it had
    """
    if not os.path.exists("/etc/machine-id"):
        pytest.skip("needs a machine with an /etc/machine-id")
    jid = machine.start(
        launcher, f"until [ -e {launcher.store.path}/go ]; do sleep 0.02; done; echo end; exit 4"
    )
    job = launcher.store.job(jid)
    machine.run("kill", "-STOP", str(job.read_record()[schema.PRIVATE]["keeper"]))
    launcher.release()
    end = until(lambda: job.slot("exit"))
    until(lambda: not job.is_held("runner"))
    assert not job.read_record()["finished"]
    machine.power_off()
    machine.boot(uptime=1)
    found = machine.look(launcher, jid)
    assert (*outcome(found), found["stdout"]) == ("failed", 4, None, True, "end")
    begin = job.read_record()[schema.PRIVATE]["monotonic"]
    assert found["elapsed"] == pytest.approx(end["monotonic"] - begin, abs=0.001)


@pytest.mark.parametrize(
    ("line", "ran"), [("echo ran >> {log}; sleep 600", 2), ("echo ran >> {log}", 1)]
)
def test_a_named_job_is_started_again_only_if_it_did_not_succeed(
    machine, launcher, tmp_path, line, ran
):
    """
    a play that launches with a name and `rerun: on_failure` is run again after the reboot
    | a job that ran is started again, once; one that had succeeded is not, and its result is returned
    """
    log = tmp_path / "log"
    asked = {"name": "work", "spec": {"cmd": "x"}, "rerun": "on_failure"}
    line = line.format(log=log)
    jid = machine.start(launcher, line, **asked)
    until(lambda: log.exists() and log.read_text())
    if ran == 1:
        assert machine.look(launcher, jid, wait=30)["state"] == "succeeded"
    machine.power_off()
    machine.boot(uptime=2)

    answers = [
        machine.launch(launcher, request("/bin/sh", "-c", line, **asked))[0] for _again in range(2)
    ]

    if ran == 2:
        again = answers[0]["record"]["ansible_job_id"]
        assert again != jid
        assert answers[1] == {"decision": "attach", "jid": again}
    else:
        assert answers == [{"decision": "keep", "jid": jid}] * 2
    until(lambda: len(log.read_text().split()) == ran)


def test_the_container_is_restarted(machine, launcher):
    """
    a container is restarted: its processes are gone, the boot id and the clocks are those of its host
    | `lost`, reason `killed`, at the first look
    """
    jid = machine.start(launcher, "sleep 600")
    machine.power_off()
    machine.boot(uptime=int(time.monotonic()))
    machine.run(
        "mount", "--bind", str(machine.folder / "boot_id.1"), "/proc/sys/kernel/random/boot_id"
    )
    assert outcome(machine.look(launcher, jid)) == ("lost", None, "killed", True)


def test_a_look_from_another_machine(machine, launcher, tmp_path):
    """
    another machine, which sees the same files over a network but no lock, looks at a running job
    | the look fails and names the machine that has the job; nothing is written down; once the job has finished, its
    result is seen
    """
    if not os.path.exists("/etc/machine-id"):
        pytest.skip("needs a machine with an /etc/machine-id")
    jid = machine.start(launcher, f"until [ -e {tmp_path}/go ]; do sleep 0.02; done; exit 3")
    other = machines.Machine(tmp_path / "other")
    other.folder.mkdir()
    other.boot(uptime=3)
    try:
        their_id = other.folder / "machine-id"
        their_id.write_text("0123456789abcdef0123456789abcdef")
        other.run("mount", "--bind", str(their_id), "/etc/machine-id")
        shared = seen_elsewhere(launcher, other.folder / "first")
        before = (shared / jid).read_bytes()

        with pytest.raises(subprocess.CalledProcessError) as failed:
            other.look(launcher, jid, where=shared)

        said = f"job {jid} was launched on the machine {os.uname().nodename}"
        assert said in failed.value.stderr.decode()
        assert (shared / jid).read_bytes() == before
        assert machine.look(launcher, jid)["state"] == "running"
        (tmp_path / "go").touch()
        assert machine.look(launcher, jid, wait=30)["rc"] == 3
        found = other.look(launcher, jid, where=seen_elsewhere(launcher, other.folder / "second"))
        assert outcome(found) == ("failed", 3, None, True)
    finally:
        other.power_off()


def seen_elsewhere(launcher, path):
    """Return the async dir as another machine sees it: the same files, and nobody who holds a lock."""
    subprocess.run(["cp", "-a", launcher.store.path, str(path)], check=True)
    return path
