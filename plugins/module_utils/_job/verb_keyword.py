# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Launch a module that ansible-core has transferred for the keyword ``async``. The verb of the module async_wrapper.

Parameters: all of job_start, and ``order``::

    {
        "module": "file",
        "path": "/tmp/x/AnsiballZ_file.py",
        "args": null,
        "tmpdir": "/tmp/x",
        "check_mode": false,
    }
"""

from __future__ import annotations

from . import launch
from .errors import JobError
from .staging import stage_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .call import Call
    from .schema import Record


def run(call: Call) -> Record:
    """Launch the module and return the result that ansible-core expects. :raises JobError: it could not be launched."""
    order = dict(call.params.pop("order"))
    check_mode = order.pop("check_mode")
    store = call.open_store(create=True)
    try:
        staged = stage_files(store, **order)
    except OSError as error:
        raise store.failure(error) from None
    try:
        request = launch.build_request(dict(call.params, argv=staged.argv), no_log=call.no_log)
        request.update(staged.keys, keyword={"check_mode": check_mode})
        answer = launch.launch_all(call, store, [request])[0]
    except JobError:
        staged.discard()
        raise
    staged.settle(answer)
    return launch.outcome(store, request, answer)
