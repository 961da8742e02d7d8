# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The installed engine: killed installations, planted and swapped files, disks that take nothing."""

from __future__ import annotations

import collections
import contextlib
import marshal
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils import _engine
from ansible_collections.durable.jobs.plugins.module_utils._job import boot, installation, store
from ansible_collections.durable.jobs.tests.faults.surroundings import STRANGER, as_user, needs_root
from ansible_collections.durable.jobs.tests.unit.support import Launcher, ask, question, until

CHANGING = (
    *("openat", "mkdir", "mkdirat", "write", "pwrite64", "ftruncate", "fsync", "close"),
    *("flock", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir"),
)
READING = "openat,?fstat,?newfstatat,?statx,read,close"


@pytest.fixture
def ground():
    """A folder that every user can reach, as /tmp or /home are."""
    with tempfile.TemporaryDirectory(prefix="durable_engine.") as path:
        os.chmod(path, 0o755)
        yield Path(path)


def engines(async_dir):
    return async_dir / ".durable" / "engine"


def installed(async_dir):
    """Have the engine installed, and return the path of its file."""
    async_dir.mkdir(0o700, exist_ok=True)  # a look makes none
    assert ask(str(async_dir), whole=True)[0]
    (name,) = os.listdir(engines(async_dir))
    return engines(async_dir) / name


def planted(mark, name):
    """Return an engine that is whole, but does what somebody else wants: it makes a file."""
    line = f"open({str(mark)!r}, 'w').close()"
    codes = {part: marshal.dumps(compile(line, part, "exec")) for part in ("__init__", "main")}
    return boot.sealed(name, codes)


def put(path, content, mode=0o600):
    path.write_bytes(content)
    path.chmod(mode)


# -- killed -----------------------------------------------------------------------------------------------------------


def damage(path):
    path.write_bytes(path.read_bytes()[:-1] + b"X")


def outdate(path):
    """Leave engines of other releases in the place of this one, more than are kept."""
    content = path.read_bytes()
    path.unlink()
    for number in range(installation.KEPT + 1):
        other = path.with_name(boot.installed_name(f"{number:032}"))
        put(other, content)
        os.utime(other, (number, number))


BEFORE = {"nothing": os.unlink, "a damaged one": damage, "those of other releases": outdate}


def traced(async_dir, log, kill=None):
    """Have the engine installed under strace, which kills the process at one call, or at none."""
    prefix = ["strace", "-qq", "-y", "-o", str(log)]
    prefix += ["-e", "trace=" + ",".join(f"?{name}" for name in CHANGING)]
    if kill:
        prefix += ["-e", "inject={}:signal=KILL:when={}".format(*kill)]
    return ask(str(async_dir), whole=True, prefix=prefix)


def steps(log, async_dir):
    """Return the calls that named something in an async dir: each name, and its how many-th it was."""
    counted = collections.Counter()
    found = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        call = re.match(r"(\w+)\(", line)
        if call:
            counted[call[1]] += 1
            if f"{async_dir}/.durable" in line or f"<{async_dir}>" in line:
                found.append((call[1], counted[call[1]]))
    return found


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("before", BEFORE)
def test_an_installation_is_killed_at_every_step(tmp_path, before, record_property):
    """
    the installation of the engine is killed at each system call that changes something; there was none before, a
    damaged one, or some of other releases
    | the whole engine, or none that is run; the next call installs it, and nothing half-made stays
    """
    calls = []
    killed = 0
    path = installed(tmp_path / "as it was")
    content = path.read_bytes()
    BEFORE[before](path)
    for number in range(-1, 1000):
        if number == len(calls):
            break
        async_dir = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "as it was", async_dir)
        if before == "nothing":
            shutil.rmtree(async_dir / ".durable")
        log = tmp_path / f"{number}.strace"
        traced(async_dir, log, calls[number] if number >= 0 else None)
        if number < 0:
            calls = steps(log, async_dir)
            assert {"renameat", "fsync"} <= {name for name, _count in calls}, "it sees"
            continue
        killed += "+++ killed by SIGKILL +++" in log.read_text(encoding="utf-8", errors="replace")
        assert boot.installed(str(async_dir), path.name) in (None, content), calls[number]
        begun, answer = ask(str(async_dir))
        assert not begun or answer["total"] == 0, calls[number]
        assert ask(str(async_dir), whole=True)[1]["total"] == 0, calls[number]
        assert boot.installed(str(async_dir), path.name) == content, calls[number]
        assert not list(engines(async_dir).glob("*.new")), calls[number]
        # A process that was killed just before it removes old engines leaves that to the next installation.
        where = store.Store.open(str(async_dir), create=False)
        installation.install(where, boot.installed_name("f" * 32), content, needed=True)
        where.close()
        assert len(os.listdir(engines(async_dir))) <= installation.KEPT, calls[number]
    record_property("steps killed", f"{before} {killed}")
    assert killed == len(calls)


# -- planted ----------------------------------------------------------------------------------------------------------


def as_his_file(path, evil, _spoils):
    put(path, evil)
    os.chown(path, STRANGER, STRANGER)


def as_a_link(path, evil, spoils):
    put(spoils / "evil", evil)
    os.chown(spoils / "evil", STRANGER, STRANGER)
    path.symlink_to(spoils / "evil")


def as_a_second_name(path, evil, spoils):
    put(spoils / "evil", evil)
    os.link(spoils / "evil", path)


def in_a_file_open_to_others(path, evil, _spoils):
    put(path, evil, 0o666)


def in_a_folder_open_to_others(path, evil, _spoils):
    put(path, evil)
    path.parent.chmod(0o777)


def in_a_folder_behind_a_link(path, evil, spoils):
    path.parent.rename(spoils / "engine")
    path.parent.symlink_to(spoils / "engine")
    put(path, evil)


def in_his_folder(path, evil, _spoils):
    put(path, evil)
    os.chown(path.parent, STRANGER, STRANGER)


def in_his_private_folder(path, evil, _spoils):
    put(path, evil)
    os.chown(path.parent.parent, STRANGER, STRANGER)


PLANTS = (
    *(as_his_file, as_a_link, as_a_second_name, in_a_file_open_to_others, in_his_folder),
    *(in_a_folder_open_to_others, in_a_folder_behind_a_link, in_his_private_folder),
)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_an_engine_that_another_user_has_planted(ground, plant):
    """
    another user has put an engine of his own, whole and of the right name, where ours is looked for
    | it is never run
    """
    needs_root()
    mark, spoils = ground / "ran", ground / "spoils"
    spoils.mkdir()
    path = installed(ground / "async")
    put(path, planted(mark, path.name))
    with contextlib.suppress(subprocess.CalledProcessError):
        ask(str(ground / "async"))
    assert mark.exists(), "were it ours, it would be run"
    mark.unlink()
    path.unlink()
    plant(path, planted(mark, path.name), spoils)
    assert ask(str(ground / "async")) == (False, None)
    begun, answer = ask(str(ground / "async"), whole=True)
    assert begun and ("total" in answer or answer["failed"])
    assert not mark.exists()


def is_stopped(log):
    return log.exists() and "--- stopped by SIGSTOP ---" in log.read_text(
        encoding="utf-8", errors="replace"
    )


def stopped(async_dir, log, call, meanwhile):
    """Ask the engine; stop the process at one call, and let it go on when something else has been done."""
    asked, engine = question(str(async_dir)), _engine.Engine()
    prefix = ["strace", "-qq", "-y", "-o", str(log), "-e", "trace=" + READING]
    prefix += ["-e", "inject={}:signal=STOP:when={}".format(*call)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([*prefix, sys.executable, *engine.words()], **pipes) as process:
        process.stdin.write(engine.data(asked))
        process.stdin.close()
        try:
            # What is refused sooner never comes to that call.
            until(lambda: process.poll() is not None or is_stopped(log), "the stop, or the end")
            meanwhile()
        finally:
            if process.poll() is None:
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
                os.kill(int(children.read_bytes()), signal.SIGCONT)
        out = process.stdout.read().decode()
    return asked.has_begun(out), asked.result(out)


class Swapped:
    """An installed engine, and one of another user that takes its place and leaves it.

    :param ground: a folder.
    :param kind: what the other one is.
    """

    def __init__(self, ground, kind):
        self.mark = ground / "ran"
        self.kind = kind
        self.path = installed(ground / "async")
        self.content = self.path.read_bytes()
        self.target = ground / "evil"
        put(self.target, planted(self.mark, self.path.name))
        os.chown(self.target, STRANGER, STRANGER)

    def ours(self):
        good = self.path.with_suffix(".good")
        put(good, self.content)
        os.rename(good, self.path)

    def his(self):
        bad = self.path.with_suffix(".bad")
        if self.kind == "a link":
            bad.symlink_to(self.target)
        else:
            put(bad, planted(self.mark, self.path.name), 0o600 if self.kind == "his own" else 0o666)
            os.chown(bad, STRANGER if self.kind == "his own" else 0, -1)
        os.rename(bad, self.path)


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("first", ["ours", "his"])
@pytest.mark.parametrize("kind", ["his own", "open to others", "a link"])
def test_an_engine_is_swapped(ground, kind, first, record_property):
    """
    the engine's file is swapped for one of another user, or that for ours, while whoever calls it stands still at any
    of the system calls that open, prove and read it
    | ours is run, or none: what has been proved is what is run
    """
    needs_root()
    async_dir = ground / "async"
    swapped = Swapped(ground, kind)
    prefix = ["strace", "-qq", "-y", "-o", str(ground / "dry"), "-e", "trace=" + READING]
    assert ask(str(async_dir), prefix=prefix)[0]
    calls = steps(ground / "dry", async_dir)
    calls = calls[: 1 + max(i for i, (name, _count) in enumerate(calls) if name == "read")]
    before, meanwhile = swapped.ours, swapped.his
    if first == "his":
        before, meanwhile = meanwhile, before
    ran = 0
    for number, call in enumerate(calls):
        before()
        begun, answer = stopped(async_dir, ground / f"{number}.strace", call, meanwhile)
        assert not swapped.mark.exists(), call
        assert not begun or answer["total"] == 0, call
        ran += begun
    assert 0 < ran < len(calls), "it was swapped before it was opened, and afterwards"
    record_property("calls", len(calls))


def test_another_user_cannot_put_an_engine_there(ground):
    """
    another user tries to write, replace, remove or add to the engine of a user
    | nothing of it is allowed
    """
    needs_root()
    path = installed(ground / "async")
    content = path.read_bytes()
    mine = ground / "his"
    mine.mkdir()
    os.chown(mine, STRANGER, STRANGER)

    def attempts():
        done = []
        (mine / "evil").write_bytes(b"evil")
        for what, function, *arguments in (
            ("read", path.read_bytes),
            ("write", path.write_bytes, b"evil"),
            ("remove", path.unlink),
            ("replace", os.rename, mine / "evil", path),
            ("add", os.link, mine / "evil", path.with_name("evil")),
            ("add beside", os.mkdir, path.parent.with_name("evil")),
            ("take away", os.rename, path.parent, mine / "taken"),
            ("list", os.listdir, path.parent),
        ):
            with contextlib.suppress(OSError):
                function(*arguments)
                done.append(what)
        return done

    assert as_user(STRANGER, attempts) == []
    assert path.read_bytes() == content


def test_an_engine_of_another_release_or_python(tmp_path):
    """
    engines of other releases, and of this release for another Python, are installed, and this one is not
    | none of them is run; this one is installed beside them
    """
    mark, async_dir = tmp_path / "ran", tmp_path / "async"
    path = installed(async_dir)
    path.unlink()
    digest, _dot, magic = path.name.partition(".")
    other_python = f"{digest}.{int(magic, 16) ^ 1:04x}"
    others = [boot.installed_name("0" * 32), other_python]
    for name in others:
        put(path.with_name(name), planted(mark, name))
    assert ask(str(async_dir)) == (False, None)
    assert ask(str(async_dir), whole=True)[0] and ask(str(async_dir))[0]
    assert sorted(os.listdir(path.parent)) == sorted([path.name, *others])
    assert not mark.exists()


# -- disks ------------------------------------------------------------------------------------------------------------


def fill(path):
    """Write until the disk takes no more."""
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 4096)


@pytest.mark.parametrize("disk", ["full", "read-only"])
@pytest.mark.parametrize("engine", ["none", "damaged", "whole"])
def test_a_look_on_a_disk_that_takes_nothing(ground, tmp_path, disk, engine):
    """
    the disk of the async dir is full or read-only, and the engine there is whole, damaged or missing
    | looks show the jobs all the same, and leave nothing
    """
    needs_root()
    mounted = ground / "disk"
    mounted.mkdir()
    options = ("-t", "tmpfs", "-o", "size=4m,mode=700", "none")
    if subprocess.call(["mount", *options, str(mounted)], stderr=subprocess.DEVNULL):
        pytest.skip("no right to mount a tmpfs")
    async_dir = mounted / "async"
    launcher = Launcher(async_dir, engine=tmp_path / "engine")
    try:
        job = launcher.shell("echo out; exit 3")
        launcher.finished(job)
        path = installed(async_dir)
        if engine == "none":
            path.unlink()
        elif engine == "damaged":
            damage(path)
        if disk == "full":
            fill(mounted / "filler")
        else:
            launcher.let_go()
            launcher.jobs, launcher.store = [], store.Store.open(str(async_dir), create=False)
            subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
        before = sorted(os.listdir(path.parent))
        assert ask(str(async_dir))[0] == (engine == "whole")
        begun, answer = ask(str(async_dir), whole=True)
        assert begun and answer["jobs"][0]["rc"] == 3, answer
        assert sorted(os.listdir(path.parent)) == before
    finally:
        launcher.close()
        subprocess.check_call(["umount", "-l", str(mounted)])
