# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all modules of the collection support."""

from __future__ import annotations


class ModuleDocFragment:
    """Attributes that are the same for every module."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return what would happen without changing anything.
    support: full
  diff_mode:
    description: Returns what has changed when in diff mode.
    support: none
  platform:
    description: The targets on which the module works.
    platforms: linux
    support: full
    details:
      - C(/proc) must be mounted, and show the processes of the pid namespace in which the module runs.
  action_group:
    description:
      - Use C(group/durable.jobs.jobs) in C(module_defaults) to set the defaults of all modules, say
        O(async_dir), at once.
    support: full
    membership:
      - durable.jobs.jobs
"""
