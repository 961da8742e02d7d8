# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring pip into an empty environment without a download: what get-pip.py does, from ensurepip.

`ansible-test` fetches get-pip.py from a server of its own for every environment that it makes,
which ends a test run wherever that server is out of reach. It first looks into its cache, so
seed_get_pip.py puts this file there. It is called with get-pip.py's arguments (packages and
options) and needs nothing but the interpreter and the machine's ordinary pip configuration.
"""

from __future__ import annotations

import os
import subprocess
import sys


def main() -> int:
    """Install pip itself, then the packages asked for. Return pip's exit status."""
    # ansible-test names this file in GET_PIP for its own wrapper; pip has no use for it.
    env = {name: value for name, value in os.environ.items() if name != "GET_PIP"}
    subprocess.run([sys.executable, "-m", "ensurepip"], check=True, env=env)
    # --no-setuptools and --no-wheel are get-pip.py's own options; pip does not know them.
    wanted = [word for word in sys.argv[1:] if not word.startswith("--no-")]
    pip = [sys.executable, "-m", "pip", "install", *wanted]
    return subprocess.run(pip, check=False, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
