# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocols: whatever writes to an async dir, each done once by the real code.

A program, which strace watches: ``protocols.py <protocol> <home> <notes>``. The async dir lies in ``<home>``. What
outsiders learn, and what commands do, goes to files of ``<notes>``, so that its place among the operations is seen.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    boot,
    errors,
    installation,
    main,
    schema,
    status,
    stopping,
)
from ansible_collections.durable.jobs.tests.crash import flushes
from ansible_collections.durable.jobs.tests.unit import support

ASYNC_DIR = ".ansible_async"
REFUSED = "refused"  # is there when a receiver has refused an event, which it does once
# A command longer than a sector, so that its record takes several.
LONG = ["/bin/sh", "-c", "# " + " ".join(f"word{number}" for number in range(160))]
SPEC = {"cmd": "digest", "env": {}}
ENGINE = boot.installed_name("0" * 32)
OTHER_ENGINES = [boot.installed_name(f"{number:032}") for number in range(1, 5)]
RETRY = {"retries": 2, "on": ["failed"], "delay": 0.05, "backoff": 1, "delay_max": 1, "jitter": 0}


def content(name):
    """Return an engine of several pages."""
    return boot.sealed(name, {"main": bytes(range(256)) * 40})


class World:
    """A home with an async dir, the jobs in it, and notes of what happens.

    :param home: an empty folder.
    :param notes: another one.
    """

    def __init__(self, home: Path, notes: Path) -> None:
        self.home = home
        self.notes = notes
        self.path = home / ASYNC_DIR
        self._launcher = None

    @property
    def launcher(self):
        if self._launcher is None:
            self._launcher = support.Launcher(self.path, engine=self.notes.parent / "engine")
            program = Path(self._launcher.program)
            future = "from __future__ import annotations\n"
            first = f"{future}exec(open({flushes.__file__!r}).read())\n"
            text = program.read_text(encoding="utf-8")
            program.write_text(text.replace(future, first), encoding="utf-8")
        return self._launcher

    def note(self, text):
        """Write down what somebody outside knows from now on."""
        with open(self.notes / "notes", "a", encoding="utf-8") as sink:
            sink.write(text + "\n")

    def begin(self):
        """Say that all that was done so far has been on the disk for long, and that the protocol begins."""
        self.note("begin")

    def request(self, line="true", **changes):
        """Return a request for a command that notes that it runs."""
        work = f"echo $DURABLE_JOB_ID >> {self.notes}/ran; {line}"
        return support.request("/bin/sh", "-c", work, **{"cmd": LONG, "grace": 0.2, **changes})

    def launch(self, line="true", **changes):
        """Launch a job."""
        self.launch_all(self.request(line, **changes))
        return self.launcher.jobs[-1]

    def launch_all(self, *requests, **how):
        """Launch jobs in one call."""
        for answer in self.launcher.raw(*requests, **how):
            if "error" in answer:
                raise errors.JobError(**answer["error"])

    def gated(self, line="true", **changes):
        """Launch a job that goes on when it is released."""
        gate = f"{self.notes}/go"
        return self.launch(f"until [ -e {gate} ]; do sleep 0.02; done; {line}", **changes)

    def release(self):
        (self.notes / "go").touch()

    def ended(self, job):
        """Wait until a job has ended and its processes, too."""
        self.launcher.finished(job)
        support.until(lambda: not job.is_held("keeper"), "the keeper's end")
        job.close()

    def ask(self, verb, **params):
        """Ask the engine, and return its answer."""
        asked = support.question(str(self.path), verb, params=params)
        found = main.answer(dict(asked.request, async_dir=str(self.path)), None)
        if found.get("failed"):
            raise errors.JobError(found["msg"])
        return found


# -- launch and end -----------------------------------------------------------------------------------------------


def launch(world):
    """a job is launched in a home that has no async dir yet, and ends"""
    world.begin()
    world.ended(world.launch("echo out; echo err >&2; exit 3", name="work", spec=SPEC))


def queue(world):
    """two jobs are launched in one call, one at a time"""
    world.begin()
    world.launch_all(*[world.request(f"exit {number}") for number in range(2)], slots=1)
    for job in world.launcher.jobs:
        world.ended(job)


def later(world):
    """a job is launched that starts later"""
    world.begin()
    world.ended(world.launch(start_in=0.3))


def stop_before_start(world):
    """a job that is to start later is stopped before"""
    job = world.launch(name="work", spec=SPEC, start_in=60)
    world.begin()
    stopping.stop(job, number=signal.SIGTERM, grace=1, reason=None)
    world.ended(job)


def deadline(world):
    """a job reaches its timeout"""
    world.begin()
    world.ended(world.launch("sleep 60", timeout=0.3))


def end_by_runner(world):
    """the keeper is killed when the command ends: the runner writes the end down, a reader settles it"""
    job = world.gated("exit 3")
    private = job.read_record()[schema.PRIVATE]
    world.begin()
    os.kill(private["keeper"], signal.SIGSTOP)
    world.release()
    support.until(lambda: job.slot("exit"), "the exit record")
    support.until(lambda: not job.is_held("runner"), "the runner's end")
    os.kill(private["keeper"], signal.SIGKILL)
    support.until(lambda: not job.is_held("keeper"), "the keeper's end")
    status.look(job)


def end_by_next_keeper(world):
    """the keeper is killed, and the next one writes the end down"""
    job = world.gated("exit 3")
    private = job.read_record()[schema.PRIVATE]
    world.begin()
    os.kill(private["keeper"], signal.SIGKILL)
    support.until(lambda: not job.is_held("keeper") or job.slot("exit") is None, "a keeper")
    world.release()
    world.ended(job)


def end_by_keeper(world):
    """the runner is killed, and the keeper writes the end down"""
    job = world.gated("exit 3")
    world.begin()
    os.kill(job.read_record()[schema.PRIVATE]["runner"], signal.SIGKILL)
    support.until(lambda: not job.is_held("runner"), "the runner's end")
    world.release()
    world.ended(job)


def verdict_by_reader(world):
    """all processes of a job are killed, and a reader settles what has become of it"""
    job = world.launch("echo out; exec sleep 60", name="work", spec=SPEC)
    support.until(lambda: os.stat(job.path("stdout")).st_size, "the first output")
    world.begin()
    private = job.read_record()[schema.PRIVATE]
    pids = (private["keeper"], private["runner"], private["command"]["pid"])
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    support.until(lambda: not world.launcher.processes(job), "the end of all its processes")
    support.until(lambda: not job.is_held("keeper") and not job.is_held("runner"), "its locks")
    status.look(job)


def stop(world):
    """a job is stopped"""
    job = world.launch("sleep 60", name="work", spec=SPEC)
    world.begin()
    stopping.stop(job, number=signal.SIGTERM, grace=1, reason="asked", by={"user": "somebody"})
    world.ended(job)


def large_output(world):
    """a job whose output fills many pages of its record ends"""
    world.begin()
    world.ended(world.launch("head -c 9000 /dev/zero | tr '\\0' x"))


# -- names, attempts, notifications ---------------------------------------------------------------------------------


def name(world):
    """a name that means a job of before is given to another one, and then to a third one that replaces it"""
    asked = {"name": "work", "spec": SPEC}
    world.ended(world.launch(**asked))
    world.begin()
    second = world.launch("sleep 60", **asked)
    third = world.launch(name="work", spec={"cmd": "another"}, on_conflict="replace")
    world.ended(second)
    world.ended(third)


def attempts(world):
    """a job fails, and succeeds at its second attempt"""
    world.begin()
    line = "echo attempt $DURABLE_JOB_ATTEMPT; [ $DURABLE_JOB_ATTEMPT = 2 ]"
    world.ended(world.launch(line, retry=RETRY, name="work", spec=SPEC))


def notify(world):
    """the end of a job is told to a program, which refuses it at first"""
    world.begin()
    mark, told = world.notes / REFUSED, world.notes / "told"
    line = f"read event; if [ -e {mark} ]; then echo event >> {told}; else touch {mark}; exit 1; fi"
    sinks = [{"argv": ["/bin/sh", "-c", line]}]
    world.ended(world.launch("exit 3", notify=sinks, notify_for=86400.0, source="web1"))
    bell = str(world.path / ".durable/outbox/bell")
    support.until(lambda: not support.holders(bell), "the end of who delivers")


# -- removal --------------------------------------------------------------------------------------------------------


def three_jobs(world):
    """Launch three jobs that end, two of them of the same name, and return their jids."""
    for asked in ({"name": "work"}, {"name": "work"}, {"name": "other"}):
        world.ended(world.launch("echo out", spec=SPEC, **asked))
    return [job.jid for job in world.launcher.jobs]


def cleanup(world):
    """the latest job of a name is cleaned up, and then the one before"""
    jids = three_jobs(world)
    world.begin()
    for jid in (jids[1], jids[0]):
        world.note(f"removing: {jid}")
        asked = {"jid": jid, "name": None, "mode": "cleanup", "wait": 0, "output": "full"}
        world.ask("job_status", reveal=False, **asked)
        world.note(f"removed: {jid}")


def prune(world):
    """all jobs are pruned"""
    jids = three_jobs(world)
    world.begin()
    for jid in jids:
        world.note(f"removing: {jid}")
    world.ask("job_prune", states=None, older_than=None, keep_last=None, max_bytes=None)
    for jid in jids:
        world.note(f"removed: {jid}")


# -- engine ---------------------------------------------------------------------------------------------------------


def engine(world):
    """the engine is installed in a home that has no async dir yet"""
    world.begin()
    store = support.store.Store.open(str(world.path), create=True)
    installation.install(store, ENGINE, content(ENGINE), needed=True)
    world.note("installed: yes")
    store.secret()


def engine_again(world):
    """the engine takes the place of a damaged one, and those of other releases go"""
    store = support.store.Store.open(str(world.path), create=True)
    for other in (*OTHER_ENGINES, ENGINE):
        installation.install(store, other, content(other), needed=True)
    file = world.path / ".durable/engine" / ENGINE
    file.write_bytes(file.read_bytes()[:-1] + b"X")
    world.begin()
    installation.install(store, ENGINE, content(ENGINE), needed=True)
    world.note("installed: yes")


PROTOCOLS = {
    one.__name__: one
    for one in (
        *(
            launch,
            queue,
            later,
            stop_before_start,
            deadline,
            end_by_runner,
            end_by_next_keeper,
            end_by_keeper,
        ),
        *(verdict_by_reader, stop, large_output, name, attempts, notify, cleanup, prune),
        *(engine, engine_again),
    )
}

if __name__ == "__main__":
    protocol, home, notes = sys.argv[1:4]
    flushes.count_flushes()
    try:
        PROTOCOLS[protocol](World(Path(home), Path(notes)))
    except (OSError, errors.JobError):
        if flushes.FAILING not in os.environ:
            raise
