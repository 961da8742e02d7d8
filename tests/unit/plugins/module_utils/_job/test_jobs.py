# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Launcher, keeper and runner as they are: real processes, real files, real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    processes,
    runner,
    schema,
    status,
    stopping,
)
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._job.names import latest_job
from ansible_collections.durable.jobs.tests.unit.support import PATIENCE, request, until


def everything_below(path):
    """Return the content of every regular file below a folder."""
    found = b""
    for folder, _folders, files in os.walk(path):
        for name in files:
            full = os.path.join(folder, name)
            if stat.S_ISREG(os.lstat(full).st_mode):
                with open(full, "rb") as source:
                    found += source.read()
    return found


# -- the life of a job ------------------------------------------------------------------------------------------------


def test_a_job_runs_and_is_recorded(launcher):
    job = launcher.shell("echo out; echo err >&2; exit 3")
    record = launcher.finished(job)
    assert (record["state"], record["rc"], record["signal"], record["reason"]) == (
        "failed",
        3,
        None,
        None,
    )
    assert (record["stdout"], record["stderr"], record["stdout_bytes"]) == ("out", "err", 4)
    assert (record["started"], record["finished"], record["failed"], record["changed"]) == (
        True,
        True,
        True,
        True,
    )
    assert record["msg"] == f"job {job.jid} failed: rc 3; last line of stderr: err"
    assert record["cmd"] == ["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}$", record["end"]) and re.match(
        r"0:00:\d\d\.\d{6}$", record["delta"]
    )
    assert (record["results_file"], record["stdout_file"]) == (job.results_file, job.path("stdout"))


def test_while_it_runs_the_record_says_so(launcher):
    job = launcher.shell("sleep 60")
    record = job.read_record()
    assert (record["state"], record["started"], record["finished"], record["rc"]) == (
        "running",
        True,
        False,
        None,
    )
    assert job.is_held("keeper") and job.is_held("runner")


def test_the_command_is_running_when_the_launch_returns(launcher):
    job = launcher("sleep", "60")
    command = job.read_record()["durable_jobs"]["command"]["pid"]
    with open(f"/proc/{command}/cmdline", "rb") as cmdline:
        assert cmdline.read() == b"sleep\x0060\x00"


def test_nothing_of_ours_is_left_after_the_end(launcher):
    job = launcher.shell("true")
    pids = launcher.keeper(job)
    launcher.finished(job)
    until(
        lambda: all(processes.process(pid) is None for pid in pids), "the end of keeper and runner"
    )
    assert not job.is_held("keeper") and not job.is_held("runner")
    assert sorted(os.listdir(os.path.dirname(job.path("x")))) == [
        "ending",
        "exit",
        "keeper",
        "runner",
        "stderr",
        "stdout",
    ]


def test_a_command_killed_by_a_signal(launcher):
    record = launcher.finished(launcher.shell("kill -KILL $$"))
    assert (record["state"], record["rc"], record["signal"]) == ("failed", -9, "SIGKILL")
    assert "killed by SIGKILL" in record["msg"]


def test_a_job_ends_with_its_command_though_a_child_keeps_the_output_open(launcher):
    job = launcher.shell("sleep 60 & echo done")
    record = launcher.finished(job)
    assert (record["state"], record["stdout"]) == ("succeeded", "done")
    # It is left alone; it may not have been exec'ed yet.
    until(lambda: [one.name for one in launcher.processes(job)] == ["sleep"])


def test_many_jobs_from_one_launcher_answer_in_order(launcher):
    answers = launcher.raw(
        *[request("/bin/sh", "-c", f"exit {number}") for number in range(5)],
        request("/nope"),
        request("true"),
    )
    assert ["error" in one for one in answers] == [False] * 5 + [True, False]
    assert [launcher.finished(job)["rc"] for job in launcher.jobs] == [0, 1, 2, 3, 4, 0]
    assert sorted(job.jid for job in launcher.jobs) == [job.jid for job in launcher.jobs]


def test_the_launcher_leaves_no_zombie_and_returns_though_jobs_run(launcher):
    launcher.raw(request("sleep", "60"), request("/nope"))
    me = os.getpid()
    assert not [
        one for one in processes.all_processes().values() if one.parent == me and one.zombie
    ]


# -- what cannot be launched ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "changes", "says"),
    [
        (["/opt/x"], {}, "argv /opt/x: No such file or directory"),
        (["no-such-program"], {}, "no-such-program: No such file or directory"),
        (["/etc"], {}, "/etc: Permission denied"),
        (["/etc/passwd"], {}, "/etc/passwd: Permission denied"),
        (["true"], {"chdir": "/nope"}, "chdir /nope: No such file or directory"),
        (["true"], {"chdir": "/etc/passwd"}, "chdir /etc/passwd: Not a directory"),
        (["true", "x" * 200_000], {}, "true: Argument list too long"),
    ],
)
def test_a_launch_that_fails_says_why_and_leaves_nothing(launcher, argv, changes, says):
    with pytest.raises(JobError) as caught:
        launcher(*argv, **changes)
    assert says in caught.value.msg and caught.value.details["errno"] > 0
    assert os.listdir(launcher.store.path) == [".durable"]
    assert os.listdir(launcher.store.private_path("jobs")) == []


def test_a_script_whose_interpreter_is_missing(launcher, tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(JobError, match=r"No such file or directory \(it exists; the interpreter"):
        launcher(str(script))


def children(pid):
    return [one for one in processes.all_processes().values() if one.parent == pid]


@pytest.mark.parametrize("_round", range(20))
def test_what_runs_has_a_record_whenever_the_keeper_is_killed(launcher, tmp_path, _round):
    asked = {
        "async_dir": launcher.store.path,
        "jobs": [request("/usr/bin/touch", str(tmp_path / "ran"))],
    }
    arguments = [sys.executable, "-I", "-S", launcher.program]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(json.dumps(asked).encode())
        process.stdin.close()
        until(lambda: children(process.pid) or process.poll() is not None)
        for one in children(process.pid):
            processes.send(one, signal.SIGKILL)
        answer = json.loads(process.stdout.read())["jobs"][0]
    jids = [name for name in os.listdir(launcher.store.path) if name.startswith("j")]
    assert ("record" in answer) <= (len(jids) == 1)
    final = status.wait(launcher.store.job(jids[0]), PATIENCE) if jids else None
    if (tmp_path / "ran").exists():
        assert final["state"] == "succeeded"
    else:
        assert final is None or final["state"] == "lost", "what never ran has no exit status"


# -- surroundings of the command --------------------------------------------------------------------------------------


def test_the_command_finds_the_surroundings_that_the_launcher_found(launcher, tmp_path):
    plain = subprocess.run(
        ["/bin/sh", "-c", "env; umask; pwd; cat"],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=str(tmp_path),
    )
    launcher.raw(request("/bin/sh", "-c", "env; umask; pwd; cat"), cwd=str(tmp_path))
    record = launcher.finished(launcher.jobs[-1])
    found = [
        line
        for line in record["stdout"].splitlines()
        if not line.startswith(("DURABLE_JOB_", "NOTIFY_SOCKET="))
    ]
    assert sorted(found) == sorted(plain.stdout.decode().splitlines())
    assert f"DURABLE_JOB_ID={launcher.jobs[-1].jid}" in record["stdout"]


def test_parameters_of_the_surroundings(launcher, tmp_path):
    changes = {
        "chdir": str(tmp_path),
        "env": {"A": "1 2"},
        "umask": 0o027,
        "nice": 3,
        "stdin": "typed\nlines",
    }
    record = launcher.finished(launcher.shell('echo "$A"; umask; nice; pwd; cat', **changes))
    assert record["stdout"].splitlines() == [
        "1 2",
        "0027",
        str(os.nice(0) + 3),
        str(tmp_path),
        "typed",
        "lines",
    ]


def test_the_command_leads_a_session_and_holds_no_descriptor_of_ours(launcher):
    record = launcher.finished(
        launcher.shell("ls /proc/self/fd; cut -d' ' -f5,6 /proc/$$/stat; echo $$")
    )
    *fds, groups, pid = record["stdout"].splitlines()
    assert groups == f"{pid} {pid}"
    assert fds == ["0", "1", "2", "3"], "3 is the folder that ls itself opened"


def test_large_stdin_and_bytes_that_are_no_text(launcher):
    text = "é\udcff" * 300_000
    record = launcher.finished(launcher("/usr/bin/wc", "-c", stdin=text))
    assert record["stdout"] == str(len(text.encode("utf-8", "surrogateescape")))


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_env_and_stdin_are_in_no_file_and_no_argv(launcher):
    job = launcher.shell("sleep 60", env={"PASSWORD": "s3cret-env"}, stdin="s3cret-stdin")
    assert b"s3cret" not in everything_below(launcher.store.path)
    for one in (*launcher.keeper(job), job.read_record()["durable_jobs"]["command"]["pid"]):
        with open(f"/proc/{one}/cmdline", "rb") as cmdline:
            assert b"s3cret" not in cmdline.read()


def test_no_log_keeps_command_and_output_out_of_the_record(launcher):
    job = launcher.shell("echo s3cret-out; echo s3cret-err >&2; exit 1", no_log=True)
    record = launcher.finished(job)
    assert "s3cret" not in str(record) and "no_log" in record["stdout"]
    with open(job.path("stdout"), "rb") as stream:
        assert stream.read() == b"s3cret-out\n", "the owner can read the file"


def test_everything_is_private_whatever_the_umask(launcher):
    launcher.raw(request("/bin/sh", "-c", "umask; sleep 60"), preexec_fn=lambda: os.umask(0))
    job = launcher.jobs[-1]
    until(lambda: os.stat(job.path("stdout")).st_size)
    for folder, _folders, files in os.walk(launcher.store.path):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700, folder
        for name in files:
            assert stat.S_IMODE(os.lstat(os.path.join(folder, name)).st_mode) & 0o177 == 0, name
    with open(job.path("stdout"), encoding="ascii") as stream:
        assert stream.read() == "0000\n", "but the command has the umask of its surroundings"


# -- output -----------------------------------------------------------------------------------------------------------


def test_output_is_there_while_the_job_runs(launcher):
    job = launcher.shell("echo early; sleep 60")
    until(lambda: os.stat(job.path("stdout")).st_size == 6)


def test_the_output_limit_neither_blocks_nor_kills(launcher):
    job = launcher.shell(
        "i=0; while [ $i -lt 20 ]; do head -c 1000000 /dev/zero | tr '\\0' x; i=$((i+1)); done; echo; echo end",
        output_limit=100_000,
    )
    record = launcher.finished(job)
    assert (record["state"], record["stdout_bytes"], record["truncated"]) == (
        "succeeded",
        20_000_005,
        True,
    )
    assert (
        record["stdout"].startswith("x" * 1000)
        and record["stdout"].endswith("x\nend")
        and len(record["stdout"]) <= 100_000
    )
    found = os.stat(job.path("stdout"))
    assert found.st_size == 20_000_005 and found.st_blocks * 512 < 150_000


def test_a_record_embeds_at_most_1_mib(launcher):
    record = launcher.finished(launcher.shell("head -c 5000000 /dev/urandom", output_limit=0))
    assert record["truncated"] and record["stdout_bytes"] == 5_000_000
    assert len(record["stdout"].encode()) <= 1024 * 1024


# -- the deadline -----------------------------------------------------------------------------------------------------


def test_a_deadline_ends_the_whole_tree_and_keeps_the_output(launcher):
    line = "echo before; setsid sleep 61 & (sleep 62 &) ; setsid sh -c 'setsid sleep 63 & exit' ; sleep 64"
    job = launcher.ready(line, timeout=2)
    record = launcher.finished(job)
    assert (record["state"], record["rc"], record["signal"]) == ("timed_out", -15, "SIGTERM")
    assert (record["stdout"], record["survivors"], record["failed"]) == ("before", [], True)
    assert "limit of 2 s" in record["msg"]
    assert launcher.processes(job) == []


@pytest.mark.parametrize(
    ("line", "rc"),
    [
        ("trap '' TERM; echo ready; while :; do sleep 1; done", -9),
        ("trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done", -15),
        ("trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done", 7),
        ("echo ready; kill -STOP $$", -15),
    ],
    ids=["ignores", "exits-0", "exits-7", "stopped"],
)
def test_however_a_command_takes_it_it_is_ended(launcher, line, rc):
    job = launcher.ready(line)
    record = stopping.stop(job, number=signal.SIGTERM, grace=0.7, reason="test")
    assert (record["state"], record["rc"]) == ("stopped", rc)
    assert launcher.processes(job) == []


def test_children_that_fork_while_being_killed_are_killed(launcher):
    spawn = "spawn() { trap '' TERM; while :; do (sleep 0.05; sleep 60) & sleep 0.01; done; }"
    job = launcher.ready(f"trap '' TERM; {spawn}; spawn & echo ready; spawn")
    record = stopping.stop(job, number=signal.SIGTERM, grace=0.3, reason="test")
    assert (record["state"], launcher.processes(job)) == ("stopped", [])


def test_grace_is_given_to_children_too(launcher):
    child = "(trap 'sleep 0.3; echo tidied; exit' TERM; echo ready; while :; do sleep 0.05; done)"
    job = launcher.ready(f"{child} & exec sleep 60")
    record = stopping.stop(job, number=signal.SIGTERM, grace=30, reason="test")
    assert (record["stdout_lines"], record["rc"]) == (["ready", "tidied"], -15)


def test_another_stop_signal(launcher):
    job = launcher.ready("trap 'exit 5' INT; echo ready; while :; do sleep 0.05; done")
    record = stopping.stop(job, number=signal.SIGINT, grace=30, reason="test")
    assert (record["rc"], record["state"]) == (5, "stopped")


def test_the_command_hears_every_signal_whatever_its_launcher_ignores_or_blocks(launcher):
    def be_deaf():
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR2))

    launcher.raw(request("grep", "-E", "^Sig(Ign|Blk):", "/proc/self/status"), preexec_fn=be_deaf)
    lines = launcher.finished(launcher.jobs[-1])["stdout"].splitlines()
    known = sum(1 << number - 1 for number in signal.Signals)  # two are the C library's own
    assert [int(line.split()[1], 16) & known for line in lines] == [0, 0]


def test_no_timeout_is_no_deadline(launcher):
    job = launcher.shell("sleep 0.3", timeout=0)
    assert job.read_record()["deadline"] is None
    assert launcher.finished(job)["state"] == "succeeded"


# -- no single death loses a result -----------------------------------------------------------------------------------


def keeper_of(launcher, job):
    """Return the pid of the job's present keeper: the first one, or the child of the runner that replaced it."""
    first, runner = launcher.keeper(job)
    command = job.read_record()["durable_jobs"]["command"]["pid"]
    table = processes.all_processes().values()
    later = [one.pid for one in table if one.parent == runner and one.pid != command]
    return later[0] if later else first


def kill_keeper(launcher, job):
    """Kill the keeper, and wait until the runner has given the job a new one."""
    old = processes.process(keeper_of(launcher, job))
    os.kill(old.pid, signal.SIGKILL)
    until(lambda: not processes.is_alive(old.pid, old.started))
    until(lambda: job.is_held("keeper"), "a new keeper")


def test_a_job_whose_keeper_is_killed_gets_a_new_one_and_loses_nothing(launcher):
    job = launcher.gated("echo late; exit 4")
    kill_keeper(launcher, job)
    launcher.release()
    record = launcher.finished(job)
    assert (record["state"], record["rc"], record["stdout"]) == ("failed", 4, "late")


def test_keepers_may_be_killed_one_after_the_other(launcher):
    job = launcher.gated("exit 4")
    for _again in range(3):
        kill_keeper(launcher, job)
    launcher.release()
    assert launcher.finished(job)["rc"] == 4


def test_the_deadline_holds_for_the_whole_tree_though_the_keeper_is_killed(launcher):
    job = launcher.shell("setsid sleep 61 & (sleep 62 &) ; sleep 63", timeout=4)
    kill_keeper(launcher, job)
    record = launcher.finished(job)
    assert (record["state"], record["rc"]) == ("timed_out", -15)
    assert launcher.processes(job) == []


def test_the_output_limit_holds_though_the_keeper_is_killed(launcher):
    job = launcher.gated("head -c 5000000 /dev/zero; echo end", output_limit=100_000)
    kill_keeper(launcher, job)
    launcher.release()
    record = launcher.finished(job)
    assert (record["stdout_bytes"], record["truncated"]) == (5_000_004, True)
    assert os.stat(job.path("stdout")).st_blocks * 512 < 150_000


def test_an_ending_that_its_keeper_did_not_live_to_see_is_seen_through(launcher):
    job = launcher.ready("trap '' TERM; echo ready; while :; do sleep 0.1; done", grace=60)
    with open(job.path("keeper"), "wb", buffering=0) as mailbox:
        mailbox.write(b'{"signal": 15, "grace": 1, "reason": "test"}\n')
    until(lambda: job.slot("ending"))
    kill_keeper(launcher, job)
    record = launcher.finished(job)
    assert (record["state"], record["rc"], record["reason"]) == ("stopped", -9, "test")
    assert launcher.processes(job) == []


def test_a_job_that_lost_keeper_and_runner_can_be_adopted(launcher):
    job = launcher.shell("setsid sleep 61 & sleep 62", timeout=4)
    keeper, runner = launcher.keeper(job)
    os.kill(runner, signal.SIGSTOP)  # or it would give the job a new keeper first
    for pid in (keeper, runner):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not job.is_held("keeper") and not job.is_held("runner"))
    launcher.raw(adopt=[job.jid])
    assert job.is_held("keeper")
    record = launcher.finished(job)
    assert (record["state"], record["rc"], record["failed"]) == ("timed_out", None, True)
    assert launcher.processes(job) == []


def test_adopting_what_needs_no_keeper_changes_nothing(launcher):
    running, finished = launcher.shell("sleep 60"), launcher.shell("exit 3")
    final = launcher.finished(finished)
    before = running.read_record()
    launcher.raw(adopt=[running.jid, finished.jid])
    assert (running.read_record(), finished.read_record()) == (before, final)


def test_a_job_of_another_boot_is_not_adopted(launcher):
    job = launcher.shell("sleep 62")
    keeper, runner = launcher.keeper(job)
    os.kill(runner, signal.SIGSTOP)
    for pid in (keeper, runner):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not job.is_held("keeper") and not job.is_held("runner"))
    record = job.read_record()
    record["durable_jobs"]["boot_id"] = "another"
    with open(job.results_file, "w", encoding="ascii") as file:
        json.dump(record, file)
    launcher.raw(adopt=[job.jid])
    assert not job.is_held("keeper"), "a pid and a start time say nothing after a reboot"
    assert status.look(job)["reason"] == "rebooted"


@pytest.mark.parametrize("end", [0, 3, 255, -signal.SIGKILL, -signal.SIGQUIT])
def test_the_runner_knows_the_status_before_it_reaps_the_command(end):
    command = os.fork()
    if command == 0:
        if end < 0:
            if -end != signal.SIGKILL:
                signal.signal(
                    -end, signal.SIG_DFL
                )  # who runs the tests in the background ignores it
            os.kill(os.getpid(), -end)
        os._exit(end)
    assert runner._ended(command) is None or processes.process(command).zombie
    until(lambda: processes.process(command).zombie, "the end of the command")
    code = runner._ended(command)
    assert schema.exit_outcome(code)[1] == end
    assert os.waitpid(command, 0) == (command, code), "it was still there to be reaped"


def test_the_keeper_learns_the_status_when_the_runner_is_killed(launcher):
    job = launcher.gated("exit 6")
    _keeper, runner = launcher.keeper(job)
    os.kill(runner, signal.SIGKILL)
    launcher.release()
    record = launcher.finished(job)
    assert (record["state"], record["rc"]) == ("failed", 6)


def test_the_deadline_holds_though_the_runner_is_killed(launcher):
    job = launcher.shell("sleep 60", timeout=2)
    os.kill(launcher.keeper(job)[1], signal.SIGKILL)
    assert launcher.finished(job)["state"] == "timed_out"
    assert launcher.processes(job) == []


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_what_a_logout_or_a_terminal_sends_ends_neither_keeper_nor_runner(launcher, number):
    job = launcher.gated("true")
    for pid in launcher.keeper(job):
        os.kill(pid, number)
    launcher.release()
    assert launcher.finished(job)["state"] == "succeeded"


def test_a_keeper_that_fails_at_its_last_step_leaves_the_reason_and_loses_nothing(launcher):
    job = launcher.gated("exit 3")
    os.unlink(job.results_file)
    os.mkdir(job.results_file)
    launcher.release()
    log = Path(job.path("keeper.log"))
    until(lambda: log.exists() and "IsADirectoryError" in log.read_text(encoding="utf-8"))
    assert until(lambda: job.slot("exit"))["status"] == 3 << 8


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"nice": 10**20}, "nice 10{20}: OverflowError"),
        ({"umask": 10**20}, "umask 10{20}: OverflowError"),
        ({"timeout": 1e300}, "its record cannot be written: OverflowError"),
    ],
)
def test_a_number_that_no_parameter_can_have_leaves_nothing(launcher, changes, says):
    """Modules refuse these. Whatever comes through all the same is told as it was seen."""
    for named in ({}, {"name": "nap", "spec": {}}):
        with pytest.raises(JobError, match=says):
            launcher("sleep", "60", **changes, **named)
    assert os.listdir(launcher.store.path) == [".durable"]
    assert os.listdir(launcher.store.private_path("jobs")) == []
    assert latest_job(launcher.store, "nap") is None


def test_a_command_that_gives_up_before_its_gate_opens_says_why_and_leaves_nothing(launcher):
    with pytest.raises(JobError, match="not encodable as text") as caught:
        launcher("cat", stdin="s3cret\ud800")
    assert "s3cret" not in caught.value.msg
    assert os.listdir(launcher.store.path) == [".durable"]
    assert os.listdir(launcher.store.private_path("jobs")) == []
