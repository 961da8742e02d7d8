# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stdout callback for machines that is derived from the default one."""

from __future__ import annotations

import json

from ansible.plugins.callback.default import CallbackModule as Default

DOCUMENTATION = r"""
name: our_json
type: stdout
short_description: JSON for the tests
description: One JSON object at the end.
extends_documentation_fragment:
  - default_callback
"""


class CallbackModule(Default):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "our_json"

    def __init__(self):
        super().__init__()
        self._found = []

    def v2_playbook_on_start(self, playbook):
        pass

    def v2_playbook_on_play_start(self, play):
        pass

    def v2_playbook_on_task_start(self, task, is_conditional):
        pass

    def v2_runner_on_skipped(self, result):
        pass

    def v2_runner_on_ok(self, result):
        self._found.append(result.result if hasattr(result, "result") else result._result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self.v2_runner_on_ok(result)

    def v2_playbook_on_stats(self, stats):
        self._display.display(json.dumps(self._found, default=str))
