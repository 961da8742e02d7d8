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
  - Each parameter that is a number of seconds also takes text such as V(90s), V(30m), V(1h30m), V(2d) or V(1w). The
    units are w, d, h, m and s, in this order, each at most once. A number without a unit is a number of seconds, even
    as text, such as V(1.5). Results are numbers of seconds.
  - The longest duration is ten years, which are 3653 days.
"""
