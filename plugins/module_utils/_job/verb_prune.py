# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove records of finished jobs. The verb of the module job_prune."""

from __future__ import annotations

import os

from . import host
from .errors import JobError
from .pruning import Pruning
from .summary import some

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .call import Call
    from .pruning import Finished
    from .schema import Record

LIMITS = ("older_than", "keep_last", "max_bytes")


def run(call: Call) -> Record:
    """Remove what the parameters mean and return the result."""
    try:
        return _answer(call)
    except OSError as error:
        told = (call.async_dir, host.user_name(os.geteuid()), error)
        raise JobError("cannot remove jobs in %s as user %s: %s" % told) from None


def _answer(call: Call) -> Record:
    params = call.params
    try:
        pruning = Pruning(call.open_store(create=False), settle=not call.check_mode)
        limits = {name: params[name] for name in LIMITS}
        chosen = pruning.choose(states=params["states"], **limits)
        refused: dict[str, JobError] = {}
        removed = chosen
        if not call.check_mode:
            removed, refused = pruning.remove(chosen)
    except FileNotFoundError:  # no async dir, so no job
        return _summary([], [], {}, kept=0, predicted=call.check_mode)
    kept = pruning.others + len(pruning.finished) - len(chosen) + len(refused)
    return _summary(removed, chosen, refused, kept=kept, predicted=call.check_mode)


def _summary(
    removed: list[Finished],
    chosen: list[Finished],
    refused: dict[str, JobError],
    *,
    kept: int,
    predicted: bool,
) -> Record:
    room = sum(one.room or 0 for one in removed)
    failed = [one.name or one.jid for one in chosen if one.jid in refused]
    text = "nothing to remove"
    if removed:
        verb = "would remove" if predicted else "removed"
        jobs = "1 job" if len(removed) == 1 else "%d jobs" % len(removed)
        text = "%s %s of %d bytes; %d left" % (verb, jobs, room, kept)
    if failed:
        told = (len(failed), len(chosen), some(failed), next(iter(refused.values())).msg)
        text = "could not remove %d of %d jobs: %s; the first: %s" % told
    return {
        "pruned": [one.described() for one in removed],
        "bytes_freed": room,
        "kept": kept,
        "failed_jobs": failed,
        "changed": bool(removed),
        "failed": bool(failed),
        "msg": text,
    }
