# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keepers and runners are refused what they need, and launchers inherit what would end them."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import processes, runner, status
from ansible_collections.durable.jobs.tests.faults import surroundings
from ansible_collections.durable.jobs.tests.unit.support import Launcher, request, until

PATIENCE = 60
PYTHON = "/usr/bin/python3"


def outcome(found):
    return found["state"], found["rc"], found["reason"]


def kill(pid):
    process = processes.process(pid)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not processes.is_alive(process.pid, process.started), "the end of a process")


def allow_no_files(pid):
    """Let a process open no further file, and return what it was allowed before."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, before[1]))
    return before


def command_has_ended(job):
    command = job.read_record()["durable_jobs"]["command"]
    return not processes.is_command(command["pid"], command["started"])


# -- shortages -------------------------------------------------------------------------------------------------


def test_no_further_process_for_the_runner(monkeypatch):
    """
    the keeper is killed when the user may have no more processes | the runner waits on, and the rc is there
    """
    surroundings.needs_root()
    if not os.access(PYTHON, os.X_OK):
        pytest.skip("needs an interpreter that every user may run")

    def launched_by_a_user():
        launcher = Launcher(os.path.join(folder, "async"))
        job = launcher.gated("exit 4")
        keeper, runner_pid = launcher.keeper(job)
        resource.prlimit(runner_pid, resource.RLIMIT_NPROC, (1, 1))
        kill(keeper)
        launcher.release()
        return outcome(status.wait(job, PATIENCE))

    monkeypatch.setattr(sys, "executable", PYTHON)
    with tempfile.TemporaryDirectory(prefix="durable_") as folder:
        os.chown(folder, surroundings.STRANGER, surroundings.STRANGER)
        seen = surroundings.as_user(surroundings.STRANGER, launched_by_a_user)
    assert seen == ["failed", 4, None]


def test_no_further_file_for_the_runner(launcher):
    """
    the keeper is killed when the runner can open no more files, and the command ends
    | the runner tries again until it can write down how; the rc is there
    """
    surroundings.needs_root()
    job = launcher.gated("exit 4")
    keeper, runner_pid = launcher.keeper(job)
    before = allow_no_files(runner_pid)
    kill(keeper)
    launcher.release()
    until(lambda: command_has_ended(job), "the end of the command")
    assert status.look(job)["state"] == "running"
    resource.prlimit(runner_pid, resource.RLIMIT_NOFILE, before)
    assert outcome(status.wait(job, PATIENCE)) == ("failed", 4, None)


def test_no_further_file_for_the_keeper(launcher):
    """
    the runner is killed when the keeper can open no more files, and the command ends
    | the keeper tries again until it can write down how; the rc is there
    """
    surroundings.needs_root()
    job = launcher.gated("exit 6")
    keeper, runner_pid = launcher.keeper(job)
    before = allow_no_files(keeper)
    kill(runner_pid)
    launcher.release()
    until(lambda: command_has_ended(job), "the end of the command")
    assert status.look(job)["state"] == "running"
    resource.prlimit(keeper, resource.RLIMIT_NOFILE, before)
    assert outcome(status.wait(job, PATIENCE)) == ("failed", 6, None)


def test_no_further_file_at_the_deadline(launcher):
    """
    the keeper can open no more files when the deadline comes
    | it tries again until it can; timed_out, and every process of the job is gone
    """
    surroundings.needs_root()
    job = launcher.ready("setsid sleep 61 & echo ready; exec sleep 62", timeout=0.5)
    keeper = launcher.keeper(job)[0]
    before = allow_no_files(keeper)
    log = job.path("keeper.log")
    until(lambda: status.look(job)["elapsed"] > 1.5, "the deadline")
    resource.prlimit(keeper, resource.RLIMIT_NOFILE, before)
    found = status.wait(job, PATIENCE)
    assert (found["state"], launcher.processes(job)) == ("timed_out", []), os.path.exists(log)


def test_a_new_keeper_can_open_no_files_for_a_while(launcher):
    """
    keeper and runner are killed, the new keeper cannot open files, and the command runs on
    | it is not taken for gone; when the keeper can see again the deadline holds
    """
    surroundings.needs_root()
    job = launcher.ready("echo ready; exec sleep 62", timeout=5)
    keeper, runner_pid = launcher.keeper(job)
    os.kill(runner_pid, signal.SIGSTOP)
    kill(keeper)
    kill(runner_pid)
    launcher.raw(adopt=[job.jid])
    (new,) = {
        int(name)
        for name in os.listdir("/proc")
        if name.isdigit() and processes._serves_other_job(int(name), "") and _holds(int(name), job)
    }
    before = allow_no_files(new)
    until(lambda: status.look(job)["elapsed"] > 3, "a few looks of its keeper")
    assert status.look(job)["state"] == "running"
    resource.prlimit(new, resource.RLIMIT_NOFILE, before)
    assert outcome(status.wait(job, PATIENCE)) == ("timed_out", None, None)


def _holds(pid, job):
    folder = f"/proc/{pid}/fd"
    return any(
        os.readlink(f"{folder}/{fd}") == job.path("keeper")
        for fd in os.listdir(folder)
        if os.path.lexists(f"{folder}/{fd}")
    )


def test_a_stream_is_removed_and_the_keeper_killed(launcher):
    """
    a command removes the file of its output, and the keeper is killed | the new keeper's deadline holds
    """
    job = launcher.ready("echo ready; exec sleep 62", timeout=3)
    os.unlink(job.path("stdout"))
    kill(launcher.keeper(job)[0])
    found = status.wait(job, PATIENCE)
    assert (found["state"], found["rc"]) == ("timed_out", -signal.SIGTERM)


# -- what the launcher inherits --------------------------------------------------------------------------------


LIMITS = {
    "FSIZE": 16 * 1024,
    "NOFILE": 30,
    "CPU": 3600,
    "AS": 4 * 2**30,
    "DATA": 4 * 2**30,
    "NPROC": 90_000,
    "CORE": 0,
    "STACK": 2**20,
}


def test_soft_limits_of_the_caller(launcher):
    """
    the launcher's surroundings limit the size of files and the number of descriptors, among others
    | the command has these limits, keeper and runner have not, and the end is recorded with all of the output
    """

    def limit():
        for name, soft in LIMITS.items():
            number = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(number)[1]
            resource.setrlimit(number, (soft, hard))

    shown = ["/bin/sh", "-c", "cat /proc/self/limits"]
    plain = subprocess.run(shown, check=True, stdout=subprocess.PIPE, preexec_fn=limit)
    noisy = "head -c 16000 /dev/zero | tr '\\0' '\\1'; exec head -c 100000 /dev/zero >&2"
    launcher.raw(request(*shown), request("/bin/sh", "-c", noisy), preexec_fn=limit)
    limits, output = (launcher.finished(job) for job in launcher.jobs)
    assert limits["stdout"].split() == plain.stdout.decode().split()
    assert (output["stdout_bytes"], output["signal"]) == (16000, "SIGXFSZ")
    assert output["stdout"] == "\1" * 16000, "the record is larger than the limit"
    assert not os.path.exists(launcher.jobs[1].path("keeper.log"))


def test_a_hard_limit_of_the_size_of_files(launcher):
    """
    the surroundings limit the size of files for good, and the final record would be larger
    | the end is recorded; the output is read from its files
    """

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))

    noisy = "head -c 16000 /dev/zero | tr '\\0' '\\1'; exit 5"
    launcher.raw(request("/bin/sh", "-c", noisy), preexec_fn=limit)
    (job,) = launcher.jobs
    assert launcher.finished(job)["rc"] == 5
    found = status.look(job)
    assert (found["state"], found["rc"], found["output_error"]) == ("failed", 5, None)
    assert found["stdout"] == "\1" * 16000
    assert not os.path.exists(job.path("keeper.log"))


def test_a_hard_limit_below_the_room_of_a_record(launcher):
    """the surroundings allow no file of the size of a record | the launch fails, and says so; nothing is left"""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    (answer,) = launcher.raw(request("true"), preexec_fn=limit)
    assert "File too large" in answer["error"]["msg"]
    assert os.listdir(os.path.join(launcher.store.path, ".durable", "jobs")) == []


@pytest.mark.parametrize("how", ["blocked", "ignored"])
def test_signals_of_the_caller(launcher, how):
    """
    the launcher's surroundings block, or ignore, every signal, those too that tell of children and of writing
    | the rc is there, output and time are limited; the command hears every signal
    """

    def be_deaf():
        everything = set(range(1, signal.NSIG)) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}
        if how == "blocked":
            signal.pthread_sigmask(signal.SIG_BLOCK, everything)
        else:
            for number in everything:
                signal.signal(number, signal.SIG_IGN)

    loud = "head -c 20000000 /dev/zero; sleep 62"
    launcher.raw(
        request("/bin/sh", "-c", "sleep 0.1; exit 3"),
        request("/bin/sh", "-c", loud, output_limit=100_000, timeout=2),
        request("grep", "-E", "^Sig(Ign|Blk):", "/proc/self/status"),
        preexec_fn=be_deaf,
    )
    failed, limited, code = launcher.jobs
    assert outcome(launcher.finished(failed)) == ("failed", 3, None)
    stdout = limited.path("stdout")
    until(
        lambda: os.stat(stdout).st_size == 20_000_000 and os.stat(stdout).st_blocks * 512 < 200_000
    )
    assert launcher.finished(limited)["state"] == "timed_out"
    lines = launcher.finished(code)["stdout"].splitlines()
    library = 3 << 31  # two signals are the C library's own
    assert [int(line.split()[1], 16) & ~library for line in lines] == [0, 0]


def test_closed_descriptors_and_a_removed_folder(launcher, tmp_path):
    """
    the launcher has no stderr, and its working directory has been removed
    | the command runs, and what it writes is there
    """
    gone = tmp_path / "gone"
    gone.mkdir()

    def leave():
        os.close(2)
        os.chdir(gone)
        os.rmdir(gone)

    launcher.raw(request("/bin/sh", "-c", "echo out; echo err >&2; exit 3"), preexec_fn=leave)
    found = launcher.finished(launcher.jobs[0])
    assert (found["rc"], found["stdout"]) == (3, "out")
    assert found["stderr"].splitlines()[-1] == "err"


def test_an_alarm_of_the_caller():
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_REAL, 100)
        runner.ProcessDefaults()
        os._exit(int(signal.getitimer(signal.ITIMER_REAL)[0]))
    assert os.waitpid(child, 0)[1] == 0, sys.platform
