# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put get_pip.py where `ansible-test` looks before it downloads (see there for the why).

Run it with the interpreter that runs `ansible-test`: the file's name carries the version of pip
that this ansible-core asks for. A file that is there already is left alone.
"""

from __future__ import annotations

import importlib.util
import pathlib
import re
import shutil

CACHE = pathlib.Path("~/.ansible/test/cache").expanduser()


def main() -> None:
    """Seed the cache for every version of pip that the installed ansible-test names."""
    package = importlib.util.find_spec("ansible_test")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("ansible-core is not installed here, so there is nothing to seed")
    source = pathlib.Path(package.submodule_search_locations[0])
    text = (source / "_internal" / "python_requirements.py").read_text(encoding="utf-8")
    CACHE.mkdir(parents=True, exist_ok=True)
    for version in re.findall(r"\bpip='([0-9.]+)'", text):
        seed = CACHE / f"get_pip_{version.replace('.', '_')}.py"
        if not seed.exists():
            shutil.copyfile(pathlib.Path(__file__).with_name("get_pip.py"), seed)
            print(f"seeded {seed}")


if __name__ == "__main__":
    main()
