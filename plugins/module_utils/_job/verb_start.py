# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Launch one job. The verb of the module job_start."""

from __future__ import annotations

from . import launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .call import Call
    from .schema import Record


def run(call: Call) -> Record:
    """Launch what the parameters ask for and return the result."""
    request = launch.build_request(call.params, no_log=call.no_log)
    launch.warn_of_shell(call, [("", call.params["cmd"])])
    skip = launch.unneeded(call.params)
    if skip is not None:
        return launch.not_needed(request, skip)
    return launch.launch_one(
        call, request, lambda store: launch.launch_all(call, store, [request])[0]
    )
