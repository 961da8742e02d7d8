# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import resource
import signal
import socket
import threading
import time

from ansible_collections.durable.jobs.plugins.module_utils._job import removing
from ansible_collections.durable.jobs.plugins.module_utils._job import waiting as waits
from ansible_collections.durable.jobs.plugins.module_utils._job.references import references
from ansible_collections.durable.jobs.tests.unit.support import request, until

LONG = 60  # seconds; a wait that lasts so long has missed what it waited for


def waiter(launcher, *jobs):
    meant = references([getattr(job, "jid", job) for job in jobs])
    return waits.Waiter(launcher.store, meant, lambda one: f"no {one.jid or one.name}", settle=True)


def wait(waiting, until, seconds=LONG, **options):
    """Wait, and return how many seconds that took."""
    begin = time.monotonic()
    waiting.wait(waits.goal(until), seconds, **{"seen": None, "gather": LONG, **options})
    return time.monotonic() - begin


def states(waiting):
    return [job["state"] for job in waiting.found]


def test_all_finished(launcher):
    jobs = [launcher.gated(f"exit {number}") for number in range(3)]
    waiting = waiter(launcher, *jobs)
    assert states(waiting) == ["running"] * 3
    launcher.release()
    assert wait(waiting, "all_finished") < LONG
    assert [job["rc"] for job in waiting.found] == [0, 1, 2]


def test_a_job_that_is_given_by_jid_and_by_name_counts_once(launcher):
    named = launcher.shell("exit 0", name="work", spec={"cmd": "x"})
    other = launcher.shell("exit 0")
    waiting = waiter(launcher, "work", other, named, "never", "work", "j1.1")
    assert [job["ansible_job_id"] for job in waiting.found] == [named.jid, other.jid, None, "j1.1"]
    assert [one.jid or one.name for one in references(waiting.meant())] == [
        *(named.jid, other.jid),
        *("never", "j1.1"),
    ]


def test_what_is_known_of_a_job_that_is_given_twice_does_not_depend_on_the_order(launcher):
    job = launcher.shell("exit 0", name="work", spec={"cmd": "x"})
    launcher.finished(job)
    result = {"ansible_job_id": job.jid, "changed": True, "user": "root", "results_file": "/x/y"}
    attached = dict(result, changed=False)
    for meant in (["work", result], [result, "work"], [attached, "work", result]):
        given_twice = waiter(launcher, *meant)
        assert len(given_twice.found) == 1 and given_twice.has_changed(), meant
        given_twice.close()
    assert not waiter(launcher, "work", attached).has_changed()
    told = []
    for meant in (["work", result], [result, "work"]):
        found = references(meant)
        given_twice = waits.Waiter(
            launcher.store, found, lambda one: str(sorted(one.launched.items())), settle=True
        )
        os.rename(job.results_file, job.results_file + ".gone")
        given_twice.look_again([0])
        told.append(given_twice.found[0]["msg"])
        os.rename(job.results_file + ".gone", job.results_file)
        given_twice.close()
    assert told == ["[('results_file', '/x/y'), ('user', 'root')]"] * 2


def test_any_finished(launcher):
    jobs = [launcher.gated("exit 1"), launcher.shell("exit 0")]
    waiting = waiter(launcher, *jobs)
    assert wait(waiting, "any_finished") < LONG
    assert states(waiting) == ["running", "succeeded"]
    launcher.release()


def test_first_failed(launcher):
    jobs = [launcher.gated("exit 0"), launcher.shell("exit 0"), launcher.shell("exit 3")]
    waiting = waiter(launcher, *jobs)
    assert wait(waiting, "first_failed") < LONG
    assert waiting.found[2]["rc"] == 3
    assert states(waiting)[0] == "running"
    launcher.release()
    assert wait(waiter(launcher, *jobs[:2]), "first_failed") < LONG, "all have finished"


def test_a_queued_job_that_starts_is_news(launcher):
    line = "until [ -e go ]; do sleep 0.02; done"
    launcher.raw(
        request("/bin/sh", "-c", line, chdir=launcher.store.path),
        request("/bin/sh", "-c", "sleep 100"),
        slots=1,
    )
    waiting = waiter(launcher, launcher.jobs[1])
    assert states(waiting) == ["queued"]
    threading.Timer(0.2, launcher.release).start()
    assert wait(waiting, "all_finished", gather=0) < LONG
    assert states(waiting) == ["running"]


def test_changes_are_collected_for_a_while(launcher):
    jobs = [launcher.gated("exit 0") for _number in range(3)]
    jobs.append(launcher.shell("sleep 100"))
    waiting = waiter(launcher, *jobs)
    seen = [waits.news(job) for job in waiting.found]
    threading.Timer(0.2, launcher.release).start()
    assert 1 <= wait(waiting, "all_finished", seen=seen, gather=1) < LONG
    news = waiting.news(seen)
    assert sorted(place for place, _news, _job in news) == [0, 1, 2]
    assert waiting.news(None)[3][2]["state"] == "running"


def test_whether_the_time_is_over_is_told_by_the_clock(launcher):
    jobs = [launcher.gated("exit 0"), launcher.shell("sleep 100")]
    waiting = waiter(launcher, *jobs)
    goal = waits.goal("all_finished")
    seen = [waits.news(job) for job in waiting.found]
    threading.Timer(0.2, launcher.release).start()
    assert waiting.wait(goal, LONG, seen=seen, gather=0) is False, "it only has news"
    assert waiting.wait(goal, LONG, seen=seen, gather=0) is False, "that it has had before"
    seen = [waits.news(job) for job in waiting.found]
    assert waiting.wait(goal, 0.2, seen=seen, gather=0) is True
    assert waiting.wait(goal, 0, seen=None, gather=0) is True
    assert waiting.wait(waits.goal("any_finished"), LONG, seen=None, gather=0) is False


def test_an_end_whose_bell_has_not_rung_is_seen_by_the_last_look(launcher):
    job = launcher.gated("exit 0")
    waiting = waiter(launcher, job)
    launcher.release()
    launcher.finished(job)
    assert states(waiting) == ["running"]
    waiting.look_at_live()
    assert states(waiting) == ["succeeded"]


def test_an_end_is_a_change_if_the_play_has_launched_the_job_or_it_was_not_known(launcher):
    jobs = [launcher.gated("exit 0"), launcher.shell("exit 0")]
    launcher.finished(jobs[1])

    def changed(job, *, before=False, **result):
        meant = dict(result, ansible_job_id=job.jid) if result else job
        waiting = waiter(launcher, meant)
        if before:  # what the action plugin has been told is what it asks for the next time
            launcher.release()
            launcher.finished(job)
            waiting = waiter(launcher, *waiting.meant())
        return waiting.has_changed()

    assert not changed(jobs[0], changed=True), "it has not finished"
    assert [changed(jobs[1]), changed(jobs[1], changed=True), changed(jobs[1], changed=False)] == [
        *(False, True, False)
    ]
    assert not changed(jobs[1], changed=True, finished=True)
    attached = waiter(launcher, {"ansible_job_id": jobs[0].jid, "changed": False})
    assert changed(jobs[0], before=True)
    wait(attached, "all_finished")
    assert not attached.has_changed()


def test_what_happened_before_the_look_is_news_too(launcher):
    jobs = [launcher.shell("exit 0"), launcher.shell("sleep 100")]
    launcher.finished(jobs[0])
    waiting = waiter(launcher, *jobs)
    seen = [["running", None, None], ["running", None, None]]
    assert wait(waiting, "all_finished", seen=seen, gather=0) < LONG
    assert [place for place, _news, _job in waiting.news(seen)] == [0]


def test_the_death_of_keeper_and_runner_is_noticed(launcher):
    job = launcher.shell("sleep 100")
    waiting = waiter(launcher, job)
    keeper, runner = launcher.keeper(job)

    def kill():
        os.kill(runner, signal.SIGKILL)
        os.kill(keeper, signal.SIGKILL)

    threading.Timer(0.2, kill).start()
    seen = [waits.news(one) for one in waiting.found]
    assert wait(waiting, "all_finished", seen=seen, gather=0) < LONG
    assert waiting.found[0]["reason"] == "unsupervised"
    assert waiting.unsupervised() == [job.jid]


def test_more_jobs_than_there_may_be_open_files(launcher, monkeypatch):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(waits, "SPARE_DESCRIPTORS", limits[1] - 3)
    jobs = [launcher.gated("exit 0") for _number in range(6)]
    waiting = waiter(launcher, *jobs)
    threading.Timer(0.2, launcher.release).start()
    try:
        assert wait(waiting, "all_finished") < LONG
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert states(waiting) == ["succeeded"] * 6


def test_waiting_leaves_no_descriptor_open(launcher):
    jobs = [launcher.shell("exit 0") for _number in range(5)]
    before = len(os.listdir("/proc/self/fd"))
    waiting = waiter(launcher, *jobs)
    wait(waiting, "all_finished")
    waiting.shown("full", 10**6)
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_cannot_be_found_and_what_was_not_launched(launcher):
    job = launcher.shell("exit 0")
    launcher.finished(job)
    refused = {"failed": True, "msg": "cannot launch the job", "name": "x"}
    waiting = waiter(launcher, job, "j1.1", "nobody", refused)
    wait(waiting, "all_finished")
    assert [job["msg"] for job in waiting.found[1:]] == ["no j1.1", "no nobody", refused["msg"]]
    assert [job["failed"] for job in waiting.found] == [False, True, True, True]
    assert states(waiting) == ["succeeded", None, None, "failed"]
    counts = waits.counts(waiting.found)
    assert (counts["succeeded"], counts["missing"], counts["failed"]) == (1, 2, 1)


def test_a_record_that_is_removed_meanwhile(launcher):
    jobs = [launcher.shell("exit 0"), launcher.gated("exit 0")]
    launcher.finished(jobs[0])
    waiting = waiter(launcher, *jobs)
    removing.remove(jobs[0])
    launcher.release()
    wait(waiting, "all_finished")
    assert states(waiting) == ["succeeded", "succeeded"], "it was seen to have succeeded"


def test_all_output_together_has_a_limit(launcher):
    jobs = [launcher.shell("seq 10000") for _number in range(4)]
    for job in jobs:
        launcher.finished(job)
    waiting = waiter(launcher, *jobs)
    full = waiting.shown("full", 10**7)
    assert all(job["stdout_lines"][0] == "1" and not job["truncated"] for job in full)
    less = waiting.shown("full", 80000)
    assert all(len(job["stdout"]) <= 10000 and job["truncated"] for job in less)
    assert all(job["stdout_lines"][-1] == "10000" for job in less)
    assert all(job["stdout"] == "" for job in waiting.shown("none", 10**7))


def test_waiting_uses_no_processor_time(launcher):
    jobs = [launcher.shell("sleep 100") for _number in range(20)]
    waiting = waiter(launcher, *jobs)
    wait(waiting, "all_finished", seconds=0)
    before = time.process_time()
    wait(waiting, "all_finished", seconds=3)
    assert time.process_time() - before < 0.3
    assert states(waiting) == ["running"] * 20


def test_progress_is_news_and_the_same_again_is_none(launcher):
    line = "until [ -e go ]; do sleep 0.02; done"
    jobs = [launcher.shell(line, chdir=launcher.store.path) for _number in range(2)]
    waiting = waiter(launcher, *jobs)
    seen = [state for _place, state, _job in waiting.news(None)]
    _say(jobs[1], b"X_PROGRESS=40\nSTATUS=copying")
    assert wait(waiting, "all_finished", seen=seen, gather=0.1) < LONG
    ((place, state, job),) = waiting.news(seen)
    assert (place, state) == (1, ["running", None, "40 %, copying"])
    assert (job["progress"]["percent"], job["progress"]["status"]) == (40, "copying")
    seen[place] = state
    before = os.stat(jobs[1].path("progress")).st_mtime_ns
    _say(jobs[1], b"STATUS=copying")
    until(lambda: os.stat(jobs[1].path("progress")).st_mtime_ns != before, "the second report")
    assert wait(waiting, "all_finished", 2.5, seen=seen, gather=0) > 2.4
    assert waiting.news(seen) == []
    launcher.release()
    assert wait(waiting, "all_finished") < LONG


def _say(job, message):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(message, f"/proc/self/fd/{job.fd}/notify")
