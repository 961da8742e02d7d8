# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parameter by which action plugins tell a module what only they know."""

from __future__ import annotations


class ModuleDocFragment:
    """Documents module_utils/_argspec.py: TOLD."""

    DOCUMENTATION = r"""
options:
  _told:
    description:
      - Not for playbooks. What the action plugin of the same name tells the module.
    type: dict
"""
