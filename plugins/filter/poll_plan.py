# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter poll_plan."""

from __future__ import annotations

from ansible.errors import AnsibleFilterError

from ..module_utils._job.errors import JobError
from ..module_utils._job.poll_plan import DEFAULT_DELAY, DEFAULT_GRACE, poll_plan

DOCUMENTATION = r"""
name: poll_plan
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 0.1.0
short_description: Compute how to poll a job from its time limit
description:
  - Turns the time limit of a job into the numbers that a task with C(until) needs to see the job's
    end, whatever happens.
  - Ansible runs such a task C(retries) + 1 times and sleeps C(delay) seconds in between. Each run
    is M(durable.jobs.job_status) with
    O(durable.jobs.job_status#module:wait) set to C(wait). The three numbers belong together.
  - The plan covers the limit, the grace period and the few seconds until the final record is
    written, and it ends at most
    one O(delay) after that. Most of each period is waited on the target, where the end of the job
    is noticed at once.
positional: _input
options:
  _input:
    description:
      - The job's limit, a duration. V(0) means that it has none; the plan then covers a year.
      - A duration is a number of seconds, or text such as V(90s), V(30m), V(1h30m), V(2d) or V(1w). It is at most
        ten years.
    type: raw
    required: true
  delay:
    description:
      - Seconds, or a duration, from the beginning of one look to the beginning of the next.
    type: raw
    default: 10
  grace:
    description:
      - Seconds, or a duration, between stop signal and SIGKILL.
    type: raw
    default: 10
  max_timeout:
    description:
      - The limit of a job that may ask for more time, see O(durable.jobs.job_start#module:max_timeout). It counts
        instead of the other one if it is not V(0).
    type: raw
    default: 0
    version_added: 1.0.0
seealso:
  - module: durable.jobs.job_start
  - module: durable.jobs.job_status
"""

EXAMPLES = r"""
- name: Show how a job of at most six minutes is polled
  ansible.builtin.debug:
    # {"retries": 37, "delay": 1, "wait": 9}
    msg: "{{ '6m' | durable.jobs.poll_plan(delay=10, grace=10) }}"
"""

RETURN = r"""
_value:
  description:
    - Dictionary of C(retries), C(delay) (seconds) and C(wait) (seconds).
  type: dict
  sample:
    retries: 37
    delay: 1
    wait: 9
"""


def plan(
    timeout: object,
    delay: object = DEFAULT_DELAY,
    grace: object = DEFAULT_GRACE,
    max_timeout: object = 0,
) -> dict[str, int | float]:
    """Compute the plan of what a template gave."""
    try:
        return poll_plan(timeout, delay, grace, max_timeout)
    except JobError as error:
        raise AnsibleFilterError(f"poll_plan: {error.msg}") from None


class FilterModule:
    """Names the collection's filter for ansible-core."""

    def filters(self) -> dict[str, object]:
        """Return the filters by name."""
        return {"poll_plan": plan}
