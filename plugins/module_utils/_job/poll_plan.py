# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How often, and for how long, to look at a job that has a time limit. Private to the collection."""

from __future__ import annotations

import math

from . import quantities
from .errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    Number = Union[int, float]

VERDICT = (
    3.0  # seconds from the end of the grace period until the final record is there, at the latest
)
NO_LIMIT = 365 * 86400.0  # seconds that are planned for a job without a time limit
SHORTEST_DELAY = 0.01
DEFAULT_DELAY = 10.0
DEFAULT_GRACE = 10.0
# The share of a period that is slept on the controller. The rest is waited on the target, where the
# end is noticed at once.
_PAUSE_SHARE = 0.1
_PAUSE_LIMIT = 1.0


def poll_plan(
    timeout: object,
    delay: object = DEFAULT_DELAY,
    grace: object = DEFAULT_GRACE,
    max_timeout: object = 0,
) -> dict[str, Number]:
    """Compute ``retries``, ``delay`` and ``wait`` for a task that polls with ``until``.

    Ansible looks ``retries`` + 1 times and sleeps ``delay`` seconds in between; each look is
    ``job_status`` with ``wait``. Looks
    and sleeps together cover timeout, grace and the verdict, and end at most one of the given delays after that.

    All of these are durations, see ``quantities.seconds``.

    :param timeout: the job's limit; 0 for none, which plans for a year.
    :param delay: from the beginning of one look to the beginning of the next.
    :param grace: between stop signal and SIGKILL.
    :param max_timeout: the limit of a job that may ask for more time; it counts if it is not 0.
    :raises JobError: one is no duration, or the delay is next to nothing.
    """
    limit = quantities.seconds("timeout", timeout)
    limit = quantities.seconds("max_timeout", max_timeout) or limit
    period = quantities.seconds("delay", delay)
    if period < SHORTEST_DELAY:
        told = (SHORTEST_DELAY, quantities.shown(delay))
        raise JobError("delay must be at least %s s, such as 10s, but is %s" % told)
    pause = min(_PAUSE_LIMIT, period * _PAUSE_SHARE)
    span = (limit or NO_LIMIT) + quantities.seconds("grace", grace)
    retries = max(1, math.ceil(span / period))
    if span / retries - pause < VERDICT:  # the last look is too short for the verdict
        span += VERDICT
        retries = math.ceil(span / period)
    wait = round(span / retries - pause, 9)
    if retries * (pause + wait) < span:
        wait += 1e-9
    return {"retries": retries, "delay": plain(pause), "wait": plain(wait)}


def plain(number: float) -> Number:
    """Return a whole number as an int: 10 reads better than 10.0."""
    return int(number) if number == int(number) else number
