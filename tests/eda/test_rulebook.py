# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real jobs end, and the real ansible-rulebook acts on it, by the rulebooks of the guide."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.tests.eda.test_completions import SECRET, free_port
from ansible_collections.durable.jobs.tests.unit.support import ask, request, until

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples" / "eda"
GUIDE = ROOT / "docs" / "docsite" / "rst" / "guide_event_driven.rst"
BIN = Path(sys.executable).parent
STARTS = 240  # seconds in which a Java machine starts on a busy machine
ENDS = int(os.environ.get("DURABLE_JOBS_ENDS", "60"))
# One processor and a short life: what a Java machine does for a long one only delays its start.
JAVA = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"

pytestmark = pytest.mark.skipif(not shutil.which("java"), reason="this machine has no Java")


class Rulebook:
    """Runs ansible-rulebook, and keeps the lines that it prints, each with the time.

    :param path: the rulebook.
    """

    def __init__(self, folder, path, **variables):
        self.path = path
        self.port = free_port()
        self.lines = []
        own = {"receiver_host": "127.0.0.1", "receiver_port": self.port, "receiver_secret": SECRET}
        self._process = self._reader = None
        self._variables = folder / "variables.json"
        self._variables.write_text(json.dumps({**own, **variables}), encoding="utf-8")
        self._inventory = folder / "inventory.yml"
        host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        hosts = {"all": {"hosts": {"web1": {**host, **variables}, "web2": host}}}
        self._inventory.write_text(json.dumps(hosts), encoding="utf-8")
        self.url = f"http://127.0.0.1:{self.port}/endpoint"

    def start(self, *options):
        command = [str(BIN / "ansible-rulebook"), "-r", str(self.path), *options]
        command += ["-e", str(self._variables), "-i", str(self._inventory)]
        environment = {**os.environ, "JAVA_TOOL_OPTIONS": JAVA, "PYTHONUNBUFFERED": "1"}
        environment["PATH"] = f"{BIN}:{os.environ['PATH']}"
        self._process = subprocess.Popen(
            command,
            env=environment,
            cwd=EXAMPLES,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        until(self._listens, "the port of the event source", STARTS)

    def _read(self, process):
        for line in process.stdout:
            self.lines.append((time.time(), line.rstrip("\n")))

    def _listens(self):
        assert self._process.poll() is None, "\n".join(line for _when, line in self.lines)
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self):
        if self._process is None:
            return
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()

    def acted(self):
        """Return what rules have printed of events: when, and the id."""
        found = [
            (when, re.search(r"(j\d+\.\d+:1:durable\.jobs\.finished)", line))
            for when, line in self.lines
        ]
        return [(when, match[1]) for when, match in found if match]


@pytest.fixture
def rulebook(tmp_path):
    made = []

    def make(path, **variables):
        made.append(Rulebook(tmp_path, path, **variables))
        return made[-1]

    yield make
    for one in made:
        one.kill()
        print("\n".join(line for _when, line in one.lines))


def notify(*urls, secret=SECRET, source="web1"):
    sinks = [{"url": url, "secret": secret, "http_timeout": 60.0} for url in urls]
    return {"notify": sinks, "notify_for": 86400.0, "source": source}


def event_id(job):
    return f"{job.jid}:1:durable.jobs.finished"


def test_the_guide_shows_what_the_tests_run():
    text = GUIDE.read_text(encoding="utf-8")
    found = re.findall(r"\.\. code-block:: yaml\+jinja\n\n((?:    .*\n|\n)+)", text)
    blocks = [textwrap.dedent(block).strip() for block in found]
    files = [path.read_text(encoding="utf-8") for path in EXAMPLES.rglob("*.yml")]
    assert blocks
    for block in blocks:
        assert any(block in file for file in files), block


def test_a_rulebook_fetches_the_output_of_a_job_that_has_failed(launcher, rulebook, tmp_path):
    reports = tmp_path / "reports"
    reports.mkdir()
    variables = {"ansible_async_dir": launcher.store.path, "reports_folder": str(reports)}
    running = rulebook(EXAMPLES / "rulebooks" / "failed_jobs.yml", **variables)
    running.start()
    good = launcher.shell("echo fine >&2", **notify(running.url))
    bad = launcher.shell("echo no room >&2; exit 3", **notify(running.url))
    report = reports / f"{bad.jid}.txt"
    until(report.exists, "the report", STARTS)
    text = report.read_text(encoding="utf-8")
    assert text.startswith("web1: ") and text.endswith("\nno room\n")
    assert os.listdir(reports) == [report.name]  # and none of web2
    assert launcher.finished(good)["rc"] == 0


RULEBOOK = """
- name: Ends of jobs
  hosts: all
  sources:
    - name: ends
      durable.jobs.completions:
        host: "{{ receiver_host }}"
        port: "{{ receiver_port }}"
        secret: "{{ receiver_secret }}"
        feedback: FEEDBACK
  rules:
    - name: A job has failed
      condition: event.data.state == "failed"
      action:
        debug:
          msg: "{{ event.id }}"
"""


def test_ends_reach_a_rule_soon(launcher, rulebook, tmp_path, record_property):
    path = tmp_path / "rulebook.yml"
    path.write_text(RULEBOOK.replace("FEEDBACK", "false"), encoding="utf-8")
    running = rulebook(path)
    running.start()
    first = launcher.shell("exit 3", **notify(running.url))
    until(running.acted, "the first rule", STARTS)
    for _number in range(15):
        launcher.shell("exit 3", **notify(running.url))
    wanted = {event_id(job): job for job in launcher.jobs}
    until(lambda: {one for _when, one in running.acted()} == set(wanted), "the rules", STARTS)
    took = [
        when - ended(launcher.finished(wanted[one]))
        for when, one in running.acted()
        if one != event_id(first)
    ]
    record_property("median seconds from a job's end to the rule", statistics.median(took))
    print(f"from a job's end to the rule: {statistics.median(took):.3f} s (median of {len(took)})")
    assert len(took) == 15


def ended(record):
    """Return when a job ended, in seconds of the epoch. Its event may be sent before its final record is there."""
    return record["durable_jobs"]["epoch"] + record["elapsed"]


def test_what_was_answered_outlives_the_rulebook(launcher, rulebook, tmp_path, record_property):
    """With feedback: ansible-rulebook is killed while jobs end, and acts on each after it was started again."""
    path = tmp_path / "rulebook.yml"
    path.write_text(RULEBOOK.replace("FEEDBACK", "true"), encoding="utf-8")
    database = {"drools_db_file_path": str(tmp_path / "database")}
    running = rulebook(path, drools_deduplication_window_size=10000, **database)
    persistent = ("--persistence-id", "1", "--id", "1")
    running.start(*persistent)
    forged = launcher.shell("exit 3", **notify(running.url, secret="wrong"))
    for _number in range(ENDS // 10):
        launcher.raw(*[request("false", **notify(running.url)) for _one in range(10)])
    wanted = {event_id(job) for job in launcher.jobs if job.jid != forged.jid}
    assert len(wanted) == ENDS
    # Killed in the middle: some are answered, some are acted on, some are on their way.
    until(lambda: len(running.acted()) > ENDS // 5, "some rules", STARTS)
    running.kill()
    running.start(*persistent)

    def arrived():
        params = {"state": "delivered", "timeout": 5}
        ask(launcher.store.path, "job_notify", whole=True, params=params)
        return wanted <= {one for _when, one in running.acted()}

    until(arrived, "all rules", STARTS)
    acted = [one for _when, one in running.acted()]
    assert set(acted) == wanted  # and not what has no right signature
    record_property("acted on twice, in the moment of the kill", len(acted) - len(wanted))
    # The rule engine marks an action as done after it: only the one that ran when it was killed may run again.
    assert len(acted) - len(wanted) <= 1


def test_the_webhook_of_ansible_rulebook_accepts_the_signature(launcher, rulebook):
    running = rulebook(EXAMPLES / "rulebooks" / "webhook.yml")
    running.start()
    launcher.shell("exit 3", **notify(running.url, secret="wrong"))
    job = launcher.shell("exit 3", **notify(running.url))
    until(running.acted, "the rule", STARTS)
    assert {one for _when, one in running.acted()} == {event_id(job)}
