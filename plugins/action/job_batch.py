# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Forwards ansible_async_dir, and builds the modules that are to be jobs: only the controller knows and has them."""

from __future__ import annotations

import typing as t

from ..module_utils._argspec import BATCH
from ..module_utils._job.errors import JobError
from ..plugin_utils._action_capture import part_of
from ..plugin_utils._forward import IN_THE_BACKGROUND, ForwardingAction, refused


class ActionModule(ForwardingAction):
    """Prepares the modules among the jobs and runs the module of the same name."""

    arguments = BATCH
    instead = IN_THE_BACKGROUND

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Launch the jobs."""
        jobs = self._task.args.get("jobs")
        entries = jobs if isinstance(jobs, list) else []
        if not any(_is_module(entry) for entry in entries):
            return super().run(tmp, task_vars)
        result = self.begin(tmp, task_vars)
        try:
            args = self.forwarded()
        except JobError as error:
            return refused(result, error)
        parts: list[dict[str, t.Any] | None] = []
        for number, entry in enumerate(entries):
            try:
                parts.append(part_of(self, entry, task_vars or {}) if _is_module(entry) else None)
            except JobError as error:
                text = "jobs[%d] cannot be launched, so nothing is: %s" % (number, error.msg)
                return refused(result, JobError(**dict(error.details, msg=text)))
        result.update(self.ask(args, task_vars or {}, parts=parts))
        return result


def _is_module(entry: object) -> bool:
    return isinstance(entry, dict) and entry.get("module") is not None
