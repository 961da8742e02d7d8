# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a parameter that is a number of seconds may be."""

from __future__ import annotations


class ModuleDocFragment:
    """Documents module_utils/_job/quantities.py: seconds()."""

    DOCUMENTATION = r"""
options: {}
notes:
  - Wherever a parameter is a number of seconds, it also takes text such as V(90s), V(30m), V(1h30m), V(2d) or V(1w), with the
    units w, d, h, m and s in this order, each at most once. A number without a unit is seconds, also as text, such as V(1.5).
    Results are numbers of seconds.
  - No duration is longer than ten years, which are 3653 days.
"""
