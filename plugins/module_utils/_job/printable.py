# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text of somebody else inside a text of ours: it may hold anything, and a terminal obeys what it is sent."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .schema import Record

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
LINE_BREAKS = "\n\t"
# Keys of a job dictionary that hold texts of ours, or text of somebody else that we show as our own.
TEXTS = (
    *("name", "msg", "reason", "signal", "containment", "user", "output_error"),
    *("survivors", "stopped_by", "progress"),
)


def printable(text: object, *, keep: str = "", replacement: str = REPLACEMENT) -> str:
    """Return a text that does nothing to a terminal but to be shown there.

    Control characters (C0, C1 and DEL), characters that change the direction of writing, invisible characters and lone
    surrogates are replaced. All kinds of white space become blanks, so the text has one line.

    :param keep: characters that stay as they are.
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        one if one.isprintable() or one in keep else " " if one.isspace() else replacement
        for one in shown
    )


def make_printable(result: Record) -> None:
    """Make the texts of ours in a result or a job dictionary printable; ``stdout`` and ``stderr`` stay as they are.

    A message may have several lines, because the message of a module is the module's own.
    """
    for key in TEXTS:
        if result.get(key):
            result[key] = _inside(result[key], LINE_BREAKS if key == "msg" else "")


def _inside(value: Any, keep: str) -> Any:
    """Return a value in which each text is printable; of a list and a dictionary, the texts in it."""
    if isinstance(value, str):
        return printable(value, keep=keep)
    if isinstance(value, list):
        return [_inside(one, keep) for one in value]
    if isinstance(value, dict):
        return {key: _inside(one, keep) for key, one in value.items()}
    return value
