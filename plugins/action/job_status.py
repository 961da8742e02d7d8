# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks the engine directly, and forwards ansible_async_dir: only the controller can do either."""

from __future__ import annotations

import typing as t

from ..module_utils._argspec import STATUS
from ..module_utils._job import schema
from ..module_utils._job.errors import JobError
from ..plugin_utils._forward import ForwardingAction


class ActionModule(ForwardingAction):
    """Asks what the module of the same name asks."""

    arguments = STATUS
    instead = (
        "the job runs in the background, and a look is short. "
        "Drop both, and use wait or until, or durable.jobs.job_wait, to wait for the end"
    )

    def forwarded(self) -> dict[str, t.Any]:
        """Return the task's arguments.

        :raises JobError: one is wrong. Its details are all keys of a result, so that a playbook stops asking.
        """
        try:
            return super().forwarded()
        except JobError as error:
            nothing = schema.present(schema.unknown(self._task.args.get("jid")))
            told = {key: nothing[key] for key in nothing if key not in ("msg", "failed")}
            raise JobError(error.msg, **told) from None
