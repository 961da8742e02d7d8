# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where jobs lie. The only code that opens, locks, renames, lists and removes what is in an async dir.

::

    <async dir>/<jid>                 the record: JSON, replaced atomically, readable by the builtin async_status
    <async dir>/.durable/             everything else, for the owner only
        engine/<digest>.<bytecode>    the engine: this package, compiled, see boot
        names/<name>.lock, .jid       who holds the lock decides about the name; the jids that it means, and meant
        key                           of the digests by which secrets are compared
        jobs/<jid>/
            keeper, runner            FIFOs: whoever has the name of one holds its lock for as long as it lives
            turn                      the same, of a job that is queued: its keeper holds it until the job has started
            standby                   the same, of a job that starts later or may be tried again
            stdout, stderr            what the command writes
            stdout.1, stderr.1, ...   what earlier attempts have written
            notify                    socket to which the command may report, see reports
            progress                  slot: what it has reported; there from the first report to the end
            exit                      slot: the wait status, written by the runner the moment the command ends
            ending                    slot: why and how the keeper ended the job, written before the first signal
            record                    room for the final record; becomes <async dir>/<jid> by rename. Until
                                      then it holds a copy of the first one, in case that is damaged
        gone/<jid>/                   the folder of a job that is being removed
        outbox/                       notifications of jobs that are not delivered yet, see outbox
        pruned                        its time says when a launch is to look again for jobs that may go
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from . import files, schema, trust
from .errors import JobError
from .host import user_name
from .job import Job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .record_io import RecordIO


PRIVATE_DIR = ".durable"
KEY_BYTES = 32
PRUNED = "pruned"  # its time says when a launch is to look again for jobs that may go
LONGEST_PAUSE = 3600.0  # seconds between two such looks


def has_outbox(store: Store) -> bool:
    """Tell whether a job of an async dir has ever had notifications."""
    return os.path.lexists(store.private_path("outbox"))


class Store:
    """An async dir that has been found to be safe to use.

    Everything is opened relative to a descriptor of the directory, so that nobody can put another one in its place.
    """

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        # The jobs whose folders are open, where somebody will close() us. Processes of jobs never do.
        self.open_jobs: set[RecordIO] | None = None

    @classmethod
    @files.with_private_umask
    def open(cls, path: str, *, create: bool) -> Store:
        """Open an async dir.

        :param path: as the user gave it; ``~`` must have been expanded.
        :param create: make it, and the folders above it, if it is not there.
        :raises FileNotFoundError: it is not there, and ``create`` is false.
        :raises JobError: it cannot be made, is no directory, a symlink, somebody else's, not writable,
            or others could put something into it or in its place.
        """
        if not os.path.isabs(path):
            raise trust.refusal(
                path,
                "it is not an absolute path",
                "give a path that begins with / or with the ~ of a user who has a home",
            )
        path = os.path.normpath(path)
        trust.check_way(path)
        if create:
            trust.make_path(path)
        try:
            fd = os.open(path, files.DIR_FLAGS)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise trust.refusal(path, *trust.why_not(path, error)) from None
        try:
            trust.check_own(path, os.fstat(fd), create)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd)

    def close(self) -> None:
        """Let go of all that is open in here: an interpreter that outlives its module would keep it."""
        for job in list(self.open_jobs or ()):
            job.close()
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def failure(self, error: OSError) -> JobError:
        """Return what to tell the user when the system refuses something in here."""
        what = "%s: " % error.filename if error.filename else ""
        return JobError(
            "cannot launch a job in async_dir %s as user %s: %s%s%s"
            % (self.path, user_name(os.geteuid()), what, error.strerror, self._no_room(error)),
            errno=error.errno,
        )

    def _no_room(self, error: OSError) -> str:
        """Say which room has run out, as ``df`` would only tell who also tries ``df -i``."""
        if error.errno != errno.ENOSPC:
            return ""
        found = os.statvfs(self.fd)
        inodes = " and %d inodes" % found.f_favail if found.f_files else ""
        room = found.f_bavail * found.f_frsize
        return "; its file system has %d bytes%s left" % (room, inodes)

    def refusal(self, path: str, why: str) -> JobError:
        """Return what to tell the user about something in here that is not what we made."""
        return trust.refusal(
            self.path, "%s %s" % (path, why), "find out who put it there and remove it"
        )

    @files.with_private_umask
    def private(self, *names: str, create: bool = True) -> int:
        """Open a folder below the private folder, made 0700 if it is not there, and return its descriptor.

        :raises FileNotFoundError: it is not there, and ``create`` is false.
        :raises JobError: something else is in its place.
        """
        fd = os.dup(self.fd)
        path = self.path
        for name in (PRIVATE_DIR, *names):
            parent = fd
            path = os.path.join(path, name)
            try:
                if create:
                    try:
                        os.mkdir(name, 0o700, dir_fd=parent)
                    except FileExistsError:
                        pass
                fd = self.open_own(parent, name, os.O_DIRECTORY, path, kind=stat.S_IFDIR)
            finally:
                os.close(parent)
            if os.fstat(fd).st_mode & 0o077:  # somebody's `chmod -R`
                os.fchmod(fd, 0o700)
        return fd

    def open_own(
        self, folder: int, name: str, flags: int, path: str, *, kind: int = stat.S_IFREG
    ) -> int:
        """Open something that we have made, and nothing else: no link is followed, and no FIFO waited for.

        :param path: for people to read.
        :param kind: what it must be, as in ``st_mode``.
        :raises OSError: it cannot be opened; FileNotFoundError: it is not there.
        :raises JobError: something else is in its place.
        """
        try:
            self.require(os.stat(name, dir_fd=folder, follow_symlinks=False), kind, path)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
        fd = os.open(name, flags | files.OWN_FLAGS, 0o600, dir_fd=folder)
        try:
            self.require(os.fstat(fd), kind, path)
            if kind == stat.S_IFREG:
                os.set_blocking(fd, True)  # it may become the command's stdout
        except BaseException:
            os.close(fd)
            raise
        return fd

    def require(self, found: os.stat_result, kind: int, path: str) -> None:
        """Refuse what is not of that kind, or not ours alone. :raises JobError: naming the path."""
        flaw = trust.flaw(found, kind)
        if flaw:
            raise self.refusal(path, flaw)

    def private_path(self, *names: str) -> str:
        """Return the path of something below the private folder."""
        return os.path.join(self.path, PRIVATE_DIR, *names)

    def job(self, jid: str) -> Job:
        """Return the job of that jid, whether there is one or not."""
        return Job(self, schema.check_jid(jid))

    def jids(self) -> list[str]:
        """Return the jids of all jobs that have a record, ours and the builtin's, in no order."""
        return [name for name in os.listdir(self.fd) if schema.valid_jid(name)]

    def written(self, jid: str) -> int:
        """Return when a record was put in its place, in nanoseconds. :raises FileNotFoundError: it is not there."""
        return os.stat(jid, dir_fd=self.fd, follow_symlinks=False).st_mtime_ns

    def has_record(self, jid: str) -> bool:
        """Tell whether something lies in the place of a job's record."""
        return os.path.lexists(os.path.join(self.path, jid))

    @files.with_private_umask
    def secret(self, *, create: bool = True) -> bytes:
        """Return the key of this async dir, with which secrets are compared without being kept.

        :raises FileNotFoundError: there is none, and ``create`` is false.
        :raises JobError: there is something else in its place.
        """
        folder = self.private(create=create)
        try:
            try:
                key = self._read_key(folder)
            except FileNotFoundError:
                if not create:
                    raise
                fcntl.flock(folder, fcntl.LOCK_EX)
                try:
                    key = self._read_key(folder)  # somebody else was faster
                except FileNotFoundError:
                    files.remove_tree("key.new", folder)
                    key = os.urandom(KEY_BYTES)
                    files.write_new(folder, "key.new", key)
                    os.rename("key.new", "key", src_dir_fd=folder, dst_dir_fd=folder)
                    os.fsync(folder)
        finally:
            os.close(folder)
        return key

    def _read_key(self, folder: int) -> bytes:
        path = self.private_path("key")
        with open(self.open_own(folder, "key", os.O_RDONLY, path), "rb") as source:
            key = source.read(KEY_BYTES + 1)
        if len(key) != KEY_BYTES:
            raise self.refusal(path, "is not a key of durable.jobs")
        return key

    def is_prune_due(self) -> bool:
        """Tell whether it is time for a launch to look for jobs that may go, see ``removing.claim``."""
        try:
            due = os.stat(self.private_path(PRUNED)).st_mtime
        except FileNotFoundError:
            return True
        return not 0 < due - time.time() < LONGEST_PAUSE + 1  # else somebody has set the clock back

    @files.with_private_umask
    def create_job(self) -> Job:
        """Make the folder of a new job and return the job. It has no record yet, so nobody sees it."""
        jobs = self.private("jobs")
        try:
            while True:
                jid = "j%d.%d" % (time.time_ns(), os.getpid())
                try:
                    os.mkdir(jid, 0o700, dir_fd=jobs)
                    return Job(self, jid)
                except FileExistsError:
                    continue
        finally:
            os.close(jobs)
