# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removing finished jobs: real jobs, the module as a process, and what is on the disk afterwards."""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
import time

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    pruning,
    removing,
    status,
    store,
)
from ansible_collections.durable.jobs.plugins.module_utils._job.names import latest_job, lock_name
from ansible_collections.durable.jobs.tests.faults import modules
from ansible_collections.durable.jobs.tests.unit.support import request, until

DAY = 86400


def job_prune(where, check=False, **arguments):
    """Run the module as ansible-core does, and return its result."""
    asked = {"async_dir": where.path, "_ansible_check_mode": check, **arguments}
    return modules.run(modules.OURS + "job_prune", asked)


def names(result):
    return [one["name"] or one["ansible_job_id"] for one in result["pruned"]]


def left(where):
    return sorted(where.jids())


def done(launcher, *lines, **changes):
    """Launch lines of shell one after the other, and return the jobs when each has ended and let go of its locks."""
    return [ended(launcher, launcher.shell(line, **changes)) for line in lines]


def ended(launcher, job):
    """Return a job when it has ended and let go of its locks."""
    launcher.finished(job)
    until(lambda: not job.is_held("keeper") and not job.is_held("runner"))
    return job


def age(job, seconds):
    """Let a job's end have been written down so long ago."""
    past = time.time() - seconds
    os.utime(job.results_file, (past, past))


def used(where):
    """Return the bytes of the disk that records and output take."""
    return sum(
        os.lstat(os.path.join(folder, name)).st_blocks * 512
        for folder, _folders, files in os.walk(where.path)
        for name in files
        if not folder.startswith(where.private_path("engine"))
    )


def test_without_a_limit_all_that_has_finished_goes_and_nothing_else(launcher):
    finished = done(launcher, "true", "exit 3", "kill -9 $$")
    live = launcher("sleep", "61")
    before = used(launcher.store)
    found = job_prune(launcher.store)
    assert [one["ansible_job_id"] for one in found["pruned"]] == [job.jid for job in finished]
    assert [one["state"] for one in found["pruned"]] == ["succeeded", "failed", "failed"]
    assert found["bytes_freed"] == sum(one["bytes"] for one in found["pruned"])
    assert found["bytes_freed"] == before - used(launcher.store) > 0
    assert (found["changed"], found["kept"]) == (True, 1)
    assert found["msg"] == f"removed 3 jobs of {found['bytes_freed']} bytes; 1 left"
    assert left(launcher.store) == [live.jid]
    assert os.listdir(launcher.store.private_path("jobs")) == [live.jid]
    assert os.listdir(launcher.store.private_path("gone")) == []
    assert status.look(live)["state"] == "running"
    again = job_prune(launcher.store)
    assert (again["changed"], again["pruned"], again["bytes_freed"]) == (False, [], 0)
    assert again["msg"] == "nothing to remove"


def test_age_counts_from_the_end(launcher):
    old, young = done(launcher, "true", "true")
    age(old, 2 * DAY)
    long_running = launcher("sleep", "61")
    age(long_running, 3 * DAY)  # it was launched long ago, and still runs
    assert job_prune(launcher.store, older_than=2 * DAY + 60)["pruned"] == []
    found = job_prune(launcher.store, older_than=DAY)
    assert [one["ansible_job_id"] for one in found["pruned"]] == [old.jid]
    assert left(launcher.store) == sorted([young.jid, long_running.jid])
    assert len(job_prune(launcher.store, older_than=0)["pruned"]) == 1


def test_those_stay_that_finished_last_not_those_that_were_launched_last(launcher):
    slow = launcher.gated("exit 0")
    first, second = done(launcher, "true", "true")
    launcher.release()
    launcher.finished(slow)
    found = job_prune(launcher.store, keep_last=1)
    assert [one["ansible_job_id"] for one in found["pruned"]] == [first.jid, second.jid]
    assert left(launcher.store) == [slow.jid]


def test_the_oldest_go_until_the_others_have_room(launcher):
    write = "head -c 200000 /dev/zero | tr '\\0' x"
    jobs = done(launcher, write, "true", write, "true")
    found = job_prune(launcher.store, max_bytes=700_000, check=True)
    assert [one["ansible_job_id"] for one in found["pruned"]] == [jobs[0].jid]
    # 200 kB of output and as much in the record
    assert 400_000 <= found["bytes_freed"] <= 500_000
    found = job_prune(launcher.store, max_bytes=100_000)
    assert [one["ansible_job_id"] for one in found["pruned"]] == [job.jid for job in jobs[:3]]
    assert left(launcher.store) == [jobs[3].jid]
    assert used(launcher.store) < 200_000
    assert len(job_prune(launcher.store, max_bytes=0)["pruned"]) == 1


def test_holes_in_output_take_no_room(launcher):
    write = "head -c 20000000 /dev/zero | tr '\\0' x"
    (job,) = done(launcher, write, output_limit=100_000)
    assert os.stat(job.path("stdout")).st_size == 20_000_000
    assert job_prune(launcher.store)["bytes_freed"] < 1_000_000


def test_a_job_goes_if_any_limit_says_so_and_other_states_do_not_count(launcher):
    bad = done(launcher, "exit 1", "exit 2", "exit 3", "exit 4")
    good = done(launcher, "true", "true")
    age(bad[0], DAY)
    age(bad[1], DAY)
    asked = {"states": ["failed"], "older_than": 60, "keep_last": 1}
    predicted = job_prune(launcher.store, check=True, **asked)
    found = job_prune(launcher.store, **asked)
    assert [one["ansible_job_id"] for one in found["pruned"]] == [job.jid for job in bad[:3]]
    assert left(launcher.store) == sorted(job.jid for job in [bad[3], *good])
    assert found["kept"] == 3
    assert (predicted["pruned"], predicted["kept"]) == (found["pruned"], found["kept"])


def test_check_mode_lists_exactly_what_goes_and_touches_nothing(launcher):
    jobs = done(launcher, "true", "exit 3", "true")
    lost = launcher.ready("echo ready; exec sleep 61")
    keeper, runner = launcher.keeper(lost)
    os.kill(runner, signal.SIGSTOP)
    command = status.judged(lost)["durable_jobs"]["command"]["pid"]
    for pid in (keeper, runner, command):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not lost.is_held("keeper") and not lost.is_held("runner"))
    until(lambda: launcher.processes(lost) == [])
    os.makedirs(os.path.join(launcher.store.private_path("gone"), "j1.1"))
    # Its end becomes known now, however long ago its record was written.
    age(lost, DAY)

    def everything():
        return {
            os.path.join(folder, name): os.lstat(os.path.join(folder, name)).st_mtime_ns
            for folder, folders, files in os.walk(launcher.store.path)
            for name in (*folders, *files)
        }

    for asked in ({"older_than": DAY - 60}, {"keep_last": 1}, {"states": ["lost"]}, {}):
        before = everything()
        predicted = job_prune(launcher.store, check=True, **asked)
        assert everything() == before
        if "older_than" in asked:
            assert predicted["pruned"] == []
        if asked == {"states": ["lost"]}:
            assert names(predicted) == [lost.jid]
    assert predicted["msg"].startswith("would remove 4 jobs of ")
    assert predicted["changed"] and predicted["kept"] == 0
    found = job_prune(launcher.store)
    assert names(found) == names(predicted) == [job.jid for job in (*jobs, lost)]
    assert (found["kept"], left(launcher.store)) == (0, [])


def test_a_queued_job_stays(launcher):
    launcher.raw(*[request("sleep", "61") for _number in range(2)], slots=1)
    running, queued = launcher.jobs
    (finished,) = done(launcher, "true")
    assert job_prune(launcher.store)["kept"] == 2
    assert left(launcher.store) == sorted([running.jid, queued.jid])
    assert status.look(queued)["state"] == "queued"
    assert finished.jid not in left(launcher.store)


def test_an_unsupervised_job_stays(launcher):
    job = launcher.ready("echo ready; sleep 61")
    keeper, runner = launcher.keeper(job)
    os.kill(runner, signal.SIGSTOP)
    for pid in (keeper, runner):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not job.is_held("keeper") and not job.is_held("runner"))
    assert job_prune(launcher.store)["kept"] == 1
    assert status.look(job)["reason"] == "unsupervised"


def test_a_clock_that_was_set_forward_makes_no_job_older(launcher):
    """The clock is 30 days ahead of that by which the job was launched and ended, in the same boot."""
    job, other = done(launcher, "true", "true")
    for one in (job, other):
        with open(one.results_file, encoding="utf-8") as source:
            record = json.load(source)
        record["durable_jobs"]["epoch"] -= 30 * DAY
        if one is other:
            record["durable_jobs"]["boot_id"] = "another"
        with open(one.results_file, "w", encoding="utf-8") as target:
            json.dump(record, target)
        age(one, 30 * DAY)
    found = job_prune(launcher.store, older_than=DAY)
    assert [one["ansible_job_id"] for one in found["pruned"]] == [other.jid]


# -- names ------------------------------------------------------------------------------------------------------------


def named(launcher, line, name="work", **changes):
    launcher.raw(request("/bin/sh", "-c", line, name=name, spec={}, **changes))
    job = launcher.jobs[-1]
    launcher.finished(job)
    return job


def test_a_name_is_forgotten_with_its_last_job_and_can_be_launched_again(launcher):
    named(launcher, "true")
    named(launcher, "true")
    assert names(job_prune(launcher.store)) == ["work", "work"]
    assert os.listdir(launcher.store.private_path("names")) == []
    assert latest_job(launcher.store, "work") is None
    job = named(launcher, "true", rerun="never")
    assert latest_job(launcher.store, "work").jid == job.jid


def test_a_name_means_the_latest_job_that_is_left_however_many_have_gone(launcher):
    kept = named(launcher, "true")
    older = named(launcher, "true")
    os.rename(older.results_file, older.results_file + "x")  # something else kept it, for now
    for _number in range(3):
        named(launcher, "exit 1")
    assert len(job_prune(launcher.store, states=["failed"])["pruned"]) == 3
    assert latest_job(launcher.store, "work").jid == kept.jid
    answer = launcher.raw(request("true", name="work", spec={}, rerun="never"))[0]
    assert answer == {"decision": "keep", "jid": kept.jid}


def test_what_a_killed_prune_has_left_of_names_is_mended(launcher):
    job = named(launcher, "true")
    removing.discard(job)  # and killed before the name was looked at
    os.mkdir(job.path("")[:-1].replace("/jobs/", "/gone/"))
    assert removing.names(launcher.store) == ["work"]
    found = job_prune(launcher.store)
    assert (found["changed"], removing.names(launcher.store)) == (False, [])
    assert os.listdir(launcher.store.private_path("gone")) == []


def test_a_name_about_which_somebody_decides_is_left_alone(launcher):
    job = named(launcher, "true")
    lock = lock_name(launcher.store, "work")
    try:
        assert names(job_prune(launcher.store)) == ["work"]
        assert removing.names(launcher.store) == ["work"]
        assert latest_job(launcher.store, "work") is None
    finally:
        os.close(lock)
    job = named(launcher, "true")
    assert latest_job(launcher.store, "work").jid == job.jid


# -- what is not as it should be ---------------------------------------------------------------------------------------


def test_jobs_of_async_go_when_they_have_finished(launcher):
    finished = {"started": 1, "finished": 1, "ansible_job_id": "j1.1", "rc": 0}
    running = {"started": 1, "finished": 0, "ansible_job_id": "j2.2"}
    for record in (finished, running):
        with open(
            os.path.join(launcher.store.path, record["ansible_job_id"]), "w", encoding="ascii"
        ) as target:
            json.dump(record, target)
    for name in ("j3.3", "j4.4"):
        with open(os.path.join(launcher.store.path, name), "w", encoding="ascii") as target:
            target.write('{"started": 1, "fini')
    os.utime(os.path.join(launcher.store.path, "j4.4"), (1, 1))
    found = job_prune(launcher.store)
    assert [(one["ansible_job_id"], one["state"]) for one in found["pruned"]] == [
        ("j4.4", "lost"),
        ("j1.1", "succeeded"),
    ]
    assert left(launcher.store) == ["j2.2", "j3.3"]  # the second may be being written just now


def test_a_damaged_record_goes_as_lost_or_by_its_exit_status(launcher):
    is_corrupt, known = done(launcher, "true", "exit 3")
    for job in (is_corrupt, known):
        with open(job.results_file, "w", encoding="ascii") as target:
            target.write("spoilt")
    os.unlink(is_corrupt.path("exit"))
    live = launcher("sleep", "61")
    with open(live.results_file, "w", encoding="ascii") as target:
        target.write("spoilt")
    os.unlink(live.path("record"))
    found = job_prune(launcher.store, states=["lost"])
    assert [one["ansible_job_id"] for one in found["pruned"]] == [is_corrupt.jid]
    found = job_prune(launcher.store)
    assert [(one["ansible_job_id"], one["state"]) for one in found["pruned"]] == [
        (known.jid, "failed")
    ]
    assert left(launcher.store) == [live.jid]


def test_what_cannot_be_removed_is_named_and_the_others_go(launcher):
    path = os.path.join(launcher.store.path, "j1.1")
    os.makedirs(os.path.join(path, "full"))
    os.utime(path, (1, 1))
    (job,) = done(launcher, "true")
    found = job_prune(launcher.store)
    assert found["failed"] and found["changed"]
    assert found["failed_jobs"] == ["j1.1"]
    assert names(found) == [job.jid]
    assert "could not remove 1 of 2 jobs: j1.1; the first: cannot use async_dir" in found["msg"]
    assert path in found["msg"]
    assert left(launcher.store) == ["j1.1"]


def test_a_record_that_cannot_be_removed_keeps_its_folder(launcher):
    (job,) = done(launcher, "exit 3")
    os.unlink(job.results_file)
    os.makedirs(os.path.join(job.results_file, "full"))
    assert job_prune(launcher.store)["failed_jobs"] == [job.jid]
    assert sorted(os.listdir(job.path("")))[:2] == ["ending", "exit"]
    assert status.look(job)["rc"] == 3


def test_without_an_async_dir_there_is_nothing_to_remove(tmp_path):
    class Nowhere:
        path = str(tmp_path / "none")

    found = job_prune(Nowhere)
    assert (found["failed"], found["changed"], found["kept"]) == (False, False, 0)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"older_than": -1}, "older_than must not be negative"),
        ({"keep_last": -1}, "keep_last must not be negative"),
        ({"max_bytes": -1}, "max_bytes must not be negative"),
        ({"states": ["running"]}, "value of states must be one or more of: succeeded, failed"),
    ],
)
def test_bad_parameters_are_named(launcher, arguments, text):
    (job,) = done(launcher, "true")
    found = job_prune(launcher.store, **arguments)
    assert found["failed"] and text in found["msg"]
    assert left(launcher.store) == [job.jid]


# -- at the same time --------------------------------------------------------------------------------------------------


def test_four_prunes_at_once_remove_each_job_once(launcher):
    launcher.raw(*[request("true", name=f"work {number}", spec={}) for number in range(60)])
    for job in launcher.jobs:
        launcher.finished(job)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(job_prune(launcher.store)))
        for _number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(not result["failed"] for result in results), results
    pruned = [one["ansible_job_id"] for result in results for one in result["pruned"]]
    assert sorted(pruned) == sorted(job.jid for job in launcher.jobs)
    assert left(launcher.store) == []
    for place in ("jobs", "gone", "names"):
        assert os.listdir(launcher.store.private_path(place)) == []


def test_ten_thousand_records_are_cheap_however_much_they_hold(launcher):
    """Records of 1 MiB would be 10 GiB to read; that they are sparse is nothing to the reader."""
    (job,) = done(launcher, "true")
    with open(job.results_file, "rb") as source:
        record = source.read()
    begin = record.index(b'"stdout": "') + len(b'"stdout": "')
    place = launcher.store.path
    for number in range(10_000):
        jid = f"j{1700000000000000000 + number}.1"
        with open(os.path.join(place, jid), "wb") as target:
            target.write(record[:begin].replace(job.jid.encode(), jid.encode()))
            if number % 100 == 0:
                target.seek(1024 * 1024, os.SEEK_CUR)
            target.write(record[begin:].replace(job.jid.encode(), jid.encode()))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = job_prune(launcher.store, older_than=DAY)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"a look at 10,000 records took {took:.2f} s of the processor")
    assert found["kept"] == 10_001
    assert took < 10
    found = job_prune(launcher.store, keep_last=9_001)
    assert len(found["pruned"]) == 1_000


# -- in passing --------------------------------------------------------------------------------------------------------


@pytest.fixture
def patience(monkeypatch):
    """However busy the machine is, there is time for all."""
    monkeypatch.setattr(pruning, "PASSING_TIME", 60)


@pytest.mark.usefixtures("patience")
def test_old_jobs_of_ours_go_in_passing(launcher):
    old, young = done(launcher, "true", "true")
    work = named(launcher, "true")
    for job in (old, work):
        age(job, 15 * DAY)
    with open(os.path.join(launcher.store.path, "j1.1"), "w", encoding="ascii") as target:
        json.dump({"started": 1, "finished": 1}, target)
    os.utime(os.path.join(launcher.store.path, "j1.1"), (1, 1))
    pruning.in_passing(launcher.store, 14 * DAY, time.monotonic())
    assert left(launcher.store) == sorted(["j1.1", young.jid])  # what async has left is not ours
    assert removing.names(launcher.store) == []


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("rerun", ["on_failure", "never"])
def test_what_keeps_work_from_being_done_again_stays(launcher, rerun):
    older, once = named(launcher, "true", rerun=rerun), named(launcher, "true", rerun=rerun)
    often = named(launcher, "true", name="often")
    for job in (older, once, often):
        age(job, 15 * DAY)
    pruning.in_passing(launcher.store, 14 * DAY, time.monotonic())
    assert left(launcher.store) == [once.jid]
    answer = launcher.raw(request("true", name="work", spec={}, rerun="never"))[0]
    assert answer == {"decision": "keep", "jid": once.jid}
    assert len(job_prune(launcher.store)["pruned"]) == 1  # who says so removes it


@pytest.mark.parametrize("module", ["job_start", "job_batch"])
def test_a_launch_removes_old_jobs_if_it_is_not_told_to_keep_them(launcher, module):
    (old,) = done(launcher, "true")
    age(old, 2 * DAY)
    asked = {"async_dir": launcher.store.path}
    asked.update({"cmd": "true"} if module == "job_start" else {"jobs": [{"cmd": "true"}]})
    for retention in ({}, {"retention": 0}, {"retention": 3 * DAY}):
        found = modules.run(modules.OURS + module, {**asked, **retention})
        assert not found.get("failed"), found
        assert old.jid in left(launcher.store)
    removing.pause(launcher.store, 0)
    check = {"_ansible_check_mode": True, "retention": DAY}
    modules.run(modules.OURS + module, {**asked, **check})
    assert old.jid in left(launcher.store)
    modules.run(modules.OURS + module, {**asked, "retention": DAY})
    assert old.jid not in left(launcher.store)
    assert len(left(launcher.store)) == 3 + 1
    found = modules.run(modules.OURS + module, {**asked, "retention": -1})
    assert "retention must not be negative" in found["msg"]


def test_a_launch_that_cannot_prune_has_succeeded_all_the_same_and_says_so(launcher):
    os.close(launcher.store.private())
    os.mkdir(launcher.store.private_path("pruned"))
    found = modules.run(
        modules.OURS + "job_start", {"async_dir": launcher.store.path, "cmd": "true"}
    )
    assert found["state"] == "running"
    assert "pruned is a directory, not a file" in str(found["warnings"])


def test_a_launch_spends_little_time_on_it_and_the_next_one_goes_on(launcher, monkeypatch):
    for job in done(launcher, *["true"] * 5):
        age(job, DAY)
    monkeypatch.setattr(pruning, "PASSING_TIME", 0)
    place = launcher.store
    for count in (4, 3):
        pruning.in_passing(place, 60, time.monotonic())
        assert len(left(place)) == count
        assert place.is_prune_due()
    monkeypatch.setattr(pruning, "PASSING_TIME", 60)
    removing.pause(place, 60)  # another launch is at it
    pruning.in_passing(place, 60, time.monotonic())
    assert len(left(place)) == 3
    removing.pause(place, 0)
    pruning.in_passing(place, 60, time.monotonic())
    assert left(place) == []


def test_it_is_not_looked_for_all_the_time(launcher):
    place = launcher.store
    assert removing.claim(place)
    removing.pause(place, 3000)
    assert not removing.claim(place)
    path = place.private_path("pruned")
    os.utime(path, (0, time.time() + 30 * DAY))  # the clock was a month ahead
    assert removing.claim(place)
    removing.pause(place, 10 * store.LONGEST_PAUSE)
    assert os.stat(path).st_mtime <= time.time() + store.LONGEST_PAUSE
