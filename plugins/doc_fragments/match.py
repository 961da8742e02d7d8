# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parameters that mean jobs by what they are."""

from __future__ import annotations


class ModuleDocFragment:
    """Documents module_utils/_argspec.py: MATCH, for modules that can also be given the jobs by themselves."""

    DOCUMENTATION = r"""
options:
  names:
    description:
      - The jobs with a name that matches one of these patterns. The patterns are those of a shell for file names
        (C(*), C(?), C([abc])), and case matters.
      - Jobs without a name, and all jobs of C(async), do not match.
      - With O(states), a job must match both. M(durable.jobs.job_info) with the same two options lists the jobs.
    type: list
    elements: str
    version_added: 1.0.0
  states:
    description:
      - The jobs of these states, also those without a name and those of C(async).
    type: list
    elements: str
    choices:
      - queued
      - running
      - succeeded
      - failed
      - timed_out
      - stopped
      - skipped
      - lost
    version_added: 1.0.0
"""
