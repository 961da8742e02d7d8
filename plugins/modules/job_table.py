#!/usr/bin/python
# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show the jobs of many hosts. This file is the documentation; the action plugin of the same name does it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: job_table
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 1.0.0
short_description: Show the jobs of many hosts as a table
description:
  - Prints the results of M(durable.jobs.job_info) from all hosts as one plain table, under every stdout callback that
    writes text for people. The playbook C(durable.jobs.status) uses it.
  - Under a callback that writes for machines, such as C(ansible.posix.json), nothing is printed, and the table is in
    the result.
  - The jobs that need attention come first. P(durable.jobs.job_table#filter) makes the same table.
  - Runs on the controller and needs no connection. Use C(run_once) to show one table for all hosts.
options:
  answers:
    description:
      - For each host its result of M(durable.jobs.job_info), even if the task failed or could not reach the host.
    type: dict
    required: true
  width:
    description:
      - How many columns a line may have. V(0) sets no limit.
      - The default is the width of the terminal if it has more than 80 columns; otherwise each job has one line.
    type: int
extends_documentation_fragment:
  - durable.jobs.async_dir
  - durable.jobs.attributes
notes:
  - O(async_dir) has no effect. It is accepted because the defaults of the action group apply to this module, too.
  - Set the variable C(durable_jobs_live_lines), the environment variable E(DURABLE_JOBS_LIVE_LINES) or C(live_lines) in
    the section C([durable_jobs]) of C(ansible.cfg) to V(false) and the callback shows the result instead.
seealso:
  - module: durable.jobs.job_info
  - plugin: durable.jobs.job_table
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Find the jobs of each host
  durable.jobs.job_info:
    order: attention
  register: found

- name: Show them
  durable.jobs.job_table:
    answers: "{{ dict(ansible_play_hosts | zip(ansible_play_hosts | map('extract', hostvars, 'found'))) }}"
  run_once: true
"""

RETURN = r"""
table:
  description: The lines of the table.
  returned: success
  type: list
  elements: str
"""
