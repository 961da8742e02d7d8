# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parameter by which every module finds the jobs."""

from __future__ import annotations


class ModuleDocFragment:
    """Documents module_utils/_argspec.py: ASYNC_DIR."""

    DOCUMENTATION = r"""
options:
  async_dir:
    description:
      - Directory of the records of jobs. The target expands it, as the user of the task.
      - By default, the variable or option C(ansible_async_dir) of ansible-core is used,
        then the environment variable
        E(ANSIBLE_ASYNC_DIR) on the target, then C(~/.ansible_async). So jobs of C(async) and of this collection are
        in the same directory.
      - A symlink or a directory of another user is refused.
    type: path
"""
