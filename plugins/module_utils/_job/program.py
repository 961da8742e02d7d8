# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job is, where it lies and who runs it: one package, two lives.

Modules import it like any other module utility. The same files, copied to a content-addressed folder of the async dir,
are the program that outlives the module: ``python3 -I -S <engine>/_job/program.py`` is the launcher. Hence two rules:
nothing but the standard library, and nothing but relative imports. (``__init__.py`` must be empty for ansible-test.)

The package is private to the collection; only the JSON record and the modules are for others.
"""

from __future__ import annotations

import importlib
import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    umask = os.umask(0o077)  # what Python compiles lies in the async dir too
    launcher = importlib.import_module("_job.launcher")
    os.umask(umask)
    launcher.main()
    # The module waits for our end, and there is nothing that an orderly shutdown would do for us.
    sys.stdout.flush()
    os._exit(0)
