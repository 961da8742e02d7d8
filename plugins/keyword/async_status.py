# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refuse the path that plugins/sub_plugins/keyword had before 1.0.0. This folder goes with version 1.1.0."""

from __future__ import annotations

from ansible_collections.durable.jobs.plugins.module_utils._keyword import refuse_old_path

if __name__ == "__main__":
    refuse_old_path()
