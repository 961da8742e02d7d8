#!/usr/bin/python
# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait for many jobs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: job_wait
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 0.1.0
short_description: Wait for any number of durable background jobs in one task
description:
  - Waits for jobs that were launched before, all at once, and fails if one of them did not succeed.
  - The target watches the jobs without using its processor. It notices an end at once, and one look covers all jobs.
  - The task is changed when a job that the play has launched has finished, and when any job finishes during the wait.
    A job that had finished before does not count. A job does not count either if its launch only attached to it or
    kept it. A job that is a module counts if the module has changed something.
  - A lost connection, an unreachable host or a reboot does not end the wait. It goes on as
    soon as the host answers again. The jobs of a host that was rebooted are V(lost).
  - Prints one line for each change, with the job's name or id, its state, how long it has been
    running, its limit, its reported progress, and how many jobs have finished. Quick changes are shown together,
    after at most 30 seconds.
options:
  jobs:
    description:
      - The jobs to wait for - a registered result of M(durable.jobs.job_start), looped or not, of
        M(durable.jobs.job_batch) or of M(ansible.builtin.command) and others with C(async); or a list of
        job ids, names, job dictionaries and such results, mixed.
      - Skipped items of a loop are left out. A launch that failed counts as a failed job.
      - A job that is given twice counts once. A name means the latest job of that name. With an empty list the task
        succeeds at once.
      - A job that cannot be found counts as failed. The task still waits for the others.
    type: raw
    required: true
  until:
    description:
      - What to wait for. V(first_failed) is also reached when all jobs have finished.
    type: str
    default: all_finished
    choices:
      - all_finished
      - any_finished
      - first_failed
  timeout:
    description:
      - Seconds to wait at the most. Then the task looks at the jobs once more. If the wait has not reached its goal,
        the task fails and names the jobs that are still running. These jobs go on.
      - If the host does not answer when the time is over, it is unreachable, and the message says both.
      - Without this option, the wait lasts as long as the jobs' own limits allow. For a job without a limit that may
        be for ever. A job launched by C(async) whose processes were killed is V(lost), and so has finished. From
        within a
        container, or on a file system that other machines share, nobody can see that they are gone.
    type: raw
  reconnect_timeout:
    description:
      - Seconds without an answer after which the host counts as unreachable.
    type: raw
    default: 600
  output:
    description:
      - How much of the output of the jobs to return - V(full), V(tail) for the last 4 KiB of each
        stream, or V(none).
      - V(full) returns the end of each stream, at most 16 MiB in total, shared equally.
    type: str
    default: full
    choices:
      - full
      - tail
      - none
extends_documentation_fragment:
  - durable.jobs.async_dir
  - durable.jobs.told
  - durable.jobs.attributes
  - durable.jobs.durations
attributes:
  check_mode:
    details:
      - Looks once and does not wait. Jobs that check mode has not launched are left out.
notes:
  - The lines are shown under stdout callbacks that write text for people. Under others, such as C(ansible.posix.json), there
    are none. The variable C(durable_jobs_live_lines), the environment variable E(DURABLE_JOBS_LIVE_LINES) and
    C(live_lines) in the section C([durable_jobs]) of C(ansible.cfg) turn them off (V(false)) or on (V(true)).
seealso:
  - module: durable.jobs.job_batch
  - module: durable.jobs.job_status
"""

EXAMPLES = r"""
- name: Start some jobs
  durable.jobs.job_start:
    cmd: "/usr/local/bin/reindex {{ item }}"
    name: "reindex {{ item }}"
  loop: [users, orders]
  register: reindex

- name: Wait for all of them
  durable.jobs.job_wait:
    jobs: "{{ reindex }}"

- name: Wait for jobs that another play has started, at most ten minutes
  durable.jobs.job_wait:
    jobs: [reindex users, reindex orders]
    timeout: 10m
  register: result

- name: Stop waiting as soon as one fails
  durable.jobs.job_wait:
    jobs: "{{ reindex }}"
    until: first_failed
"""

RETURN = r"""
jobs:
  description:
    - The job dictionaries, as M(durable.jobs.job_status) returns them, in the order given.
    - A job that could not be found has a null C(state). A failed launch has the state V(failed) and the
      reason V(not started).
  returned: always
  type: list
  elements: dict
counts:
  description: How many jobs there are of each state. V(missing) are those that could not be found.
  returned: always
  type: dict
  sample: {failed: 1, lost: 0, missing: 0, queued: 0, running: 0, stopped: 0, succeeded: 9, timed_out: 0}
failed_jobs:
  description: The jobs that have finished and did not succeed, by name, or else by id.
  returned: always
  type: list
  elements: str
unfinished_jobs:
  description: The jobs that are still queued or running, by name, or else by id.
  returned: always
  type: list
  elements: str
"""

from ansible_collections.durable.jobs.plugins.module_utils._argspec import WAIT
from ansible_collections.durable.jobs.plugins.module_utils._module import ask


def main() -> None:
    """Run the module: parameters in, one JSON result out."""
    ask(WAIT)


if __name__ == "__main__":
    main()
