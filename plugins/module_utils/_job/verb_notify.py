# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deliver now the notifications that are due. The verb of the module job_notify."""

from __future__ import annotations

import os
import time

from . import delivery, notifying, outbox
from .errors import MISHAPS
from .store import has_outbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .call import Call
    from .schema import Record
    from .store import Store

_TICK = 0.05  # seconds between two looks at what is still due


def run(call: Call) -> Record:
    """Have everything tried that has not been delivered, wait for that, and return what is left."""
    store = call.find_store()
    if store is None or not has_outbox(store):
        return _summary([], [])
    folder = store.private(outbox.FOLDER, create=False)
    call.at_end(lambda: os.close(folder))
    if call.check_mode:
        jids = [jid for _pause, jid in outbox.Waiting(folder).pending]
        found = [_told(store, jid) for jid in jids]
        result = _summary(found, found)
        return dict(result, changed=result["notifications"][notifying.PENDING] > 0)
    delivery.look_at_live(store, outbox.Waiting(folder).live)
    jids = [jid for _pause, jid in outbox.Waiting(folder).pending]
    before = [_told(store, jid) for jid in jids]
    asked = {jid: _ask(store, jid) for jid in jids}
    until = time.monotonic() + call.params["timeout"]
    delivery.wake(store)
    while any(_is_due(folder, jid, when) for jid, when in asked.items()):
        if time.monotonic() >= until:
            break
        time.sleep(_TICK)
        delivery.wake(store)
    return _summary([_told(store, jid) for jid in jids], before)


def _ask(store: Store, jid: str) -> int:
    """Make a delivery due, whatever its pause; return the file's time (ns), which changes with an attempt."""
    try:
        found = outbox.find(store, jid)
        if found is None:
            return 0
        try:
            found.due_in(0)
            return os.fstat(found.fd).st_mtime_ns
        finally:
            found.close()
    except MISHAPS:
        return 0


def _is_due(folder: int, jid: str, when: int) -> bool:
    try:
        found = os.stat(jid, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:  # nothing of it is left
        return False
    return bool(found.st_mtime_ns == when)


def _told(store: Store, jid: str) -> Record:
    """Return what has become of the notifications of a job."""
    job = store.job(jid)
    try:
        states, told = outbox.told(job)
    except MISHAPS:  # it has been settled, and its job removed
        states, told = [], None
    finally:
        job.close()
    data = told["event"]["data"] if isinstance(told, dict) else {}
    found = {"ansible_job_id": jid, "name": data.get("name"), "state": data.get("state")}
    return dict(found, **notifying.counts(states), sinks=states)


def _summary(jobs: list[Record], before: list[Record]) -> Record:
    """Return the result.

    :param before: what was told of the same jobs before anything was tried.
    """
    total = {}
    for state in notifying.COUNTED:
        known = 0 if state == notifying.PENDING else sum(one[state] for one in before)
        total[state] = sum(one[state] for one in jobs) - known
    done = total[notifying.DELIVERED]
    text = "notifications: %d delivered, %d pending, %d given up"
    return {
        "notifications": total,
        "jobs": [one for one in jobs if one["pending"] or one["given_up"]],
        "changed": done > 0,
        "msg": text % (done, total[notifying.PENDING], total[notifying.GIVEN_UP]),
    }
