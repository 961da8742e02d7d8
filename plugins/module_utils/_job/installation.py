# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting the engine into an async dir, where ``boot`` finds it."""

from __future__ import annotations

import fcntl
import os
import stat

from . import files
from .errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .store import Store

ENGINES = "engine"
KEPT = (
    3  # when another is installed: releases and Pythons that take turns must not replace each other
)


def install(store: Store, name: str, content: bytes, *, needed: bool) -> None:
    """Put the engine into an async dir, whole or not at all, and remove old ones.

    :param name: of its file, see ``boot.installed_name``.
    :param needed: whether the caller is going to write here anyhow. A look goes on without an installed engine.
    :raises JobError: it cannot be installed, and is needed; or something that is not ours is in its place.
    """
    try:
        _install(store, name, content)
    except OSError as error:
        if needed:
            raise store.failure(error) from None


@files.with_private_umask
def _install(store: Store, name: str, content: bytes) -> None:
    engines = store.private(ENGINES)
    try:
        fcntl.flock(engines, fcntl.LOCK_EX)
        try:
            found = os.stat(name, dir_fd=engines, follow_symlinks=False)
            store.require(found, stat.S_IFREG, store.private_path(ENGINES, name))
        except FileNotFoundError:
            pass
        scratch = name + ".new"  # only the holder of the lock writes here
        files.remove_tree(scratch, engines)
        try:
            files.write_new(engines, scratch, content)
            os.rename(scratch, name, src_dir_fd=engines, dst_dir_fd=engines)
        except OSError:
            files.remove_tree(scratch, engines)
            raise
        os.fsync(engines)
        _sweep(store, engines, name)
    finally:
        os.close(engines)


def _sweep(store: Store, engines: int, mine: str) -> None:
    """Remove all engines but the latest. An engine that runs needs its file no more."""
    ages = {}
    for name in os.listdir(engines):
        ages[name] = os.stat(name, dir_fd=engines, follow_symlinks=False).st_mtime
    others = sorted(set(ages) - {mine}, key=lambda name: -ages[name])
    for name in others[KEPT - 1 :]:
        if not _is_used(store, name):
            try:
                files.remove_tree(name, engines)
            except OSError:  # not to be removed: the next one will try again
                pass


def _is_used(store: Store, name: str) -> bool:
    """Tell whether a module of release 0.1 launches from an engine: a folder, of which it holds the lock."""
    try:
        package = store.private(ENGINES, name, "_job", create=False)
    except (OSError, JobError):  # a file, half-made, or not ours to judge
        return False
    try:
        fcntl.flock(package, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(package)
