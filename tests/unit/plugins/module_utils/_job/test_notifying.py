# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import notifying, schema
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError

URL = "https://example.com:5000/endpoint"
JID = "j1795301990843259553.10311"
RECORD = {
    "ansible_job_id": JID,
    "name": "work",
    "state": "failed",
    "started": True,
    "finished": True,
    "changed": True,
    "failed": True,
    "rc": 3,
    "signal": None,
    "reason": None,
    "cmd": "echo c4nary",
    "elapsed": 1.5,
    "timeout": 60,
    "stdout": "c4nary output",
    "stderr": "c4nary error",
    "msg": "job work failed: rc 3; last line of stderr: c4nary error",
    "module_result": {"c4nary": "canary"},
    schema.PRIVATE: {"no_log": False, "epoch": 1700000000.25},
}


def asked(*entries):
    return notifying.asked({"notify": list(entries), "notify_for": 60.0})


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({}, "exactly one of"),
        ({"journald": False}, "exactly one of"),
        ({"argv": []}, "exactly one of"),
        ({"url": URL, "argv": ["x"]}, "exactly one of"),
        ({"url": URL, "journald": True}, "exactly one of"),
        ({"url": "example.com"}, "url must be such as"),
        ({"url": "ftp://example.com/c4nary"}, "url must be such as"),
        ({"url": "http://"}, "url must be such as"),
        ({"url": "http://host:c4nary/"}, "url must be such as"),
        ({"url": "http://host:0/"}, "url must be such as"),
        ({"url": "http://host/a b"}, "url must be such as"),
        ({"url": "http://host/\r\nc4nary: 1"}, "url must be such as"),
        ({"url": "http://höst/"}, "url must be such as"),
        ({"url": "http://me:c4nary@host/"}, "no user and password"),
        ({"url": URL, "bearer": "c4nary\r\nX: 1"}, "bearer"),
        ({"url": URL, "bearer": ""}, "bearer"),
        ({"url": URL, "secret": ""}, "secret must not be empty"),
        ({"url": URL, "client_key": "/c4nary"}, "client_key needs client_cert"),
        ({"url": URL, "ca_file": "relative/c4nary"}, "ca_file must be an absolute path"),
        ({"url": URL, "http_timeout": 0}, "http_timeout must be"),
        ({"url": URL, "http_timeout": "1h"}, "http_timeout must be .* at most 300 s"),
        ({"url": URL, "http_timeout": "soon"}, "http_timeout must be a number of seconds"),
        ({"url": URL, "on": ["running"]}, "on must be a list of"),
        ({"argv": ["x"], "secret": "c4nary"}, "secret can only be used with url"),
        ({"argv": ["x"], "http_timeout": 5}, "http_timeout can only be used with url"),
        ({"journald": True, "ca_file": "/c4nary"}, "ca_file can only be used with url"),
        ({"argv": ["c4nary\0"]}, "no null character"),
    ],
)
def test_a_wrong_entry_is_refused_by_its_place_and_shows_no_secret(entry, why):
    with pytest.raises(JobError, match=r"notify\[1\]: .*" + why) as refused:
        asked({"journald": True}, entry)
    assert "c4nary" not in refused.value.msg


def test_more_entries_than_there_is_room_for_are_refused():
    with pytest.raises(JobError, match="17 entries"):
        asked(*[{"journald": True}] * 17)


def test_nothing_asked_is_nothing_in_the_request():
    assert asked() == {}
    assert notifying.asked({"notify": None, "notify_for": 60.0}) == {}


def test_a_checked_entry_has_seconds_and_expanded_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    (sink,) = asked({"url": URL, "http_timeout": "2m", "ca_file": "~/ca.pem"})["notify"]
    assert (sink["http_timeout"], sink["ca_file"]) == (120.0, "/home/me/ca.pem")


@pytest.mark.parametrize(
    ("sink", "name"),
    [
        ({"url": URL + "/c4nary?token=c4nary#c4nary"}, "https://example.com:5000"),
        ({"argv": ["/bin/tell", "c4nary"]}, "argv /bin/tell"),
        ({"journald": True}, "journald"),
    ],
)
def test_a_sink_is_named_without_what_may_be_secret(sink, name):
    assert notifying.described(sink) == name


def test_the_event_is_a_cloudevent_without_output():
    event = notifying.event(RECORD, "web1")
    assert {key: event[key] for key in ("specversion", "type", "id", "source", "time")} == {
        "specversion": "1.0",
        "type": "durable.jobs.finished",
        "id": JID + ":1:durable.jobs.finished",
        "source": "web1",
        "time": "2023-11-14T22:13:21.750000Z",
    }
    assert event["data"]["cmd"] == "echo c4nary" and event["data"]["rc"] == 3
    told = str({key: value for key, value in event["data"].items() if key != "cmd"})
    assert "c4nary" not in told
    assert not {"stdout", "stderr", "stdout_lines", "module_result"} & set(event["data"])
    assert event["data"]["msg"] == "job work failed: rc 3"
    assert notifying.tail(RECORD) == {"stdout": "c4nary output", "stderr": "c4nary error"}
    assert notifying.event(RECORD, None)["source"]


def test_an_event_of_a_job_with_no_log_has_no_output_and_no_reason_of_its_command():
    hidden = dict(RECORD, cmd=schema.HIDDEN, stdout=schema.HIDDEN, stderr=schema.HIDDEN)
    hidden.update(state="failed", reason="not started", msg="it could not be started: c4nary")
    hidden[schema.PRIVATE] = dict(RECORD[schema.PRIVATE], no_log=True)
    assert "c4nary" not in str(notifying.event(hidden, None))
    assert notifying.tail(hidden) is None


@pytest.mark.parametrize(
    ("on", "state", "wanted"),
    [
        (None, "succeeded", True),
        (None, "lost", True),
        (["failed", "lost"], "lost", True),
        (["failed"], "succeeded", False),
        ([], "failed", False),
        (["attempt"], "failed", False),
    ],
)
def test_a_sink_hears_of_the_states_that_it_wants(on, state, wanted):
    assert notifying.wants({"on": on}, {"state": state}) is wanted
