# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two files by which a job that comes after others learns how they ended, also of one that has been removed since.

The file ``dependants`` of a job lists the jobs that wait for it. Whoever removes the job first writes its state into
the file ``verdicts`` of each of these. A keeper also writes down there what it has seen. Nothing of it needs to be
durable: what waits does not outlive the boot.
"""

from __future__ import annotations

import errno
import os

from . import after, files, schema
from .record_io import DamagedRecord, MissingRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .job import Job
    from .schema import Record

DEPENDANTS = "dependants"  # lines: the jid of a job that waits, and the place of this one among those it waits for
VERDICTS = (
    "verdicts"  # a state for each job that is waited for, in their order; blank if it is not known
)
WIDTH = 16  # bytes of each, so that writing one needs no further room of the disk
_STATES = {state.encode(): state for state in (*schema.FINISHED_STATES, after.REFUSED)}


@files.with_private_umask
def create(job: Job, states: list[str | None]) -> None:
    """Make the file ``verdicts`` of a job that is to wait, with what is known before its launch.

    It is there before the job is listed anywhere: from then on, somebody may have something to tell it.
    """
    data = b"".join((state or "").encode().ljust(WIDTH) for state in states)
    fd = os.open(VERDICTS, os.O_WRONLY | files.NEW_FLAGS, 0o600, dir_fd=job.fd)
    try:
        files.write_all(fd, data)
    finally:
        os.close(fd)


def told(job: Job, count: int) -> list[str | None]:
    """Return what a job that waits has been told of the states of those it waits for.

    :param count: how many these are.
    """
    try:
        fd = job.store.open_own(job.fd, VERDICTS, os.O_RDONLY, job.path(VERDICTS))
    except FileNotFoundError:
        return [None] * count
    try:
        data = os.pread(fd, count * WIDTH, 0)
    finally:
        os.close(fd)
    return [_STATES.get(data[at * WIDTH : (at + 1) * WIDTH].strip()) for at in range(count)]


@files.with_private_umask
def enlist(job: Job, dependant: str, place: int) -> None:
    """Note that a job is waited for. Only the holder of its record's lock may call this.

    :param dependant: the jid of the job that waits.
    :param place: of this one among those that it waits for.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    fd = job.store.open_own(job.fd, DEPENDANTS, flags, job.path(DEPENDANTS))
    line = b"\n%s %d\n" % (
        dependant.encode(),
        place,
    )  # the first one ends what was cut off on a full disk
    try:
        if os.write(fd, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)


def hand_over(job: Job, state: str) -> None:
    """Tell those that wait for a job in which state it has finished, before it is removed.

    Only the holder of its record's lock may call this. It may be done again.

    :raises OSError: it cannot be told.
    """
    try:
        fd = job.store.open_own(job.fd, DEPENDANTS, os.O_RDONLY, job.path(DEPENDANTS))
    except FileNotFoundError:
        return
    with open(fd, encoding="ascii", errors="replace") as source:
        lines = source.read().splitlines()
    for line in lines:
        jid, _blank, place = line.partition(" ")
        if schema.valid_jid(jid) and place.isdigit() and int(place) < after.MOST:
            dependant = job.store.job(jid)
            try:
                tell(dependant, int(place), state)
            finally:
                dependant.close()


def tell(dependant: Job, place: int, state: str) -> None:
    """Write down for a job that waits in which state another one has finished.

    :param place: of that one among those that it waits for.
    """
    try:
        path = dependant.path(VERDICTS)
        fd = dependant.store.open_own(dependant.fd, VERDICTS, os.O_WRONLY, path)
    except FileNotFoundError:  # it has been removed itself
        return
    try:
        os.pwrite(fd, state.encode().ljust(WIDTH), place * WIDTH)
    finally:
        os.close(fd)


def missing(job: Job, private: Record) -> list[str]:
    """Return the names, or else the jids, of the jobs that a job still waits for."""
    others = private["after"]
    states = told(job, len(others))
    return [
        name or jid
        for (jid, name), state in zip(others, states)
        if state is None and not _has_finished(job.store.job(jid))
    ]


def _has_finished(other: Job) -> bool:
    try:
        return bool(other.read_record(brief=True)["finished"])
    except MissingRecord:
        return True
    except DamagedRecord:
        return False
    finally:
        other.close()
