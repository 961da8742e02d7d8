# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write down when each task began and ended, as the user waits for it: on the controller, in its main process.

Environment: ``BENCH_TASKS`` is the file, one JSON object a line. ``BENCH_SETTLE`` is how many seconds
to let the machine come to rest before a task begins, so that no task pays for what the one before it
left running in the background.
"""

from __future__ import annotations

import json
import os
import time
import typing as t

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: task_times
type: aggregate
short_description: Write down when each task began and ended
description:
  - For the bench of durable.jobs only.
"""


class CallbackModule(CallbackBase):
    """Writes one line a task and host."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "task_times"

    def __init__(self) -> None:
        super().__init__()
        self._settle = float(os.environ.get("BENCH_SETTLE", "0"))
        self._file = open(os.environ["BENCH_TASKS"], "a", encoding="utf-8")  # noqa: SIM115
        self._start = 0.0

    def v2_playbook_on_task_start(self, task: t.Any, is_conditional: bool) -> None:
        """Take the time at which a task begins."""
        time.sleep(self._settle)
        self._start = time.time()

    def v2_runner_on_ok(self, result: t.Any) -> None:
        """Write down a task that has ended well. One that fails ends the bench anyhow."""
        end = time.time()
        # ansible-core 2.19 took the underscores away.
        task = getattr(result, "task", None) or result._task
        host = getattr(result, "host", None) or result._host
        values = getattr(result, "result", None) or result._result
        results = values.get("results") or values.get("jobs") or [values]
        jobs = [one.get("ansible_job_id") for one in results]
        line = {
            "name": task.get_name(),
            "host": host.get_name(),
            "start": self._start,
            "end": end,
            "jids": [jid for jid in jobs if jid],
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
