# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How often, and for how long, to look at a job that has a time limit. Private to the collection."""

from __future__ import annotations

import math

from ._job.errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    Number = Union[int, float]

VERDICT = (
    3.0  # seconds from the end of the grace period until the final record is there, at the latest
)
NO_LIMIT = 365 * 86400.0  # seconds that are planned for a job without a time limit
DEFAULT_DELAY = 10.0
DEFAULT_GRACE = 10.0
# The share of a period that is slept on the controller. The rest is waited on the target, where the
# end is noticed at once.
_PAUSE_SHARE = 0.1
_PAUSE_LIMIT = 1.0


def poll_plan(
    timeout: float, delay: float = DEFAULT_DELAY, grace: float = DEFAULT_GRACE
) -> dict[str, Number]:
    """Compute ``retries``, ``delay`` and ``wait`` for a task that polls with ``until``.

    Ansible looks ``retries`` + 1 times and sleeps ``delay`` seconds in between; each look is
    ``job_status`` with ``wait``. Looks
    and sleeps together cover timeout, grace and the verdict, and end at most one of the given delays after that.

    :param timeout: the job's limit in seconds; 0 for none, which plans for a year.
    :param delay: seconds from the beginning of one look to the beginning of the next.
    :param grace: seconds between stop signal and SIGKILL.
    :raises JobError: a number is negative, or the delay is 0.
    """
    for name, value in (("timeout", timeout), ("grace", grace)):
        if math.isnan(value) or math.isinf(value) or value < 0:
            raise JobError(
                "%s must be a number of seconds that is not negative, not %s" % (name, value)
            )
    if math.isnan(delay) or math.isinf(delay) or delay <= 0:
        raise JobError("delay must be a number of seconds greater than 0, not %s" % delay)
    pause = min(_PAUSE_LIMIT, delay * _PAUSE_SHARE)
    span = (timeout or NO_LIMIT) + grace
    retries = max(1, math.ceil(span / delay))
    if span / retries - pause < VERDICT:  # the last look is too short for the verdict
        span += VERDICT
        retries = math.ceil(span / delay)
    wait = round(span / retries - pause, 9)
    if retries * (pause + wait) < span:
        wait += 1e-9
    return {"retries": retries, "delay": plain(pause), "wait": plain(wait)}


def plain(number: float) -> Number:
    """Return a whole number as an int: 10 reads better than 10.0."""
    return int(number) if number == int(number) else number
