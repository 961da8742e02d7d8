# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Record what a release leaves in an async dir: an archive of it, and what the release itself says of each job.

Once a release, as root, with ansible-core, util-linux and GNU tar, from the top of the repository::

    .venv/bin/nox -R -s collection unit -- --version
    .nox/unit/bin/python .nox/tree/ansible_collections/durable/jobs/tests/golden/record.py tests/golden/1.0.0

The program uses the collection in whose tree it lies, through its modules. So it need not change with the engine. It
knows three things of docs/design/files.md: where records and slots lie, and that a record has the pids of its
processes.

The machine of a recording is an invented one: host name, /etc/machine-id and boot id are replaced in a namespace of
its own. So the archive tells nothing of the machine of the person who records, and no machine takes the jobs for its
own.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable

    Result = Dict[str, Any]

HERE = Path(__file__).resolve()
COLLECTION = HERE.parents[2]
GROUND = Path("/tmp/durable_jobs_golden")  # is in the records, so it is the same for everybody
ASYNC_DIR = GROUND / "async"
GO, NOW = GROUND / "go", GROUND / "now"  # files for which jobs wait
HOST = "golden"
IDENTITY = {
    "/etc/machine-id": "901de0901de0901de0901de0901de090",
    "/proc/sys/kernel/random/boot_id": "901de000-0000-4000-8000-000000000000",
}
PYTHON = "/usr/bin/python3"  # is in the records of modules
PATIENCE = 60  # seconds
INSIDE = "DURABLE_JOBS_GOLDEN_INSIDE"
LONG = 2000  # characters; expected.json holds the length and the beginning of a longer text
# What a result has from ansible-core, and from the loop.
UNTOLD = ("invocation", "warnings", "deprecations", "item", "ansible_loop_var", "exception")
STREAMS = ("stdout", "stderr")
OUTPUT = ("content", "size", "cut_from", "cut_to")

HOLD = "echo begun; sleep 600"
REPORT = """
import os, socket, time
where = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
where.connect(os.environ["NOTIFY_SOCKET"])
where.send(%r)
time.sleep(%d)
"""
# What a look says of a job whose machine was switched off while the job was queued or running.
GONE: dict[str, Any] = dict.fromkeys(("rc", "signal", "end", "delta", "elapsed"))
REBOOTED: dict[str, Any] = {
    **GONE,
    "state": "lost",
    "reason": "rebooted",
    "finished": True,
    "failed": True,
    "changed": True,
}
# Its keeper had written down that the job is over before it sent the first signal.
ENDED: dict[str, Any] = {**REBOOTED, "state": "timed_out", "reason": None}
LIVE: dict[str, dict[str, Any]] = {
    "running": REBOOTED,
    "running with a report": REBOOTED,
    "running with no_log": REBOOTED,
    "running module": {**REBOOTED, "stdout": "", "stdout_lines": []},  # it has no result
    "batch running": REBOOTED,
    "batch queued": REBOOTED,
    "batch last": REBOOTED,
    "being ended": ENDED,
}


def main() -> None:
    """Record into the folder that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="tests/golden/<version>, which is made")
    folder = parser.parse_args().folder.resolve()
    if INSIDE not in os.environ:
        words = ["unshare", "--mount", "--uts", sys.executable, *sys.argv]
        raise SystemExit(subprocess.call(words, env={**os.environ, INSIDE: "1"}))
    _become_another_machine()
    recorder = Recorder()
    try:
        record_ways_to_end(recorder)
        record_batch(recorder)
        record_async(recorder)
        launch_live(recorder)
        recorder.look(*LIVE)
        folder.mkdir(parents=True)
        recorder.copy(folder / "async_dir.tgz")
        recorder.look("exited")  # not before: a look writes down how the job has ended
        recorder.tell(folder / "expected.json")
    finally:
        recorder.ours("job_stop", jobs=list(recorder.labels.values()), grace=0)


def _become_another_machine() -> None:
    GROUND.mkdir(mode=0o755, exist_ok=True)
    subprocess.check_call(["mount", "-t", "tmpfs", "-o", "mode=755", "none", str(GROUND)])
    subprocess.check_call(["hostname", HOST])
    for number, (path, identity) in enumerate(IDENTITY.items()):
        stand_in = GROUND / ("identity%d" % number)
        stand_in.write_text(identity + "\n", encoding="ascii")
        subprocess.check_call(["mount", "--bind", str(stand_in), path])


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait until a condition is true."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > limit:
            raise SystemExit("%s: not within %d s" % (what, PATIENCE))
        time.sleep(0.02)


class Recorder:
    """The jobs of a recording. Each has a label that says what it stands for."""

    def __init__(self) -> None:
        self.labels: dict[str, str] = {}  # by label, the jid
        self.launched: dict[str, Result] = {}  # by label, the parameters of a named job
        self.said: dict[str, Result] = {}  # by label, what the release says

    def run(self, module: str, arguments: Result, *options: str, **environment: str) -> Result:
        """Run a module on this machine and return its result."""
        words = ("ansible", "localhost", "-m", module, "-a", json.dumps(arguments), *options)
        done = self._ansible(*words, **environment)
        _host, arrow, text = done.stdout.decode().partition("=> ")
        if not arrow:
            raise SystemExit("%s %s: %r %r" % (module, arguments, done.stdout, done.stderr))
        result: Result = json.loads(text)
        return result

    def ours(self, verb: str, **arguments: Any) -> Result:
        """Run a module of the collection."""
        return self.run("durable.jobs." + verb, arguments)

    def each(self, verb: str, arguments: list[Result]) -> list[Result]:
        """Run a module of the collection several times, in one play, and return the results."""
        results, playbook = GROUND / "results.json", GROUND / "play.json"
        passed = {name: "{{ item.%s }}" % name for name in arguments[0]}
        calls = {"durable.jobs." + verb: passed, "loop": arguments, "register": "seen"}
        writing = {"content": "{{ seen.results | to_json }}", "dest": str(results)}
        tasks = [{**calls, "ignore_errors": True}, {"ansible.builtin.copy": writing}]
        play = {"hosts": "localhost", "gather_facts": False, "tasks": tasks}
        playbook.write_text(json.dumps([play]), encoding="ascii")
        done = self._ansible("ansible-playbook", str(playbook))
        if done.returncode:
            raise SystemExit("%s: %r %r" % (verb, done.stdout, done.stderr))
        found: list[Result] = json.loads(results.read_bytes())
        return found

    def _ansible(self, program: str, *words: str, **environment: str) -> Any:
        surroundings = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "HOME": str(GROUND),
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTION.parents[2]),
            "ANSIBLE_ASYNC_DIR": str(ASYNC_DIR),
            "ANSIBLE_LIBRARY": str(HERE.parent / "library"),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
            "ANSIBLE_NOCOLOR": "true",
        }
        local = ("-c", "local", "-e", "ansible_python_interpreter=" + PYTHON)
        return subprocess.run(
            [str(Path(sys.executable).with_name(program)), *words, *local],
            env={**surroundings, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=4 * PATIENCE,
            check=False,
            cwd=str(GROUND),
        )

    def start(self, label: str, verb: str = "job_start", **params: Any) -> None:
        """Launch a job."""
        self._find(label, lambda: self.ours(verb, **params))
        if verb == "job_start" and "name" in params:
            self.launched[label] = params

    def start_hidden(self, label: str, **params: Any) -> None:
        """Launch a job with no_log."""
        hidden = {"ANSIBLE_NO_LOG": "true"}
        self._find(label, lambda: self.run("durable.jobs.job_start", params, **hidden))

    def start_async(self, label: str, line: str, **environment: str) -> None:
        """Launch a line of shell with the task keyword ``async``."""
        asked = {"_raw_params": line}
        options = ("-B", "60", "-P", "0")
        launch = "ansible.builtin.shell"
        self._find(label, lambda: self.run(launch, asked, *options, **environment))

    def start_batch(self, *jobs: Result) -> None:
        """Launch jobs one after the other; the label of each is its name."""
        for one in self.ours("job_batch", jobs=list(jobs), slots=1)["jobs"]:
            self.labels[one["name"]] = one["ansible_job_id"]

    def _find(self, label: str, launch: Callable[[], Result]) -> None:
        """Launch one job and note its jid: the result does not always tell it."""
        before = set(ASYNC_DIR.glob("j*"))
        result = launch()
        new = set(ASYNC_DIR.glob("j*")) - before
        if len(new) != 1:
            raise SystemExit("%s: %s" % (label, result))
        self.labels[label] = new.pop().name

    def look(self, *labels: str) -> None:
        """Wait for the end of jobs, unless they are to be copied alive, and keep what the release says of them."""
        asked = [
            {"jid": self.labels[label], "wait": 0 if label in LIVE else PATIENCE}
            for label in labels
        ]
        for label, said in zip(labels, self.each("job_status", asked)):
            if said["finished"] is (label in LIVE):
                raise SystemExit("%s: %s" % (label, said))
            self.said[label] = said

    def processes(self, label: str) -> dict[str, int]:
        """Return the pids in a job's record."""
        private = json.loads((ASYNC_DIR / self.labels[label]).read_bytes())["durable_jobs"]
        return {role: private[role] for role in ("keeper", "runner")}

    def file(self, label: str, name: str) -> bytes:
        """Return the content of one of a job's files; of a slot that is not filled, nothing."""
        path = ASYNC_DIR / ".durable" / "jobs" / self.labels[label] / name
        return path.read_bytes().strip(b"\0") if path.exists() else b""

    def kill(self, label: str) -> None:
        """Kill keeper and runner of a job at once: neither has the time to replace the other."""
        alive = [pid for pid in self.processes(label).values() if _is_alive(pid)]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in alive:
                os.kill(pid, number)
        until(lambda: not any(_is_alive(pid) for pid in alive), "the death of " + label)

    def copy(self, archive: Path) -> None:
        """Copy the async dir as it is at this moment.

        Compiled files are left out, because they belong to one Python. Sockets are left out by tar.
        """
        tar = ["tar", "--create", "--sparse", "--format=gnu", "--sort=name", "--exclude=*.pyc"]
        tar += ["--owner=root:0", "--group=root:0", "--directory=%s" % GROUND]
        command = [*tar, *self._engine(), ASYNC_DIR.name]
        packed = subprocess.run(command, capture_output=True, check=True)
        with open(archive, "wb") as target:
            subprocess.run(["gzip", "-9", "-n"], input=packed.stdout, stdout=target, check=True)

    def _engine(self) -> list[str]:
        """Return what is copied beside the async dir: the engine as a program, unless that lies in the async dir."""
        if list(ASYNC_DIR.glob(".durable/engine/*/_job/program.py")):
            return []
        package = GROUND / "engine" / "_job"
        package.mkdir(parents=True)
        for part in (COLLECTION / "plugins/module_utils/_job").glob("*.py"):
            (package / part.name).write_bytes(part.read_bytes())
        program = COLLECTION / "tests/unit/launcher_program.py"
        (package / "program.py").write_bytes(program.read_bytes())
        return ["engine"]

    def tell(self, target: Path) -> None:
        """Write down what the release says of all jobs, and what is to be read elsewhere."""
        names = {}
        for label in sorted(self.labels, key=self.labels.__getitem__):
            if self.said[label].get("name"):
                names[self.said[label]["name"]] = self.labels[label]  # the latest
        jobs = {label: self._told(label) for label in self.labels}
        ours = [label for label in jobs if self.said[label]["stdout_file"]]  # not the builtin's
        asked = [
            {"jid": jobs[label]["jid"], "stream": stream, "max_bytes": 2**24, "reveal": True}
            for label in ours
            for stream in STREAMS
        ]
        pieces = iter(self.each("job_output", asked))
        for label in ours:
            jobs[label]["output"] = {stream: _only(next(pieces), OUTPUT) for stream in STREAMS}
        text = json.dumps({"jobs": jobs, "names": names}, indent=1, sort_keys=True)
        target.write_text(text + "\n", encoding="ascii")

    def _told(self, label: str) -> Result:
        said = [key for key in self.said[label] if key not in UNTOLD]
        found: Result = {"jid": self.labels[label], "said": _only(self.said[label], said)}
        if label in self.launched:
            found["launched"] = self.launched[label]
        if label in LIVE:
            found["moved"] = LIVE[label]
        return found


def _only(result: Result, keys: Iterable[str]) -> Result:
    """Return some keys of a result, and of a long text its length and both ends."""
    found = {key: result[key] for key in keys}
    for key, value in list(found.items()):
        if isinstance(value, str) and len(value) > LONG:
            found[key] = {"length": len(value), "begins": value[:80], "ends": value[-80:]}
        elif isinstance(value, list) and len(str(value)) > LONG:
            del found[key]  # the lines of such a text
    return found


def _is_alive(pid: int) -> bool:
    try:
        state = Path("/proc/%d/stat" % pid).read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state not in (b"Z", b"X")


def _waiting_for(path: Path, line: str) -> str:
    """Return a line of shell that waits for a file first, however slow the machine is."""
    return "until [ -e %s ]; do sleep 0.05; done; %s" % (path, line)


def record_ways_to_end(recorder: Recorder) -> None:
    """Record a job for each way to end, and for each thing that a record can hold."""
    start = recorder.start
    start("succeeded", shell=r"printf 'caf\303\251 \377\n'; echo err >&2", name="succeeded")
    start("failed", shell="echo out; echo why >&2; exit 3", name="failed", rerun="on_failure")
    start("argv", argv=["/bin/echo", "one word", "2"], umask="0027", nice=3, chdir="/")
    start("killed by a signal", shell="kill -SEGV $$")
    start("timed out", shell=HOLD, timeout=1, max_timeout=60)
    start("watchdog", shell=HOLD, watchdog=1)
    start("named before", shell="echo first", name="nightly", rerun="never")
    recorder.look("named before")
    start("named", shell="echo second", name="nightly")
    recorder.start_hidden("no_log", shell="echo hidden", name="hidden")
    secrets: Result = {"env": {"TOKEN": "canary in env"}, "stdin": "canary in stdin"}
    start("secrets", shell="wc -c", name="secrets", rerun="never", **secrets)
    ping = {"module": "ansible.builtin.ping", "args": {"data": "golden"}}
    start("module", verb="job_module", name="module", **ping)
    report = REPORT % (b"X_PROGRESS=40\nSTATUS=copying", 0)
    start("progress", argv=[PYTHON, "-c", report], name="progress")
    start("output limit", shell="seq -w 100000; echo end", output_limit=100000)
    start("stopped", shell=HOLD)
    recorder.ours("job_stop", jobs=[recorder.labels["stopped"]])
    start("lost", shell=_waiting_for(GO, "echo out"))
    recorder.kill("lost")
    GO.touch()
    until(lambda: recorder.file("lost", "stdout"), "the output of a job that is lost")
    recorder.look(*(label for label in recorder.labels if label not in recorder.said))


def record_batch(recorder: Recorder) -> None:
    """Record jobs that did not start when they were launched."""
    GO.unlink()
    recorder.start_batch(
        {"name": "batch first", "shell": _waiting_for(GO, "exit 0")},
        {"name": "batch second", "shell": "echo out; exit 4"},
        {"name": "batch stopped", "shell": "exit 0"},
        {"name": "batch not started", "argv": ["/nonexistent/program"]},
    )
    recorder.ours("job_stop", jobs=[recorder.labels["batch stopped"]])
    GO.touch()
    recorder.look("batch first", "batch second", "batch stopped", "batch not started")


def record_async(recorder: Recorder) -> None:
    """Record jobs of the task keyword ``async``: carried out by the collection, and by ansible-core."""
    # An old place may hold modules that refuse.
    found = [path.parent for path in COLLECTION.glob("plugins/**/keyword/async_wrapper.py")]
    keyword = {"ANSIBLE_LIBRARY": str(max(found, key=lambda folder: len(folder.parts)))}
    recorder.start_async("keyword succeeded", "echo out", **keyword)
    recorder.start_async("keyword failed", "echo out; exit 3", **keyword)
    recorder.start_async("builtin succeeded", "echo out")
    recorder.start_async("builtin failed", "echo out; exit 3")
    recorder.look("keyword succeeded", "keyword failed", "builtin succeeded", "builtin failed")


def launch_live(recorder: Recorder) -> None:
    """Launch jobs that are copied while they are queued, run, are being ended, or have just ended."""
    start = recorder.start
    start("running", shell=HOLD, name="running", timeout=900)
    report = b"X_PROGRESS=40\nSTATUS=copying\nEXTEND_TIMEOUT_USEC=900000000"
    argv = [PYTHON, "-c", REPORT % (report, 600)]
    start("running with a report", argv=argv, name="reporting", timeout=700, max_timeout=2000)
    recorder.start_hidden("running with no_log", shell=HOLD, name="running and hidden")
    start("running module", verb="job_module", module="golden_hold", name="running module")
    recorder.start_batch(
        {"name": "batch running", "shell": HOLD},
        {"name": "batch queued", "shell": "exit 0"},
        {"name": "batch last", "shell": "exit 0"},
    )
    stubborn = "trap '' TERM; echo begun; while :; do sleep 1; done"
    start("being ended", shell=stubborn, timeout=1, grace=600)
    start("exited", shell=_waiting_for(NOW, "echo done; exit 4"), name="exited")

    for label in ("running", "running with no_log", "running module", "batch running"):
        until(functools.partial(recorder.file, label, "stdout"), "the output of " + label)
    until(lambda: recorder.file("running with a report", "progress"), "the report")
    until(lambda: recorder.file("being ended", "ending"), "the stop signal")
    # The runner writes down how the command has ended, and nobody writes the final record.
    os.kill(recorder.processes("exited")["keeper"], signal.SIGSTOP)
    NOW.touch()
    until(lambda: recorder.file("exited", "exit"), "the exit record")
    recorder.kill("exited")


if __name__ == "__main__":
    main()
