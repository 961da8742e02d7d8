# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The launcher as a program of its own: the process that the engine forks for it, without the engine around it.

Tests start it, trace it and kill it. It lies in a copy of the package ``_job``, see ``support.install``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    launcher = importlib.import_module("_job.launcher")
    json.dump(launcher.answer(json.load(sys.stdin)), sys.stdout)
    sys.stdout.flush()
    os._exit(0)
