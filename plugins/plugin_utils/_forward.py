# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the action plugins share. Private to the collection."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

CORE_DEFAULT = "~/.ansible_async"  # ansible-core's own default of the shell option async_dir


class ForwardingAction(ActionBase):
    """Runs a module as ansible-core would, and tells it what only the controller knows: ``ansible_async_dir``.

    The path is expanded on the target, once, inside the module. ansible-core's default is not forwarded, so that the
    target's environment (ANSIBLE_ASYNC_DIR) is heard when nobody said anything on the controller.
    """

    module: str
    instead: str  # what to write in place of the keyword async; %(limit)d is its number of seconds
    # Let ansible-core refuse too, should a subclass forget to call begin().
    _supports_async = False

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = self.begin(tmp, task_vars)
        result.update(
            self._execute_module(
                module_name=self.module,
                module_args=self.forwarded(),
                task_vars=task_vars,
            )
        )
        return result

    def begin(self, tmp: t.Any, task_vars: dict[str, t.Any] | None) -> dict[str, t.Any]:
        """Return what the result of every action begins with.

        :raises AnsibleActionFail: the task has the keyword ``async``. ansible-core would launch the module in the
            background, and take the answer of the module, which speaks of another job, for that of its own job.
        """
        if self._task.async_val:
            text = "%s does not take async and poll (-B and -P on the command line), and has done nothing: %s"
            instead = self.instead % {"limit": self._task.async_val}
            raise AnsibleActionFail(text % (self.module, instead))
        return super().run(tmp, task_vars)

    def forwarded(self) -> dict[str, t.Any]:
        """Return the task's arguments with what the module cannot know."""
        args = dict(self._task.args)
        configured = self.get_shell_option("async_dir", default=CORE_DEFAULT)
        if not args.get("async_dir") and configured != CORE_DEFAULT:
            args["async_dir"] = configured
        return args
