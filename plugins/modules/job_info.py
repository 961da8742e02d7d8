#!/usr/bin/python
# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List jobs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: job_info
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 0.1.0
short_description: List the background jobs of a host
description:
  - Lists the jobs of an async dir, the newest first unless O(order) says otherwise. It lists the jobs of this
    collection and those that the C(async) keyword of ansible-core launched.
  - The state of each job is derived from evidence, as by M(durable.jobs.job_status).
  - Never fails because of a job. A job with a damaged record is listed as V(lost) with the reason V(record damaged).
  - An async dir that does not exist has no jobs.
options:
  states:
    description:
      - Only jobs of these states.
    type: list
    elements: str
    choices:
      - queued
      - running
      - succeeded
      - failed
      - timed_out
      - stopped
      - lost
  names:
    description:
      - Only jobs with a name that matches one of these patterns. The patterns are those of a shell for file names
        (C(*), C(?), C([abc])), and case matters.
      - Jobs without a name, and all jobs of C(async), are then left out.
    type: list
    elements: str
  jids:
    description:
      - Only the jobs with these ids. Ids without a job are listed in RV(missing); they are no error.
    type: list
    elements: str
  limit:
    description:
      - How many jobs to list at most, from the beginning of the O(order). V(0) lists all.
      - RV(counts) and RV(total) include the jobs that are not listed.
    type: int
    default: 0
  order:
    description:
      - In which order to list the jobs. V(newest) puts the newest first.
      - V(attention) puts the jobs first that need attention, as the playbooks C(durable.jobs.status) and
        C(durable.jobs.report) do - jobs that are V(failed), V(timed_out) or V(lost) or have a null state; then
        running jobs that
        have lost their keeper or have used 90 % of their limit; then the other running jobs, the queued ones,
        those that were stopped, and those that succeeded. Of each kind the newest come first.
    type: str
    default: newest
    choices:
      - newest
      - attention
    version_added: 1.0.0
  output:
    description:
      - How much of the output of the jobs to show - V(none), V(tail) for the last 4 KiB of each stream, or V(full).
      - V(full) shows the end of each stream, at most 16 MiB in total, shared equally.
      - V(full) also shows the other keys of a module's result. Each job of C(async) is a module.
    type: str
    default: none
    choices:
      - full
      - tail
      - none
extends_documentation_fragment:
  - durable.jobs.async_dir
  - durable.jobs.told
  - durable.jobs.attributes
attributes:
  check_mode:
    details:
      - Lists the same. Without check mode, final verdicts on jobs that have died are written into their records.
seealso:
  - module: durable.jobs.job_notify
  - module: durable.jobs.job_output
  - module: durable.jobs.job_status
"""

EXAMPLES = r"""
- name: List what is running or waits for its turn
  durable.jobs.job_info:
    states: [queued, running]
  register: live

- name: Show one line for each
  ansible.builtin.debug:
    msg: "{{ item.name or item.ansible_job_id }}: {{ item.state }} for {{ item.elapsed }} s"
  loop: "{{ live.jobs }}"
  loop_control:
    label: "{{ item.ansible_job_id }}"

- name: Find out why the latest backups failed
  durable.jobs.job_info:
    names: ["backup *"]
    states: [failed, timed_out, lost]
    limit: 5
    output: tail
"""

RETURN = r"""
jobs:
  description:
    - The job dictionaries, as M(durable.jobs.job_status) returns them, in the O(order) that was asked for.
    - For a job of C(async) that has finished, the moment of its launch is known only if its module has told it. Otherwise the
      moment of its end decides about its place.
    - A job of which nothing can be said here, for example because another machine that shares the async dir has launched
      it, has a null C(state) and a C(msg) that says why.
  returned: success
  type: list
  elements: dict
notifications:
  description:
    - How many notifications of all these jobs are still to be delivered, have been, and have been given up. See
      O(durable.jobs.job_start#module:notify). The C(notifications) of each job says why.
  returned: success
  type: dict
  sample: {pending: 1, delivered: 9, given_up: 0}
  version_added: 1.0.0
counts:
  description: How many jobs that are asked for there are of each state. V(unknown) are those with a null state.
  returned: success
  type: dict
  sample: {failed: 1, lost: 0, queued: 0, running: 2, stopped: 0, succeeded: 9, timed_out: 0, unknown: 0}
total:
  description: How many jobs that are asked for there are.
  returned: success
  type: int
  sample: 12
missing:
  description: Those of O(jids) of which there is no job.
  returned: success
  type: list
  elements: str
async_dir:
  description: The directory on the target that was looked into.
  returned: success
  type: str
  sample: /home/deploy/.ansible_async
user:
  description: The user on the target as whom it was looked into.
  returned: success
  type: str
msg:
  description:
    - How many jobs there are, where, and as whom they were looked for. If none was found, also which other users have
      async dirs that can be seen, and whether the user looked as has another one.
  returned: always
  type: str
  sample: 12 jobs in /home/deploy/.ansible_async as user deploy
"""

from ansible_collections.durable.jobs.plugins.module_utils._argspec import INFO
from ansible_collections.durable.jobs.plugins.module_utils._module import ask


def main() -> None:
    """Run the module: parameters in, one JSON result out."""
    ask(INFO)


if __name__ == "__main__":
    main()
