# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Create the demo's SQLite database: customers and their orders.

Usage: python3 make_database.py FILE [ORDERS]
"""

from __future__ import annotations

import sqlite3
import sys

SCHEMA = """
CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE purchase (
    id INTEGER PRIMARY KEY,
    customer INTEGER NOT NULL REFERENCES customer (id),
    cents INTEGER NOT NULL
);
CREATE INDEX purchase_by_customer ON purchase (customer);
"""
CUSTOMERS = 100


def main(path: str, purchases: int) -> None:
    """Create the database and fill it."""
    connection = sqlite3.connect(path)
    with connection:
        connection.executescript(SCHEMA)
        connection.executemany(
            "INSERT INTO customer VALUES (?, ?)",
            ((number, "customer %d" % number) for number in range(CUSTOMERS)),
        )
        connection.executemany(
            "INSERT INTO purchase VALUES (?, ?, ?)",
            ((number, number % CUSTOMERS, number * 7 % 10000) for number in range(purchases)),
        )
    connection.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100000)
