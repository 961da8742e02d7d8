# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all scenarios share, and their report: one line each, and the page docs/reliability.md.

A scenario is a test whose docstring is ``the fault | what the user sees``. With ``record_property("builtin", "...")``
it reports what the builtin async made of the same fault; any other property is counted and shown as a note.
"""

from __future__ import annotations

import collections
import os
import random
import tempfile
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.tests.faults import report
from ansible_collections.durable.jobs.tests.faults.builtin import Builtin
from ansible_collections.durable.jobs.tests.unit import conftest as unit

# In the environment, because pytest and the tests may import this file under different names.
SEED = os.environ.setdefault("DURABLE_JOBS_SEED", str(random.randrange(10**9)))
SCENARIO = "scenario"  # a property of each test

launcher = unit.launcher


@pytest.fixture
def builtin():
    with tempfile.TemporaryDirectory(prefix="durable_builtin.") as folder:
        made = Builtin(Path(folder))
        yield made
        made.close()


def pytest_addoption(parser):
    parser.addoption("--reliability", metavar="PAGE", help="write what was seen to this page")


def pytest_report_header():
    return f"seed of the random moments: {SEED} (set DURABLE_JOBS_SEED to repeat them)"


def pytest_collection_modifyitems(items):
    """Let each test report what goes wrong in it and what the user sees of that, as its docstring says."""
    for item in items:
        fault, sees = report.parse(item.function.__doc__ or "")
        if fault:
            item.user_properties.append((SCENARIO, (fault, sees)))


def pytest_terminal_summary(terminalreporter, config):
    """Print the report: the repetitions of a test are one line."""
    scenarios = {}
    outcomes = collections.defaultdict(collections.Counter)
    notes = collections.defaultdict(collections.Counter)
    builtins = collections.defaultdict(collections.Counter)
    reasons = collections.defaultdict(list)
    for outcome in ("passed", "failed", "error", "skipped"):
        for one in terminalreporter.stats.get(outcome, []):
            name = getattr(one, "nodeid", "").partition("[")[0]
            outcomes[name][outcome] += 1
            if outcome == "skipped":
                reasons[name].append(one.longrepr[2].removeprefix("Skipped: "))
            for key, value in getattr(one, "user_properties", []):
                if key == SCENARIO:
                    scenarios[name] = tuple(value)
                elif key == "builtin":
                    builtins[name][value] += 1
                else:
                    notes[name][f"{key}: {value}"] += 1
    terminalreporter.section("faults")
    seen = {}
    for name, (fault, sees) in sorted(scenarios.items()):
        verdict = report.verdict(outcomes[name], reasons[name])
        noted = _counted(notes[name])
        builtin_sees = _counted(builtins[name]) or report.NOTHING
        seen[(fault, sees)] = (verdict + (f" ({noted})" if noted else ""), builtin_sees)
        terminalreporter.line(" | ".join((fault, sees, *seen[(fault, sees)])))
    if config.getoption("--reliability"):
        report.write(Path(config.getoption("--reliability")), seen)


def _counted(texts):
    often = len(texts) > 1 or sum(texts.values()) > 1
    return "; ".join(
        (f"{count} x {text}" if often else text) for text, count in sorted(texts.items())
    )
