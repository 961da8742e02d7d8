# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Events on their way: from the end of a real job to a real receiver, program or journal."""

from __future__ import annotations

import json
import os
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
    removing,
    sinks,
    status,
)
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
    assert notifications(job)["sinks"] == [
        {"to": f"http://127.0.0.1:{receiver.port}", "state": None, "reason": None, "tries": 0}
    ]
    assert counts(job) == {"pending": 0, "delivered": 0, "given_up": 0}
    launcher.release()
    delivered(job)
    assert os.stat(job.path(outbox.SETTLED)).st_size == found.st_size


def test_only_who_wants_to_hear_of_a_state_is_told(launcher, receiver):
    wants = [{"url": receiver.url, "on": on} for on in (["succeeded"], ["failed"], ["attempt"])]
    job = launcher.shell(FAILED, **asked(*wants))
    delivered(job)
    assert len(receiver.requests) == 1
    quiet = launcher.shell("true", **asked(wants[1]))
    launcher.finished(quiet)
    assert counts(quiet) == {"pending": 0, "delivered": 0, "given_up": 0}
    assert os.path.exists(quiet.path(outbox.SETTLED))


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
    assert not os.path.exists(launcher.store.private_path(outbox.FOLDER, job.jid))


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
