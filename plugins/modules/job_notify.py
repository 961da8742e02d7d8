#!/usr/bin/python
# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deliver now the notifications that are due."""

from __future__ import annotations

DOCUMENTATION = r"""
module: job_notify
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 1.0.0
short_description: Deliver now what the ends of background jobs have to tell
description:
  - Sends the events of finished jobs that have not been delivered yet, see O(durable.jobs.job_start#module:notify). They are sent by themselves.
    This module does not wait for the next attempt, so it is of use when a receiver is there again, or after a reboot.
  - It also looks at all jobs with notifications whose end nobody has seen, because the machine was rebooted or they were killed with all that belongs
    to them.
options:
  state:
    description:
      - V(delivered) tries everything that is left once, and says what is left then.
    type: str
    choices: [delivered]
    default: delivered
  timeout:
    description:
      - Seconds that the module waits for the attempts. They go on without it.
    type: raw
    default: 60
extends_documentation_fragment:
  - durable.jobs.async_dir
  - durable.jobs.told
  - durable.jobs.attributes
  - durable.jobs.durations
attributes:
  check_mode:
    details:
      - Nothing is sent. C(changed) says whether there is something to send.
notes:
  - A receiver that does not take an event is no failure of this task. To make it one, see the example.
seealso:
  - module: durable.jobs.job_start
  - module: durable.jobs.job_info
"""

EXAMPLES = r"""
- name: Deliver what is left, and fail if a receiver does not take it
  durable.jobs.job_notify:
    state: delivered
  register: told
  failed_when: told.notifications.pending > 0

- name: Show who has not taken what, and why
  ansible.builtin.debug:
    msg: "{{ item.name or item.ansible_job_id }}: {{ item.sinks }}"
  loop: "{{ told.jobs }}"
  loop_control:
    label: "{{ item.ansible_job_id }}"
"""

RETURN = r"""
notifications:
  description: What this task has delivered or given up, and what is left, in numbers of notifications.
  returned: success
  type: dict
  sample: {pending: 1, delivered: 3, given_up: 0}
jobs:
  description:
    - The jobs of which something is left to deliver, or has been given up in this task.
    - C(sinks) lists each receiver, how often it was tried, and why it has not taken the event.
  returned: success
  type: list
  elements: dict
  sample:
    - ansible_job_id: j1795301990843259553.10311
      name: nightly backup
      state: failed
      pending: 1
      delivered: 0
      given_up: 0
      sinks:
        - to: https://eda.example.com:5000
          state: pending
          reason: Connection refused
          tries: 7
          at: '2026-11-21 22:59:50.861902'
msg:
  description: The same in one sentence.
  returned: always
  type: str
  sample: "notifications: 3 delivered, 1 pending, 0 given up"
"""

from ansible_collections.durable.jobs.plugins.module_utils._argspec import NOTIFY_NOW
from ansible_collections.durable.jobs.plugins.module_utils._module import ask


def main() -> None:
    """Run the module: parameters in, one JSON result out."""
    ask(NOTIFY_NOW)


if __name__ == "__main__":
    main()
