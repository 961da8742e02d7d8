# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter seconds."""

from __future__ import annotations

from ansible.errors import AnsibleFilterError

from ..module_utils._job.errors import JobError
from ..module_utils._job.poll_plan import plain
from ..module_utils._job.quantities import seconds

DOCUMENTATION = r"""
name: seconds
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 1.0.0
short_description: Turn a duration into seconds
description:
  - Takes what the parameters of this collection take where they are a number of seconds, and returns that number.
  - What they would refuse is refused with the same words.
positional: _input
options:
  _input:
    description:
      - A number of seconds, or text such as V(90s), V(30m), V(1h30m), V(2d) or V(1w). It is at most ten years.
    type: raw
    required: true
  name:
    description:
      - What the message calls a duration that is none.
    type: str
    default: seconds
seealso:
  - module: durable.jobs.job_start
  - plugin: durable.jobs.poll_plan
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show how many seconds a job has
  ansible.builtin.debug:
    # 5400
    msg: "{{ '1h30m' | durable.jobs.seconds }}"
"""

RETURN = r"""
_value:
  description:
    - The seconds, a whole number where they are one.
  type: float
  sample: 5400
"""


def to_seconds(duration: object, name: object = "seconds") -> int | float:
    """Return the seconds of what a template gave."""
    try:
        return plain(seconds(str(name), duration))
    except JobError as error:
        raise AnsibleFilterError(error.msg) from None


class FilterModule:
    """Names the collection's filter for ansible-core."""

    def filters(self) -> dict[str, object]:
        """Return the filters by name."""
        return {"seconds": to_seconds}
