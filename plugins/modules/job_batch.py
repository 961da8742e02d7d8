#!/usr/bin/python
# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Launch many jobs in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: job_batch
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 0.1.0
short_description: Launch many durable background jobs in one call
description:
  - Launches any number of jobs on the target in one round trip, and returns when each of them has
    been started, is queued, or could not be launched.
  - O(slots) limits how many of them run at once. The others are queued on the target and start in their order when
    another job ends, without a daemon and without the controller.
  - Wait for all of them with M(durable.jobs.job_wait).
options:
  jobs:
    description:
      - The jobs, each a dictionary of the parameters of M(durable.jobs.job_start), without
        C(async_dir) and C(retention).
      - A job with C(module) and C(args) is a job of M(durable.jobs.job_module). Each such module is built and sent
        separately, about 150 kB each. For hundreds of files, use one module with a list instead.
      - Parameters that a job leaves out come from the options below. The variables of C(env) are merged, and the
        job's own take precedence.
      - If one of these dictionaries is wrong, nothing is launched. If one of the jobs cannot be launched, for example
        because its program does not exist, the others are launched.
      - An empty list launches nothing.
    type: list
    elements: dict
    required: true
  slots:
    description:
      - How many jobs of this call may run at once. V(0) sets no limit.
      - The time limit of a job counts from its start, not from the moment at which it was queued.
      - A job does not count if this call only attaches to it, because a job of its name is live.
    type: int
    default: 0
  executable:
    description:
      - The shell that runs C(shell). See O(durable.jobs.job_start#module:executable).
    type: path
    default: /bin/sh
  timeout:
    description:
      - Seconds that each command may run; V(0) sets no limit. See O(durable.jobs.job_start#module:timeout).
    type: raw
    default: 3600
  max_timeout:
    description:
      - Seconds that each command may run at the most if it asks for more time. See O(durable.jobs.job_start#module:max_timeout).
    type: raw
  watchdog:
    description:
      - Seconds that may pass without a sign of life of a command. See O(durable.jobs.job_start#module:watchdog).
    type: raw
  grace:
    description:
      - Seconds between O(stop_signal) and SIGKILL when a job is ended. See O(durable.jobs.job_start#module:grace).
    type: raw
    default: 10
  stop_signal:
    description:
      - The signal that asks a job to end, by name or number. See O(durable.jobs.job_start#module:stop_signal).
    type: str
    default: TERM
  chdir:
    description:
      - Directory in which to run the commands. See O(durable.jobs.job_start#module:chdir).
    type: path
  env:
    description:
      - Environment variables for the commands. They are stored nowhere. See O(durable.jobs.job_start#module:env).
    type: dict
  stdin_add_newline:
    description:
      - Whether to end C(stdin) with a newline. See O(durable.jobs.job_start#module:stdin_add_newline).
    type: bool
    default: true
  umask:
    description:
      - The commands' umask as an octal number, for example V('0022'). See O(durable.jobs.job_start#module:umask).
    type: raw
  nice:
    description:
      - By how much to raise the commands' nice value. Only root can lower it. See O(durable.jobs.job_start#module:nice).
    type: int
  output_limit:
    description:
      - Bytes of each output stream of each job that are kept on disk. V(0) keeps all. See O(durable.jobs.job_start#module:output_limit).
    type: int
    default: 67108864
  containment:
    description:
      - What holds a job's processes together and protects them. See O(durable.jobs.job_start#module:containment).
      - All jobs of a call share one unit of systemd. Each job has a control group of its own in it.
    type: str
    default: auto
    choices:
      - auto
      - systemd
      - process
  memory_max:
    description:
      - How much memory each job may use, in bytes or with a unit such as V(512M). See O(durable.jobs.job_start#module:memory_max).
    type: str
  cpu_quota:
    description:
      - How much processor time each job may use, in percent of one processor. See O(durable.jobs.job_start#module:cpu_quota).
    type: str
  tasks_max:
    description:
      - How many processes and threads each job may have at once. See O(durable.jobs.job_start#module:tasks_max).
    type: int
  on_conflict:
    description:
      - What to do if a job of that name is live with another specification. See O(durable.jobs.job_start#module:on_conflict).
    type: str
    default: fail
    choices:
      - fail
      - attach
      - replace
  rerun:
    description:
      - What to do if the latest job of that name has finished. See O(durable.jobs.job_start#module:rerun).
    type: str
    default: always
    choices:
      - always
      - on_failure
      - never
  retention:
    description:
      - Seconds for which finished jobs are kept. V(0) keeps all. See O(durable.jobs.job_start#module:retention).
    type: raw
    default: 1209600
extends_documentation_fragment:
  - durable.jobs.async_dir
  - durable.jobs.told
  - durable.jobs.attributes
  - durable.jobs.durations
  - durable.jobs.notify
  - durable.jobs.retries
attributes:
  check_mode:
    details:
      - Nothing is started or written. For each job the result has the prediction of M(durable.jobs.job_start).
        Effects of the jobs of a call on each other are not predicted.
  diff_mode:
    support: full
    details:
      - The specification of the latest job of each name and the one asked for now, secrets masked.
notes:
  - A name may be given more than once. The second launch then finds the job of the first.
seealso:
  - module: durable.jobs.job_wait
  - module: durable.jobs.job_start
"""

EXAMPLES = r"""
- name: Start a check of every disk, four at a time
  durable.jobs.job_batch:
    jobs:
      - name: check of sda
        cmd: /usr/local/bin/check /dev/sda
      - name: check of sdb
        cmd: /usr/local/bin/check /dev/sdb
        timeout: 2h
    slots: 4
    timeout: 1h
  register: checks

- name: Wait for all of them
  durable.jobs.job_wait:
    jobs: "{{ checks }}"
"""

RETURN = r"""
jobs:
  description:
    - What M(durable.jobs.job_start) would have returned for each job, in the order given.
    - A job that could not be launched has C(failed), a C(msg) that says why, the state V(failed), the
      reason V(not started), and no id.
  returned: always
  type: list
  elements: dict
counts:
  description: How many jobs there are of each state. What was not launched, and not meant to be, is not counted.
  returned: always
  type: dict
  sample: {failed: 0, lost: 0, queued: 96, running: 4, stopped: 0, succeeded: 0, timed_out: 0}
failed_jobs:
  description: The jobs that could not be launched, by name, or else by their place as in V(jobs[3]).
  returned: always
  type: list
  elements: str
"""

from ansible_collections.durable.jobs.plugins.module_utils._argspec import BATCH
from ansible_collections.durable.jobs.plugins.module_utils._module import ask


def main() -> None:
    """Run the module: parameters in, one JSON result out."""
    ask(BATCH)


if __name__ == "__main__":
    main()
