# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stopping a job: asking its keeper, or ending what a dead keeper has left."""

from __future__ import annotations

import json
import os
import signal
import time

from . import looking, schema, tree
from .errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .schema import Record
    from .store import Job

ASK_INTERVAL = 0.5  # seconds between two requests to a keeper that has not begun to end its job
VERDICT = 3.0  # seconds that a keeper may need for its final record after grace and SIGKILL


def parse(line: bytes) -> Record:
    """Read what :func:`_ask` has written. :raises ValueError: it is something else."""
    try:
        request = json.loads(line)
        parsed = {
            "signal": int(signal.Signals(request["signal"])),
            "grace": float(request["grace"]),
            "reason": str(request["reason"]),
        }
    except (KeyError, TypeError) as error:
        raise ValueError(line) from error
    return parsed


def stop(job: Job, *, number: int, grace: float, reason: str) -> Record:
    """End a live job, every process of it, and return its final dictionary.

    A job that has finished before is returned as it is.

    :param number: the signal that asks the processes to end.
    :param grace: seconds until SIGKILL.
    :param reason: for the record: who asked, or what for.
    :raises JobError: something survives; ``survivors`` names it.
    """
    asked = {"signal": number, "grace": grace, "reason": reason}
    until = time.monotonic() + grace + tree.KILL_PATIENCE + VERDICT
    while True:
        found = looking.look(job)
        if found["finished"]:
            break
        if time.monotonic() >= until:
            raise JobError("cannot stop job %s: its keeper does not answer" % job.jid)
        if not job.is_held("keeper") and not job.is_held("runner"):
            _end_orphans(job, number, grace, reason)
        elif job.slot("ending") is None:  # nobody has heard us yet; a keeper may die with our mail
            _ask(job, asked)
        looking.wait(job, ASK_INTERVAL, show="none")
    if found.get("survivors"):
        raise JobError(
            "cannot stop job %s: %s" % (job.jid, found["msg"]), survivors=found["survivors"]
        )
    return found


def _ask(job: Job, request: Record) -> None:
    """Tell the keeper through its FIFO."""
    try:
        fd = job.open_fifo("keeper", os.O_WRONLY)
    except OSError:  # there is none: the runner will give the job a new one
        return
    try:
        os.write(fd, json.dumps(request).encode() + b"\n")
    except OSError:  # it has just died, or its mailbox is full
        pass
    finally:
        os.close(fd)


def _end_orphans(job: Job, number: int, grace: float, reason: str) -> None:
    """Be the keeper of a job that has lost its own, for as long as it takes to end it."""
    lock = job.lock("keeper")
    if lock is None:
        return
    try:
        record = job.read_record()
        if record["finished"]:
            return
        private = record[schema.PRIVATE]
        ending = {"state": schema.STOPPED, "reason": reason, "signal": number, "survivors": []}
        job.fill("ending", ending)

        def find() -> list[tree.Process]:
            return tree.members(
                job.jid,
                roots=[private["runner"]] if job.is_held("runner") else [],
                session=None,
                spared={private["runner"], os.getpid()},
                marked=True,
            )

        def pause(seconds: float) -> bool:
            time.sleep(seconds)
            return not job.is_held("runner")

        left = tree.end(find, number=number, grace=grace, pause=pause)
        ending["survivors"] = [one.described() for one in left]
        final = dict(record, **looking.streams(job, record, schema.EMBED_LIMIT))
        job.conclude(
            schema.finish(
                final, state=schema.LOST, reason=None, exited=job.slot("exit"), ending=ending
            )
        )
    finally:
        os.close(lock)
