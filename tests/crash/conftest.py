# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the crash tests share, and their counts."""

from __future__ import annotations

import collections

from ansible_collections.durable.jobs.tests.crash import atlas

page = atlas.page
COUNTS = "counts"  # a property of each test


def pytest_terminal_summary(terminalreporter):
    """Print how many states there were, as a table of Markdown."""
    found = [
        dict(one.user_properties)[COUNTS]
        for one in terminalreporter.stats.get("passed", [])
        if COUNTS in dict(one.user_properties)
    ]
    if not found:
        return
    terminalreporter.section("crash atlas")
    total = collections.Counter()
    for row in sorted(found, key=lambda row: (row["what"], row["protocol"])):
        states = row["states"]
        total.update(states)
        shown = ", ".join(f"{model} {number}" for model, number in states.items())
        told = (row["what"], row["protocol"], row["operations"], row["flushes"], shown)
        terminalreporter.line(" | ".join(map(str, told)))
    terminalreporter.line(f"{sum(total.values())} states: {dict(total)}")
