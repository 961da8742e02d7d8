# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Forwards ansible_async_dir and who runs ansible: only the controller knows either."""

from __future__ import annotations

import getpass
import os
import socket
import typing as t

from ..module_utils._argspec import STOP
from ..module_utils._job.errors import JobError
from ..module_utils._job.references import references
from ..plugin_utils._forward import ForwardingAction


class ActionModule(ForwardingAction):
    """Runs the module of the same name."""

    arguments = STOP
    instead = (
        "it returns when the jobs have ended. Drop both, and set with grace how long that may take"
    )

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Stop the jobs."""
        result = self.begin(tmp, task_vars)
        controller = {"user": _user(), "host": socket.gethostname()}
        result.update(self.ask(self.forwarded(), task_vars or {}, controller=controller))
        return result

    def forwarded(self) -> dict[str, t.Any]:
        """Return the task's arguments, without the output that registered results hold."""
        args = super().forwarded()
        try:
            if "jobs" in args:
                args["jobs"] = [one.plain() for one in references(args["jobs"])]
        except JobError:
            pass  # the module finds the same, and says it
        return args


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return str(os.getuid())
