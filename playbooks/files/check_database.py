# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check an SQLite database: its pages, indexes and foreign keys; exit 0 only if all are sound.

Usage: python3 check_database.py FILE
"""

from __future__ import annotations

import argparse
import pathlib
import sqlite3
import sys


def problems(path: pathlib.Path) -> list[str]:
    """Return what is wrong with a database; an empty list if nothing is."""
    # Read-only, so that a missing file is an error instead of a new empty database.
    connection = sqlite3.connect(path.resolve().as_uri() + "?mode=ro", uri=True)
    try:
        found = [row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
        for table, row, parent, _number in connection.execute("PRAGMA foreign_key_check"):
            found.append("row %s of %s points to a missing row of %s" % (row, table, parent))
    finally:
        connection.close()
    return found


def main() -> int:
    """Check one database and say what was found."""
    parser = argparse.ArgumentParser(description="Check an SQLite database.")
    parser.add_argument("file", type=pathlib.Path)
    path = parser.parse_args().file
    try:
        found = problems(path)
    except sqlite3.Error as error:
        found = [str(error)]
    for problem in found:
        print(problem)
    print("%s: %s" % (path, "not sound" if found else "sound"))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
