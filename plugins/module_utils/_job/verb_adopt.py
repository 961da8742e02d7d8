# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Give jobs that have lost keeper and runner a new keeper. For the keyword ``async``, whose looks are modules."""

from __future__ import annotations

from . import launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .call import Call
    from .schema import Record


def run(call: Call) -> Record:
    """Adopt the jobs of the parameter ``jids``. :raises JobError: the launcher could not be run at all."""
    launch.adopt(call.open_store(create=False), call.params["jids"])
    return {"changed": False}
