# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fault tests report one line each: the fault, what the user sees, the verdict."""

from __future__ import annotations

import collections
import os
import random

SEED = os.environ.get("DURABLE_JOBS_SEED") or str(random.randrange(10**9))
_FAULTS: dict[str, str] = {}


def pytest_report_header():
    return f"seed of the random moments: {SEED} (set DURABLE_JOBS_SEED to repeat them)"


def pytest_collection_modifyitems(items):
    """Learn from each test's docstring what goes wrong in it and what the user sees of that."""
    for item in items:
        docstring = item.function.__doc__
        if docstring:
            _FAULTS[item.nodeid.partition("[")[0]] = " ".join(docstring.split())


def pytest_terminal_summary(terminalreporter):
    """Print the report: the repetitions of a test are one line."""
    verdicts = collections.defaultdict(collections.Counter)
    notes = collections.defaultdict(collections.Counter)
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            name = getattr(report, "nodeid", "").partition("[")[0]
            verdicts[name][outcome] += 1
            notes[name].update(f"{key}: {value}" for key, value in report.user_properties)
    terminalreporter.section("faults")
    for name, fault in _FAULTS.items():
        verdict = ", ".join(f"{count} {outcome}" for outcome, count in verdicts[name].items())
        noted = "; ".join(f"{count} x {note}" for note, count in sorted(notes[name].items()))
        terminalreporter.line(f"{fault} | {verdict}" + (f" ({noted})" if noted else ""))
