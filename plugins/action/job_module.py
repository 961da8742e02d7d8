# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the module that is to be a job: only the controller has it, and can run the action plugin that prepares it."""

from __future__ import annotations

import typing as t

from ..module_utils._argspec import START_MODULE
from ..module_utils._job.errors import JobError
from ..plugin_utils._action_capture import part_of
from ..plugin_utils._forward import IN_THE_BACKGROUND, ForwardingAction, refused


class ActionModule(ForwardingAction):
    """Prepares the module and runs the module of the same name, which launches it."""

    arguments = START_MODULE
    instead = IN_THE_BACKGROUND

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Launch the module and return the job."""
        result = self.begin(tmp, task_vars)
        task_vars = task_vars or {}
        try:
            args = self.forwarded()
            part = part_of(self, args, task_vars)
        except JobError as error:
            return refused(result, error)
        result.update(self.ask(args, task_vars, part=part))
        return result
