#!/usr/bin/python
# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove what finished jobs have left."""

from __future__ import annotations

DOCUMENTATION = r"""
module: job_prune
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 0.1.0
short_description: Remove the records and the output of finished background jobs
description:
  - Removes finished jobs, each with its record and its output. A name is removed with its last job. Jobs of the
    C(async) keyword of ansible-core in the same directory are treated alike.
  - A live or queued job is never removed, regardless of the options. A job is also kept if another machine that
    shares the directory has launched it, because this machine cannot see whether it is live.
  - O(states) says which finished jobs the module looks at. Each of the other options is a limit by itself - a job is
    removed if it exceeds any of them. Without a limit, all these jobs are removed.
  - Also removes leftovers of launches and removals that were killed half-way.
options:
  states:
    description:
      - Look only at jobs of these states; the others stay and do not count. By default the module looks at all
        finished jobs.
    type: list
    elements: str
    choices:
      - succeeded
      - failed
      - timed_out
      - stopped
      - lost
  older_than:
    description:
      - Remove the jobs that finished at least so many seconds ago. V(0) removes all.
      - The time counts from the moment at which the end was recorded. For a lost job that is the first look after its
        end. For jobs that were launched since the machine was booted, neither a clock that was set forward nor a
        suspended machine counts.
    type: raw
  keep_last:
    description:
      - How many jobs may stay. Those that finished last stay, and the others are removed.
    type: int
  max_bytes:
    description:
      - How many bytes of the disk the remaining jobs may use together, records and output. The jobs that finished
        first are removed first.
    type: int
extends_documentation_fragment:
  - durable.jobs.async_dir
  - durable.jobs.told
  - durable.jobs.attributes
  - durable.jobs.durations
attributes:
  check_mode:
    details:
      - RV(pruned) lists exactly what would be removed. The same code decides, and nothing is written.
notes:
  - A job whose record is damaged has the state V(lost), unless its exit status is still known. It is removed like any
    other job of that state.
    A damaged record stays if it may belong to a live job of C(async).
  - Jobs may be launched, looked at and removed by others at the same time.
  - M(durable.jobs.job_start) removes old jobs in passing; see O(durable.jobs.job_start#module:retention).
seealso:
  - module: durable.jobs.job_start
  - module: durable.jobs.job_status
    description: With O(durable.jobs.job_status#module:mode=cleanup) it removes one job.
"""

EXAMPLES = r"""
- name: Remove jobs that finished a week ago, and whatever is beyond the last thousand jobs or a gigabyte
  durable.jobs.job_prune:
    older_than: 1w
    keep_last: 1000
    max_bytes: 1000000000

- name: Remove all jobs that succeeded
  durable.jobs.job_prune:
    states: [succeeded]

- name: See what would go if only the last three failures were kept
  durable.jobs.job_prune:
    states: [failed, timed_out, lost]
    keep_last: 3
  check_mode: true
  register: prediction
"""

RETURN = r"""
pruned:
  description:
    - The jobs that this task has removed, or in check mode would remove, the one that finished first before the others.
    - C(bytes) is what each took of the disk.
  returned: always
  type: list
  elements: dict
  sample:
    - ansible_job_id: j1795301990843259553.10311
      name: nightly backup
      state: succeeded
      bytes: 28672
bytes_freed:
  description: How many bytes of the disk they took together.
  returned: always
  type: int
  sample: 28672
kept:
  description: How many jobs are left, those that are live and those of other states included.
  returned: always
  type: int
  sample: 12
failed_jobs:
  description: The jobs that should have been removed and could not be, by name, or else by id. The message says why.
  returned: always
  type: list
  elements: str
"""

from ansible_collections.durable.jobs.plugins.module_utils._argspec import PRUNE
from ansible_collections.durable.jobs.plugins.module_utils._module import ask


def main() -> None:
    """Run the module: parameters in, one JSON result out."""
    ask(PRUNE)


if __name__ == "__main__":
    main()
