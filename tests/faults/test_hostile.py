# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile users: what lies where our files should be, and what others try."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    boot,
    installation,
    processes,
    removing,
    status,
    store,
)
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._job.names import latest_job
from ansible_collections.durable.jobs.tests.faults.surroundings import (
    PATIENCE,
    STRANGER,
    TREE,
    as_user,
    module_argv,
    module_input,
    needs_root,
    run_module,
    time_limit,
)
from ansible_collections.durable.jobs.tests.unit.support import Launcher, install, request, until

UMASKS = (0o000, 0o022, 0o077, 0o777)
LINKS = ("dangling link", "link to a file", "link to a folder", "relative link", "looping link")
FOREIGN = ("foreign file", "foreign folder")
KINDS = (*LINKS, "hard link", "fifo", "socket", "device", "file", "folder", "open", *FOREIGN)

# Every path that a launch, a look or a cleanup opens, makes or removes, below the async dir. A test with strace
# compares.
FOLDERS = (
    "",
    ".durable",
    ".durable/engine",
    ".durable/names",
    ".durable/jobs",
)
FILES = (
    ".durable/engine/DIGEST",
    ".durable/key",
    ".durable/names/work.lock",
    ".durable/names/work.jid",
)
SCRATCH = (".durable/engine/DIGEST.new", ".durable/names/work.new", ".durable/key.new")
OF_A_JOB = (
    "keeper",
    "runner",
    "turn",
    "stdout",
    "stderr",
    "exit",
    "ending",
    "record",
    "notify",
    "progress",
    "module",
    "keeper.log",
)
HOUSEKEEPING = (".durable/gone", ".durable/pruned")  # of launches and prunes, for old jobs
FRESH = ("next", "stdin")  # exist for a moment, in a folder that the same launch has made


@pytest.fixture
def ground():
    """A folder that every user can reach, as /tmp or /home are."""
    with tempfile.TemporaryDirectory(prefix="durable_hostile.") as path:
        os.chmod(path, 0o755)
        yield Path(path)


def launch(async_dir, shell="echo hi", **params):
    return run_module("job_start", shell=shell, async_dir=str(async_dir), **params)


def look(async_dir, **params):
    return run_module("job_status", async_dir=str(async_dir), **params)


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def alive(pid):
    found = processes.process(pid)
    return found is not None and not found.zombie


def state_of(async_dir):
    """Return the state of the job named work, or why it cannot be told."""
    with time_limit():
        try:
            job = latest_job(store.Store.open(str(async_dir), create=False), "work")
            return status.look(job)["state"] if job else "unknown"
        except JobError as error:
            return error.msg


# -- privacy ----------------------------------------------------------------------------------------------------------


def assert_private(async_dir):
    """Assert that nobody but the owner can read, write or enter anything in an async dir."""
    seen = set()
    for folder, folders, files in os.walk(async_dir):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            found = os.lstat(path)
            wanted = 0o700 if stat.S_ISDIR(found.st_mode) else 0o600
            assert stat.S_IMODE(found.st_mode) == wanted, path
            seen.add(re.sub(r"j\d+\.\d+", "JID", os.path.relpath(path, async_dir)))
    for wanted in (
        *("JID", ".durable/key", ".durable/names/work.jid", ".durable/names/work.lock"),
        *(f".durable/jobs/JID/{name}" for name in ("stdout", "exit", "keeper", "keeper.log")),
    ):
        assert wanted in seen
    assert any(path.startswith(".durable/engine/") for path in seen)


def interpreter(uid):
    """Return an interpreter that a user can run; skip if there is none."""
    for path in (sys.executable, "/usr/bin/python3"):
        if as_user(uid, lambda path=path: os.access(path, os.X_OK)):
            return path
    return pytest.skip("no Python on this machine that another user can run")


def launch_and_lose(async_dir, umask, executable):
    """Be a module with that umask: run jobs with names and secrets, one of them with a keeper that fails at its end."""
    folder = tempfile.mkdtemp(prefix="durable_engine.")
    program = install(folder)
    os.umask(umask)
    sys.executable = executable
    where = store.Store.open(async_dir, create=True)
    where.secret()
    made = Launcher.__new__(Launcher)
    made.store, made.jobs = where, []
    name = boot.installed_name("0" * 32)
    installation.install(where, name, boot.sealed(name, {}), needed=True)
    made.program = program
    gate = async_dir + ".go"
    waits = f"until [ -e {gate} ]; do sleep 0.02; done"
    made.raw(request("/bin/sh", "-c", "echo hi; umask", name="work", spec={}, stdin="x"))
    made.raw(request("/bin/sh", "-c", waits))
    whole, broken = made.jobs
    final = status.wait(whole, PATIENCE)
    os.unlink(broken.results_file)
    os.mkdir(broken.results_file)
    os.close(os.open(gate, os.O_CREAT, 0o600))
    until(lambda: os.path.exists(broken.path("keeper.log")))
    until(lambda: not broken.is_held("keeper"))
    os.chmod(broken.results_file, 0o700)  # made by us, with our umask
    shutil.rmtree(folder)
    return final


@pytest.mark.parametrize("who", ["root", "user"])
@pytest.mark.parametrize("umask", UMASKS, ids=lambda mask: f"{mask:03o}")
def test_everything_is_private(ground, umask, who):
    """
    the umask is 000, 022, 077 or 777, and the async dir an existing one with mode 0755
    | every file is 0600 and every folder 0700, at launch and later; the command keeps the umask
    """
    needs_root()
    uid = 0 if who == "root" else STRANGER
    home = ground / "home"
    home.mkdir(0o755)
    os.chmod(home, 0o755)
    async_dir = home / "async"
    async_dir.mkdir()
    async_dir.chmod(0o755)
    for path in (home, async_dir):
        os.chown(path, uid, uid)
    executable = interpreter(uid)
    final = as_user(uid, lambda: launch_and_lose(str(async_dir), umask, executable))
    assert (final["state"], final["stdout"]) == ("succeeded", f"hi\n{umask:04o}")
    assert stat.S_IMODE(async_dir.stat().st_mode) == 0o755
    assert_private(async_dir)


@pytest.mark.parametrize("umask", UMASKS, ids=lambda mask: f"{mask:03o}")
def test_a_new_async_dir_is_private(ground, umask):
    """
    the umask is 000, 022, 077 or 777, and there is no async dir, nor the folder above it
    | both are made 0700, and the job runs
    """
    needs_root()
    os.chown(ground, STRANGER, STRANGER)
    executable = interpreter(STRANGER)
    path = ground / "a" / "b"
    gate = ground / "a" / "b.go"
    final = as_user(STRANGER, lambda: launch_and_lose(str(path), umask, executable))
    assert final["state"] == "succeeded" and gate.exists()
    for folder in (path, path.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert_private(path)


def test_others_can_see_nothing(builtin, record_property):
    """
    another user reads the async dir
    | nothing: all that a job has is for its owner only
    """
    jid = builtin.launch("echo hi")
    until(lambda: builtin.status(jid)["finished"])
    found = {
        "folder": stat.S_IMODE(os.stat(builtin.async_dir).st_mode),
        "record": stat.S_IMODE(os.stat(builtin.async_dir / jid).st_mode),
    }
    record_property("builtin", ", ".join(f"{name} {mode:04o}" for name, mode in found.items()))


# -- planted things ---------------------------------------------------------------------------------------------------


class Bait:
    """What a planted link leads to. Nobody may touch it."""

    def __init__(self, folder):
        self.folder = folder / "bait"
        self.folder.mkdir()
        self.file = self.folder / "file"
        self.file.write_text("precious\n")
        self.file.chmod(0o600)
        self.inside = self.folder / "inside"
        self.inside.mkdir(0o700)

    def plant(self, kind, path):
        """Put something in the place of a path."""
        target = {
            "dangling link": self.folder / "none",
            "link to a file": self.file,
            "link to a folder": self.inside,
            "relative link": os.path.relpath(self.inside, path.parent),
            "looping link": path.name,
        }.get(kind)
        if target is not None:
            path.symlink_to(target)
        elif kind == "hard link":
            os.link(self.file, path)
        elif kind in ("file", "foreign file"):
            path.write_text("{}")
            path.chmod(0o600)
        elif kind in ("folder", "foreign folder"):
            path.mkdir(0o700)
        else:
            types = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "device": stat.S_IFCHR}
            os.mknod(path, types[kind] | 0o600, os.makedev(1, 5))  # /dev/zero never ends
        if kind in FOREIGN:
            os.chown(path, STRANGER, STRANGER)

    def assert_untouched(self):
        assert self.file.read_text() == "precious\n"
        assert stat.S_IMODE(self.file.stat().st_mode) == 0o600
        assert sorted(os.listdir(self.folder)) == ["file", "inside"]
        assert os.listdir(self.inside) == []


@pytest.fixture(scope="module")
def used():
    """An async dir in which one named job has run, and the digest of its engine."""
    needs_root()
    with tempfile.TemporaryDirectory(prefix="durable_hostile.") as path:
        os.chmod(path, 0o755)
        async_dir = Path(path) / "async"
        jid = launch(async_dir, name="work")["ansible_job_id"]
        assert look(async_dir, jid=jid, wait=PATIENCE)["state"] == "succeeded"
        yield async_dir, os.listdir(async_dir / ".durable" / "engine")[0]


def fits(path, kind):
    """Tell whether this would be something else than what belongs there."""
    return kind != ("folder" if path in FOLDERS else "file")


PLANTED = [(path, kind) for path in (*FOLDERS, *FILES) for kind in KINDS if fits(path, kind)]


@pytest.mark.parametrize(("path", "kind"), PLANTED)
def test_what_is_planted_before_a_launch_is_refused(used, path, kind):
    """
    a symlink, hard link, FIFO, socket, device, wrong or foreign file or folder, or one open to others, lies where a
    launch reads or writes
    | launch and look refuse it and say what it is and where; nothing is followed, nothing hangs
    """
    async_dir, digest = used
    whole = async_dir / path.replace("DIGEST", digest)
    bait = Bait(Path(tempfile.mkdtemp(dir=async_dir.parent)))
    aside = async_dir.parent / "aside"
    mode = stat.S_IMODE(whole.stat().st_mode)
    if kind == "open":
        whole.chmod(0o777)
    else:
        whole.rename(aside)
        bait.plant(kind, whole)
    try:
        launched = launch(async_dir, name="work", rerun="always")
        seen = state_of(async_dir)
    finally:
        if kind == "open":
            whole.chmod(mode)
        else:
            remove(whole)
            aside.rename(whole)
    bait.assert_untouched()
    assert launched["failed"] and str(whole) in launched["msg"], launched
    words = "other users|symlink|hard link|FIFO|socket|device|file|directory|belongs to|not a key"
    assert re.search(words, launched["msg"].partition(str(whole))[2]), launched["msg"]
    assert seen in ("succeeded", "unknown") or str(whole) in seen
    assert state_of(async_dir) == "succeeded", "and nothing has been launched"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", SCRATCH)
def test_what_is_planted_under_the_name_of_a_scratch_file_is_put_away(ground, path, kind):
    """
    a symlink, hard link, FIFO, socket, device or foreign file lies where a file is written before it is renamed
    | it is removed, not followed, and the launch succeeds
    """
    needs_root()
    if kind == "open":
        pytest.skip("what is not there cannot be open to others")
    async_dir = ground / "async"
    (async_dir / ".durable" / "engine").mkdir(0o700, parents=True)
    (async_dir / ".durable" / "names").mkdir(0o700)
    bait = Bait(ground)
    for mask in (async_dir, async_dir / ".durable"):
        mask.chmod(0o700)
    whole = async_dir / path
    if "DIGEST" in path:
        other = launch(ground / "other")
        assert look(ground / "other", jid=other["ansible_job_id"], wait=PATIENCE)["finished"]
        digest = os.listdir(ground / "other" / ".durable" / "engine")[0]
        whole = async_dir / path.replace("DIGEST", digest)
    bait.plant(kind, whole)
    launched = launch(async_dir, name="work")
    assert launched["state"] == "running", launched
    assert look(async_dir, name="work", wait=PATIENCE)["state"] == "succeeded"
    bait.assert_untouched()
    assert not whole.exists() and not whole.is_symlink()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["RECORD", "FOLDER", *OF_A_JOB])
def test_what_is_planted_into_a_running_job_is_refused_and_costs_no_result(
    launcher, tmp_path, name, kind
):
    """
    a symlink, hard link, FIFO, socket, device or foreign file takes the place of a running job's file or folder
    | looks refuse it and say where, or say running, never lost; nothing is followed; the job's end is recorded all
    the same
    """
    needs_root()
    if (name, kind) == ("RECORD", "file"):
        pytest.skip("a file of the user's own, as the builtin writes it, is a record")
    bait = Bait(tmp_path)
    job = launcher.gated("echo out; exit 3")
    pids = launcher.keeper(job)
    special = {"RECORD": job.results_file, "FOLDER": os.path.dirname(job.path("x"))}
    path = Path(special.get(name) or job.path(name))
    if kind == "open":
        if not path.exists():
            pytest.skip("what is not there cannot be open to others")
        path.chmod(0o777)
    else:
        if path.exists():
            path.rename(tmp_path / "aside")
        bait.plant(kind, path)
    with time_limit():
        again = launcher.store.job(job.jid)
        try:
            found = status.look(again)
            assert found["state"] == "running", found
        except JobError as error:
            assert str(path) in error.msg
        launcher.release()
        until(lambda: not any(alive(pid) for pid in pids))
    bait.assert_untouched()
    if name == "RECORD" and kind in ("folder", "foreign folder"):
        assert not status.look(again)["finished"] or status.look(again)["rc"] == 3
    else:
        record = job.read_record()
        assert (record["state"], record["rc"]) == ("failed", 3)
    removing.remove(again)
    assert not os.path.lexists(job.results_file)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", HOUSEKEEPING)
def test_what_is_planted_where_old_jobs_are_removed_stops_no_launch(ground, path, kind):
    """
    a symlink, hard link, FIFO, socket, device or foreign file lies where launches and prunes remove old jobs
    | launches succeed, and a prune removes the jobs or says what it is and where; nothing is followed, nothing hangs
    """
    needs_root()
    async_dir = ground / "async"
    assert launch(async_dir, name="work")["state"] == "running"
    assert look(async_dir, name="work", wait=PATIENCE)["state"] == "succeeded"
    bait = Bait(ground)
    whole = async_dir / path
    if kind == "open":
        if path == HOUSEKEEPING[0]:
            whole.mkdir(exist_ok=True)
        else:
            whole.touch()
        whole.chmod(0o777)
    else:
        if os.path.lexists(whole):
            remove(whole)
        bait.plant(kind, whole)
    assert launch(async_dir, name="work")["state"] == "running"
    assert look(async_dir, name="work", wait=PATIENCE)["state"] == "succeeded"
    with time_limit():
        pruned = run_module("job_prune", async_dir=str(async_dir))
    bait.assert_untouched()
    left = [entry for entry in os.listdir(async_dir) if not entry.startswith(".")]
    assert left == [] or str(whole) in pruned["msg"], pruned


# -- the list of paths is complete
# --------------------------------------------------------------------------------------


def touched(trace, async_dir):
    """Return the paths below an async dir that system calls have named, generalised."""
    found = set()
    base = re.escape(str(async_dir))
    for line in trace.splitlines():
        named = [f"{folder}/{name}" for folder, name in re.findall(r'<([^<>]*)>, "([^"]+)"', line)]
        named += re.findall(r'"(/[^"]*)"', line)
        for path in named:
            match = re.match(rf"{base}(?:/(.*))?$", os.path.normpath(path))
            if match:
                general = re.sub(r"j\d+\.\d+", "JID", match.group(1) or "")
                found.add(re.sub(r"\b[0-9a-f]{32}\.[0-9a-f]{4}\b", "DIGEST", general))
    return found


def test_the_list_of_paths_is_complete(tmp_path):
    """
    a path that no other scenario plants something at
    | there is none: a launch, a look, a stop and a cleanup under strace touch no others
    """
    if shutil.which("strace") is None:
        pytest.skip("no strace on this machine")
    async_dir = tmp_path / "async"
    trace = ""
    calls = [
        ("job_start", {"shell": "cat; sleep 61", "stdin": "x", "name": "work"}),
        ("job_start", {"shell": "cat", "stdin": "x", "name": "work", "on_conflict": "replace"}),
        ("job_status", {"name": "work", "wait": PATIENCE}),
        ("job_status", {"name": "work", "mode": "cleanup"}),
        ("job_status", {"name": "work"}),
    ]
    tracers = []
    for number, (module, params) in enumerate(calls):
        options = ("-f", "-y", "-qq", "-s", "4096", "-e", "trace=%file", "-e", "signal=none")
        arguments = ["strace", *options, "-o", tmp_path / f"trace{number}", *module_argv(module)]
        answer = tmp_path / f"answer{number}"
        with open(answer, "wb") as output:
            tracer = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=output,
                env={**os.environ, "PYTHONPATH": str(TREE)},
            )
        tracer.stdin.write(module_input(async_dir=str(async_dir), **params).encode())
        tracer.stdin.close()
        until(lambda answer=answer: answer.read_bytes().strip().endswith(b"}"))
        tracers.append(tracer)  # it stays for as long as the job
    for tracer in tracers:
        tracer.wait(PATIENCE)
    for number in range(len(calls)):
        trace += (tmp_path / f"trace{number}").read_text(errors="replace")
    planted = {*FOLDERS, *FILES, *SCRATCH, "JID", ".JID.final", ".durable/jobs/JID"}
    planted |= {f".durable/jobs/JID/{name}" for name in (*OF_A_JOB, *FRESH)}
    planted |= {*HOUSEKEEPING, *(path.replace("/jobs/", "/gone/") for path in planted)}
    # What is named so is read of somebody's open files, and not touched.
    others = {path for path in touched(trace, async_dir) if not path.endswith(" (deleted)")}
    assert others - planted == set()
    assert {".durable/names/work.new", ".durable/jobs/JID/next", "JID"} <= others, "it sees"


# -- other users ------------------------------------------------------------------------------------------------------


def take_lock(path):
    fcntl.flock(os.open(path, os.O_RDONLY | os.O_NONBLOCK), fcntl.LOCK_EX | fcntl.LOCK_NB)


def on_a_file(path, spoils):
    """Return what can be tried on a file or folder: what it is, a function and its arguments."""
    plants = [
        (f"plant {name} in {path}", os.mkdir, os.path.join(path, name))
        for name in ("j1.1", "planted.jid", ".durable.new")
    ]
    return [
        (f"read {path}", os.open, path, os.O_RDONLY | os.O_NONBLOCK),
        (f"write {path}", os.open, path, os.O_WRONLY | os.O_NONBLOCK),
        (f"lock {path}", take_lock, path),
        (f"truncate {path}", os.truncate, path, 0),
        (f"chmod {path}", os.chmod, path, 0o777),
        (f"touch {path}", os.utime, path),
        (f"rename {path}", os.rename, path, spoils + "/renamed"),
        (f"remove {path}", os.unlink, path),
        (f"remove the folder {path}", os.rmdir, path),
        (f"link {path}", os.link, path, f"{spoils}/{os.path.basename(path)}"),
        *plants,
    ]


def on_a_process(pid):
    """Return what can be tried on a process, in the same form."""

    def trace():
        if ctypes.CDLL(None, use_errno=True).ptrace(16, pid, 0, 0) != 0:  # PTRACE_ATTACH
            raise OSError(ctypes.get_errno(), "ptrace")

    folder = Path("/proc") / str(pid)
    signals = (0, signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL)
    reads = [(os.listdir, "fd"), (os.readlink, "cwd")]
    reads += [(Path.read_bytes, name) for name in ("environ", "mem", "maps")]
    return [
        (f"trace {pid}", trace),
        *((f"signal {number} to {pid}", os.kill, pid, number) for number in signals),
        *((f"read {name} of {pid}", how, folder / name) for how, name in reads),
    ]


def attempts(paths, pids, spoils):
    """Try, as another user, whatever could read, fake, block or end a job; return what the system allowed."""
    done = []
    tried = [one for path in paths for one in on_a_file(path, spoils)]
    for what, function, *arguments in tried + [one for pid in pids for one in on_a_process(pid)]:
        with contextlib.suppress(OSError):
            function(*arguments)
            done.append(what)
    return done


@pytest.mark.parametrize(
    "place", ["in a folder with mode 0755", "in a sticky folder with mode 1777"]
)
def test_another_user_can_do_nothing(ground, place):
    """
    another user reads, writes, locks, renames, removes, links, plants and traces whatever a running job has, and
    signals it
    | nothing of it is allowed, and the job ends as it would have
    """
    needs_root()
    sticky = "sticky" in place
    ground.chmod(0o1777 if sticky else 0o755)
    async_dir = ground / "async"
    if not sticky:
        async_dir.mkdir(0o755)
        async_dir.chmod(0o755)  # as the builtin makes it
    spoils = ground / "spoils"
    spoils.mkdir()
    os.chown(spoils, STRANGER, STRANGER)
    control = spoils / "control"
    control.write_text("")
    control.chmod(0o666)
    allowed = as_user(STRANGER, lambda: attempts([str(control)], [], str(spoils)))
    assert len(allowed) >= 5, "where it is allowed, the attempts succeed"
    launcher = Launcher(async_dir)
    try:
        launcher.raw(
            request(
                "/bin/sh",
                "-c",
                f"until [ -e {ground}/go ]; do sleep 0.02; done; exit 3",
                name="work",
                spec={},
            )
        )
        job = launcher.jobs[0]
        paths = [str(async_dir)]
        for folder, folders, files in os.walk(async_dir):
            paths += [os.path.join(folder, name) for name in (*folders, *files)]
        pids = [*launcher.keeper(job), job.read_record()["durable_jobs"]["command"]["pid"]]
        before = sorted(os.listdir(async_dir))
        done = as_user(STRANGER, lambda: attempts(paths, pids, str(spoils)))
        if not sticky:
            # A folder with mode 0755 can be listed, and where fs.protected_hardlinks is 0 anybody can give a second
            # name to
            # what he sees in one. It leads nowhere: the file is 0600.
            assert set(done) <= {
                f"read {async_dir}",
                f"lock {async_dir}",
                f"link {job.results_file}",
            }
        else:
            assert done == []
        assert sorted(os.listdir(async_dir)) == before
        assert status.look(job)["state"] == "running"
        (ground / "go").touch()
        found = status.wait(job, PATIENCE)
        assert (found["state"], found["rc"]) == ("failed", 3)
    finally:
        launcher.close()


def test_what_another_user_has_put_where_the_async_dir_should_be(ground):
    """
    in /tmp another user has made a folder, a file or a link of the async dir's name, or a folder above it
    | the launch is refused and says whose it is and what to do
    """
    needs_root()
    ground.chmod(0o1777)
    mine = ground / "mine"
    mine.mkdir(0o700)
    for kind in ("folder", "link", "file"):
        for below in ("", "/async"):
            path = ground / "planted"
            make = {
                "folder": lambda path=path: os.mkdir(path, 0o777),
                "link": lambda path=path: os.symlink(mine, path),
                "file": lambda path=path: os.close(os.open(path, os.O_CREAT)),
            }[kind]
            as_user(STRANGER, make)
            found = launch(f"{path}{below}")
            assert found["failed"], (kind, below)
            assert re.search(f"{STRANGER}|symlink|not a directory", found["msg"]), found["msg"]
            assert re.search("give another async_dir|give the real path", found["msg"])
            assert os.listdir(mine) == []
            remove(path)


@pytest.mark.parametrize("mode", [0o777, 0o775])
@pytest.mark.parametrize("which", ["the async dir", "a folder above it"])
def test_a_place_that_others_can_change_is_refused(ground, which, mode):
    """
    the async dir, or a folder on the way to it, can be written by other users
    | the launch is refused and says which folder, and what to do
    """
    needs_root()
    above, async_dir = ground / "above", ground / "above" / "async"
    async_dir.mkdir(0o700, parents=True)
    above.chmod(0o755)
    bad = async_dir if which == "the async dir" else above
    os.chown(bad, 0, STRANGER)
    bad.chmod(mode)
    found = launch(async_dir)
    assert found["failed"] and str(bad) in found["msg"] and "other users" in found["msg"], found
    assert os.listdir(async_dir) == []
    bad.chmod(0o755)
    assert launch(async_dir)["state"] == "running"
    bad.chmod(mode)
    looked = look(async_dir, jid="j1.1")
    assert looked["failed"] and "other users" in looked["msg"]


def test_another_user_fills_the_sticky_folder(ground, tmp_path):
    """
    another user fills the disk of the sticky folder that holds the async dir
    | a running job's end is recorded; a launch says that no space is left, and leaves nothing
    """
    needs_root()
    options = ("-t", "tmpfs", "-o", "size=1m,mode=1777", "none")
    if subprocess.call(["mount", *options, str(ground)], stderr=subprocess.DEVNULL):
        pytest.skip("no right to mount a tmpfs")
    try:
        launcher = Launcher(ground / "async", engine=tmp_path / "engine")

        def fill():
            fd = os.open(ground / "filler", os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                while True:
                    os.write(fd, b"x" * 1024)
            except OSError as error:
                return error.errno

        job = launcher.gated("exit 3", chdir=str(ground))
        assert as_user(STRANGER, fill) == errno.ENOSPC
        with pytest.raises(JobError, match="No space left"):
            launcher("true")
        subprocess.run(["mount", "-o", "remount,size=2m", str(ground)], check=True)
        (ground / "go").touch()
        subprocess.run(["mount", "-o", "remount,size=1m", str(ground)], check=False)
        assert status.wait(job, PATIENCE)["rc"] == 3
        names = [name for name in os.listdir(launcher.store.path) if name.startswith("j")]
        assert names == [job.jid] == os.listdir(launcher.store.private_path("jobs"))
        os.close(job.fd)
        os.close(launcher.store.fd)
        launcher.close()
    finally:
        subprocess.check_call(["umount", "-l", str(ground)])


# -- ids and names ----------------------------------------------------------------------------------------------------

BAD_NAMES = (
    "",
    "a/b",
    "../x",
    "a\nb",
    "a\0b",
    "x" * 201,
    " a",
    "a ",
    "ä",
    "a\n",
    "a\tb",
    "$(id)",
    "-\x7f",
)
BAD_JIDS = (
    "",
    "../x",
    "j1.2/../j1.3",
    "j1.2\n",
    "j1.2\0",
    "j1",
    "J1.2",
    "j\uff11.2",
    "j1." + "2" * 200,
    "/etc/passwd",
)
ODD_NAMES = (
    ".",
    "..",
    "...",
    "a",
    "a.jid",
    "a.lock",
    "a.new",
    ".jid",
    "a.jid.jid",
    "x" * 200,
    "-rf",
    "A",
    "a b",
)


def test_bad_names_are_refused_everywhere(tmp_path, launcher):
    """
    a name with a slash, a newline, a null character, 201 characters and the like, given to a module or the
    launcher's standard input
    | refused with the rule; nothing is made anywhere
    """
    for name in BAD_NAMES:
        for module, params in (("job_start", {"shell": "true"}), ("job_status", {})):
            found = run_module(module, async_dir=str(tmp_path / "none"), name=name, **params)
            assert found["failed"] and "cannot be the name of a job" in found["msg"], (name, found)
        answer = launcher.raw(request("true", name=name, spec={}))[0]
        assert "cannot be the name of a job" in answer["error"]["msg"]
        with pytest.raises(JobError):
            latest_job(launcher.store, name)
    assert not (tmp_path / "none").exists()
    assert os.listdir(launcher.store.path) == []


def test_bad_ids_are_refused_everywhere(tmp_path, launcher, builtin, record_property):
    """
    an id such as ../x, given to a look, a cleanup or the launcher's standard input
    | refused with the rule; nothing is read or removed
    """
    (tmp_path / "victim").write_text('{"started": 1, "finished": 1}')
    for jid in (*BAD_JIDS, "../victim"):
        for mode in ("status", "cleanup"):
            found = run_module("job_status", async_dir=launcher.store.path, jid=jid, mode=mode)
            assert found["failed"] and "could not find job" in found["msg"], (jid, found)
            assert "not valid" in found["msg"]
        launcher.raw(adopt=[jid])
        with pytest.raises(JobError, match="not valid"):
            launcher.store.job(jid)
    assert (tmp_path / "victim").exists()

    victim = builtin.folder / "victim"
    victim.write_text('{"started": 1, "finished": 1}')
    builtin.async_dir.mkdir(exist_ok=True)
    builtin.ansible("async_status", "jid=../victim mode=cleanup")
    record_property("builtin", "refused" if victim.exists() else "removes ../victim")


def test_odd_names_do_not_get_into_each_others_way(launcher):
    """
    names such as . and .., a and a.jid, and one of 200 characters, all at once
    | each is the name of its own job
    """
    answers = launcher.raw(*[request("sleep", "61", name=name, spec={}) for name in ODD_NAMES])
    for name, answer in zip(ODD_NAMES, answers):
        jid = answer["record"]["ansible_job_id"]
        assert latest_job(launcher.store, name).read_record()["name"] == name
        assert latest_job(launcher.store, name).jid == jid
    assert len(os.listdir(launcher.store.private_path("names"))) == 2 * len(ODD_NAMES)


# --------------------------------------------------------------------------------------
# -- what is said to a terminal
# --------------------------------------------------------------------------------------

# A sequence that clears the screen, one that sets the title, their C1 forms, a backspace, a line of its own, characters
# that turn the direction of writing around, and what is no character.
STEERING = "a\x1b[2Jb\x1b]0;c\x07\x9b31m\x08\rd\u2028e\u202ef\u2066g\x7f\ud800"


def said(result):
    """Return each text of ours in a result."""
    for found in (result, *result.get("jobs", [])):
        for key in ("msg", "reason", "user", "containment"):
            if found.get(key):
                yield found[key]


def test_what_others_write_does_not_steer_a_terminal(tmp_path):
    """
    escape sequences, line breaks or marks of direction in the last words of a command, a path or a record of `async`
    | messages and reasons are printable and have one line; `stdout` and `stderr` are as they were written
    """
    async_dir = str(tmp_path / "async")
    steering = STEERING.encode(
        "utf-8", "replace"
    ).decode()  # ansible-core takes no lone surrogate as an argument
    program = f"import sys; sys.stderr.write({steering!r} + 'last'); sys.exit(3)"
    argv = [sys.executable, "-c", program]
    run_module("job_start", async_dir=async_dir, name="work", argv=argv, env={"PYTHONUTF8": "1"})
    foreign = {"started": True, "finished": True, "failed": True}
    foreign.update(dict.fromkeys(("msg", "reason", "containment", "user"), STEERING))
    (tmp_path / "async" / "j77.77").write_text(json.dumps(foreign), encoding="utf-8")
    answers = [
        run_module("job_status", async_dir=async_dir, name="work", wait=PATIENCE),
        run_module("job_status", async_dir=async_dir, jid="j77.77"),
        run_module("job_wait", async_dir=async_dir, jobs=["work", "j77.77", "absent"]),
        run_module("job_stop", async_dir=async_dir, jobs=["work", "j77.77", "absent"]),
        run_module("job_info", async_dir=async_dir),
        run_module("job_prune", async_dir=async_dir, states=["running"]),
        run_module("job_start", async_dir=async_dir, argv=[f"/nowhere/{steering}"]),
        run_module("job_start", async_dir=async_dir, cmd="true", chdir=f"/nowhere/{steering}"),
        run_module("job_start", async_dir=async_dir, cmd="true", name=steering),
        run_module("job_status", async_dir=f"{tmp_path}/{steering}", jid="j1.1"),
        run_module("job_info", async_dir=f"{tmp_path}/{steering}", jids=["j1.1"]),
    ]
    texts = [text for answer in answers for text in said(answer)]
    assert len(texts) > len(answers)
    assert [text for text in texts if not text.replace("\n", "").isprintable()] == []
    # Only the message of a module may have lines.
    assert {text for text in texts if "\n" in text} == set()
    assert answers[0]["stderr"] == steering + "last"
    assert answers[0]["msg"].endswith("last")
