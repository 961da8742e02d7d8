# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The event source by itself: real requests of the real sender, and a queue that the test empties or does not."""

from __future__ import annotations

import asyncio
import json
import runpy
import socket
import threading
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import sinks
from ansible_collections.durable.jobs.tests.unit.receiver import certificate
from ansible_collections.durable.jobs.tests.unit.support import PATIENCE, until

PLUGIN = Path(__file__).parents[2] / "extensions/eda/plugins/event_source/completions.py"
SECRET = "c4nary-secret"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def event(number=1, **changes):
    found = {
        "specversion": "1.0",
        "type": "durable.jobs.finished",
        "id": f"j{number}.1:1:durable.jobs.finished",
        "source": "web1",
        "data": {"state": "failed"},
    }
    return {**found, **changes}


class Source:
    """Runs the event source in a thread, with a queue as ansible-rulebook has it, and takes events while it may.

    :param feedback: what to do with events that have been taken: None, "stored" or "lost".
    """

    def __init__(self, feedback=None, **args):
        self.plugin = runpy.run_path(str(PLUGIN))
        self.port = free_port()
        self.args = {"host": "127.0.0.1", "port": self.port, "secret": SECRET, **args}
        self.taken = []
        self.takes = threading.Event()
        self.takes.set()
        self.feedback = feedback
        self.failure = None
        self._loop = asyncio.new_event_loop()
        self._main = self._loop.create_task(self._serve())
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        until(self._listens, "the port to be open")

    def _run(self):
        try:
            self._loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            pass
        self._loop.close()

    async def _serve(self):
        queue = asyncio.Queue(1)
        answers = asyncio.Queue(1)
        args = dict(self.args)
        if self.feedback:
            args.update(feedback=True, eda_feedback_queue=answers)
        taker = asyncio.ensure_future(self._take(queue, answers))
        try:
            await self.plugin["main"](queue, args)
        finally:
            taker.cancel()

    async def _take(self, queue, answers):
        while True:
            while not self.takes.is_set():
                await asyncio.sleep(0.01)
            taken = await queue.get()
            self.taken.append(taken)
            if self.feedback == "stored":
                await answers.put(taken)

    def _listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def close(self):
        self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join(PATIENCE)

    def send(self, body=None, *, scheme="http", **sink):
        """Send as a job does; return why it has not been taken, None if it has."""
        found = {"url": f"{scheme}://127.0.0.1:{self.port}/endpoint", "http_timeout": PATIENCE}
        body = body if isinstance(body, bytes) else json.dumps(body or event()).encode()
        entry = {**found, "secret": SECRET, **sink}
        try:
            sinks._post({key: value for key, value in entry.items() if value is not None}, body)
        except sinks.Refused as refusal:
            return str(refusal)
        return None


@pytest.fixture
def start():
    made = []

    def make(*given, **args):
        made.append(Source(*given, **args))
        return made[-1]

    yield make
    for source in made:
        source.close()


def test_an_event_is_handed_over_as_it_is_with_a_uuid_of_its_own(start):
    source = start()
    assert source.send() is None
    (taken,) = source.taken
    meta = taken.pop("meta")
    assert taken == event() and set(meta) == {"uuid"}
    again = start()
    assert again.send(event(data={"state": "other"}, meta={"hosts": "all"})) is None
    assert again.taken[0]["meta"] == meta
    assert again.send(event(source="web2")) is None
    assert again.taken[1]["meta"] != meta


@pytest.mark.parametrize(
    "changes", [{"secret": None}, {"secret": "wrong"}, {"secret": ""}, {"bearer": SECRET}]
)
def test_without_the_right_signature_nothing_is_handed_over(start, changes):
    source = start(token="c4nary-token")
    sink = {"bearer": "c4nary-token", **changes}
    assert source.send(**sink) == "it answered 401"
    assert source.send(secret=None, bearer=None) == "it answered 401"
    assert not source.taken
    assert source.send(bearer="c4nary-token") is None


def test_without_the_right_token_nothing_is_handed_over(start):
    source = start(secret=None, token="c4nary-token")
    for wrong in (None, "wrong", "c4nary-token2"):
        assert source.send(secret=None, bearer=wrong) == "it answered 401"
    assert not source.taken
    assert source.send(secret=None, bearer="c4nary-token") is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[" * 100000,
        b"{}",
        b"[1]",
        json.dumps(event(specversion="0.3")).encode(),
        json.dumps(event(type="com.example.other")).encode(),
        json.dumps(event(id=7)).encode(),
        json.dumps(event(source="")).encode(),
        json.dumps(event(data="text")).encode(),
        json.dumps(event(data={"elapsed": float("nan")})).encode(),
    ],
)
def test_what_is_no_event_is_refused(start, body):
    source = start()
    assert source.send(body) == "it answered 400"
    assert not source.taken
    assert source.send() is None


def test_an_event_that_comes_again_is_dropped(start):
    source = start(remember=2)
    for number in (1, 2, 1, 3, 1, 2):
        assert source.send(event(number)) is None
    # The second is forgotten when the third comes, as the first has been there since.
    assert [one["id"][1] for one in source.taken] == ["1", "2", "3", "2"]


def test_no_answer_before_the_engine_has_taken_the_event(start):
    source = start(timeout=0.5)
    source.takes.clear()
    until(lambda: source.send(event(1)) is None)  # for this one the taker waits already
    assert source.send(event(2)) == "it answered 503"
    assert source.send(event(2)) == "it answered 503"
    source.takes.set()
    until(lambda: source.send(event(2)) is None)
    assert [one["id"][1] for one in source.taken] == ["1", "2"]


def test_many_at_once_are_handed_over_once_each(start):
    source = start()
    answers = []

    def send(number):
        answers.append(source.send(event(number % 50)))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [None] * 150
    assert len(source.taken) == len({one["id"] for one in source.taken}) == 50


def test_with_feedback_no_answer_before_the_event_is_stored(start):
    source = start("stored")
    assert source.send() is None and source.send() is None
    assert len(source.taken) == 1


def test_with_feedback_what_is_not_stored_is_handed_over_again(start):
    source = start("lost", timeout=0.5)
    assert source.send() == "it answered 503"
    source.feedback = "stored"
    until(lambda: source.send() is None)
    assert len(source.taken) >= 2
    assert all(one == source.taken[0] for one in source.taken)  # the engine knows it by its uuid


def test_tls_and_certificates_of_senders(start, tmp_path):
    authority = certificate(tmp_path, "authority")
    own = certificate(tmp_path, "own", issuer=authority)
    sender = certificate(tmp_path, "sender", issuer=authority)
    stranger = certificate(tmp_path, "stranger")
    files = {"certfile": own[0], "keyfile": own[1], "cafile": authority[0]}
    source = start(secret=None, **files)
    known = {"scheme": "https", "ca_file": authority[0], "secret": None}
    assert source.send(client_cert=sender[0], client_key=sender[1], **known) is None
    assert source.send(client_cert=stranger[0], client_key=stranger[1], **known)
    assert source.send(**known)
    assert source.send(secret=None)
    assert len(source.taken) == 1


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"port": None}, "port is required"),
        ({"port": 70000}, "port is required"),
        ({"port": "http"}, "port must be a number"),
        ({"port": True}, "port must be a number"),
        ({"secret": None}, "give secret, token or cafile"),
        ({"secret": ""}, "secret must be text that is not empty"),
        ({"token": 7}, "token must be text that is not empty"),
        ({"hmac_secret": "x"}, "unknown argument: hmac_secret"),
        ({"keyfile": "x"}, "keyfile needs certfile"),
        ({"secret": None, "cafile": "x"}, "cafile needs certfile"),
        ({"certfile": "/nowhere"}, "certfile, keyfile or password cannot be used"),
        ({"timeout": "nan"}, "timeout and remember must be more than 0"),
        ({"remember": 0}, "timeout and remember must be more than 0"),
        ({"feedback": "perhaps"}, "feedback must be true or false"),
        ({"feedback": True}, "feedback needs a version of ansible-rulebook"),
    ],
)
def test_wrong_arguments_are_named(args, why):
    plugin = runpy.run_path(str(PLUGIN))
    with pytest.raises(ValueError, match=why) as failure:
        asyncio.run(plugin["main"](asyncio.Queue(1), {"port": 5000, "secret": SECRET, **args}))
    assert SECRET not in str(failure.value)


def test_text_from_templates_is_understood():
    plugin = runpy.run_path(str(PLUGIN))
    given = {"port": "5000", "secret": SECRET, "timeout": "2.5", "feedback": "no"}
    found = plugin["checked"]({**given, "token": None})
    assert (found["port"], found["timeout"], found["feedback"]) == (5000, 2.5, False)


def test_the_documentation_names_each_argument():
    yaml = pytest.importorskip("yaml")
    plugin = runpy.run_path(str(PLUGIN))
    options = yaml.safe_load(plugin["DOCUMENTATION"])["options"]
    assert list(options) == list(plugin["ARGUMENTS"])
    for name, (kind, default) in plugin["ARGUMENTS"].items():
        assert options[name]["type"] == kind.__name__
        assert options[name].get("default") == default
    (example,) = yaml.safe_load(plugin["EXAMPLES"])
    plugin["checked"](example["durable.jobs.completions"])
