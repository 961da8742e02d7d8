# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scenarios of this folder, and docs/reliability.md, which shows what a run of them saw."""

from __future__ import annotations

import ast
import re
from pathlib import Path

BEGIN, END = "<!-- scenarios: written by tests/faults -->", "<!-- end of the scenarios -->"
NOT_RUN = "not run yet"
NOTHING = "-"
_HEAD = ("what goes wrong", "what the user sees", "verdict", "the builtin")


def scenarios() -> dict[str, list[tuple[str, str, str]]]:
    """Return the theme of each test file and its scenarios: the test's name, the fault, what the user sees."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        tests = [
            (node.name, *parse(ast.get_docstring(node) or ""))
            for node in ast.walk(module)
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        ]
        theme = (ast.get_docstring(module) or path.stem).partition("\n")[0]
        found[theme] = [one for one in tests if one[1]]
    return found


def parse(docstring: str) -> tuple[str, str]:
    """Split a scenario's docstring into the fault and what the user sees; two empty strings if it is none."""
    fault, line, sees = " ".join(docstring.split()).partition(" | ")
    return (fault, sees) if line else ("", "")


def verdict(outcomes: dict[str, int], reasons: list[str]) -> str:
    """Say in a few words whether a scenario's promise held.

    :param outcomes: pytest's words, and how often each was the end of the test.
    :param reasons: why it was skipped.
    """
    bad = outcomes.get("failed", 0) + outcomes.get("error", 0)
    good = outcomes.get("passed", 0)
    if bad:
        return f"DOES NOT HOLD, {bad} of {bad + good} times"
    if not good:
        return f"not run: {'; '.join(sorted(set(reasons))) or 'no reason given'}"
    return "holds" if good == 1 else f"holds, {good} times"


def write(path: Path, seen: dict[tuple[str, ...], tuple[str, ...]]) -> None:
    """Write the tables of a page. What has not been run now stays as an earlier run has seen it.

    :param seen: of each fault and what the user sees: the verdict, and what one sees with the builtin.
    """
    page = path.read_text(encoding="utf-8")
    known = {row[:2]: row[2:] for row in rows(page)}
    known.update(seen)
    tables = []
    for theme, tests in scenarios().items():
        lines = [_line(_HEAD), _line(("---",) * len(_HEAD))]
        for _test, fault, sees in tests:
            lines.append(_line((fault, sees, *known.get((fault, sees), (NOT_RUN, NOTHING)))))
        tables += [f"### {theme}", "\n".join(lines)]
    before, _begin, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    body = "\n\n".join([BEGIN, *tables, END])
    path.write_text(before + body + after, encoding="utf-8")


def rows(page: str) -> list[tuple[str, ...]]:
    """Return the rows of a page's tables, each as a tuple of its cells."""
    inside = page.partition(BEGIN)[2].partition(END)[0]
    cells = [
        tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        for line in inside.splitlines()
        if line.startswith("| ")
    ]
    unescaped = [tuple(cell.replace("\\|", "|") for cell in row) for row in cells]
    return [row for row in unescaped if row != _HEAD and not row[0].startswith("---")]


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
