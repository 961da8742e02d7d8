# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write down what a playbook costs from its task ``launch`` on: processor time by role, and runs of modules.

Environment: ``BENCH_COSTS`` is the file, one JSON object; ``BENCH_TARGETS`` are the roots of the targets' families
of processes (see family.py), separated by commas. Our own root is our parent.
"""

from __future__ import annotations

import json
import multiprocessing.util
import os
import pathlib
import sys
import time
import typing as t

from ansible.plugins.action import ActionBase
from ansible.plugins.callback import CallbackBase

from ansible_collections.durable.jobs.tests.bench import family, processes

DOCUMENTATION = """
name: task_costs
type: aggregate
short_description: Write down what tasks cost
description:
  - For the bench of durable.jobs only.
"""


class CallbackModule(CallbackBase):
    """Looks at all processes twice: before the task ``launch``, and when the playbook has ended."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "task_costs"

    def __init__(self) -> None:
        super().__init__()
        self._path = pathlib.Path(os.environ["BENCH_COSTS"])
        self._targets = [int(pid) for pid in os.environ["BENCH_TARGETS"].split(",") if pid]
        self._forks = self._path.with_suffix(".forks")  # a line for each worker that has ended
        self._runs = self._path.with_suffix(".runs")  # a line for each run of a module
        self._begin: dict[str, float] = {}
        for path in (self._forks, self._runs):
            path.touch()
        multiprocessing.util.register_after_fork(self, CallbackModule._in_worker)

    def v2_playbook_on_task_start(self, task: t.Any, is_conditional: bool) -> None:
        """Look for the first time."""
        if not self._begin:
            self._count_runs()
        if task.get_name() == "launch":
            self._begin = self._look()

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        """Look again, and write down the difference."""
        end = self._look().items()
        difference = {name: value - self._begin.get(name, 0) for name, value in end}
        self._path.write_text(json.dumps(difference), encoding="utf-8")

    def _look(self) -> dict[str, float]:
        return {
            "forks": self._of_forks(),
            "controller": family.cpu(os.getppid()),
            "targets": sum(family.cpu(root) for root in self._targets),
            "runs": len(self._runs.read_bytes().splitlines()),
        }

    def _of_forks(self) -> float:
        """Return the processor time of ansible itself: of this process and of its forks that have exec'ed nothing."""
        ours = family.members(os.getppid())
        argv = ours[os.getpid()].argv
        used = {pid: processes.cpu(pid) for pid, one in ours.items() if one.argv == argv}
        for line in self._forks.read_text(encoding="ascii").splitlines():
            pid, seconds = line.split()
            used[int(pid)] = float(seconds)
        return sum(used.values())

    def _in_worker(self) -> None:
        """Have a worker write down, as its last act, what it has used itself."""

        def write_down() -> None:
            _append(self._forks, f"{os.getpid()} {time.process_time():.6f}")

        multiprocessing.util.Finalize(None, write_down, exitpriority=0)

    def _count_runs(self) -> None:
        """Count each run of a module, also where mitogen has replaced how ansible runs them."""
        classes: list[t.Any] = [ActionBase]
        if "ansible_mitogen.mixins" in sys.modules:
            classes.append(sys.modules["ansible_mitogen.mixins"].ActionModuleMixin)
        for one in classes:
            if "bench_counts" not in vars(one):
                one.bench_counts = True
                one._execute_module = _counted(one._execute_module, self._runs)


def _counted(execute: t.Callable[..., t.Any], path: pathlib.Path) -> t.Callable[..., t.Any]:
    def execute_and_count(*args: t.Any, **more: t.Any) -> t.Any:
        _append(path, "run")
        return execute(*args, **more)

    return execute_and_count


def _append(path: pathlib.Path, line: str) -> None:
    with open(path, "a", encoding="ascii") as file:
        file.write(line + "\n")
