# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows lines as they are: only the controller can, and a callback would quote them."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible.plugins.action import ActionBase

from ..filter.job_table import table
from ..plugin_utils._display import Lines

PLAIN_COLUMNS = (
    79  # what ansible-core says of a terminal that is not wider, and where there is none
)


class ActionModule(ActionBase):
    """Shows the table of jobs, and returns it."""

    _requires_connection = False
    _supports_async = False

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Show the table past the callback where people read, and leave it to the callback elsewhere."""
        result = super().run(tmp, task_vars)
        _checked, args = self.validate_argument_spec(
            {
                "answers": {
                    "type": "raw",
                    "required": True,
                },  # see plugin_utils/_overview.py: it may be a text
                "width": {"type": "int"},
                "async_dir": {"type": "path"},  # of the action group's defaults; there is none here
            }
        )
        try:
            found = table(
                args["answers"], self._width() if args["width"] is None else args["width"]
            )
        except AnsibleFilterError as error:
            return dict(result, failed=True, msg=str(error))
        lines = Lines(self, task_vars)
        for line in found:
            lines.show(line)
        # As debug does, so that callbacks show the result of a task that has changed nothing.
        return dict(result, changed=False, table=found, _ansible_verbose_always=not lines.are_shown)

    def _width(self) -> int:
        columns = self._display.columns or 0
        return columns if columns > PLAIN_COLUMNS else 0
