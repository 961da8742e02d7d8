# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of names: which job a name means, and the lock under which that is decided."""

from __future__ import annotations

import fcntl
import os

from . import files, schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable

    from .job import Job
    from .store import Store


@files.with_private_umask
def lock_name(store: Store, name: str, *, wait: bool = True) -> int:
    """Take the lock of a name; it is held until the descriptor is closed everywhere.

    Whoever holds it may decide what a launch under this name means, and launch.

    :param wait: for whoever holds it; without it, BlockingIOError is raised.
    """
    file = schema.check_name(name) + ".lock"
    path = store.private_path("names", file)
    names = store.private("names")
    try:
        while True:
            fd = store.open_own(names, file, os.O_RDWR | os.O_CREAT, path)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_nlink:  # else the name has been forgotten meanwhile
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
    finally:
        os.close(names)


@files.with_private_umask
def mend_name(store: Store, name: str, others: Iterable[str] = ()) -> None:
    """Let a name whose latest job has been removed mean the latest of those that are there, or forget it.

    Whoever holds its lock decides about it just now, so then it is left alone.

    :param others: jids of jobs of that name that may be there, the latest first.
    """
    latest = _named(store, name)[0]
    if latest and store.has_record(latest):
        return
    try:
        lock = lock_name(store, name, wait=False)
    except BlockingIOError:
        return
    try:
        left = [jid for jid in (*_named(store, name), *others) if jid and store.has_record(jid)]
        if left:
            before = [jid for jid in left if jid != left[0]]
            _name(store, name, left[0], before[0] if before else "")
            return
        names = store.private("names")
        for suffix in (".new", ".jid", ".lock"):
            files.unlink(name + suffix, names)
        os.close(names)
    finally:
        os.close(lock)


def latest_job(store: Store, name: str) -> Job | None:
    """Return the latest job of a name; None if there is none."""
    for jid in _named(store, name):
        if jid and store.has_record(jid):
            return store.job(jid)
    return None


@files.with_private_umask
def set_latest(store: Store, name: str, jid: str) -> None:
    """Let a name mean another job, durably. Only the holder of the name's lock may call this."""
    _name(store, name, jid, _named(store, name)[0])


def forget_latest(store: Store, name: str, jid: str) -> None:
    """Let a name mean again what it meant before this job. Only the holder of the name's lock may call this."""
    latest, before = _named(store, name)
    if latest == jid:
        _name(store, name, before, "")


def _name(store: Store, name: str, jid: str, before: str) -> None:
    names = store.private("names")
    try:
        files.remove_tree(name + ".new", names)
        files.write_new(names, name + ".new", ("%s %s\n" % (jid, before)).encode())
        os.rename(name + ".new", name + ".jid", src_dir_fd=names, dst_dir_fd=names)
        os.fsync(names)
    finally:
        os.close(names)


def _named(store: Store, name: str) -> list[str]:
    """Return the jid that a name means, and the one that it meant before."""
    file = schema.check_name(name) + ".jid"
    try:
        names = store.private("names", create=False)
    except FileNotFoundError:
        return ["", ""]
    try:
        fd = store.open_own(names, file, os.O_RDONLY, store.private_path("names", file))
    except FileNotFoundError:
        return ["", ""]
    finally:
        os.close(names)
    with open(fd, encoding="ascii", errors="replace") as source:
        source_text = source.read(1024)
    first, _blank, second = source_text.partition(" ")
    return [jid if schema.valid_jid(jid) else "" for jid in (first, second.strip())]
