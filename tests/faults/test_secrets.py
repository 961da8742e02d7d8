# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets: canaries in env, stdin and whole jobs, looked for wherever somebody could see them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import status, store
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.tests.faults.surroundings import (
    PATIENCE,
    ROOT,
    STRANGER,
    TREE,
    as_user,
    module_argv,
    module_input,
    needs_root,
    run_module,
)
from ansible_collections.durable.jobs.tests.unit.support import until

ENV, STDIN, COMMAND, OUTPUT = "c4nary-env", "c4nary-stdin", "c4nary-command", "c4nary-output"
CANARY = "c4nary"
HIDDEN = "hidden: this job was launched with no_log"
QUIET = "cat >/dev/null; until [ -e {go} ]; do sleep 0.02; done; exit 3"


def assert_in_no_file(async_dir):
    """Assert that no canary is in any file below, nor in the name of one."""
    seen = 0
    for folder, folders, files in os.walk(async_dir):
        assert not [name for name in (*folders, *files) if CANARY in name]
        for name in files:
            path = os.path.join(folder, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                seen += 1
                assert CANARY.encode() not in Path(path).read_bytes(), path
    assert seen


def secrets(go):
    return {"shell": QUIET.format(go=go), "env": {"SECRET": ENV}, "stdin": STDIN, "name": "work"}


# -- no_log -----------------------------------------------------------------------------------------------------------


def test_no_log_travels_with_the_job(tmp_path, builtin, record_property):
    """
    a job is launched with no_log, and looked at later by tasks without it, while it runs and after
    | command and output are hidden in every result and in the record; reveal=true shows the output
    """
    async_dir, go = str(tmp_path / "async"), tmp_path / "go"
    line = f": {COMMAND}; echo {OUTPUT}; echo {OUTPUT} >&2; until [ -e {go} ]; do sleep 0.02; done; exit 3"
    launched = run_module("job_start", no_log=True, shell=line, name="work", async_dir=async_dir)
    jid = launched["ansible_job_id"]
    stdout = Path(launched["stdout_file"])
    until(lambda: stdout.stat().st_size)
    looks = [{"jid": jid}, {"name": "work"}, {"jid": jid, "output": "tail"}]
    seen = [run_module("job_status", async_dir=async_dir, **one) for one in looks]
    shown = run_module("job_status", async_dir=async_dir, jid=jid, reveal=True)
    assert shown["stdout"] == OUTPUT and COMMAND not in str(shown)
    go.touch()
    seen += [run_module("job_status", async_dir=async_dir, wait=PATIENCE, **one) for one in looks]
    assert {(one["cmd"], one["stdout"], one["stderr"]) for one in seen} == {(HIDDEN,) * 3}
    assert CANARY not in str(seen)
    assert (seen[-1]["state"], seen[-1]["rc"]) == ("failed", 3)
    assert CANARY not in Path(launched["results_file"]).read_text(encoding="utf-8")

    shown = run_module("job_status", async_dir=async_dir, jid=jid, reveal=True)
    assert (shown["stdout"], shown["stderr_lines"], shown["cmd"]) == (OUTPUT, [OUTPUT], HIDDEN)
    assert shown["failed"] and OUTPUT not in shown["msg"]
    tail = run_module("job_status", async_dir=async_dir, jid=jid, reveal=True, output="none")
    assert tail["stdout"] == ""

    attached = run_module("job_start", shell=line, name="work", rerun="never", async_dir=async_dir)
    assert attached["stdout"] == HIDDEN and attached["cmd"] == HIDDEN

    hidden = ("-e", "ansible_no_log=true")
    jid = builtin.ansible("shell", f"echo {OUTPUT}", "-B", "60", "-P", "0", *hidden)[
        "ansible_job_id"
    ]
    until(lambda: builtin.status(jid).get("finished"))
    told = OUTPUT in str(builtin.status(jid))
    record_property("builtin", "async_status shows both" if told else "hidden")


def test_who_may_not_read_the_files_reveals_nothing(tmp_path, launcher):
    """
    another user asks for the output of a job launched with no_log
    | refused: revealing is reading the files of the job's user
    """
    needs_root()
    job = launcher.shell(f"echo {OUTPUT}", no_log=True)
    assert status.wait(job, PATIENCE)["stdout"] == HIDDEN
    assert status.look(job, reveal=True)["stdout"] == OUTPUT

    def reveal():
        try:
            where = store.Store.open(launcher.store.path, create=False)
            return str(status.look(where.job(job.jid), reveal=True))
        except (JobError, OSError) as error:
            return f"refused: {error}"

    os.chmod(tmp_path, 0o755)
    assert as_user(STRANGER, reveal).startswith("refused: ")


# -- env and stdin ----------------------------------------------------------------------------------------------------


class Sampler(threading.Thread):
    """Reads the command lines of all processes, over and over."""

    def __init__(self):
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.caught = set()
        self.seen = set()

    def run(self):
        while not self.over.is_set():
            for name in os.listdir("/proc"):
                if name.isdigit():
                    self.look(f"/proc/{name}/cmdline")

    def look(self, path):
        try:
            cmdline = Path(path).read_bytes()
        except OSError:
            return
        self.seen.add(cmdline)
        if CANARY.encode() in cmdline:
            self.caught.add(cmdline)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_error):
        self.over.set()
        self.join()


def play(folder, tasks):
    """Run tasks on this machine with -vvv and return what it printed."""
    playbook = folder / "play.yml"
    python = os.path.realpath(sys.executable)
    header = {"hosts": "localhost", "gather_facts": False, "tasks": tasks}
    header["vars"] = {"ansible_connection": "local", "ansible_python_interpreter": python}
    playbook.write_text(json.dumps([header]))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-vvv", "-i", "localhost,", playbook],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(TREE),
            "ANSIBLE_CONFIG": str(ROOT / "tests" / "tools" / "ansible.cfg"),
            "ANSIBLE_HOME": str(folder / "home"),
            "ANSIBLE_REMOTE_TEMP": str(folder / "remote"),
            "ANSIBLE_NOCOLOR": "true",
        },
    )
    return done.stdout


def test_env_and_stdin_are_seen_nowhere(tmp_path):
    """
    ansible-playbook -vvv launches a job with secrets in env and stdin, attaches to it, differs from it, and looks at it
    | they are in no result, no line on the screen, no argv of any process, and no file
    """
    async_dir, go = tmp_path / "async", tmp_path / "go"
    asked = {**secrets(go), "async_dir": str(async_dir)}
    other = {**asked, "env": {"SECRET": ENV + "2"}}
    look = {"name": "work", "async_dir": str(async_dir)}
    tasks = [
        {"durable.jobs.job_start": asked},
        {"durable.jobs.job_start": asked, "diff": True},
        {"durable.jobs.job_start": other, "diff": True, "ignore_errors": True},
        {"durable.jobs.job_status": look},
        {"ansible.builtin.file": {"path": str(go), "state": "touch"}},
        {"durable.jobs.job_status": {**look, "wait": PATIENCE}, "failed_when": False},
    ]
    with Sampler() as sampler:
        out = play(tmp_path, tasks)
    assert "failed=0" in out and '"rc": 3' in out and "another specification" in out, out
    assert CANARY not in out
    assert sampler.caught == set()
    assert any(b"durable.jobs" in cmdline for cmdline in sampler.seen), "it has seen the launcher"
    assert_in_no_file(async_dir)


def test_no_program_is_given_a_secret(tmp_path):
    """
    a job with secrets in env and stdin is launched under strace
    | no execve has them among its arguments
    """
    if shutil.which("strace") is None:
        pytest.skip("no strace on this machine")
    trace = tmp_path / "trace"
    go = tmp_path / "go"
    go.touch()
    options = ("-f", "-s", "100000", "-e", "trace=execve", "-o", trace)
    done = subprocess.run(
        ["strace", *options, *module_argv("job_start")],
        input=module_input(async_dir=str(tmp_path / "async"), **secrets(go)),
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=True,
        env={**os.environ, "PYTHONPATH": str(TREE)},
    )
    assert json.loads(done.stdout)["state"] == "running"
    assert "sys.stdin.buffer" in trace.read_text() and CANARY not in trace.read_text()


BROKEN = {
    "no such program": {"cmd": "/no/such/program"},
    "no such folder": {"chdir": "/no/such/folder"},
    "env is a list": {"env": [ENV]},
    "env is a word": {"env": ENV},
    "env holds a list": {"env": {"SECRET": [ENV]}},
    "env has an impossible name": {"env": {"A=B": ENV}},
    "env holds a null character": {"env": {"SECRET": ENV + "\0"}},
    "env holds half a character": {"env": {"SECRET": ENV + "\ud800"}},
    "env is too large": {"env": {"SECRET": ENV + "x" * 10_000_000}},
    "stdin holds half a character": {"stdin": STDIN + "\ud800"},
    "stdin is a dictionary": {"stdin": {"SECRET": STDIN}, "timeout": -1},
    "a bad number": {"timeout": -1},
    "a bad signal": {"stop_signal": "NONE"},
    "a bad parameter": {"no_such_parameter": 1},
    "a bad async dir": {"async_dir": "relative"},
}


@pytest.mark.parametrize("fault", BROKEN)
def test_errors_show_no_secret(tmp_path, fault):
    """
    a launch with secrets fails: bad program, folder, env, stdin, number, signal, parameter, async dir
    | the error says what is wrong, and shows none of them
    """
    params = {"cmd": "cat", "env": {"SECRET": ENV}, "stdin": STDIN}
    params.update({"async_dir": str(tmp_path / "async"), **BROKEN[fault]})
    found = run_module("job_start", **params)
    assert found["failed"] and found["msg"]
    assert CANARY not in json.dumps(found)
    if (tmp_path / "async" / ".durable").exists():
        assert_in_no_file(tmp_path / "async")
        assert os.listdir(tmp_path / "async") == [".durable"]


def test_a_keeper_that_breaks_writes_no_secret(launcher):
    """
    the keeper of a job with secrets fails and writes keeper.log
    | none of them is in it, nor in the final record that the next look writes
    """
    job = launcher.gated("cat >/dev/null; exit 3", env={"SECRET": ENV}, stdin=STDIN)
    saved = Path(job.results_file).read_bytes()
    os.unlink(job.results_file)
    os.mkdir(job.results_file)
    launcher.release()
    until(lambda: os.path.exists(job.path("keeper.log")) and not job.is_held("keeper"))
    os.rmdir(job.results_file)
    Path(job.results_file).write_bytes(saved)
    assert status.look(job)["rc"] == 3
    assert_in_no_file(launcher.store.path)


# -- the system's log -------------------------------------------------------------------------------------------------


class Syslog:
    """Hears what a command writes to the system's log."""

    def __init__(self, folder):
        self.path = folder / "log"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))

    def heard(self, argv, data):
        """Run a command in a mount namespace of its own, in which /dev/log is ours."""
        place = os.path.realpath("/dev/log")
        made = not os.path.lexists(place)
        if made:
            Path(place).touch()
        try:
            script = 'mount --bind "$0" "$1" && shift && exec "$@"'
            done = subprocess.run(
                ["unshare", "--mount", "sh", "-c", script, self.path, place, *argv],
                input=data,
                stdout=subprocess.PIPE,
                text=True,
                timeout=PATIENCE,
                check=False,
                env={**os.environ, "PYTHONPATH": str(TREE)},
            )
        finally:
            if made:
                os.unlink(place)
        lines = b""
        self.socket.setblocking(False)
        while True:
            try:
                lines += self.socket.recv(1 << 20)
            except BlockingIOError:
                return lines.decode(), done.stdout


def test_the_systems_log_shows_no_secret(tmp_path, record_property):
    """
    modules log their parameters to syslog
    | env and stdin are masked there, and of a no_log task nothing is logged
    """
    needs_root()
    if shutil.which("unshare") is None or subprocess.call(["unshare", "--mount", "true"]):
        pytest.skip("no right to make a mount namespace")
    log = Syslog(tmp_path)
    go = tmp_path / "go"
    go.touch()
    asked = {"async_dir": str(tmp_path / "async"), **secrets(go)}
    heard, result = log.heard(module_argv("job_start"), module_input(**asked))
    assert '"state": "running"' in result
    assert "Invoked with" in heard and "NOT_LOGGING_PARAMETER" in heard and CANARY not in heard
    asked["shell"] = f": {COMMAND}"
    heard, result = log.heard(module_argv("job_start"), module_input(no_log=True, **asked))
    assert "ansible_job_id" in result
    assert CANARY not in heard and "Invoked with" not in heard

    words = {"_raw_params": "cat", "stdin": STDIN}
    command = [sys.executable, "-B", "-m", "ansible.modules.command"]
    heard, result = log.heard(command, module_input(**words))
    assert STDIN in result
    record_property("builtin", "stdin is in syslog" if STDIN in heard else "masked")
