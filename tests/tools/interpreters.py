# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the Python interpreters of this machine that really run.

A `python3.9` on PATH proves nothing: version managers such as pyenv put a shim there for every
version that they know, and the shim of a version that is not selected only prints an error.
So each candidate is started once and asked who it is, and the answer names the real program.
"""

from __future__ import annotations

import glob
import os
import subprocess
import sys

# What a contract's pair can need: targets 3.7 to 3.13, controllers up to 3.14.
VERSIONS = [f"3.{minor}" for minor in range(7, 15)]

_WHO = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"
# Debian splits these two off: without them an interpreter runs, but makes no environments.
_CAN_MAKE_ENVIRONMENTS = "import ensurepip, venv; " + _WHO


def _ask(candidate: str, question: str) -> tuple[str, str] | None:
    """Return (version, real program) if the candidate runs and has an answer."""
    try:
        run = subprocess.run(
            [candidate, "-I", "-c", question],
            capture_output=True,
            check=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=20,
        )
        version, program = run.stdout.strip().split(" ", 1)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return version, program


def _candidates(version: str) -> list[str]:
    """Return the paths where this version may lie, the likeliest first."""
    name = f"python{version}"
    found = [os.path.join(folder, name) for folder in os.get_exec_path()]
    manager = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    found += sorted(glob.glob(os.path.join(manager, "versions", version + ".*", "bin", name)))
    return [path for path in found if os.access(path, os.X_OK)]


def find() -> dict[str, str]:
    """Return {version: path} of every interpreter that tests can use, oldest first."""
    # The one that runs this comes first: it is the machine's default Python (in its environment).
    known = {"%d.%d" % sys.version_info[:2]: os.path.realpath(sys.executable)}
    for version in VERSIONS:
        for candidate in _candidates(version):
            if version in known:
                break
            answer = _ask(candidate, _CAN_MAKE_ENVIRONMENTS)
            if answer and answer[0] == version:
                known[version] = answer[1]
    return {version: known[version] for version in VERSIONS if version in known}


def search_path(pythons: dict[str, str]) -> str:
    """Return a PATH on which each `pythonX.Y` is a real one, or is not there at all.

    Tools look for interpreters on PATH by name (nox, ansible-test), so folders that hold a
    broken `pythonX.Y` go, and the folders of the real ones come after what is left.
    """
    kept = []
    for folder in os.get_exec_path():
        names = [os.path.join(folder, f"python{version}") for version in VERSIONS]
        if all(_ask(name, _WHO) for name in names if os.access(name, os.X_OK)):
            kept.append(folder)
    real = [os.path.dirname(path) for path in pythons.values()]
    return os.pathsep.join(dict.fromkeys(kept + real))


if __name__ == "__main__":
    for found_version, found_path in find().items():
        print(found_version, found_path)
