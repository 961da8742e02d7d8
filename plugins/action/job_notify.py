# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks the engine directly, and forwards ansible_async_dir: only the controller can do either."""

from __future__ import annotations

from ..module_utils._argspec import NOTIFY_NOW
from ..plugin_utils._forward import ForwardingAction


class ActionModule(ForwardingAction):
    """Asks what the module of the same name asks."""

    arguments = NOTIFY_NOW
    instead = "it returns when all that is due has been tried. Drop both, and set with timeout how long that may take"
