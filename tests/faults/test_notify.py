# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Notifications: receivers, deliverers, disks and machines fail, and no end of a job is lost."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import stat
import threading
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils import _engine
from ansible_collections.durable.jobs.plugins.module_utils._job import outbox, processes, status
from ansible_collections.durable.jobs.plugins.module_utils._job.names import latest_job
from ansible_collections.durable.jobs.tests.faults import machine as machines
from ansible_collections.durable.jobs.tests.faults import test_disk, test_every_step
from ansible_collections.durable.jobs.tests.faults.surroundings import run_module
from ansible_collections.durable.jobs.tests.unit.receiver import (
    SECRET,
    Receiver,
    certificate,
    is_signed,
)
from ansible_collections.durable.jobs.tests.unit.support import (
    PATIENCE,
    ask,
    holders,
    question,
    request,
    until,
)

CANARY = "c4nary"
ID = "%s:1:durable.jobs.finished"
# So many jobs end while all goes wrong. The number is what a busy machine carries; any other holds, too.
ENDS = int(os.environ.get("DURABLE_JOBS_ENDS", "200"))
AT_ONCE = 10  # launched in one call: 50 take longer than a test waits where the disk is slow
# Who may be killed, and from which of its calls on: what comes before has nothing to do with notifications.
VICTIMS = {"keeper": r"/outbox", "runner": r"/outbox|wait4|waitid", "deliverer": "", "worker": ""}


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


def notify(receiver, **changes):
    """Return what a launch request says of a receiver."""
    sink = {"url": receiver.url, "secret": SECRET, "http_timeout": 5.0, **changes}
    return {"notify": [sink], "notify_for": 86400.0, "source": "web1"}


def told(job):
    return status.look(job, show="none")["notifications"]


class Step(test_every_step.Step):
    """One launch with notifications, and the process in it that is to die."""

    def __init__(self, launcher, victim, number, receiver):
        super().__init__(launcher, victim, "ends by itself", number)
        self.receiver = receiver

    def request(self, **changes):
        return super().request(**notify(self.receiver), **changes)

    def let_victim_be_born(self, process):
        """Let the job end, where that comes first."""
        if self.victim not in ("deliverer", "worker"):
            return super().let_victim_be_born(process)
        answer = process.stdout.read()
        (self.folder / f"{self.name}.go").touch()
        return answer

    def calls(self):
        """Return the calls at which it is worth to die."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if re.match(r"\w+\(", line)]
        begin = next((n for n, one in enumerate(lines) if re.search(VICTIMS[self.victim], one)), 0)
        return [call for call in super().calls() if _line_of(lines, call) >= begin]

    def needed_a_look(self):
        """Return whether the event came only after a look, as the next module takes it."""
        jid = latest_job(self.launcher.store, self.name).jid
        if ID % jid in self.receiver.ids():
            return False
        ask(self.launcher.store.path, whole=True)
        until(lambda: ID % jid in self.receiver.ids(), f"the event of {jid}")
        return True


def _line_of(lines, call):
    """Return in which line of strace's log a call is: the name, and its how many-th it is."""
    found = [number for number, line in enumerate(lines) if line.startswith(call[0] + "(")]
    return found[call[1] - 1]


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_at_every_step(launcher, receiver, victim, record_property):
    """
    whoever writes down, guards, gives out or sends the event of an end is killed at each system call that changes
    something
    | the event arrives, with the right signature, at the latest after the next look; the job's end is what it was
    """
    launcher.shell("true")  # compiles the engine
    dry = Step(launcher, victim, "dry", receiver)
    dry.run(None)
    assert not dry.wrong(None)
    needed = {}
    steps = dry.calls()
    assert steps
    killed = 0
    for number, call in enumerate(steps):
        step = Step(launcher, victim, number, receiver)
        step.run(call)
        killed += step.killed()
        assert not step.wrong(None), call
        needed[number] = step.needed_a_look()
        assert all(is_signed(*one) for one in receiver.requests)
    record_property(
        "steps killed", f"{victim} {killed}, of which needed a look {sum(needed.values())}"
    )
    assert killed >= len(steps) * 0.5  # when it sleeps and for how long differs from run to run


@pytest.mark.parametrize("behaviour", ["error", "redirect", "half", "torn", "hang", "dribble"])
def test_a_receiver_that_fails(launcher, receiver, behaviour):
    """
    a receiver answers 500, a redirect, half an answer, one byte now and then, or nothing
    | `job_info` says why it has not taken the event; it gets the same bytes again until it does
    """
    receiver.behaviour = behaviour
    job = launcher.shell("exit 3", **notify(receiver, http_timeout=0.5))
    until(lambda: told(job)["pending"] == 1 and told(job)["sinks"][0]["reason"])
    (shown,) = ask(launcher.store.path, whole=True)[1]["jobs"]
    assert shown["notifications"]["sinks"][0]["reason"]
    receiver.behaviour = "ok"
    until(lambda: told(job)["delivered"] == 1)
    assert len({body for _headers, body in receiver.requests}) == 1


def test_a_receiver_that_cannot_prove_who_it_is(launcher, tmp_path):
    """
    a receiver has the certificate of another authority, or of another host
    | nothing is sent to it, and `job_info` says what is wrong with its certificate
    """
    authority = certificate(tmp_path, "authority")
    stranger = Receiver(tls=certificate(tmp_path, "stranger"))
    other = Receiver(tls=certificate(tmp_path, "other", subject="DNS:else.where", issuer=authority))
    both = [notify(one, ca_file=authority[0])["notify"][0] for one in (stranger, other)]
    job = launcher.shell("exit 3", **dict(notify(other), notify=both))
    until(lambda: all(one["tries"] for one in told(job)["sinks"]))
    reasons = [one["reason"] for one in told(job)["sinks"]]
    assert all(one.startswith("its certificate is not accepted: ") for one in reasons)
    assert not stranger.requests and not other.requests
    stranger.close()
    other.close()


@pytest.mark.parametrize("scarce", ["bytes", "inodes"])
def test_a_full_disk(tmp_path, receiver, scarce):
    """
    the disk is full when a job with notifications ends, and while its event is sent
    | it arrives, and what has become of it is written down
    """
    full = test_disk.Full(tmp_path / "full", scarce)
    full.mount()
    try:
        launcher = test_disk.Launcher(full.path / "async", engine=tmp_path / "engine")
        receiver.behaviour = "error"
        job = launcher.gated("exit 3", **notify(receiver))
        full.fill(left=1)
        Path(launcher.store.path, "go").touch()
        full.fill()
        launcher.finished(job)
        until(lambda: told(job)["sinks"][0]["reason"] == "it answered 500")
        receiver.behaviour = "ok"
        until(lambda: told(job)["delivered"] == 1)
        until(lambda: not holders(launcher.store.private_path(outbox.FOLDER, "bell")))
        assert set(receiver.ids()) == {ID % job.jid}
        launcher.let_go()
    finally:
        full.unmount()


def test_a_reboot(tmp_path, launcher, receiver):
    """
    the machine is switched off while a job runs, and while the event of another one cannot be delivered
    | the first look, or launch, after the reboot sends both: one job is `lost`, `rebooted`, the other what it was
    """
    machines.require()
    machine = machines.Machine(tmp_path)
    machine.boot()
    try:
        receiver.behaviour = "error"
        ended = machine.start(launcher, "exit 3", **notify(receiver))
        runs = machine.start(launcher, "sleep 600", **notify(receiver))
        until(lambda: receiver.requests)
        machine.power_off()
        receiver.behaviour = "ok"
        machine.boot()
        _look(machine, launcher)
        until(lambda: set(receiver.ids()) == {ID % ended, ID % runs})
        states = {event["id"]: event["data"]["state"] for event in receiver.taken}
        assert states == {ID % ended: "failed", ID % runs: "lost"}
    finally:
        machine.power_off()


def _look(machine, launcher):
    """List the jobs on a machine, as the module job_info does."""
    engine = _engine.Engine()
    asked = question(launcher.store.path)
    words = (machines.sys.executable, *engine.words())
    assert asked.has_begun(machine.run(*words, input=engine.data(asked, whole=True)).decode())


def test_many_ends(launcher, receiver, record_property):
    """
    hundreds of jobs end while the receiver is down half of the time and those who send are killed at random
    | it gets the event of each, with the right signature, the last of them at the latest by `job_notify`
    """
    trouble = Trouble(launcher, receiver)
    for _number in range(ENDS // AT_ONCE):
        launcher.raw(*[request("false", **notify(receiver)) for _one in range(AT_ONCE)])
    wanted = {ID % job.jid for job in launcher.jobs}
    assert len(wanted) == ENDS

    def arrived():
        # The pauses of those that have been unlucky are long.
        params = {"state": "delivered", "timeout": 5}
        ask(launcher.store.path, "job_notify", whole=True, params=params)
        return len(wanted.intersection(receiver.ids()))

    until(lambda: arrived() >= ENDS * 0.9, "nine of ten events", patience=PATIENCE + ENDS)
    trouble.end()
    until(lambda: arrived() == ENDS, "the last events", patience=PATIENCE + ENDS)
    assert set(receiver.ids()) == wanted
    assert all(is_signed(*one) for one in receiver.requests)
    record_property("of jobs, and senders killed", f"{ENDS}, {len(trouble.killed)}")
    assert trouble.killed


class Trouble:
    """Lets a receiver fail half of the time, and kills one of those who send twice a second."""

    def __init__(self, launcher, receiver):
        self.killed = []
        self._launcher = launcher
        self._receiver = receiver
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._make, daemon=True)
        self._thread.start()

    def end(self):
        """Let all go well from now on."""
        self._over.set()
        self._thread.join()
        self._receiver.behaviour = "ok"

    def _make(self):
        bell = self._launcher.store.private_path(outbox.FOLDER, "bell")
        while not self._over.wait(0.5):
            self._receiver.behaviour = "error" if self._receiver.behaviour == "ok" else "ok"
            # A child of ours is an engine that was asked, and rings: it is not to be killed.
            found = [processes.process(pid) for pid in holders(bell)]
            senders = [one for one in found if one is not None and one.parent != os.getpid()]
            if senders:
                victim = random.choice(senders)
                processes.send(victim, signal.SIGKILL)
                self.killed.append(victim.pid)


def test_secrets(tmp_path, receiver):
    """
    a job is launched with secrets in `notify`, and looked at while its event cannot be delivered, and after
    | they are in the outbox, a file for the job's user only, and nowhere else; afterwards in no file at all
    """
    async_dir = str(tmp_path / "async")
    receiver.behaviour = "error"
    secret = {"url": receiver.url, "secret": SECRET, "bearer": "c4nary-token"}
    program = {"argv": ["/bin/sh", "-c", "cat > %s; exit 0" % (tmp_path / "note"), "c4nary-word"]}
    seen = [
        run_module("job_start", shell="exit 3", async_dir=async_dir, notify=[secret, program]),
        run_module("job_info", async_dir=async_dir),
    ]
    jid = seen[0]["ansible_job_id"]
    until(lambda: receiver.requests)
    seen.append(run_module("job_status", async_dir=async_dir, jid=jid))
    for pid in holders(os.path.join(async_dir, ".durable", "outbox", "bell")):
        for name in ("cmdline", "environ"):
            try:
                assert CANARY.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
            except OSError:  # it has ended
                continue
    holds = files_with(async_dir)
    assert holds <= {os.path.join(async_dir, ".durable", "outbox", jid)}
    assert all(stat.S_IMODE(os.stat(path).st_mode) == 0o600 for path in holds)
    receiver.behaviour = "ok"
    seen.append(run_module("job_notify", async_dir=async_dir))
    until(lambda: not files_with(async_dir))
    seen.append(run_module("job_status", async_dir=async_dir, jid=jid))
    assert CANARY not in json.dumps(seen) + json.dumps(receiver.taken)
    assert CANARY not in (tmp_path / "note").read_text(encoding="utf-8")


def files_with(async_dir):
    """Return the files below a folder that hold a canary."""
    found = set()
    for folder, _folders, names in os.walk(async_dir):
        for path in (os.path.join(folder, name) for name in names):
            try:
                if (
                    stat.S_ISREG(os.lstat(path).st_mode)
                    and CANARY.encode() in Path(path).read_bytes()
                ):
                    found.add(path)
            except FileNotFoundError:
                continue
    return found


def test_an_outer_job_is_ended(launcher, receiver):
    """
    a job with notifications is launched from inside another one, which is stopped while the event is being sent
    | those who send are not of the outer job: it arrives
    """
    receiver.behaviour = "error"
    asked = json.dumps(
        {"async_dir": launcher.store.path, "jobs": [request("false", **notify(receiver))]}
    )
    program = f"python3 -I -S {launcher.program} <<'END'\n{asked}\nEND\nsleep 600"
    outer = launcher.shell(program, timeout=0, grace=1)
    until(lambda: receiver.requests)
    run_module("job_stop", async_dir=launcher.store.path, jobs=[outer.jid])
    receiver.behaviour = "ok"
    until(receiver.ids)
