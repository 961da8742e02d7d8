#!/usr/bin/python
# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stop jobs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: job_stop
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 0.1.0
short_description: Stop background jobs
description:
  - Ends jobs with all their processes - a signal that asks them to end, a time of grace, then SIGKILL. The task
    returns when no process is left. All jobs are stopped at the same time.
  - The state of a stopped job is V(stopped), and its dictionary names the user who asked; see RV(jobs).
  - A job that has finished before stays as it is, and does not make the task fail. A queued job never runs.
  - Also stops jobs whose keeper was killed, and jobs that the C(async) keyword of ansible-core launched.
  - A process gets a signal only if it is proved to belong to the job.
options:
  jobs:
    description:
      - The jobs to stop - a registered result of M(durable.jobs.job_start), looped or not, of
        M(durable.jobs.job_batch) or of M(ansible.builtin.command) and others with C(async); or a list of
        job ids, names, job dictionaries and such results, mixed.
      - Skipped items of a loop and launches that failed are left out. A name means the latest job of that name. An
        empty list stops nothing.
    type: raw
    required: true
  signal:
    description:
      - The signal that asks the processes to end, by name or number.
      - The default is the O(durable.jobs.job_start#module:stop_signal) with which each job was launched, and SIGTERM
        for jobs of C(async).
    type: str
  grace:
    description:
      - Seconds between the signal and SIGKILL. V(0) sends SIGKILL at once.
      - The default is the O(durable.jobs.job_start#module:grace) with which each job was launched, and 10 seconds for
        jobs of C(async).
      - If a job is already being ended, by its deadline or by an earlier stop, the shorter grace counts.
    type: raw
  missing:
    description:
      - What to do if a job cannot be found. V(fail) stops the others and then fails. V(ignore) is for plays that stop
        jobs which may not have been launched yet, or whose records may have been removed.
    type: str
    default: fail
    choices:
      - fail
      - ignore
extends_documentation_fragment:
  - durable.jobs.async_dir
  - durable.jobs.told
  - durable.jobs.attributes
  - durable.jobs.durations
attributes:
  check_mode:
    details:
      - RV(stopped_jobs) and the message name the jobs that would be stopped. Nothing is signalled or written. A job
        that cannot be found does not make the task fail, because check mode may have skipped its launch.
notes:
  - A job of C(async) is recognised by its C(async_wrapper) processes, whatever pid the record holds. If there are
    none, nothing is signalled. If the job is provably gone, it is V(lost), and there is nothing to stop. Otherwise
    the task fails. Processes of the job that have left both its session and their parents are not found.
  - A process that may not be signalled survives, for example one that has become root in the job of an ordinary user.
    The task fails and names the process. If C(/proc) hides it (mount option C(hidepid)), its name is C(hidden
    process).
  - The builtin M(ansible.builtin.async_status) then says of such a job that it has finished and failed, with C(killed) true.
seealso:
  - module: durable.jobs.job_start
  - module: durable.jobs.job_status
  - module: durable.jobs.job_wait
"""

EXAMPLES = r"""
- name: Start some jobs
  durable.jobs.job_start:
    cmd: "/usr/local/bin/reindex {{ item }}"
    name: "reindex {{ item }}"
  loop: [users, orders]
  register: reindex

- name: Stop all of them
  durable.jobs.job_stop:
    jobs: "{{ reindex }}"

- name: Stop a job that another play has launched, if it has; give it a minute to tidy up
  durable.jobs.job_stop:
    jobs: [nightly backup]
    signal: INT
    grace: 1m
    missing: ignore

- name: See what would be stopped
  durable.jobs.job_stop:
    jobs: [nightly backup, j1795301990843259553.10311]
  check_mode: true
"""

RETURN = r"""
jobs:
  description:
    - The job dictionaries, as M(durable.jobs.job_status) returns them, in the order given, with the last
      lines of their output.
    - A stopped job has the state V(stopped) and C(stopped_by), a dictionary - C(via) is V(ansible) or V(local), C(user) the user
      on the target as whom the task ran, C(login) the user who had logged in, C(controller_user) and C(controller) who ran
      ansible, and where. What is not known is null.
    - C(survivors) are processes that were alive two seconds after SIGKILL.
    - A job that could not be found has a null C(state).
  returned: always
  type: list
  elements: dict
counts:
  description: How many jobs there are of each state. V(missing) are those that could not be found.
  returned: always
  type: dict
  sample: {failed: 0, lost: 0, missing: 0, queued: 0, running: 0, stopped: 2, succeeded: 1, timed_out: 0}
stopped_jobs:
  description: The jobs that this task has stopped, or in check mode would stop, by name, or else by id.
  returned: always
  type: list
  elements: str
failed_jobs:
  description:
    - The jobs that could not be found or could not be stopped, by name, or else by id. Their C(msg) says why.
  returned: always
  type: list
  elements: str
"""

from ansible_collections.durable.jobs.plugins.module_utils._argspec import STOP
from ansible_collections.durable.jobs.plugins.module_utils._module import ask


def main() -> None:
    """Run the module: parameters in, one JSON result out."""
    ask(STOP)


if __name__ == "__main__":
    main()
