# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recognising a line of shell in what no shell will see. Private to the collection."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Pattern, Union

    Signs = List[Union[str, Pattern[str]]]

NAMED = 5  # words that a warning names
SHOWN = 40  # characters of each
_BLANKS = re.compile(r"\s")
_VARIABLE = re.compile(r"\$[A-Za-z0-9_{(@*#?!$-]", re.ASCII)
_HOME = re.compile(r"^~([A-Za-z_/]|$)", re.ASCII)
_SETTING = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*=", re.ASCII)
_COMMENT = re.compile("^#")
_SET = re.compile(r"\[[^\]]+\]")


def hint(cmd: str | None, *, hidden: bool = False) -> str | None:
    """Return a warning about a parameter ``cmd`` that seems to be meant for a shell; None if it does not.

    :param hidden: what it says may not be shown.
    """
    found = [] if cmd is None else meant_for_shell(cmd)
    if not found:
        return None
    shown = ["".join(one if one.isprintable() else "?" for one in word[:SHOWN]) for word in found]
    words = ": " + " ".join(shown[:NAMED]) if not hidden else ""
    return (
        "cmd is run without a shell, so what only a shell understands is given to the program as it is%s. "
        "Use shell: instead of cmd: for a line of shell, or put it in single quotes if it is meant so"
        % words
    )


def meant_for_shell(cmd: str) -> list[str]:
    """Return the words that a shell would not take as they are: unquoted operators, variables, patterns."""
    found = []
    for number, (word, plain) in enumerate(_words(cmd)):
        signs: Signs = [*"|<>`", _VARIABLE, _HOME, _COMMENT]
        if "://" not in word:
            signs += [*"&;*?", _SET]
        if number == 0:
            signs.append(_SETTING)
        if any(sign in plain if isinstance(sign, str) else sign.search(plain) for sign in signs):
            found.append(word)
    return list(dict.fromkeys(found))


def _words(cmd: str) -> list[tuple[str, str]]:
    """Return the words of a command as they are written, and what of each a shell would look at.

    That is nothing in single quotes, variables and commands in double quotes, and no character after a backslash. In
    place of what is quoted there is a control character, which nobody looks for.
    """
    words = []
    begin, plain, quote, at = 0, "", "", 0
    while at < len(cmd):
        one = cmd[at]
        if one == "\\" and quote != "'":
            at += 1
            plain += "\0"
        elif quote:
            plain += one if quote == '"' and one in "$`" else "\0"
            if quote == '"' and one == "$":
                plain += cmd[at + 1 : at + 2]
            quote = "" if one == quote else quote
        elif one in "'\"":
            quote = one
            plain += "\0"
        elif _BLANKS.match(one):
            words.append((cmd[begin:at], plain))
            begin, plain = at + 1, ""
        else:
            plain += one
        at += 1
    words.append((cmd[begin:], plain))
    return [(word, plain) for word, plain in words if word]
