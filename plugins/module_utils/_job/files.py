# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done to files and folders, for store and folder: always relative to a descriptor, never following a link."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, TypeVar

    Maker = TypeVar("Maker", bound=Callable[..., Any])

DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FLAGS = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
OWN_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
BLOCK = 512  # bytes of what st_blocks counts (inode(7))


def with_private_umask(make: Maker) -> Maker:
    """Let what a function makes be for its owner, and for him at once, whatever the umask of the process."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before = os.umask(0o077)
        try:
            return make(*args, **kwargs)
        finally:
            os.umask(before)

    wrapped.__doc__ = make.__doc__
    return wrapped  # type: ignore[return-value]


def write_all(fd: int, data: bytes) -> None:
    """Write all of data at the beginning of a file and cut the file there."""
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], done)
    os.ftruncate(fd, len(data))


def allocate(fd: int, size: int) -> None:
    """Give a file the room for so many bytes (posix_fallocate(3))."""
    try:
        if size:
            os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        write_all(fd, bytes(size))  # a C library that does not emulate it


def write_new(folder: int, name: str, data: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | NEW_FLAGS, 0o600, dir_fd=folder)
    try:
        write_all(fd, data)
        os.fsync(fd)
    except OSError:  # a full disk: leave nothing half-written
        unlink(name, folder)
        raise
    finally:
        os.close(fd)


def unlink(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass


def unlink_or_rmdir(name: str, folder: int) -> bool:
    """Remove what lies in a record's place, and tell whether there was something.

    Of directories only an empty one: what is in it is not ours.
    """
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    except IsADirectoryError:
        os.rmdir(name, dir_fd=folder)
    return True


def remove_tree(name: str, folder: int) -> None:
    """Remove a file, or a folder and all that is in it. A link is removed, not followed; nothing there is fine.

    Others may remove the same at the same time.
    """
    try:
        fd = os.open(name, DIR_FLAGS, dir_fd=folder)
    except FileNotFoundError:
        return
    except NotADirectoryError:  # a link too, for O_NOFOLLOW
        unlink(name, folder)
        return
    try:
        for entry in os.listdir(fd):
            remove_tree(entry, fd)
        os.rmdir(name, dir_fd=folder)
    except FileNotFoundError:  # somebody else was faster
        pass
    finally:
        os.close(fd)


def room_taken(found: os.stat_result) -> int:
    """Return the bytes of the disk that a file takes: less than its size where it has holes."""
    return found.st_blocks * BLOCK
