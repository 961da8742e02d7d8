# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the measurements take place: hosts, folders, and playbooks whose tasks are timed."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import typing as t

from ansible_collections.durable.jobs.tests.bench import mitogen_strategy, processes, sshd
from ansible_collections.durable.jobs.tests.bench.family import Family

HERE = pathlib.Path(__file__).absolute().parent
COLLECTIONS = HERE.parents[4]  # what is imported here is what ansible must measure
PATIENCE = 60.0  # seconds after which something that should come true is an error
SETTLE = 0.4  # seconds between the tasks of a play that measures them
LARGE = 2**20  # bytes; what is larger and not needed any more is emptied

# Not the environment's: a target's Python has no site-packages full of ansible.
PYTHON = os.path.realpath(sys.executable)

TaskSpec = t.Dict[str, t.Any]


@dataclasses.dataclass
class Play:
    """Tasks for one of the lab's hosts, one after the other."""

    host: str
    tasks: list[TaskSpec]


@dataclasses.dataclass
class Task:
    """A task that has been run; times are seconds since the epoch."""

    name: str
    host: str
    start: float
    end: float
    jids: list[str]


@dataclasses.dataclass
class Costs:
    """What a playbook has cost from its task ``launch`` to its end.

    :param controller: processor seconds of ansible, its workers and ssh.
    :param target: processor seconds of sshd, modules, engines and jobs.
    :param runs: how many modules were run.
    """

    controller: float
    target: float
    runs: int


class PlaybookFailed(RuntimeError):
    """A playbook of the bench failed; the text is ansible's output."""


class Lab:
    """Everything that a measurement needs. Made by :func:`open_lab`.

    :param folder: of this run; removed with all that is in it.
    :param hosts: inventory variables by host name.
    :param targets: the roots of the families of the sshds' processes, see family.py.
    :param no_ssh: why there are no hosts that are reached over SSH.
    :param quick: few repetitions, for trying out.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        hosts: dict[str, dict[str, t.Any]],
        no_ssh: str | None,
        quick: bool,
        targets: t.Sequence[int] = (),
    ) -> None:
        self.target = folder / "target"
        self.async_dir = self.target / "async"
        self.targets = list(targets)
        self.hosts = hosts
        self.no_ssh = no_ssh
        self.quick = quick
        # The same phases in every run: what differs between two runs is not the dice.
        self.random = random.Random(2)
        self._folder = folder
        self._serial = itertools.count()
        for path in (self.target, self.async_dir):
            path.mkdir()
        self._config = folder / "ansible.cfg"
        self._config.touch()
        self._inventory = folder / "inventory.json"

    def repetitions(self, full: int, quick: int = 2) -> int:
        """Return how often to measure."""
        return quick if self.quick else full

    def path(self, stem: str) -> pathlib.Path:
        """Return a path that nobody has used, for a file of a job."""
        return self.target / f"{stem}.{next(self._serial)}"

    @contextlib.contextmanager
    def other_hosts(self, count: int) -> t.Iterator[list[str]]:
        """Have so many other hosts for a while, each at an address and with an async dir of its own; yield their names.

        :raises NoSshd: they cannot be had.
        """
        kept = self.hosts, self.targets
        addresses = [f"127.0.0.{number}" for number in range(2, 2 + count)]
        self.hosts, self.targets = {}, []
        with contextlib.ExitStack() as stack:
            for start in range(0, count, sshd.ADDRESSES):
                folder = self._folder / f"sshd.{start}"
                folder.mkdir()
                some = addresses[start : start + sshd.ADDRESSES]
                one = stack.enter_context(sshd.running(folder, addresses=some))
                self.targets.append(one.root)
                for host in one.hosts:
                    name = str(host["ansible_host"])
                    own = {"ansible_pipelining": True, "ansible_async_dir": str(self.path(name))}
                    self.hosts[name] = {**host, **own}
            try:
                yield list(self.hosts)
            finally:
                sshd.hang_up(self._folder / "cp")
                self.hosts, self.targets = kept

    def run(self, plays: t.Sequence[Play], *, settle: float = 0.0) -> list[Task]:
        """Run a playbook and return its tasks in the order in which they ended.

        :param settle: seconds to let the machine come to rest before each task.
        :raises PlaybookFailed: a task failed; the text is ansible's.
        """
        running = self.start(plays, settle=settle)
        try:
            return running.finish()
        finally:
            running.close()

    def start(
        self,
        plays: t.Sequence[Play],
        *,
        settle: float = 0.0,
        mitogen: bool = False,
        forks: int = 5,
    ) -> Running:
        """Start a playbook, which the caller must finish and close. Parameters as of :meth:`run`.

        :param mitogen: run it under mitogen's strategy.
        """
        stem = str(self._folder / f"play.{next(self._serial)}")
        book = [{"hosts": one.host, "gather_facts": False, "tasks": one.tasks} for one in plays]
        pathlib.Path(f"{stem}.json").write_text(json.dumps(book), encoding="utf-8")
        everything = {"all": {"hosts": self.hosts, "vars": self._host_vars()}}
        self._inventory.write_text(json.dumps(everything), encoding="utf-8")
        program = str(pathlib.Path(sys.executable).with_name("ansible-playbook"))
        command = [program, "-i", str(self._inventory), "-f", str(forks), f"{stem}.json"]
        environment = {
            **self._environment(),
            **(mitogen_strategy.ENVIRONMENT if mitogen else {}),
            "BENCH_TASKS": f"{stem}.tasks",
            "BENCH_SETTLE": str(settle),
            "BENCH_COSTS": f"{stem}.costs",
            "BENCH_TARGETS": ",".join(str(root) for root in self.targets),
        }
        with open(f"{stem}.log", "wb") as log:
            family = Family(command, env=environment, stdout=log, stderr=log)
        return Running(family, stem, self.hosts)

    def record(self, jid: str) -> dict[str, t.Any]:
        """Return a job's record."""
        found: dict[str, t.Any] = json.loads((self.async_dir / jid).read_bytes())
        return found

    def come_to_rest(self) -> None:
        """Wait until nothing that was launched is left running, and put aside what there is of jobs.

        It is not removed: ext4 takes long to make files for minutes after thousands have been removed.
        """
        until(lambda: not self._left(), "the end of all jobs")
        aside = self._folder / f"done.{next(self._serial)}"
        aside.mkdir()
        old = [path for path in self.async_dir.iterdir() if path.name != ".durable"]
        for path in (*old, *self.async_dir.glob(".durable/jobs")):
            path.rename(aside / path.name)
        for path in aside.rglob("*"):
            if path.stat().st_size > LARGE:
                os.truncate(path, 0)

    def close(self) -> None:
        """Wait for the jobs, end those that a failed measurement has left, and end the connections."""
        try:
            self.come_to_rest()
        except TimeoutError:
            for one in self._left():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)
        finally:
            sshd.hang_up(self._folder / "cp")

    def _left(self) -> list[processes.Process]:
        inside = str(self.target) + os.sep
        running = processes.snapshot().values()
        return [one for one in running if any(inside in word for word in one.argv)]

    def _host_vars(self) -> dict[str, t.Any]:
        return {
            "ansible_python_interpreter": PYTHON,
            "ansible_async_dir": str(self.async_dir),
            "ansible_remote_tmp": str(self.target / "tmp"),
        }

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if "ANSIBLE" not in name}
        return {
            **kept,
            "ANSIBLE_CONFIG": str(self._config),
            "ANSIBLE_HOME": str(self._folder / "home"),
            "ANSIBLE_LOCAL_TEMP": str(self._folder / "home" / "tmp"),
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self._folder / "cp"),
            "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback"),
            # In this order: the look at what has been used is no part of any task.
            "ANSIBLE_CALLBACKS_ENABLED": "task_costs,task_times",
            "ANSIBLE_NOCOLOR": "1",
            # The only way in which mitogen is told; see also sshd's SetEnv.
            "ANSIBLE_ASYNC_DIR": str(self.async_dir),
        }


class Running:
    """A playbook that runs, with all that it leaves behind. Made by :meth:`Lab.start`."""

    def __init__(self, family: Family, stem: str, hosts: dict[str, dict[str, t.Any]]) -> None:
        self.family = family
        self._stem = stem
        self._hosts = hosts

    def finish(self) -> list[Task]:
        """Wait for its end and return its tasks in the order in which they ended.

        :raises PlaybookFailed: a task failed; the text is ansible's.
        """
        if self.family.wait() != 0:
            raise PlaybookFailed(pathlib.Path(f"{self._stem}.log").read_text(encoding="utf-8"))
        return self.tasks()

    def tasks(self) -> list[Task]:
        """Return the tasks that have ended well."""
        path = pathlib.Path(f"{self._stem}.tasks")
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [Task(**json.loads(line)) for line in lines]

    def costs(self, host: str) -> Costs:
        """Return what it has cost, when it has ended. It has run on one host, or on others of its kind."""
        used = json.loads(pathlib.Path(f"{self._stem}.costs").read_bytes())
        if self._hosts[host]["ansible_connection"] == "local":
            controller, target = used["forks"], used["controller"] - used["forks"]
        else:
            controller, target = used["controller"], used["targets"]
        return Costs(controller, target, used["runs"])

    def close(self) -> None:
        """End it, if it is running. What it has left behind goes on."""
        self.family.close()


@contextlib.contextmanager
def open_lab(*, quick: bool) -> t.Iterator[Lab]:
    """Set up folders and an sshd, yield the lab, and leave nothing of it behind."""
    with contextlib.ExitStack() as stack:
        # The path of an SSH control socket has at most 107 bytes, so the folder's name is short.
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        (folder / "sshd").mkdir()
        hosts: dict[str, dict[str, t.Any]] = {"local": {"ansible_connection": "local"}}
        no_ssh = None
        targets = []
        try:
            async_dir = f"ANSIBLE_ASYNC_DIR={folder / 'target' / 'async'}"
            ours = stack.enter_context(sshd.running(folder / "sshd", environment=async_dir))
            (hosts["ssh"],), targets = ours.hosts, [ours.root]
        except sshd.NoSshd as why:
            no_ssh = str(why)
        for name in list(hosts):
            hosts[f"{name}_pipelined"] = dict(hosts[name], ansible_pipelining=True)
            if shutil.which("sudo"):
                hosts[f"{name}_become"] = dict(hosts[f"{name}_pipelined"], ansible_become=True)
            hosts[name] = dict(hosts[name], ansible_pipelining=False)
        lab = Lab(folder, hosts=hosts, no_ssh=no_ssh, quick=quick, targets=targets)
        stack.callback(lab.close)
        yield lab


def until(condition: t.Callable[[], bool], what: str) -> None:
    """Wait for a condition.

    :raises TimeoutError: it did not come true.
    """
    limit = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"{what} did not come within {PATIENCE:.0f} s")
        time.sleep(0.02)


class Hold:
    """Keeps jobs waiting, without using the processor, until all of them are let go at once.

    :param path: of a FIFO that is made here. The jobs run ``argv``, or ``line`` in a shell.
    """

    PROGRAM = "/bin/cat"

    def __init__(self, path: pathlib.Path) -> None:
        os.mkfifo(path, 0o600)
        self.path = path
        self.argv = [self.PROGRAM, str(path)]
        self.line = " ".join(self.argv)

    def wait_for(self, count: int) -> None:
        """Wait until so many jobs are being held."""
        until(lambda: self._held() >= count, f"{count} jobs that run")

    def release(self) -> None:
        """Let the jobs go: opening the FIFO wakes who waits to read it, closing it ends the reading."""
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody is being held
                raise

    def _held(self) -> int:
        return sum(one.argv == self.argv for one in processes.snapshot().values())
