# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Adoption: a job that has lost its keeper gets a new one."""

from __future__ import annotations

import os
import time

from . import host, notify_socket, runner, schema, standby
from .attempts import PatientKeeper
from .errors import MISHAPS
from .job import Job, log_loss
from .keeper import Keeper
from .record_io import DamagedRecord, MissingRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .schema import Record
    from .standby import Plan


def adopt(job: Job, borrowed: list[int], plan: Plan | None = None) -> None:
    """Become the keeper of a job that has lost its own, and stay until it is finished.

    Returns at once if there is a keeper, or nothing left to keep.

    :param borrowed: descriptors to close when the lock has been taken.
    :param plan: what the job is to do; None where nobody knows it.
    """
    try:
        private = job.read_record()[schema.PRIVATE]
    except (MissingRecord, DamagedRecord):
        notify_socket.discard(job)
        return  # nothing tells what to enforce; every look says so, and the runner will ask again
    if not _can_see(private) or (plan is None and job.is_held("standby")):
        return
    lock = job.lock("keeper")
    for fd in borrowed:
        os.close(fd)
    if lock is None:
        return
    keeper = _successor(job, lock, plan)
    if keeper is not None:
        keeper.supervise()


def _is_out_of_reach(record: Record, plan: Plan | None) -> bool:
    """Tell whether there is nothing to keep: the job is over, or nobody knows any more how to start it."""
    return bool(record["finished"]) or (plan is None and record["state"] == schema.QUEUED)


def _can_see(private: Record) -> bool:
    """Tell whether the pids in a record mean to us what they meant to who wrote it."""
    if private["boot_id"] != host.boot_id():
        return False  # after a reboot none of its processes is left: who has their pids now is a stranger
    # In another namespace we would not see its processes, or know them by other pids.
    return private.get("pid_namespace", 0) in (0, host.pid_namespace())


def _successor(job: Job, lock: int, plan: Plan | None) -> Keeper | None:
    """Return a keeper that has taken over; None if there is nothing left to keep. It tries for as long as it takes."""
    while True:
        try:
            record = job.read_record()
            if _is_out_of_reach(record, plan):
                return None
            if record["state"] != schema.QUEUED or not job.is_held("runner"):
                return _taken_over(job, record, lock, plan)
            time.sleep(
                standby.LOOK_INTERVAL
            )  # what was about to start may still write; it will not run
        except MISHAPS:
            log_loss(job)
            time.sleep(runner.RECORD_INTERVAL)


def _taken_over(job: Job, record: Record, lock: int, plan: Plan | None) -> Keeper:
    """Return a keeper that has taken over. If that fails, nothing of it is left open."""
    asked: Record = {"max_timeout": None, "watchdog": None, "timeout": record["timeout"]}
    asked.update(record[schema.PRIVATE], retry=None, timeout_total=record.get("timeout_total"))
    if plan is not None:
        asked = plan.request
    if plan is None and not asked["timeout_total"]:
        keeper = Keeper(job, asked, lock)
    else:
        keeper = PatientKeeper(job, asked, lock)
    try:
        if isinstance(keeper, PatientKeeper):
            keeper.resume(record, plan)
        else:
            keeper.take_over(record)
    except BaseException:
        keeper.close()
        raise
    return keeper
