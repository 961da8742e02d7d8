# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put the job dictionary into the RETURN blocks of modules: ansible-core merges no fragments there.

return_docs.py writes them, return_docs.py --check exits with 1 if one is not as it would be written.
"""

from __future__ import annotations

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[2]
SOURCE = ROOT / "docs" / "templates" / "job_return.yml"
BEGIN = "# The job dictionary, from docs/templates/job_return.yml.\n"
END = "# End of the job dictionary.\n"
BLOCK = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)


def main() -> int:
    """Write or check all modules, and return the exit status."""
    keys = re.sub(r"\A(#.*\n)*---\n(#.*\n)*", "", SOURCE.read_text(encoding="utf-8"))
    block = BEGIN + keys + END
    stale = []
    for path in sorted(ROOT.glob("plugins/modules/*.py")):
        text = path.read_text(encoding="utf-8")
        wanted = BLOCK.sub(lambda _match: block, text)
        if wanted != text:
            stale.append(path.relative_to(ROOT))
            if "--check" not in sys.argv:
                path.write_text(wanted, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(
            f"{', '.join(map(str, stale))}: RETURN is not as in {SOURCE.relative_to(ROOT)}; run make format"
        )
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
