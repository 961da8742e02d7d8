# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parameter by which an action plugin tells its module more than the user has written."""

from __future__ import annotations


class ModuleDocFragment:
    """Documents module_utils/_argspec.py: TOLD."""

    DOCUMENTATION = r"""
options:
  _told:
    description:
      - Not for playbooks. The action plugin uses it to pass its own part of the request to the module.
    type: dict
"""
