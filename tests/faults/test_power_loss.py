# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The power goes: an ext4 as its disk may be at random moments while jobs start and end.

A copy of a mounted image takes time, and what it reads of two moments is a state that no power cut makes. So nothing
is copied: the disk notes every write and flush in its order (see disk.py), and each cut is built from the notes. It
is harsher than a copy: a disk's own cache is lost with the power, so of what was written after the last flush
any part may be missing, sectors in the middle of a write included.
"""

from __future__ import annotations

import collections
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import boot, installation, status
from ansible_collections.durable.jobs.tests.faults import disk as disks
from ansible_collections.durable.jobs.tests.faults import machine as machines
from ansible_collections.durable.jobs.tests.faults.conftest import SEED
from ansible_collections.durable.jobs.tests.unit.support import Launcher, request, until

CUTS = int(os.environ.get("DURABLE_JOBS_CUTS", "200"))
BATCHES, BATCH = 14, 8  # launches, and jobs of each
ENGINE = boot.installed_name("0" * 32)
BUILTIN_JOBS = 5
SEEK = 0.004  # seconds for a flush: a look has time to fall between a step and its being durable

# Runs on the machine after its reboot. Each line that it reads is one image; each line that it writes tells what is
# on it: every look, and what launches say. The names are those of jobs that have succeeded.
AFTERWARDS = """
import json, os, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from _job import boot, installation, status, store

PROGRAM = os.path.join(os.path.dirname(store.__file__), "program.py")

def launch(where, **changes):
    installation.install(where, sys.argv[2], boot.sealed(sys.argv[2], {"main": b"code"}), needed=True)
    assert boot.installed(where.path, sys.argv[2]), "an engine of which a power cut has left a part is replaced"
    asked = {"async_dir": where.path, "jobs": [dict(json.loads(sys.argv[3]), **changes)]}
    argv = [sys.executable, "-I", "-S", PROGRAM]
    done = subprocess.run(argv, input=json.dumps(asked).encode(), stdout=subprocess.PIPE)
    answer = json.loads(done.stdout)["jobs"][0]
    if "record" not in answer:
        return answer
    return look(where, answer["record"]["ansible_job_id"], 20)["state"]

def look(where, jid, wait=0):
    job = where.job(jid)
    try:
        return status.wait(job, wait)
    finally:
        os.close(job.fd)

for line in sys.stdin:
    image, folder, names = json.loads(line)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    found = {"looks": {}, "launches": []}
    where = store.Store.open(os.path.join(folder, "jobs"), create=True)
    for jid in sorted(name for name in os.listdir(where.path) if name.startswith("j")):
        one = look(where, jid)
        found["looks"][jid] = [one[key] for key in ("state", "rc", "reason", "stdout")]
    again = {"spec": {"cmd": "x"}, "rerun": "on_failure"}
    found["launches"] = [launch(where), *(launch(where, name=name, **again) for name in names)]
    os.close(where.fd)
    limit = time.monotonic() + 20  # the keeper of what was launched is about to end
    while subprocess.run(["umount", folder], stderr=subprocess.DEVNULL).returncode:
        if time.monotonic() > limit:
            sys.exit("somebody keeps the file system busy")
        time.sleep(0.01)
    print(json.dumps(found), flush=True)
"""


@pytest.fixture
def folder():
    # The images are read back at once; a file system in memory spares this machine's own disk.
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="durable_power.", dir=fast) as made:
        yield Path(made)


@pytest.fixture
def disk(folder):
    made = disks.Disk(folder, seek=SEEK)
    made.attach()
    yield made
    made.detach()


@pytest.fixture
def machine(folder):
    machines.require()
    made = machines.Machine(folder)
    made.boot()
    yield made
    made.power_off()


class Told(NamedTuple):
    """What had been reported until a moment."""

    said: dict[str, tuple]
    succeeded: list[str]


class Life:
    """Jobs that start and end, and readers that note what they were told, and when."""

    def __init__(self, disk):
        self.disk = disk
        self.launcher = Launcher(disk.path / "jobs")
        installation.install(
            self.launcher.store, ENGINE, boot.sealed(ENGINE, {"main": b"code"}), needed=True
        )
        self.launched = {}  # jid: the moment when the launch was reported
        self.reported = {}  # jid: the first moment when its end was, and what was said
        self.names = {}  # jid: its name
        self.truth = {}  # jid: state, rc and reason in the end
        self._done = threading.Event()

    def live(self):
        readers = [threading.Thread(target=self._read, args=(way,)) for way in (_look, _raw)]
        for reader in readers:
            reader.start()
        try:
            for batch in range(BATCHES):
                self._launch(batch)
            for job in self.launcher.jobs:
                final = self.launcher.finished(job)
                self.truth[job.jid] = (final["state"], final["rc"], None)
        finally:
            self._done.set()
            for reader in readers:
                reader.join()

    def told(self, moment):
        """Return what had been reported until a moment, and the names of the jobs that had succeeded by then."""
        said = {jid: said for jid, (at, said) in self.reported.items() if at <= moment}
        succeeded = [
            self.names[jid] for jid, one in said.items() if one[1] == 0 and self.names[jid]
        ]
        return Told(said, succeeded)

    def _launch(self, batch):
        requests = []
        for number in range(BATCH):
            line = f"echo begin; sleep 0.{number % 4}; echo end {batch}; exit {number % 3}"
            name = f"work {batch} {number}" if number % 2 else None
            spec = {"cmd": "x"} if name else None
            requests.append(request("/bin/sh", "-c", line, name=name, spec=spec))
        answers = self.launcher.raw(*requests)
        moment = self.disk.moment()
        for asked, answer in zip(requests, answers):
            jid = answer["record"]["ansible_job_id"]
            self.names[jid] = asked["name"]
            self.launched[jid] = moment

    def _read(self, way):
        seen = set()
        while not self._done.is_set():
            for job in list(self.launcher.jobs):
                if job.jid not in seen:
                    found = way(job)
                    if found["finished"]:
                        seen.add(job.jid)
                        said = tuple(found[key] for key in ("state", "rc", "stdout"))
                        moment = self.disk.moment()
                        first = self.reported.setdefault(job.jid, (moment, said))
                        if moment < first[0]:
                            self.reported[job.jid] = (moment, said)


class Afterwards:
    """The machine after its reboot, which looks at one disk after the other."""

    def __init__(self, machine, life, folder):
        self.folder = folder
        folder_of_engine = os.path.dirname(os.path.dirname(life.launcher.program))
        plain = json.dumps(request("/bin/echo", "new"))
        self.process = subprocess.Popen(
            [
                *machine.prefix,
                *(sys.executable, "-I", "-S", "-B", "-c", AFTERWARDS),
                *(folder_of_engine, ENGINE, plain),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def find(self, image, names):
        """Return every look, and what a plain launch and launches of these names say."""
        line = json.dumps([str(image), str(self.folder), names])
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def _look(job):
    fresh = job.store.job(job.jid)
    try:
        return status.look(fresh)
    finally:
        os.close(fresh.fd)


def _raw(job):
    """Read a record as the builtin async_status does, and every other program."""
    with open(job.results_file, encoding="utf-8") as record:
        return json.load(record)


def builtin_after_cuts(builtin, disk, folder, rng):
    """Say what is left of results that the builtin has reported, when the power goes within the next seconds."""
    where = disk.path / "builtin"
    builtin.environment["ANSIBLE_ASYNC_DIR"] = str(where)
    left = collections.Counter()
    for number in range(BUILTIN_JOBS):
        jid = builtin.launch(f"exit {number}")
        until(lambda jid=jid: builtin.status(jid)["finished"])
        notes = disk.notes()
        image = folder / f"builtin.{number}"
        disk.cut(notes, disk.moment(), rng, image)
        subprocess.run(["mount", "-o", "loop", image, folder / "after"], check=True)
        try:
            record = json.loads((folder / "after" / "builtin" / jid).read_text())
            left["kept" if record.get("rc") == number else "started for ever"] += 1
        except FileNotFoundError:
            left["could not find job"] += 1
        except ValueError:
            left["an empty or torn record, shown as started for ever"] += 1
        finally:
            subprocess.run(["umount", folder / "after"], check=True)
    said = ", ".join(f"{count} {what}" for what, count in sorted(left.items()))
    return f"of {BUILTIN_JOBS} results that it had reported: {said}"


def test_power_loss(disk, machine, folder, builtin, record_property):
    """
    the power goes at random moments while jobs start and end; what the disk had not flushed is lost in part
    | what was launched is there; what was reported as finished is, with its rc and output; all else is `lost` or has
    its true result; nothing runs again; the next launch works
    """
    life = Life(disk)
    life.live()
    life.launcher.let_go()
    notes = disk.notes()
    rng = random.Random(f"{SEED} power")
    moments = [rng.choice(notes)[0] for _count in range(CUTS - CUTS // 2)]
    moments += [moment for moment, _said in rng.choices(list(life.reported.values()), k=CUTS // 2)]
    (folder / "after").mkdir()
    unsynced = 0
    states = collections.Counter()
    with Afterwards(machine, life, folder / "after") as afterwards:
        for number, moment in enumerate(moments):
            image = folder / f"cut.{number}"
            unsynced += disk.cut(notes, moment, rng, image) > 0
            told = life.told(moment)
            names = rng.sample(told.succeeded, min(1, len(told.succeeded)))
            found = afterwards.find(image, names)
            check_looks(life, moment, told.said, found["looks"], f"cut {number} of seed {SEED}")
            check_launches(found["launches"], names)
            image.unlink()
            states.update(look[0] for look in found["looks"].values())
    record_property("builtin", builtin_after_cuts(builtin, disk, folder, rng))
    record_property("cuts", f"{len(moments)}, {unsynced} of them with writes that were not flushed")
    assert states["lost"] and states["succeeded"] and states["failed"], states


def check_launches(launches, names):
    plain, *named = launches
    assert plain == "succeeded", launches
    assert [one.get("decision") for one in named] == ["keep"] * len(names), launches


def check_looks(life, moment, told, looks, which):
    looks = {jid: tuple(look) for jid, look in looks.items()}
    for jid, at in life.launched.items():
        assert at > moment or jid in looks, f"{which}: {jid} is missing"
    for jid, said in told.items():
        state, rc, _reason, stdout = looks[jid]
        assert (state, rc, stdout) == said, f"{which}: {jid} was reported otherwise"
    for jid, (state, rc, reason, _stdout) in looks.items():
        expected = ("lost", None, "rebooted") if state == "lost" else life.truth[jid]
        assert (state, rc, reason) == expected, f"{which}: {jid}"
