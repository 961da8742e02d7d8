# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remember how each cell of `make test-matrix` went, and print the grid at its end."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Sequence

BEGIN = "<!-- begin: written by make test-matrix -->"
END = "<!-- end: written by make test-matrix -->"
RECORDS = pathlib.Path(__file__).parents[2] / ".nox" / "matrix"


@contextlib.contextmanager
def cells(row: str, pythons: Iterable[str]) -> Iterator[None]:
    """Record cells as passed if the body ends without an exception."""
    records = [RECORDS / row / python for python in pythons]
    for record in records:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text("FAILED", encoding="utf-8")
    yield
    for record in records:
        record.write_text("passed", encoding="utf-8")


def show(
    wanted: dict[str, Sequence[str]], pythons: Iterable[str], page: pathlib.Path | None
) -> bool:
    """Print one row per check and one column per Python, forget it, and say if all is well.

    `wanted` names the Pythons of each row; one that is not among `pythons` is not installed here.
    What is printed also takes the place of what is between the marks of `page`.
    """
    columns = sorted({python for row in wanted.values() for python in row}, key=_as_number)
    width = max(len(row) for row in wanted)
    lines = [" ".join([" " * width, *(f"{column:>8}" for column in columns)])]
    counts = {"passed": 0, "FAILED": 0, "absent": 0}
    for row, needed in wanted.items():
        words = []
        for column in columns:
            word = "" if column not in needed else _read(row, column, installed=column in pythons)
            counts[word] = counts.get(word, 0) + 1
            words.append(f"{word:>8}")
        lines.append(" ".join([f"{row:<{width}}", *words]))
    lines.append("(absent: this machine has no such interpreter)")
    lines.append(
        f"{counts['passed']} passed, {counts['FAILED']} failed, {counts['absent']} skipped"
    )
    text = "\n".join(line.rstrip() for line in lines)
    print(text, flush=True)
    if page is not None:
        before, _begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        grid = f"{BEGIN}\n\n```text\n{text}\n```\n\n{END}"
        page.write_text(before + grid + after, encoding="utf-8")
    shutil.rmtree(RECORDS, ignore_errors=True)
    return not counts["FAILED"]


def _read(row: str, python: str, *, installed: bool) -> str:
    record = RECORDS / row / python
    if not installed:
        return "absent"
    # Installed but without a record: its environment could not even be made.
    return record.read_text(encoding="utf-8") if record.exists() else "FAILED"


def _as_number(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
