# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the module that is to be a job: only the controller has it, and can run the action plugin that prepares it."""

from __future__ import annotations

import typing as t

from ..module_utils._job.errors import JobError
from ..plugin_utils._forward import ForwardingAction
from ..plugin_utils._prepare import part_of


class ActionModule(ForwardingAction):
    """Prepares the module and runs the module of the same name, which launches it."""

    module = "durable.jobs.job_module"
    instead = (
        "it launches into the background by itself. Drop both, write timeout: %(limit)d, "
        "and wait with durable.jobs.job_wait, or look with durable.jobs.job_status"
    )

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Launch the module and return the job."""
        result = self.begin(tmp, task_vars)
        task_vars = task_vars or {}
        args = self.forwarded()
        try:
            args["_part"] = part_of(self, args, task_vars)
        except JobError as error:
            return dict(result, failed=True, **dict(error.details, msg=error.msg))
        result.update(
            self._execute_module(module_name=self.module, module_args=args, task_vars=task_vars)
        )
        return result
