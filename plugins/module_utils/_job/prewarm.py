# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes that keepers and runners will look up, looked up before they are forked.

CPython notes what it has found on a type, or not found, in one table of some 100 KB (the method cache of
Objects/typeobject.c). A note that a process makes after its fork copies a page of that, so a keeper and its runner
would have forty pages of their own for what is the same in all of them.
"""

from __future__ import annotations

import os
import select
from types import FunctionType, ModuleType

from . import attempts, course, keeper, kernel, output, retrying, runner, spawn, standby

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable

# The code that runs after a fork, beside the launcher's. Of all code it could be, but the table is small.
_MODULES = (keeper, kernel, output, runner, spawn)
PATIENT = (attempts, course, retrying, standby)  # and that of jobs that wait, or are tried again
# Whose methods it uses without naming the type.
_BUILTIN = (bytes, dict, list, memoryview, os.statvfs_result, str, type(select.poll()))


def look_up(launcher: ModuleType, further: tuple[ModuleType, ...] = ()) -> None:
    """Look up what will be looked up on modules, on types of ours and their instances, and on builtin types."""
    seen = [thing for module in (launcher, *_MODULES, *further) for thing in vars(module).values()]
    types = {thing for thing in seen if isinstance(thing, type)}
    names = _names(seen).union(*(_names(vars(one).values()) for one in types))
    known = {name for thing in seen if isinstance(thing, ModuleType) for name in dir(thing)}
    for name in names & known:
        getattr(os, name, None)  # for the table, one module is like another
    for one in (*types, *_BUILTIN):
        # What an instance has itself is also looked for on the type; it is set up in __init__.
        own = _names(vars(kind).get("__init__") for kind in one.__mro__)
        for name in names & own.union(dir(one)):
            getattr(one, name, None)


def _names(things: Iterable[object]) -> set[str]:
    """Return the names of attributes and globals that functions use, and properties."""
    functions = [thing.fget if isinstance(thing, property) else thing for thing in things]
    codes = [one.__code__ for one in functions if isinstance(one, FunctionType)]
    return {name for code in codes for name in code.co_names}
