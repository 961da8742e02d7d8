# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import signal
import time
import tracemalloc

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import processes, removing, schema
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._job.listing import UNKNOWN, Listing
from ansible_collections.durable.jobs.tests.unit.support import until

MIB = 1024 * 1024


def listing(launcher, *, settle=True, **asked):
    return Listing(launcher.store, settle=settle, **asked)


def jids(launcher, limit=0, **asked):
    """Return the jids of the jobs that are asked for, in the order in which they are shown."""
    return [job["ansible_job_id"] for job in listing(launcher, **asked).newest(limit)]


def write(launcher, jid, record):
    """Write a record by hand: that of a job of the builtin, a damaged one."""
    path = os.path.join(launcher.store.path, jid)
    with open(path, "w", encoding="utf-8") as file:
        file.write(record if isinstance(record, str) else json.dumps(record))
    return path


def copies(launcher, number, **changes):
    """Write so many records of finished jobs, each a second older than the one before."""
    record = dict(launcher.finished(launcher.shell("echo out; echo err >&2")), **changes)
    for age in range(number):
        jid = "j%d.7" % (10**18 - age * 10**9)
        write(launcher, jid, dict(record, ansible_job_id=jid))


def test_the_newest_first_whoever_launched_them(launcher):
    old, new = launcher.shell("exit 0"), launcher.shell("exit 1")
    now = time.time()
    running = write(launcher, "j999999999999.1", {"started": 1, "finished": 0})
    os.utime(running, (now + 60, now + 60))
    told = {"finished": 1, "rc": 0, "start": schema.timestamp(now - 60), "cmd": ["true"]}
    os.utime(write(launcher, "j999999999998.2", told), (now + 90, now + 90))
    silent = write(launcher, "j000000000001.3", {"finished": 1, "ping": "pong"})
    os.utime(silent, (now + 30, now + 30))
    order = ["j999999999999.1", "j000000000001.3", new.jid, old.jid, "j999999999998.2"]
    assert jids(launcher) == order
    assert jids(launcher, limit=2) == order[:2]


def test_what_needs_attention_comes_first_and_is_what_a_limit_shows(launcher):
    jobs = {"good": launcher.shell("exit 0"), "bad": launcher.shell("exit 1")}
    for job in jobs.values():
        launcher.finished(job)
    jobs["running"] = launcher.shell("sleep 61")
    jobs["near"] = launcher.shell("sleep 61", timeout=0.001, grace=61, stop_signal="CONT")
    order = [jobs[name].jid for name in ("bad", "near", "running", "good")]

    def shown(limit):
        found = listing(launcher).newest(limit, schema.ATTENTION)
        return [job["ansible_job_id"] for job in found]

    assert shown(0) == order
    assert shown(2) == order[:2]


@pytest.mark.parametrize("elapsed", [float("nan"), "0:00:05", [5], None, 5])
@pytest.mark.parametrize("timeout", [10**400, -1, "1h", True, {}])
def test_nonsense_of_the_builtin_spoils_no_order(launcher, elapsed, timeout):
    told = {"started": 1, "finished": 0, "elapsed": elapsed, "timeout": timeout}
    write(launcher, "j999999999999.1", told)
    failed = launcher.shell("exit 1")
    launcher.finished(failed)
    found = listing(launcher).newest(0, schema.ATTENTION)
    assert [job["ansible_job_id"] for job in found] == [failed.jid, "j999999999999.1"]


def test_a_moment_that_no_calendar_knows_does_not_decide_about_the_place(launcher):
    for number, start in enumerate(["", "yesterday", "2026-99-01 00:00:00.0", 7, None, ["x"]]):
        path = write(launcher, "j%d.1" % number, {"finished": 1, "start": start})
        os.utime(path, (1000 - number, 1000 - number))
    assert jids(launcher) == ["j%d.1" % number for number in range(6)]


def test_jobs_of_some_states(launcher):
    ends = {end: launcher.shell(end) for end in ("exit 0", "exit 1", "sleep 60")}
    for end in ("exit 0", "exit 1"):
        launcher.finished(ends[end])
    assert jids(launcher, states=["succeeded"]) == [ends["exit 0"].jid]
    assert jids(launcher, states=["failed", "running"]) == [
        ends["sleep 60"].jid,
        ends["exit 1"].jid,
    ]
    assert jids(launcher, states=[]) == jids(launcher, states=["queued"]) == []


@pytest.mark.parametrize("settle", [True, False])
def test_the_state_is_the_true_one_and_is_written_down_unless_it_may_not_be(launcher, settle):
    job = launcher.shell("sleep 60")
    keeper, runner = launcher.keeper(job)
    os.kill(runner, signal.SIGSTOP)  # or it would give the job a new keeper
    pids = (keeper, runner, job.read_record()["durable_jobs"]["command"]["pid"])
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(
        lambda: all(processes.process(pid) is None or processes.process(pid).zombie for pid in pids)
    )
    assert jids(launcher, states=["running"], settle=False) == []
    assert jids(launcher, states=["lost"], settle=settle) == [job.jid]
    assert job.read_record()["finished"] is settle


def test_jobs_of_some_names(launcher):
    names = ["backup users", "backup orders", "Backup", "deploy"]
    made = [launcher.shell("exit 0", name=name, spec={"cmd": name}).jid for name in names]
    launcher.shell("exit 0")
    write(launcher, "j5.5", {"finished": 1, "name": "backup of the builtin"})
    assert jids(launcher, names=["backup *"]) == [made[1], made[0]]
    assert jids(launcher, names=["[Bb]ackup*", "d?ploy"]) == made[::-1]
    assert jids(launcher, names=["*"]) == made[::-1], "those that have a name"
    for nothing in ("", "backup", "*/../*", "backup users\n", "[", "[!]", "\\", "x" * 10000):
        assert jids(launcher, names=[nothing]) == [], nothing


def test_a_pattern_that_is_none_is_refused_or_fits_nothing(launcher):
    launcher.shell("exit 0", name="z", spec={"cmd": "z"})
    try:  # Python before 3.11 takes it for a regular expression that is wrong
        assert jids(launcher, names=["[z-a]"]) == []
    except JobError as error:
        assert "names" in error.msg and "[z-a]" in error.msg


def test_jobs_of_some_jids(launcher):
    made = [launcher.shell("exit 0").jid for _number in range(3)]
    asked = listing(launcher, jids=[made[0], "j1.1", made[2], made[0], schema.PREDICTED_JID])
    assert [job["ansible_job_id"] for job in asked.newest(0)] == [made[2], made[0]]
    assert asked.missing == ["j1.1"]
    with pytest.raises(JobError, match="'../x'.*not valid"):
        listing(launcher, jids=["../x"])


def test_counts_are_of_all_that_are_asked_for(launcher):
    copies(launcher, 20)
    asked = listing(launcher, states=["succeeded", "failed"])
    assert len(asked.newest(3)) == 3
    assert asked.counts["succeeded"] == sum(asked.counts.values()) == 21


def test_no_async_dir_holds_no_jobs():
    asked = Listing(None, jids=["j1.1"], settle=True)
    assert (asked.newest(0), asked.missing) == ([], ["j1.1"])
    assert Listing(None, settle=True).newest(5) == []


def test_a_damaged_record_is_shown_in_its_place_and_hides_nothing(launcher, tmp_path):
    before, after = launcher.shell("exit 0"), launcher.shell("exit 1")
    for job in (before, after):
        launcher.finished(job)
    number = int(before.jid[1:].partition(".")[0])
    is_corrupt = ["j%d.%d" % (number + 1, kind) for kind in range(8)]
    for jid, content in zip(is_corrupt, ["", "{", "[]", '{"durable_jobs": {}}', "\0" * 5000]):
        write(launcher, jid, content)
    path = launcher.store.path
    os.mkfifo(os.path.join(path, is_corrupt[5]))
    os.mkdir(os.path.join(path, is_corrupt[6]))
    os.symlink(tmp_path / "elsewhere", os.path.join(path, is_corrupt[7]))
    found = listing(launcher).newest(0)
    assert [job["ansible_job_id"] for job in found] == [after.jid, *is_corrupt[::-1], before.jid]
    for job in found[1:-1]:
        assert (job["state"], job["reason"], job["rc"]) == ("lost", "record damaged", None)
        assert job["results_file"] in job["msg"] and "damaged: it" in job["msg"]
    assert jids(launcher, states=["lost"]) == is_corrupt[::-1]


def test_names_that_are_no_jids_are_no_jobs(launcher):
    for name in ("j1.1.tmp", "j1", "jx.1", ".j1.1.final", "j1.1\n", "j" + "1" * 200 + ".1", "a"):
        write(launcher, name, {"finished": 1})
    assert jids(launcher) == []


def test_something_else_in_the_place_of_a_jobs_files_hides_nothing(launcher):
    other, job = launcher.shell("exit 0"), launcher.shell("sleep 60")
    os.unlink(job.path("keeper"))
    os.mkdir(job.path("keeper"))
    found = listing(launcher).newest(0)
    assert [one["ansible_job_id"] for one in found] == [job.jid, other.jid]
    assert found[0]["state"] is None and found[0]["finished"], "it is not called running"
    assert job.path("keeper") in found[0]["msg"]


def test_a_job_that_another_machine_may_be_running_is_shown_as_unknown(launcher):
    job = launcher.shell("sleep 60")
    record = job.read_record()
    private = dict(record["durable_jobs"], boot_id="another", keeper=1, runner=1)
    private.update(command={"pid": 1, "started": 0}, machine={"id": "0" * 32, "name": "elsewhere"})
    jid = "j1%s" % job.jid[1:]
    write(launcher, jid, dict(record, ansible_job_id=jid, durable_jobs=private))
    asked = listing(launcher, jids=[jid])
    found = asked.newest(0)
    if os.path.exists("/etc/machine-id"):
        assert found[0]["state"] is None and "elsewhere" in found[0]["msg"]
        assert asked.counts[UNKNOWN] == 1


def test_output_is_shown_as_asked_for(launcher):
    job = launcher.shell("seq 2000; echo bad >&2; exit 1")
    launcher.finished(job)
    running = launcher.ready("echo so far; sleep 60")
    shown = {}
    for output in ("none", "tail", "full"):
        asked = listing(launcher)
        shown[output] = asked.newest(0)
        asked.show(shown[output], output, 16 * MIB)
    assert [one["stdout"] for one in shown["none"]] == ["", ""]
    assert shown["none"][1]["stdout_bytes"] == 8893
    assert shown["tail"][0]["stdout"] == "so far"
    assert (
        shown["tail"][1]["stdout_lines"][-1] == "2000" and len(shown["tail"][1]["stdout"]) <= 4096
    )
    assert shown["full"][1]["stdout_lines"][:2] == ["1", "2"]
    assert shown["full"][1]["stderr_lines"] == ["bad"]
    assert running.jid == shown["full"][0]["ansible_job_id"]


def test_all_output_together_has_a_limit(launcher):
    for _number in range(2):
        launcher.finished(launcher.shell("head -c 20000 /dev/zero | tr '\\0' x; echo; echo end"))
    asked = listing(launcher)
    jobs = asked.newest(0)
    asked.show(jobs, "full", 40000)
    assert [len(job["stdout"]) for job in jobs] == [len("end")] * 2
    assert all(job["truncated"] for job in jobs)


def test_a_job_that_no_log_hides_shows_nothing(launcher):
    launcher.finished(launcher.shell("echo secret; echo secret >&2", no_log=True))
    asked = listing(launcher)
    jobs = asked.newest(0)
    asked.show(jobs, "full", MIB)
    assert "secret" not in json.dumps(jobs) and jobs[0]["cmd"] == schema.HIDDEN


def test_the_result_of_a_module_of_the_builtin_is_shown_only_with_its_output(launcher):
    write(launcher, "j5.5", {"finished": 1, "content": "x" * 5000, "stdout": "out", "rc": 0})
    for output, is_there in (("none", False), ("tail", False), ("full", True)):
        asked = listing(launcher)
        jobs = asked.newest(0)
        asked.show(jobs, output, MIB)
        assert ("content" in jobs[0]) is is_there
        assert jobs[0]["stdout"] == ("" if output == "none" else "out")


def peak_of_a_listing(launcher):
    asked = listing(launcher)
    tracemalloc.start()
    jobs = asked.newest(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return len(jobs), peak


def test_memory_does_not_depend_on_the_output_of_jobs(launcher):
    copies(launcher, 30)
    small = peak_of_a_listing(launcher)
    copies(launcher, 30, stdout='", "stdout_bytes": "x\\u00e9' * 50000, stderr="\\" * MIB)
    big = peak_of_a_listing(launcher)
    assert big[1] < small[1] + 200000, "less than one of these records"
    assert big[0] == small[0] + 1


def test_no_descriptor_stays_open(launcher):
    for _number in range(3):
        launcher.shell("sleep 60")
    launcher.finished(launcher.shell("exit 0"))
    before = os.listdir("/proc/self/fd")
    asked = listing(launcher)
    asked.show(asked.newest(0), "full", MIB)
    assert os.listdir("/proc/self/fd") == before


def test_jobs_that_are_removed_meanwhile_are_not_there(launcher):
    made = [launcher.shell("exit 0") for _number in range(3)]
    for job in made:
        launcher.finished(job)
    asked = listing(launcher)
    found = asked._found()
    first = next(found)[1]
    rest = [job for job in made if job.jid != first]
    for job in rest:
        removing.remove(job)
    assert list(found) == [] and asked.missing == []
