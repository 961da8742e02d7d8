# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Showing lines to whoever watches a play, beside what the stdout callback writes. Private to the collection."""

from __future__ import annotations

import typing as t

from ansible import constants, context
from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import callback_loader

from ..module_utils._job.printable import printable

SETTING = "live_lines"
VARIABLE = "durable_jobs_live_lines"
AUTO = "auto"  # the default: as the stdout callback allows
# In the form of the options that plugins document, so that ansible-core finds and ranks the sources.
DEFINITION = {
    SETTING: {
        "name": SETTING,
        "default": AUTO,
        "env": [{"name": "DURABLE_JOBS_LIVE_LINES"}],
        "ini": [{"section": "durable_jobs", "key": SETTING}],
        "vars": [{"name": VARIABLE}],
    }
}
# Callbacks that write text for people, line by line. Others are derived from one of these; awx_display of
# ansible-runner is derived from whichever callback the user has chosen.
FOR_PEOPLE = frozenset(
    (
        "ansible.plugins.callback.default",
        "ansible.plugins.callback.minimal",
        "ansible.plugins.callback.oneline",
        "ansible_collections.community.general.plugins.callback.counter_enabled",
        "ansible_collections.community.general.plugins.callback.selective",
    )
)


class Lines:
    """Shows lines, unless the task is secret, a machine reads the output, or the user does not want to see them.

    :param action: whose lines they are.
    :raises AnsibleError: the setting is neither ``auto`` nor a boolean.
    """

    def __init__(self, action: ActionBase, task_vars: t.Mapping[str, t.Any] | None) -> None:
        self._display = action._display
        self.are_shown = not action._task.no_log and _are_wanted(action, task_vars or {})

    def show(self, line: str) -> None:
        """Show a line; it may hold text of somebody else."""
        if self.are_shown:
            self._display.display(printable(line, keep="\t"))


def _are_wanted(action: ActionBase, task_vars: t.Mapping[str, t.Any]) -> bool:
    constants.config.initialize_plugin_configuration_definitions("action", VARIABLE, DEFINITION)
    wanted = constants.config.get_config_value(
        SETTING, plugin_type="action", plugin_name=VARIABLE, variables=task_vars
    )
    wanted = action._templar.template(wanted)
    if str(wanted).strip().lower() == AUTO:
        return _is_for_people(_stdout_callback())
    try:
        return bool(boolean(wanted))
    except TypeError:
        raise AnsibleError(
            f"{VARIABLE} must be {AUTO}, true or false, not {printable(wanted)}"
        ) from None


def _stdout_callback() -> str:
    """Return the name of the callback that writes to stdout, as ansible and ansible-playbook choose it."""
    arguments: t.Mapping[str, t.Any] = context.CLIARGS or {}
    is_console = "pattern" in arguments
    is_adhoc = "one_line" in arguments
    setting = constants.config.get_config_value
    if is_console or (is_adhoc and not setting("DEFAULT_LOAD_CALLBACK_PLUGINS")):
        return "minimal"
    return str(setting("DEFAULT_STDOUT_CALLBACK"))


def _is_for_people(name: str) -> bool:
    """Tell whether the lines of a callback are text, between which there may be others.

    What a callback writes that is not known to write text may be one document, such as JSON, that lines would spoil.
    """
    if "json" in name.rpartition(".")[2].lower():
        return False
    callback = callback_loader.get(name, class_only=True)
    if callback is None:  # somebody uses ansible-core as a library, with a callback of his own
        return True
    return any(one.__module__ in FOR_PEOPLE for one in callback.__mro__)
