# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Forwards ansible_async_dir to the module: only the controller knows that variable."""

from __future__ import annotations

from ..plugin_utils._forward import ForwardingAction


class ActionModule(ForwardingAction):
    """Runs the module of the same name."""

    module = "durable.jobs.job_prune"
    instead = "it returns when it has removed the records. Drop both"
