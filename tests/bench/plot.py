# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Draw what was measured. The same figures give the same file, byte by byte."""

from __future__ import annotations

import math
import pathlib
import typing as t

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ansible_collections.durable.jobs.tests.bench.report import Plot

# Told apart by colour (Okabe and Ito's, for all kinds of eyes), by mark and by dash.
STYLES: tuple[dict[str, t.Any], ...] = (
    {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    {"color": "#D55E00", "marker": "s", "linestyle": "-"},
    {"color": "#56B4E9", "marker": "^", "linestyle": "--"},
    {"color": "#E69F00", "marker": "D", "linestyle": "--"},
)
LEAST = 0.001  # what is shown of less: a logarithm has no 0
SETTINGS: dict[t.Any, t.Any] = {
    "svg.hashsalt": "durable.jobs",
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 10.0,
}


def draw(plot: Plot, folder: pathlib.Path) -> None:
    """Write the picture to its file in the folder."""
    columns = min(2, len(plot.panels))
    rows = -(-len(plot.panels) // columns)
    with mpl.rc_context(SETTINGS):
        # Not transparent: it is read on light and on dark pages.
        figure = Figure(figsize=(4.6 * columns, 3.3 * rows + 0.7), facecolor="#ffffff")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, (unit, lines) in zip(grid.flat, plot.panels.items()):
            _panel(axes, unit, lines)
            axes.set_xlabel(plot.across)
        handles, names = grid.flat[0].get_legend_handles_labels()
        figure.suptitle(plot.title)
        figure.legend(handles, names, loc="lower center", ncols=len(names), frameon=False)
        figure.tight_layout(rect=(0, 0.06, 1, 1))
        path = folder / plot.file
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    # Its lines end in blanks, which the linters refuse.
    text = path.read_text(encoding="utf-8")
    trimmed = "".join(line.rstrip() + "\n" for line in text.splitlines())
    path.write_text(trimmed, encoding="utf-8")


def _panel(axes: Axes, unit: str, lines: dict[str, dict[int, float]]) -> None:
    shown: list[float] = []
    for style, (name, points) in zip(STYLES, lines.items()):
        heights = [max(height, LEAST) for height in points.values()]
        axes.plot(list(points), heights, label=name, **style)
        shown += heights
    axes.set_xscale("log")
    axes.set_yscale("log")
    if shown:  # whole decades: a scale with one label says nothing
        low, high = math.floor(math.log10(min(shown))), math.ceil(math.log10(max(shown)))
        axes.set_ylim(10**low, 10 ** max(high, low + 1))
    plain = FuncFormatter(lambda value, _place: f"{value:,g}")
    axes.xaxis.set_major_formatter(plain)
    axes.yaxis.set_major_formatter(plain)
    axes.xaxis.set_ticks(sorted({count for points in lines.values() for count in points}))
    axes.minorticks_off()
    axes.set_ylabel(unit)
    axes.grid(visible=True, color="#dddddd")
