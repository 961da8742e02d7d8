# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mitogen's strategy, for those who want the builtin loops to be fast: where it is, if it is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os


def _strategy_plugins() -> str:
    found = importlib.util.find_spec("ansible_mitogen")  # which is not imported by that
    return os.path.join(os.path.dirname(str(found.origin)), "plugins", "strategy") if found else ""


STRATEGY_PLUGINS = _strategy_plugins()
VERSION = importlib.metadata.version("mitogen") if STRATEGY_PLUGINS else "not installed"
ENVIRONMENT = {
    "ANSIBLE_STRATEGY_PLUGINS": STRATEGY_PLUGINS,
    "ANSIBLE_STRATEGY": "mitogen_linear",
    "ANSIBLE_DEPRECATION_WARNINGS": "0",  # ansible-core warns of any strategy that is not its own
}
