# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a measurement hands over, and how it becomes docs/benchmarks.md. No figure is written by hand."""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import typing as t

BEGIN = "<!-- begin: written by make bench -->"
END = "<!-- end: written by make bench -->"


class Samples:
    """Repetitions of one figure."""

    def __init__(self, values: t.Iterable[float]) -> None:
        self.values = sorted(values)

    @property
    def median(self) -> float:
        """The figure that is compared with others."""
        return statistics.median(self.values)

    def show(self, form: str) -> str:
        """Return the median and, if there are several values, the smallest and the largest.

        :param form: a format string such as ``{:.3f}``.
        """
        if len(self.values) == 1:
            return form.format(self.median)
        low, high = form.format(self.values[0]), form.format(self.values[-1])
        return f"{form.format(self.median)} ({low} to {high})"


def ratio(ours: Samples, other: Samples) -> float:
    """Return how ours compares; below 1 ours is less. It is rounded as it is shown."""
    return round(ours.median / other.median, 2) if other.median else float("inf")


@dataclasses.dataclass
class Aim:
    """Something that we promise, held against what was measured."""

    promise: str
    measured: str
    met: bool


def share(ours: float | None, other: float | None) -> float | None:
    """Return how ours compares, rounded as it is shown; None where one of them was not measured."""
    return round(ours / other, 2) if ours is not None and other else None


@dataclasses.dataclass
class Plot:
    """A picture: panels side by side, each with lines over the same x axis, everything logarithmic.

    :param name: of the file, less what all of them have in common.
    :param across: what the x axis counts.
    :param panels: by what is on the y axis, with its unit: the lines by name, each y by x.
    """

    name: str
    title: str
    across: str
    panels: dict[str, dict[str, dict[int, float]]]

    @property
    def file(self) -> str:
        """The name of the file, in the folder of the page."""
        return f"benchmarks-{self.name}.svg"


@dataclasses.dataclass
class Section:
    """One measurement's part of the page.

    :param explanation: what was measured and how to read it, in whole sentences.
    :param rows: the table; each row has as many cells as ``columns``.
    """

    title: str
    explanation: str
    columns: t.Sequence[str]
    rows: list[t.Sequence[str]] = dataclasses.field(default_factory=list)
    aims: list[Aim] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    plots: list[Plot] = dataclasses.field(default_factory=list)

    def text(self) -> str:
        """Return the section as Markdown."""
        parts = [f"## {self.title}", self.explanation]
        parts += [f"![{plot.title}]({plot.file})" for plot in self.plots]
        if self.rows:
            parts.append(table(self.columns, self.rows))
        return "\n\n".join(part for part in parts + self.notes if part)


def table(columns: t.Sequence[str], rows: t.Iterable[t.Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are aligned to the right."""
    rule = ["---"] + ["---:"] * (len(columns) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, rule, *rows))


def page(facts: t.Sequence[tuple[str, str]], sections: t.Sequence[Section]) -> str:
    """Return everything that stands between the marks of docs/benchmarks.md."""
    aims = [aim for section in sections for aim in section.aims]
    verdicts = [(aim.promise, aim.measured, "met" if aim.met else "**not met**") for aim in aims]
    parts = ["## This run", table(("", ""), facts).replace("---:", "---")]
    parts += ["## Aims", table(("aim", "measured", "verdict"), verdicts)]
    parts += [section.text() for section in sections]
    return "\n\n".join(parts)


def write(path: pathlib.Path, text: str) -> None:
    """Put the text between the marks of a file and leave the rest of it alone.

    :raises ValueError: the file has no such marks.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no lines {BEGIN} and {END}")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
