# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removing jobs: in which order, what is left of a removal that was killed, and which jobs may go."""

from __future__ import annotations

import os
import time

from . import files, schema
from .errors import JobError
from .names import mend_name
from .record_io import DamagedRecord, MissingRecord, lock_record
from .store import LONGEST_PAUSE, PRUNED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .job import Job
    from .store import Store

JOBS = "jobs"  # where folders of jobs lie
GONE = "gone"  # where they lie while they are removed
ABANDONED_AFTER = 86400  # seconds; no launch takes as long between its first file and its record
CLAIM = (
    1.0  # seconds for which other launches leave a look for old jobs to the one that has begun it
)


def remove(job: Job) -> None:
    """Remove a job's record, its folder, and the name with the last of its jobs. Errors: see :func:`discard`."""
    try:
        name = job.read_record(brief=True).get("name")
    except (MissingRecord, DamagedRecord):
        name = None
    discard(job)
    if isinstance(name, str) and schema.valid_name(name):
        mend_name(job.store, name)


def discard(job: Job, *, durably: bool = True) -> bool:
    """Remove a job's record and folder, and tell whether there was a record. What its name means is not looked at.

    However often this is killed, what is left is either a record that can be removed again, or a folder of which
    :func:`sweep` knows that it has been given up.

    :param durably: wait until the disk knows. Who removes many waits once, at the end.
    :raises JobError: something in its place cannot be removed.
    """
    store = job.store
    path = job.results_file
    try:
        # Nobody shall be writing a verdict down meanwhile: what is removed now would be there again.
        lock = lock_record(job, wait=True)
        try:
            given_up = store.has_record(job.jid) and _give_up(store, job.jid)
            try:
                was_there = files.unlink_or_rmdir(job.jid, store.fd)
            except OSError:
                if given_up:
                    _move(store, job.jid, GONE, JOBS)
                raise
        finally:
            if lock is not None:
                os.close(lock)
        files.unlink(job.scratch, store.fd)
        if durably:
            os.fsync(store.fd)
        path = os.path.dirname(job.path(""))
        _remove_folder(store, job.jid)
    except OSError as error:
        raise store.refusal(path, "cannot be removed: %s" % error.strerror) from None
    return was_there


def _give_up(store: Store, jid: str) -> bool:
    """Put a job's folder where nobody takes it for that of a job; tell whether it is there now."""
    try:
        return _move(store, jid, JOBS, GONE)
    except OSError:  # no room for the place where it would go: it is removed where it is
        return False


@files.with_private_umask
def _move(store: Store, jid: str, source: str, target: str) -> bool:
    """Move a job's folder; tell whether it was there."""
    try:
        before = store.private(source, create=False)
    except FileNotFoundError:
        return False
    try:
        after = store.private(target)
        try:
            os.rename(jid, jid, src_dir_fd=before, dst_dir_fd=after)
        except FileNotFoundError:
            return False
        finally:
            os.close(after)
    finally:
        os.close(before)
    return True


def _remove_folder(store: Store, jid: str) -> None:
    """Remove a job's folder, given up or not."""
    for where in (JOBS, GONE):
        try:
            folder = store.private(where, create=False)
        except FileNotFoundError:
            continue
        try:
            files.remove_tree(jid, folder)
        finally:
            os.close(folder)


def sweep(store: Store) -> None:
    """Remove the folders of removals and launches that were killed half-way.

    Those of removals lie apart. Those of launches have no record, nobody holds a lock in them, and they are a day old.
    """
    for jid in _names_in(store, GONE):
        _sweep_up(store, jid)
    for jid in _names_in(store, JOBS):
        if schema.valid_jid(jid) and not store.has_record(jid) and _is_abandoned(store.job(jid)):
            _sweep_up(store, jid)


def _sweep_up(store: Store, jid: str) -> None:
    try:
        _remove_folder(store, jid)
    except OSError:  # something in it cannot be removed; it is only rubbish
        pass


def _is_abandoned(job: Job) -> bool:
    try:
        age = time.time() - os.fstat(job.fd).st_mtime
        return age >= ABANDONED_AFTER and not any(
            job.is_held(role) for role in ("keeper", "runner", "standby")
        )
    except (FileNotFoundError, JobError):  # being removed at this moment, or not ours to judge
        return False
    finally:
        job.close()


def _names_in(store: Store, where: str) -> list[str]:
    try:
        folder = store.private(where, create=False)
    except FileNotFoundError:
        return []
    try:
        return os.listdir(folder)
    finally:
        os.close(folder)


def names(store: Store) -> list[str]:
    """Return all names of which something is kept, also those whose jobs have been removed."""
    parts = [file.rpartition(".") for file in _names_in(store, "names")]
    found = {name for name, _dot, kind in parts if kind in ("jid", "lock")}
    return sorted(name for name in found if schema.valid_name(name))


def room(job: Job) -> int:
    """Return how many bytes of the disk a job takes, of which nothing is read.

    :raises FileNotFoundError: it is not there.
    """
    taken = files.room_taken(os.stat(job.jid, dir_fd=job.store.fd, follow_symlinks=False))
    try:
        there = os.listdir(job.fd)
    except FileNotFoundError:  # a job of the builtin
        return taken
    for name in there:
        try:
            taken += files.room_taken(os.stat(name, dir_fd=job.fd, follow_symlinks=False))
        except FileNotFoundError:  # it is being removed
            continue
    return taken


def written_before(store: Store, moment: float) -> list[str]:
    """Return the jids whose records have been as they are since before a moment (epoch), the oldest first."""
    found = []
    with os.scandir(store.fd) as entries:
        for entry in entries:
            if schema.valid_jid(entry.name):
                try:
                    when = entry.stat(follow_symlinks=False).st_mtime
                except FileNotFoundError:  # removed at this moment
                    continue
                if when < moment:
                    found.append((when, entry.name))
    return [jid for _when, jid in sorted(found)]


def claim(store: Store) -> bool:
    """Tell whether it is time for a launch to look for jobs that may go. If so, the caller says when it is again."""
    if not store.is_prune_due():
        return False
    pause(store, CLAIM)
    return True


def pause(store: Store, seconds: float) -> None:
    """Say that it is time again in so many seconds."""
    fd = _open_pruned(store)
    try:
        os.utime(fd, (time.time(), time.time() + min(seconds, LONGEST_PAUSE)))
    finally:
        os.close(fd)


@files.with_private_umask
def _open_pruned(store: Store) -> int:
    folder = store.private()
    try:
        flags = os.O_WRONLY | os.O_CREAT
        return store.open_own(folder, PRUNED, flags, store.private_path(PRUNED))
    finally:
        os.close(folder)
