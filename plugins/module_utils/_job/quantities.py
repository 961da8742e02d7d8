# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers that users give: durations and whole numbers, and how large each may be. Pure functions only.

Modules, actions and filters ask here, so that all of them accept the same and refuse it with the same words. The limits
are such that whatever is accepted has room in a record, in the kernel and in C.
"""

from __future__ import annotations

import math
import re

from .errors import JobError
from .schema import LARGEST, LONGEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TASKS = 2**22  # processes that Linux can have at the most
SHOWN = 60  # characters of a wrong value that a message shows

# The parameters that are durations, whichever module has them.
DURATIONS = (
    *("timeout", "max_timeout", "watchdog", "grace", "retention", "notify_for"),
    *("wait", "older_than", "reconnect_timeout"),
    *("start_in", "retry_delay", "retry_delay_max", "timeout_total"),
)
# The parameters that are whole numbers: the least, the most, and an example.
WHOLE: dict[str, tuple[int, int, str]] = {
    "nice": (-40, 40, "10"),
    "output_limit": (0, LARGEST, "1048576"),
    "tasks_max": (1, TASKS, "100"),
    "slots": (0, LARGEST, "4"),
    "limit": (0, LARGEST, "100"),
    "offset": (0, LARGEST, "4096"),
    "tail_lines": (0, LARGEST, "20"),
    "keep_last": (0, LARGEST, "100"),
    "max_bytes": (0, LARGEST, "1048576"),
    "retries": (0, 1000, "3"),
    "attempt": (1, 1001, "1"),
}
# The parameters that are numbers of another kind: the least, the most, and an example.
FACTORS: dict[str, tuple[float, float, str]] = {
    "retry_backoff": (1, 1000, "2"),
    "retry_jitter": (0, 1, "0.1"),
}

_EXAMPLE = "a number of seconds or a duration such as 90s, 30m, 1h30m, 2d or 1w"
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(
    "".join(r"(?:(?P<%s>[0-9]+(?:\.[0-9]+)?)%s)?" % (unit, unit) for unit in _UNITS), re.ASCII
)


def seconds(name: str, value: object) -> float:
    """Return a duration in seconds.

    :param name: the parameter's, for the message.
    :param value: a number of seconds, or its text, or text such as ``1h30m``.
    :raises JobError: it is no duration, is negative, or is longer than ten years.
    """
    found = _seconds(value)
    if found is None or math.isnan(found):
        raise JobError("%s must be %s, not %s" % (name, _EXAMPLE, shown(value)))
    if found < 0:
        told = (name, shown(value), _EXAMPLE)
        raise JobError("%s must not be negative, but is %s; give %s" % told)
    if found > LONGEST:
        most = "%s must be at most ten years (%d s)" % (name, LONGEST)
        raise JobError("%s, but is %s; give %s" % (most, shown(value), _EXAMPLE))
    return found


def _seconds(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _float(value)
    text = value.strip() if isinstance(value, str) else ""
    if _NUMBER.fullmatch(text):
        return _float(text)
    parts = _DURATION.fullmatch(text) if text else None
    if parts is None:
        return None
    found = ((unit, number) for unit, number in parts.groupdict().items() if number)
    return sum(_float(number) * _UNITS[unit] for unit, number in found)


def _float(value: float | str) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond every float
        return float("inf") if isinstance(value, int) and value > 0 else float("-inf")


def whole(name: str, value: object) -> int:
    """Return a whole number that the parameter ``name`` may have.

    :raises JobError: it is none, or less or more than the parameter may be.
    """
    least, most, example = WHOLE[name]
    found = _whole(value)
    if found is None:
        told = (name, example, shown(value))
        raise JobError("%s must be a whole number such as %s, not %s" % told)
    if found < 0 <= least <= 1:
        rule = "not be negative" if least == 0 else "be at least 1"
    elif found < least:
        rule = "be at least %d" % least
    elif found > most:
        rule = "be at most %d" % most
    else:
        return found
    text = "%s must %s, but is %s; give a number such as %s"
    raise JobError(text % (name, rule, shown(value), example))


def _whole(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    text = value.strip() if isinstance(value, str) else ""
    # Reading more digits takes long, and no parameter is that large.
    return int(text) if len(text) <= 400 and _INTEGER.fullmatch(text) else None


def factor(name: str, value: object) -> float:
    """Return a number that the parameter ``name`` may have. :raises JobError: it is none, or too small or too large."""
    least, most, example = FACTORS[name]
    text = str(value).strip() if isinstance(value, (str, int, float)) else ""
    found = _float(text) if _NUMBER.fullmatch(text) and not isinstance(value, bool) else math.nan
    if not least <= found <= most:
        told = (name, least, most, example, shown(value))
        raise JobError("%s must be a number from %g to %g such as %s, not %s" % told)
    return found


def checked(params: dict[str, Any]) -> dict[str, Any]:
    """Return parameters with durations in seconds and whole numbers as such; what is not given, null, stays so.

    :raises JobError: naming the parameter that is wrong.
    """
    found = dict(params)
    for name, value in params.items():
        if value is not None and name in DURATIONS:
            found[name] = seconds(name, value)
        elif value is not None and name in WHOLE:
            found[name] = whole(name, value)
        elif value is not None and name in FACTORS:
            found[name] = factor(name, value)
    return found


def shown(value: object) -> str:
    """Return a wrong value for a message: no more of it than helps."""
    if isinstance(value, int) and not -(10**SHOWN) < value < 10**SHOWN:
        return "a number of more than %d digits" % SHOWN
    try:
        text = repr(value) if isinstance(value, str) else str(value)
    except ValueError:  # a list of such numbers
        text = type(value).__name__
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
