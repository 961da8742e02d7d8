# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Launch a module of Ansible as a job. The verb of the module job_module."""

from __future__ import annotations

from . import launch
from .errors import JobError
from .module_jobs import module_request, stage_part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .call import Call
    from .schema import Record
    from .store import Store


def run(call: Call) -> Record:
    """Launch the module that the action plugin has prepared and return the result."""
    part = call.request["part"]
    if part is None:
        raise JobError(
            "job_module needs its action plugin, which prepares the module on the controller"
        )
    request = module_request(call.params, part, no_log=call.no_log)
    skip = launch.unneeded(call.params) or part.get("unneeded")
    if skip:
        return launch.not_needed(request, skip)

    def staged_launch(store: Store) -> Record:
        staged = stage_part(store, part)
        try:
            request.update(staged.keys, argv=staged.argv)
            answer = launch.launch_all(call, store, [request])[0]
        except BaseException:
            staged.discard()
            raise
        staged.settle(answer)
        return answer

    return launch.launch_one(call, request, staged_launch)
