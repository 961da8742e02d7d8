# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Events on their way: from the end of a real job to a real receiver, program or journal."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    delivery,
    host,
    notifying,
    outbox,
    processes,
    removing,
    schema,
    sinks,
    status,
    stopping,
)
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.tests.unit.receiver import (
    SECRET,
    Receiver,
    certificate,
    is_signed,
)
from ansible_collections.durable.jobs.tests.unit.support import PATIENCE, holders, request, until

FAILED = "exit 3"


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


def asked(*entries, **changes):
    """Return what a launch request says of some entries of notify, as they are after the checks."""
    found = notifying.asked({"notify": list(entries), "notify_for": 86400.0})
    return dict(found, source="web1", **changes)


def notifications(job):
    return status.look(job, show="none")["notifications"]


def counts(job):
    return {name: notifications(job)[name] for name in notifying.COUNTED}


def reasons(job):
    return [one["reason"] for one in notifications(job)["sinks"]]


def delivered(job, number=1):
    until(lambda: counts(job) == {"pending": 0, "delivered": number, "given_up": 0})


def test_the_end_of_a_job_is_told_once_with_the_right_signature(launcher, receiver):
    entry = {"url": receiver.url, "secret": SECRET, "bearer": "c4nary-token"}
    job = launcher.shell("echo out; echo err >&2; " + FAILED, **asked(entry))
    delivered(job)
    ((headers, body),) = receiver.requests
    assert is_signed(headers, body)
    assert headers["Authorization"] == "Bearer c4nary-token"
    assert headers["Content-Type"].startswith("application/cloudevents+json")
    event = json.loads(body.decode())
    assert event["id"] == job.jid + ":1:durable.jobs.finished"
    assert (event["source"], event["data"]["state"], event["data"]["rc"]) == ("web1", "failed", 3)
    assert "out" not in event["data"] and "tail" not in event["data"]
    settled = Path(job.path(outbox.SETTLED))
    until(settled.exists)
    assert "c4nary" not in settled.read_text(encoding="utf-8") and SECRET not in str(
        notifications(job)
    )
    assert stat.S_IMODE(settled.stat().st_mode) == 0o600
    assert not os.path.exists(launcher.store.private_path(outbox.FOLDER, job.jid))


def test_a_live_job_has_an_empty_event_and_all_room_that_it_needs(launcher, receiver):
    job = launcher.gated(FAILED, **asked({"url": receiver.url, "secret": SECRET}))
    path = launcher.store.private_path(outbox.FOLDER, job.jid)
    found = os.stat(path)
    assert stat.S_IMODE(found.st_mode) == 0o600 and found.st_mtime == 0
    assert found.st_blocks * 512 >= found.st_size > 16384
    (shown,) = notifications(job)["sinks"]
    assert shown["to"] == f"http://127.0.0.1:{receiver.port}"
    assert (shown["state"], shown["reason"], shown["tries"]) == (None, None, 0)
    assert counts(job) == {"pending": 0, "delivered": 0, "given_up": 0}
    launcher.release()
    delivered(job)
    until(lambda: os.path.exists(job.path(outbox.SETTLED)), "it is settled")
    assert os.stat(job.path(outbox.SETTLED)).st_size == found.st_size


def test_only_who_wants_to_hear_of_a_state_is_told(launcher, receiver):
    wants = [{"url": receiver.url, "on": on} for on in (["succeeded"], ["failed"], ["attempt"])]
    job = launcher.shell(FAILED, **asked(*wants))
    delivered(job)
    assert len(receiver.requests) == 1
    quiet = launcher.shell("true", **asked(wants[1]))
    launcher.finished(quiet)
    assert counts(quiet) == {"pending": 0, "delivered": 0, "given_up": 0}
    until(lambda: os.path.exists(quiet.path(outbox.SETTLED)), "it is settled")


def test_output_goes_along_for_those_who_ask_for_it(launcher, receiver):
    with_output = {"url": receiver.url, "include_output": True}
    line = "yes c4nary | head -n 1500; echo last; exit 3"
    delivered(launcher.shell(line, **asked(with_output, {"url": receiver.url})), 2)
    tails = [event["data"].get("tail") for event in receiver.taken]
    assert tails[1] is None and tails[0]["stdout"].endswith("c4nary\nlast")
    assert len(tails[0]["stdout"]) <= 4096
    delivered(launcher.shell(line, no_log=True, **asked(with_output)))
    assert "c4nary" not in json.dumps(receiver.taken[-1])


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ("error", "it answered 500"),
        ("redirect", "it answered 302: redirects are not followed"),
        ("half", "the answer broke off in the middle"),
        ("torn", "no whole answer: "),
        ("hang", "no whole answer within 0.5 s"),
        ("dribble", "no whole answer within 0.5 s"),
    ],
)
def test_a_receiver_that_does_not_take_the_event_gets_it_again(launcher, receiver, behaviour, why):
    receiver.behaviour = behaviour
    job = launcher.shell(FAILED, **asked({"url": receiver.url, "http_timeout": 0.5}))
    until(lambda: counts(job)["pending"] and reasons(job)[0])
    assert reasons(job)[0].startswith(why)
    receiver.behaviour = "ok"
    delivered(job)
    bodies = {body for _headers, body in receiver.requests}
    assert len(bodies) == 1 and len(receiver.requests) >= 2


def test_a_receiver_that_is_not_there_yet_is_asked_again(launcher):
    probe = Receiver()
    probe.close()
    job = launcher.shell(FAILED, **asked({"url": probe.url}))
    until(lambda: reasons(job) == ["Connection refused"])
    late = Receiver(port=probe.port)
    delivered(job)
    assert late.ids() == [job.jid + ":1:durable.jobs.finished"]
    late.close()


def test_what_is_too_old_is_given_up_with_the_last_reason(launcher, receiver):
    receiver.behaviour = "error"
    job = launcher.shell(FAILED, **dict(asked({"url": receiver.url}), notify_for=0.5))
    until(lambda: counts(job)["given_up"] == 1)
    assert counts(job)["pending"] == 0 and reasons(job) == ["it answered 500"]
    until(lambda: not os.path.exists(launcher.store.private_path(outbox.FOLDER, job.jid)))


def test_https_is_verified(launcher, tmp_path):
    authority = certificate(tmp_path, "authority")
    known = Receiver(tls=certificate(tmp_path, "known", issuer=authority))
    other = Receiver(tls=certificate(tmp_path, "other", subject="DNS:else.where", issuer=authority))
    ca_file = {"ca_file": authority[0]}
    job = launcher.shell(
        FAILED,
        **asked(
            {"url": known.url, **ca_file},
            {"url": known.url},
            {"url": other.url, **ca_file},
            {"url": known.url, "ca_file": str(tmp_path / "none.pem")},
            {"url": known.url.replace("https:", "http:")},
        ),
    )
    until(lambda: all(one["tries"] for one in notifications(job)["sinks"]))
    taken, stranger, name, absent, plain = reasons(job)
    assert taken is None and len(known.taken) == 1 and not other.requests
    assert stranger.startswith("its certificate is not accepted: ")
    assert name.startswith("its certificate is not accepted: ") and "127.0.0.1" in name
    assert absent == "ca_file cannot be used: No such file or directory"
    assert plain
    known.close()
    other.close()


def test_a_receiver_may_ask_for_a_certificate(launcher, tmp_path):
    authority = certificate(tmp_path, "authority")
    mine = certificate(tmp_path, "mine", issuer=authority)
    receiver = Receiver(tls=certificate(tmp_path, "r", issuer=authority), client_ca=authority[0])
    entry = {"url": receiver.url, "ca_file": authority[0]}
    job = launcher.shell(
        FAILED, **asked({**entry, "client_cert": mine[0], "client_key": mine[1]}, entry)
    )
    until(lambda: all(one["tries"] for one in notifications(job)["sinks"]))
    assert reasons(job)[0] is None and reasons(job)[1]
    assert len(receiver.taken) == 1
    receiver.close()


def test_a_program_gets_the_event_on_its_standard_input(launcher, tmp_path):
    note, environment = tmp_path / "note", tmp_path / "environment"
    line = f'cat > {note}; env > {environment}; test "$DURABLE_JOB_ID$NOTIFY_SOCKET" = ""'
    job = launcher.shell(FAILED, **asked({"argv": ["/bin/sh", "-c", line]}))
    delivered(job)
    assert json.loads(note.read_text())["data"]["rc"] == 3
    assert stat.S_IMODE(note.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["/bin/sh", "-c", "exit 7"], "it ended with exit status 7"),
        (["/bin/sh", "-c", "kill -9 $$"], "it was killed by SIGKILL"),
        (["/nowhere/c4nary"], "it cannot be run: No such file or directory"),
        (["/etc"], "it cannot be run: Permission denied"),
        (["/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"], "it was ended after 1 s"),
    ],
)
def test_a_program_that_does_not_take_the_event_is_run_again(launcher, argv, why):
    job = launcher.shell(FAILED, grace=0.2, timeout=1, **asked({"argv": argv}))
    until(lambda: reasons(job) == [why])
    until(lambda: notifications(job)["sinks"][0]["tries"] > 1)


def test_a_program_may_leave_its_input_unread_however_large_it_is(launcher, tmp_path):
    large = "true " + "x" * 100000
    job = launcher.shell(large, **asked({"argv": ["true"]}))
    delivered(job)
    whole = tmp_path / "whole"
    again = launcher.shell(large, **asked({"argv": ["/bin/sh", "-c", f"sleep 0.3; cat > {whole}"]}))
    delivered(again)
    assert json.loads(whole.read_text())["data"]["cmd"][-1] == large


def test_the_journal_gets_fields(tmp_path, monkeypatch):
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    monkeypatch.setattr(sinks, "JOURNAL", str(tmp_path / "journal"))
    data = {"msg": "job x failed\x1b", "state": "failed", "rc": 3, "name": None}
    event = {"id": "j1.2:1:durable.jobs.finished", "data": dict(data, ansible_job_id="j1.2")}
    with pytest.raises(sinks.Refused, match="no journald listens"):
        sinks.send({"journald": True}, b"", event, {})
    journal.bind(sinks.JOURNAL)
    sinks.send({"journald": True}, b"", event, {})
    fields = dict(line.split("=", 1) for line in journal.recv(4096).decode().splitlines())
    assert fields == {
        "MESSAGE": "job x failed\N{REPLACEMENT CHARACTER}",
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "durable.jobs",
        "DURABLE_JOB_ID": "j1.2",
        "DURABLE_JOB_STATE": "failed",
        "DURABLE_JOB_RC": "3",
        "DURABLE_JOB_EVENT": "j1.2:1:durable.jobs.finished",
    }
    journal.close()


def test_a_python_without_ssl_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "ssl", None)
    with pytest.raises(sinks.Refused, match="has no ssl"):
        sinks.send({"url": "https://127.0.0.1:9/", "http_timeout": 5.0}, b"{}", {}, {})


def test_the_end_of_a_job_does_not_wait_for_a_receiver_that_hangs(launcher, receiver):
    receiver.behaviour = "hang"
    job = launcher.shell(FAILED, **asked({"url": receiver.url, "http_timeout": 60}))
    found = status.wait(job, PATIENCE)
    assert found["finished"]
    until(lambda: receiver.requests)
    assert counts(job)["pending"] == 1


def test_an_event_outlives_the_records_of_its_job(launcher, receiver):
    receiver.behaviour = "error"
    job = launcher.shell(FAILED, **asked({"url": receiver.url}))
    launcher.finished(job)
    removing.remove(job)
    receiver.behaviour = "ok"
    until(receiver.ids)
    until(lambda: not os.path.exists(launcher.store.private_path(outbox.FOLDER, job.jid)))
    assert receiver.ids()[0].startswith(job.jid)
    assert not os.path.exists(os.path.dirname(job.path("x")))


def test_an_event_that_is_written_while_a_worker_misses_it_stays_due(launcher, receiver):
    receiver.behaviour = "error"
    job = launcher.shell(FAILED, **asked({"url": receiver.url}))
    until(lambda: reasons(job)[0])
    found = outbox.find(launcher.store, job.jid)
    receiver.behaviour = "ok"
    found.await_event()  # as a worker does that has read the file just before the event was written
    delivery.wake(launcher.store)
    delivered(job)
    found.close()


def test_an_event_that_nobody_would_deliver_becomes_due_with_the_next_look(launcher, receiver):
    receiver.behaviour = "error"
    job = launcher.shell(FAILED, **asked({"url": receiver.url}))
    record = launcher.finished(job)
    until(lambda: reasons(job)[0])
    found = outbox.find(launcher.store, job.jid)
    until(found.lock)
    os.utime(found.fd, (0, 0))
    outbox.post(job, record)
    assert os.fstat(found.fd).st_mtime > 0
    found.close()
    receiver.behaviour = "ok"
    delivered(job)


def test_no_two_workers_are_at_one_outbox(launcher, receiver):
    receiver.behaviour = "error"
    job = launcher.gated(FAILED, **asked({"url": receiver.url}))
    found = outbox.find(launcher.store, job.jid)
    assert found.lock()  # as a worker does whose deliverer has been killed
    launcher.release()
    launcher.finished(job)
    other = launcher.shell(FAILED, **asked({"url": receiver.url}))
    until(lambda: counts(other)["pending"] and reasons(other)[0])
    assert notifications(job)["sinks"][0]["tries"] == 0
    found.close()
    receiver.behaviour = "ok"
    delivered(job)


def test_a_launch_that_fails_leaves_no_outbox(launcher, receiver):
    answer = launcher.raw(request("/nowhere/at/all", **asked({"url": receiver.url})))[0]
    assert "error" in answer
    assert not os.listdir(launcher.store.private_path(outbox.FOLDER))


def test_when_nothing_is_left_nobody_stays(launcher, receiver):
    job = launcher.shell(FAILED, **asked({"url": receiver.url}))
    delivered(job)
    bell = launcher.store.private_path(outbox.FOLDER, delivery.BELL)
    until(lambda: not holders(bell), "the end of who delivers")


def test_the_pauses_double_and_vary_and_have_a_limit():
    middle = [delivery.pause(tries, lambda low, high: (low + high) / 2) for tries in range(1, 12)]
    assert middle == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert delivery.pause(1, lambda low, high: low) < 1 < delivery.pause(1, lambda low, high: high)
    assert delivery.pause(10**6, lambda low, high: high) <= 375


def test_the_age_of_an_event_does_not_believe_a_clock_that_was_set():
    told = {"epoch": time.time() - 1e6, "monotonic": time.monotonic() - 5}
    assert 5 <= outbox.age(dict(told, boot_id=host.boot_id())) < 60
    assert outbox.age(dict(told, boot_id="another")) >= 1e6 - 1


@pytest.mark.parametrize("damage", [b"", b"x" * 4096, b"64 64 64\n"])
def test_a_damaged_outbox_is_given_up_and_shown(launcher, receiver, damage):
    job = launcher.gated(FAILED, **asked({"url": receiver.url}))
    path = launcher.store.private_path(outbox.FOLDER, job.jid)
    Path(path).write_bytes(damage)
    launcher.release()
    launcher.finished(job)
    until(lambda: not os.path.exists(path))
    assert not receiver.requests
    assert counts(job) == {"pending": 0, "delivered": 0, "given_up": 1}
    assert "cannot be read" in reasons(job)[0]


# -- attempts that are tried again ------------------------------------------------------------------------------------

SOON = {"retries": 2, "on": ["failed"], "delay": 0.1, "backoff": 1, "delay_max": 0.1, "jitter": 0}
LONG = dict(SOON, delay=3600, delay_max=3600)
ATTEMPT = "%s:%d:durable.jobs.attempt"
FINISHED = "%s:%d:durable.jobs.finished"


def file_of(job, number=0):
    return outbox_path(job, outbox.file_name(job.jid, number))


def left_of(job):
    """Return the names of what lies in the outbox of a job."""
    return [one for one in os.listdir(outbox_path(job, "")) if one.startswith(job.jid)]


def outbox_path(job, name):
    return job.store.private_path(outbox.FOLDER, name)


def pausing(launcher, *entries, line="echo c4nary; exit 3", **changes):
    """Launch a job that has failed once, and pauses for an hour."""
    job = launcher.shell(line, retry=LONG, **asked(*entries, **changes))
    until(lambda: job.read_record()["state"] == "queued", "the pause")
    return job


def stop(job):
    return stopping.stop(job, number=signal.SIGTERM, grace=1, reason="asked by a test")


def test_each_failed_attempt_that_is_tried_again_is_told(launcher, receiver):
    entry = {"url": receiver.url, "secret": SECRET, "on": ["attempt", "succeeded"]}
    line = "echo out; [ $DURABLE_JOB_ATTEMPT = 3 ] || exit 70"
    job = launcher.shell(line, retry=SOON, name="again", spec={}, **asked(entry))
    delivered(job, 3)
    record = job.read_record()
    assert sorted(receiver.ids()) == [
        ATTEMPT % (job.jid, 1),
        ATTEMPT % (job.jid, 2),
        FINISHED % (job.jid, 3),
    ]
    assert all(is_signed(*one) for one in receiver.requests)
    events = {event["id"]: event for event in receiver.taken}
    for number in (1, 2):
        event = events[ATTEMPT % (job.jid, number)]
        one, following = record["attempts"][number - 1 : number + 1]
        data = event["data"]
        assert event["type"] == "durable.jobs.attempt" and event["source"] == "web1"
        told = {key: data[key] for key in ("attempt", "state", "rc", "signal", "start", "end")}
        assert told == {key: one[key] for key in told}
        assert (data["name"], data["max_attempts"]) == ("again", 3)
        assert (data["finished"], data["failed"], data["started"]) == (False, True, True)
        assert data["end"] <= data["start_at"] <= following["start"]
        assert data["msg"] == f"job again failed: rc 70 (attempt {number} of 3); it is tried again"
        assert [(old["rc"], old["stdout"]) for old in data["attempts"]] == [(70, "")] * number
        assert not {"tail", "stdout", "stderr"} & set(data)
    until(lambda: os.path.exists(job.path("outbox.2")) and os.path.exists(job.path("outbox")))
    assert not left_of(job)


def test_without_on_no_attempt_is_told(launcher, receiver):
    job = launcher.shell(FAILED, retry=SOON, **asked({"url": receiver.url}))
    delivered(job)
    assert receiver.ids() == [FINISHED % (job.jid, 3)]


def test_an_attempt_is_told_while_its_job_pauses_and_nobody_stays(launcher, receiver):
    job = pausing(launcher, {"url": receiver.url, "on": ["attempt"]})
    delivered(job)
    assert receiver.ids() == [ATTEMPT % (job.jid, 1)]
    assert receiver.taken[0]["data"]["start_at"] == job.read_record()["start_at"]
    until(lambda: not holders(outbox_path(job, delivery.BELL)), "the end of who delivers")
    assert status.look(job)["state"] == "queued"
    final = stop(job)
    assert (final["state"], final["attempt"]) == ("stopped", 1)
    until(lambda: os.path.exists(job.path(outbox.SETTLED)), "the end of its outbox")
    assert receiver.ids() == [ATTEMPT % (job.jid, 1)]


def test_a_stop_in_the_pause_is_told_with_the_number_of_the_last_attempt(launcher, receiver):
    receiver.behaviour = "error"
    job = pausing(launcher, {"url": receiver.url, "on": ["attempt", "stopped"]})
    stop(job)
    receiver.behaviour = "ok"
    delivered(job, 2)
    assert set(receiver.ids()) == {ATTEMPT % (job.jid, 1), FINISHED % (job.jid, 1)}
    states = {event["type"]: event["data"]["state"] for event in receiver.taken}
    assert states == {"durable.jobs.attempt": "failed", "durable.jobs.finished": "stopped"}


def test_a_job_that_is_stopped_before_its_start_is_told(launcher, receiver):
    job = launcher.shell(FAILED, start_in=3600, **asked({"url": receiver.url}))
    stop(job)
    delivered(job)
    assert receiver.ids() == [FINISHED % (job.jid, 1)]
    data = receiver.taken[0]["data"]
    assert (data["state"], data["started"], data["attempt"]) == ("stopped", False, 1)


def test_the_output_of_an_attempt_goes_along_for_those_who_ask_for_it(launcher, receiver):
    wants = {"url": receiver.url, "on": ["attempt"], "include_output": True}
    line = "yes c4nary | head -n 1500; echo last $DURABLE_JOB_ATTEMPT; exit 3"
    delivered(pausing(launcher, wants, dict(wants, include_output=False), line=line), 2)
    tails = [event["data"].get("tail") for event in receiver.taken]
    assert tails[1] is None and tails[0]["stdout"].endswith("c4nary\nlast 1")
    assert len(tails[0]["stdout"]) <= 4096
    job = pausing(launcher, wants, line=line, no_log=True)
    delivered(job)
    assert "c4nary" not in json.dumps(receiver.taken[-1])
    assert receiver.taken[-1]["data"]["cmd"] == schema.HIDDEN


def test_what_has_become_of_an_attempt_is_shown_until_it_is_taken(launcher, receiver):
    receiver.behaviour = "error"
    job = pausing(launcher, {"url": receiver.url, "secret": SECRET, "on": ["attempt"]})
    until(lambda: reasons(job)[1:] == ["it answered 500"])
    assert counts(job) == {"pending": 1, "delivered": 0, "given_up": 0}
    first, second = notifications(job)["sinks"]
    assert (first["state"], first["attempt"], second["attempt"]) == (None, None, 1)
    assert stat.S_IMODE(os.stat(file_of(job, 1)).st_mode) == 0o600
    receiver.behaviour = "ok"
    delivered(job)
    settled = Path(job.path(outbox.file_name(outbox.SETTLED, 1)))
    until(settled.exists)
    assert SECRET.encode() not in settled.read_bytes()
    assert SECRET not in json.dumps(notifications(job))
    stop(job)
    until(lambda: os.path.exists(job.path(outbox.SETTLED)))
    assert SECRET.encode() not in Path(job.path(outbox.SETTLED)).read_bytes()


def test_what_is_too_old_of_an_attempt_is_given_up(launcher, receiver):
    receiver.behaviour = "error"
    job = pausing(launcher, {"url": receiver.url, "on": ["attempt"]}, notify_for=0.5)
    until(lambda: counts(job) == {"pending": 0, "delivered": 0, "given_up": 1})
    until(lambda: not os.path.exists(file_of(job, 1)))
    assert notifications(job)["sinks"][1]["reason"] == "it answered 500"


def test_the_event_of_an_attempt_outlives_the_records_of_its_job(launcher, receiver):
    receiver.behaviour = "error"
    job = launcher.shell(FAILED, retry=SOON, **asked({"url": receiver.url, "on": ["attempt"]}))
    status.wait(job, PATIENCE)
    until(lambda: receiver.requests)
    removing.remove(job)
    receiver.behaviour = "ok"
    until(lambda: len(set(receiver.ids())) == 2)
    until(lambda: not left_of(job))
    assert set(receiver.ids()) == {ATTEMPT % (job.jid, number) for number in (1, 2)}


def unmade(job, number):
    """Remove the event of an attempt that nobody has taken, as if the disk had had no room for it."""
    found = until(lambda: outbox.find(job.store, job.jid, number))
    until(found.lock)
    os.unlink(file_of(job, number))
    found.close()


def test_the_event_of_an_attempt_that_could_not_be_written_is_made_again(launcher, receiver):
    receiver.behaviour = "error"
    job = pausing(launcher, {"url": receiver.url, "on": ["attempt"]})
    until(lambda: receiver.requests)
    unmade(job, 1)
    assert counts(job) == {"pending": 1, "delivered": 0, "given_up": 0}
    receiver.behaviour = "ok"
    assert outbox.release(job, job.read_record())
    delivery.wake(launcher.store)
    delivered(job)
    assert len({body for _headers, body in receiver.requests}) == 1


def test_no_job_is_removed_before_the_events_of_its_attempts_are_there(launcher, receiver):
    receiver.behaviour = "error"
    entry = {"url": receiver.url, "on": ["attempt", "failed"]}
    job = launcher.shell(FAILED, retry=SOON, **asked(entry))
    status.wait(job, PATIENCE)
    home = outbox.find(launcher.store, job.jid)
    until(home.lock)  # as a worker does
    unmade(job, 1)
    with pytest.raises(JobError, match="still to be written"):
        removing.remove(job)
    assert status.look(job)["finished"]
    home.close()
    removing.remove(job)
    receiver.behaviour = "ok"
    until(lambda: ATTEMPT % (job.jid, 1) in receiver.ids())


def test_an_event_of_an_attempt_that_is_not_tried_again_after_all_is_not_sent(launcher, receiver):
    job = launcher.gated(FAILED, retry=SOON, **asked({"url": receiver.url, "on": ["attempt"]}))
    running = job.read_record()
    one = dict(schema.attempt_of(running), state="failed", rc=3, end=running["start"], elapsed=0.1)
    outbox.prepare(job, schema.pause(running, [one], 0, 0))
    assert os.stat(file_of(job, 1)).st_mtime == 0
    delivery.look_at_live(launcher.store, [outbox.file_name(job.jid, 1)])
    assert os.stat(file_of(job, 1)).st_mtime == 0 and not receiver.requests
    stop(job)
    assert not os.path.exists(file_of(job, 1))
    assert not receiver.requests


def test_an_attempt_whose_event_was_not_released_is_told_with_the_next_look(launcher, receiver):
    receiver.behaviour = "error"
    job = pausing(launcher, {"url": receiver.url, "on": ["attempt"]})
    until(lambda: receiver.requests)
    found = outbox.find(launcher.store, job.jid, 1)
    until(found.lock)
    os.utime(found.fd, (0, 0))
    found.close()
    receiver.behaviour = "ok"
    delivery.look_at_live(launcher.store, [outbox.file_name(job.jid, 1)])
    delivery.wake(launcher.store)
    delivered(job)


def test_the_next_keeper_lets_the_event_be_sent_that_its_predecessor_did_not_release(
    launcher, receiver
):
    receiver.behaviour = "error"
    job = pausing(launcher, {"url": receiver.url, "on": ["attempt"]})
    until(lambda: receiver.requests)
    found = outbox.find(launcher.store, job.jid, 1)
    until(found.lock)
    os.utime(found.fd, (0, 0))
    found.close()
    receiver.behaviour = "ok"
    os.kill(launcher.keeper(job)[0], signal.SIGKILL)
    delivered(job)
    stop(job)


def test_the_standby_is_gone_while_the_end_of_its_job_is_being_told(launcher, receiver):
    receiver.behaviour = "hang"
    entry = {"url": receiver.url, "http_timeout": 300}
    job = launcher.shell(FAILED, retry=SOON, **asked(entry))
    launcher.finished(job)
    until(lambda: receiver.requests)
    until(lambda: not holders(job.path("standby")) and not holders(job.path("keeper")))
    guards = set(holders(outbox_path(job, delivery.BELL)))
    assert guards

    def corpses():
        return [
            one for one in processes.all_processes().values() if one.zombie and one.parent in guards
        ]

    until(lambda: not corpses(), "nobody waits in vain for the standby")


@pytest.mark.parametrize("damage", [b"", b"x" * 4096, b"64 64 64\n"])
def test_a_damaged_file_of_an_attempt_is_given_up_and_shown(launcher, receiver, damage):
    receiver.behaviour = "error"
    job = pausing(launcher, {"url": receiver.url, "on": ["attempt"]})
    until(lambda: receiver.requests)
    found = outbox.find(launcher.store, job.jid, 1)
    until(found.lock)
    Path(file_of(job, 1)).write_bytes(damage)
    found.close()
    until(lambda: not os.path.exists(file_of(job, 1)))
    assert counts(job) == {"pending": 0, "delivered": 0, "given_up": 1}


def test_only_our_names_are_those_of_files_in_the_outbox():
    jid = "j1795301990843259553.10311"
    assert outbox.parsed(jid) == (jid, 0)
    assert outbox.parsed(outbox.file_name(jid, 12)) == (jid, 12)
    for name in ("bell", "boot", "boot.new", jid + ".1.new", jid + ".0", jid + ".01", jid + "."):
        assert outbox.parsed(name) is None
