# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to an async dir: who could put something else in its place, and what to tell the user."""

from __future__ import annotations

import errno
import os
import pwd
import stat

from .errors import JobError
from .host import user_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symlink",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
DEFAULT = ".ansible_async"  # where an async dir is below a home, if nobody has said anything else
_SHARED = (
    "if several users share it, set ansible_async_dir to ~/.ansible_async, which is each user's own"
)
_MAX_LINKS = 40  # symlinks on the way to a folder, as the kernel counts them


def check_way(path: str) -> None:
    """Refuse a path if somebody else could put another folder, or a link, in the place of one that it leads through.

    :raises JobError: naming the folder.
    """
    trusted = _trusted_users()
    steps = path.split("/")[
        -2::-1
    ]  # the next one last; the path's own last one is not looked at here
    folder, links = "", 0
    while steps:
        step = steps.pop()
        if step == "..":  # in a link; everything before is real
            folder = os.path.dirname(folder)
            continue
        if step in ("", ".") and folder:
            continue
        here = "%s/%s" % (folder.rstrip("/"), step) if step not in ("", ".") else "/"
        try:
            found = os.lstat(here)
        except (
            OSError
        ):  # what is not there we make, and what we may not see is refused when it is opened
            return
        if found.st_uid not in trusted:
            raise _exposed(path, here, "belongs to user %s" % user_name(found.st_uid))
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > _MAX_LINKS:
                return  # opening it fails
            target = os.readlink(here)
            folder = "/" if target.startswith("/") else folder
            steps += target.split("/")[::-1]
            continue
        if others_write(found) and not found.st_mode & stat.S_ISVTX:
            raise _exposed(path, here, "can be written by other users")
        folder = here


def _exposed(path: str, folder: str, why: str) -> JobError:
    text = "%s, a folder on the way to it, %s, who could put another in its place"
    return refusal(path, text % (folder, why), "give another async_dir")


def _trusted_users() -> set[int]:
    """Return who may own the folders above ours: root and we ourselves.

    In a user namespace also whoever has no name in it (user_namespaces(7)): the real root among others.
    """
    trusted = {0, os.geteuid()}
    try:
        with open("/proc/self/uid_map", encoding="ascii") as uid_map:
            if uid_map.read().split() != ["0", "0", "4294967295"]:
                with open("/proc/sys/kernel/overflowuid", encoding="ascii") as overflow:
                    trusted.add(int(overflow.read()))
    except OSError:
        pass
    return trusted


def others_write(found: os.stat_result) -> bool:
    """Tell whether others may write to a folder. Root's group and a group with nobody else in it are not others."""
    if found.st_mode & stat.S_IWOTH:
        return True
    if not found.st_mode & stat.S_IWGRP or found.st_gid == 0:
        return False
    import grp  # seldom needed, and a keeper is to be small

    try:
        group = grp.getgrgid(found.st_gid)
    except KeyError:
        return True
    me = user_name(os.geteuid())
    return group.gr_name != me or not set(group.gr_mem) <= {me}


def check_own(path: str, found: os.stat_result, write: bool) -> None:
    """Refuse an async dir that is not ours alone to change. :raises JobError: saying why, and what to do."""
    owner = found.st_uid
    if owner != os.geteuid():
        advice = "run the task as that user (become_user: %s) or give another async_dir; %s"
        advice %= user_name(owner), _SHARED
        raise refusal(path, "it belongs to user %s" % user_name(owner), advice)
    if others_write(found) and not found.st_mode & stat.S_ISVTX:
        advice = "chmod go-w %s; %s" % (path, _SHARED)
        raise refusal(path, "other users can write to it", advice)
    if write and not os.access(path, os.W_OK | os.X_OK):
        raise refusal(path, "it is not writable", "make it writable or give another async_dir")


def flaw(found: os.stat_result, kind: int) -> str:
    """Say what shows that we have not made something, or not as it is now; nothing if it may be ours.

    :param kind: what it must be, as in ``st_mode``.
    """
    is_kind = stat.S_IFMT(found.st_mode)
    if is_kind != kind:
        return "is %s, not %s" % (KINDS.get(is_kind, "unknown"), KINDS[kind])
    if found.st_uid != os.geteuid():
        return "belongs to user %s" % user_name(found.st_uid)
    if kind == stat.S_IFREG and found.st_nlink > 1:
        return "has another name, it is a hard link"
    return "can be written by other users" if found.st_mode & OTHERS_WRITE else ""


def make_path(path: str) -> None:
    """Make a folder, and those above it, for the owner only. :raises JobError: naming what cannot be made."""
    missing: list[str] = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            continue
        except OSError as error:
            raise refusal(
                missing[0],
                "%s cannot be made: %s" % (folder, error.strerror),
                "make it or give another async_dir",
            ) from None


def why_not(path: str, error: OSError) -> list[str]:
    """Say why a path cannot be opened as a folder, and what to do."""
    if os.path.islink(path):
        return ["it is a symlink to %s" % os.readlink(path), "give the real path"]
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        return ["it is not a directory", "remove it or give another async_dir"]
    return [str(error.strerror), "make it accessible or give another async_dir"]


def refusal(path: str, why: str, advice: str) -> JobError:
    """Return what to tell the user of an async dir that cannot be used."""
    return JobError(
        "cannot use async_dir %s as user %s: %s; %s" % (path, user_name(os.geteuid()), why, advice),
        async_dir=path,
    )


def whose(path: str, jid: str = "", name: str = "") -> Iterator[str]:
    """Yield the users, other than ourselves, and the async dirs of theirs that visibly hold a job.

    Parameters are those of :func:`elsewhere`.
    """
    me = user_name(os.geteuid())
    for user, folder in elsewhere(path, jid, name):
        if user != me:
            yield "user %s in %s" % (user, folder)


def elsewhere(path: str, jid: str = "", name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the users whose async dir visibly holds a job, we ourselves included, and the folder.

    :param path: the async dir where it is not.
    :param jid: of the job. Without it, and without a name, all async dirs count that can be seen.
    :param name: of the job, if it is given by its name.
    """
    seen = {os.path.realpath(path)}
    for user, place in _async_dirs(path):
        folder = os.path.realpath(place)
        if folder not in seen:
            seen.add(folder)
            jids = _named(folder, name) if name else [jid]
            if any(os.path.lexists(os.path.join(folder, one)) for one in jids):
                yield user, folder


def _async_dirs(path: str) -> Iterator[tuple[str, str]]:
    """Yield where an async dir may be, and whose: at the default place, or at the place of ours below our home."""
    me, home = user_name(os.geteuid()), os.path.expanduser("~")
    homes = [(me, home), *((entry.pw_name, entry.pw_dir) for entry in pwd.getpwall())]
    try:
        with os.scandir("/home") as entries:  # also of users whom nobody can list
            homes += [
                (user_name(entry.stat().st_uid), entry.path) for entry in entries if entry.is_dir()
            ]
    except OSError:
        pass
    inside = os.path.relpath(path, home) if path.startswith(home.rstrip("/") + "/") else DEFAULT
    configured = os.environ.get("ANSIBLE_ASYNC_DIR")
    if configured:
        yield me, os.path.expanduser(os.path.expandvars(configured))
    for user, folder in homes:
        for below in (inside, DEFAULT):
            yield user, os.path.join(folder, below)


def _named(folder: str, name: str) -> list[str]:
    """Return the jids that a name means in an async dir of anybody, as far as we may see."""
    path = os.path.join(folder, ".durable", "names", name + ".jid")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            is_file = stat.S_ISREG(os.fstat(fd).st_mode)
            words = os.read(fd, 1024).split() if is_file else []
        finally:
            os.close(fd)
    except OSError:
        return []
    return [os.fsdecode(word) for word in words if b"/" not in word]
