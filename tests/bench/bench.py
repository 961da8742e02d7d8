# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure ours against the builtin async, side by side, and write docs/benchmarks.md. See README.md here."""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
import typing as t

from ansible_collections.durable.jobs.tests.bench import (
    lab,
    machine,
    measure_crowd,
    measure_deadline,
    measure_fleet,
    measure_launch,
    measure_many,
    measure_memory,
    measure_notice,
    measure_output,
    plot,
    report,
)

# In the order of the page. Each module has measure(lab), which returns a Section or several.
MEASUREMENTS = {
    "launch": measure_launch,
    "notice": measure_notice,
    "memory": measure_memory,
    "deadline": measure_deadline,
    "output": measure_output,
    "many": measure_many,
    "crowd": measure_crowd,
    "fleet": measure_fleet,
}


def main() -> int:
    """Run the measurements that are asked for. Return 0 if they could be taken, whatever the figures."""
    options = _options()
    facts = machine.facts((options.output or pathlib.Path(__file__)).absolute().parent)
    sections = []
    begin = time.monotonic()
    with lab.open_lab(quick=options.quick) as place:
        for name in options.only:
            print(f"measuring: {name} ...", flush=True)
            found = MEASUREMENTS[name].measure(place)
            sections += found if isinstance(found, list) else [found]
            place.come_to_rest()
    facts.append(("duration of the run", f"{time.monotonic() - begin:.0f} s"))
    text = report.page(facts, sections)
    print(text)
    if options.draw:
        draw_all(sections, options.draw)
    if options.output and not options.quick and len(options.only) == len(MEASUREMENTS):
        report.write(options.output, text)
        draw_all(sections, options.output.parent)
        print(f"\nwritten: {options.output}")
    return 0


def draw_all(sections: t.Iterable[report.Section], folder: pathlib.Path) -> None:
    """Write the pictures of all sections into a folder."""
    for section in sections:
        for one in section.plots:
            plot.draw(one, folder)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE", help="write the page here")
    parser.add_argument(
        "--quick", action="store_true", help="few repetitions, to try it out; writes no page"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=MEASUREMENTS,
        help="take this measurement, can be given again; writes no page",
    )
    parser.add_argument(
        "--draw", type=pathlib.Path, metavar="FOLDER", help="write the pictures here in any case"
    )
    options = parser.parse_args()
    options.only = options.only or list(MEASUREMENTS)
    return options


if __name__ == "__main__":
    sys.exit(main())
