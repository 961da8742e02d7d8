# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One job's files: its slots, its locks, its output; its record, see record_io. See store for where they lie."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import sys

from . import files, schema, validation
from .errors import SHORTAGES, JobError
from .record_io import MODULE, SLOT_BYTES, RecordIO, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .schema import Record
    from .store import Store

SCARCE = 64 * 1024 * 1024  # bytes; with less left, a disk is watched while jobs write to it
LOG_LIMIT = 64 * 1024  # bytes of keeper.log after which nothing is added


class Job(RecordIO):
    """One job's files."""

    def __init__(self, store: Store, jid: str) -> None:
        super().__init__(store, jid)
        self.inbox = -1  # the socket to which the command reports, where it has been opened

    # -- slots ------------------------------------------------------------------------------------------------------

    @files.with_private_umask
    def fill(self, slot: str, content: Record) -> None:
        """Write a slot durably. Its room was allocated at launch, and a reader takes it only when it is whole."""
        try:
            fd = self.store.open_own(self.fd, slot, os.O_WRONLY, self.path(slot))
        except JobError:  # not what we made: put away, not written to
            files.remove_tree(slot, self.fd)
            fd = os.open(slot, os.O_WRONLY | files.NEW_FLAGS, 0o600, dir_fd=self.fd)
        try:
            os.pwrite(fd, json.dumps(content).encode() + b"\n", 0)
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def slot(self, slot: str) -> Record | None:
        """Read a slot; None if it was never filled, or holds nothing that can be understood (see :meth:`is_corrupt`).

        :raises JobError: there is something else in its place, or this process may open no more files.
        """
        try:
            data = self._slot_bytes(slot)
            content: Record = loads(data) if data.endswith(b"\n") else {}
        except ValueError:
            return None
        except OSError as error:
            if error.errno in SHORTAGES:
                raise self.unseen(error) from None
            return None
        return None if validation.slot_flaw(slot, content) else content

    def exit(self) -> Record | None:
        """Read the exit record; None if there is none, or if it says that the command has never been exec'ed."""
        found = self.slot("exit")
        return None if found is None or "refused" in found else found

    @files.with_private_umask
    def clear(self, slot: str) -> None:
        """Empty a slot durably, and keep its room."""
        fd = self.store.open_own(self.fd, slot, os.O_WRONLY, self.path(slot))
        try:
            os.pwrite(fd, b"\0" * SLOT_BYTES, 0)
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def is_corrupt(self, slot: str) -> bool:
        """Tell whether a slot that cannot be read is not as it was made either."""
        try:
            return self.slot(slot) is None and bool(self._slot_bytes(slot).strip(b"\0"))
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def _slot_bytes(self, slot: str) -> bytes:
        fd = self.store.open_own(self.fd, slot, os.O_RDONLY, self.path(slot))
        try:
            data, newline, _rest = os.pread(fd, SLOT_BYTES, 0).partition(b"\n")
            return data + newline
        finally:
            os.close(fd)

    # -- locks ------------------------------------------------------------------------------------------------------

    def lock(self, role: str) -> int | None:
        """Take the lock of ``keeper`` or ``runner``; None if somebody has it.

        The lock is held until the descriptor is closed, at the latest by the death of the process
        and of all its children
        that inherited it. Who holds it also holds the FIFO open, which is how others wait for its end without polling.
        """
        fd = self.open_fifo(role, os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        return fd

    def watch(self, role: str) -> int | None:
        """Return a descriptor that hangs up (POLLHUP) when the holder of a lock ends; None if nobody holds it.

        :raises OSError: nobody can tell, as this process may open no more files.
        """
        try:
            fd = self.open_fifo(role, os.O_RDONLY)
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return fd
        except OSError:
            pass
        os.close(fd)
        return None

    def is_held(self, role: str) -> bool:
        """Tell whether somebody holds a lock. :raises JobError: nobody can tell."""
        try:
            fd = self.watch(role)
        except OSError as error:
            raise self.unseen(error) from None
        if fd is not None:
            os.close(fd)
        return fd is not None

    def open_fifo(self, role: str, flags: int) -> int:
        """Open the FIFO of a role. :raises OSError: it is not there, or nobody reads what would be written."""
        return self.store.open_own(self.fd, role, flags, self.path(role), kind=stat.S_IFIFO)

    # -- beginning and end ------------------------------------------------------------------------------------------

    @files.with_private_umask
    def furnish(self, *, queued: bool = False, standby: bool = False) -> None:
        """Make the files of a new job."""
        for role in ("keeper", "runner") + ("turn",) * queued + ("standby",) * standby:
            os.mkfifo(role, 0o600, dir_fd=self.fd)
        for slot in ("exit", "ending"):
            self.reserve(slot, SLOT_BYTES)
        for stream in ("stdout", "stderr"):
            os.close(os.open(stream, os.O_WRONLY | files.NEW_FLAGS, 0o600, dir_fd=self.fd))

    def leave_queue(self, turn: int) -> None:
        """Let go of the lock ``turn``: the next job of the batch may look whether its own has come."""
        try:
            os.unlink("turn", dir_fd=self.fd)
        except OSError:
            pass  # a broken disk, or somebody was faster: nobody holds it any more, which is what counts
        if turn >= 0:
            os.close(turn)

    @files.with_private_umask
    def renew_streams(self, number: int, limit: int) -> None:
        """Put the output of an attempt aside, and make the files for that of the next one. It may be done again.

        :param number: of the attempt that is over.
        :param limit: bytes of each stream to keep of all attempts that are over, 0 for all; the oldest go first.
        """
        for stream in schema.STREAMS:
            aside = "%s.%d" % (stream, number)
            try:
                os.stat(aside, dir_fd=self.fd, follow_symlinks=False)
            except FileNotFoundError:
                try:
                    os.rename(stream, aside, src_dir_fd=self.fd, dst_dir_fd=self.fd)
                except FileNotFoundError:  # the command has removed it
                    pass
            files.remove_tree(stream, self.fd)  # of an attempt that has never begun
            os.close(os.open(stream, os.O_WRONLY | files.NEW_FLAGS, 0o600, dir_fd=self.fd))
            left = limit
            for old in range(number if limit else 0, 0, -1):
                aside = "%s.%d" % (stream, old)
                try:
                    found = os.stat(aside, dir_fd=self.fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                left -= files.room_taken(found)
                if left < 0 and old < number:
                    files.remove_tree(aside, self.fd)

    def open_stream(self, stream: str, flags: int) -> int:
        """Open stdout or stderr.

        :raises OSError: it is not there.
        :raises JobError: there is something else in its place.
        """
        return self.store.open_own(self.fd, stream, flags, self.path(stream))

    def stdin_file(self, content: bytes) -> int:
        """Return a descriptor from which the command reads ``content``. The file has no name any more."""
        fd = os.open("stdin", os.O_RDWR | files.NEW_FLAGS, 0o600, dir_fd=self.fd)
        try:
            os.unlink("stdin", dir_fd=self.fd)
            files.write_all(fd, content)
        except BaseException:
            os.close(fd)
            raise
        return fd


@files.with_private_umask
def open_module_file(
    job: Job, folders: list[str], name: str | None = None, *, executable: bool = False
) -> int:
    """Make folders, one in the other, for a module that is to be the job; they go with all they hold when it has ended.

    :param name: of a file to make in the last of them.
    :return: a descriptor of that file, for writing; without a name, of the folder.
    """
    folder = job.store.private("jobs", job.jid, MODULE, *folders)
    if name is None:
        return folder
    try:
        mode = 0o700 if executable else 0o600
        return os.open(name, os.O_WRONLY | files.NEW_FLAGS, mode, dir_fd=folder)
    finally:
        os.close(folder)


def output_error(job: Job, *, probe: bool) -> str | None:
    """Say what the system tells a command that writes its output now; None if it would be written.

    The command writes straight into its files, so nobody can count what it is refused. But this can be known.

    :param probe: really ask for room. Without it only a disk that looks nearly full is asked, for asking
        is work for the disk. Only the holder of the keeper's lock may call this.
    """
    try:
        seen = os.statvfs(job.fd)
        room = seen.f_bavail * seen.f_frsize
        if not probe and not seen.f_flag & os.ST_RDONLY and (room > SCARCE or not seen.f_blocks):
            return None
        fd = job.store.open_own(job.fd, "record", os.O_WRONLY, job.path("record"))
    except (
        FileNotFoundError,
        JobError,
    ):  # somebody has removed it: that says nothing of the disk
        return None
    except OSError as error:
        return error.strerror
    try:
        size = os.fstat(fd).st_size
        try:
            os.posix_fallocate(fd, size, SLOT_BYTES)
        finally:
            os.ftruncate(fd, size)
    except OSError as error:
        # A limit of this process says nothing of the command.
        mine = (errno.EOPNOTSUPP, errno.EINVAL, errno.EFBIG)
        return None if error.errno in mine else error.strerror
    finally:
        os.close(fd)
    return None


@files.with_private_umask
def write_progress(job: Job, content: Record) -> None:
    """Write the slot ``progress`` anew, atomically. Not durably: what a power cut takes of it is not worth a sync.

    It has no room of its own: who reports nothing costs nothing. Only the holder of the keeper's lock may call this.
    """
    scratch = schema.PROGRESS + ".new"
    files.remove_tree(scratch, job.fd)  # of a predecessor that died before it was done
    fd = os.open(scratch, os.O_WRONLY | files.NEW_FLAGS, 0o600, dir_fd=job.fd)
    try:
        files.write_all(fd, json.dumps(content).encode() + b"\n")
    finally:
        os.close(fd)
    os.rename(scratch, schema.PROGRESS, src_dir_fd=job.fd, dst_dir_fd=job.fd)


def log_loss(job: Job) -> None:
    """Write the exception that is being handled to keeper.log: what ended a process of ours.

    By hand: the module traceback would cost every keeper memory. Where it cannot be written, nobody can be told.
    """
    kind, error, frame = sys.exc_info()
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        fd = job.store.open_own(job.fd, "keeper.log", flags, job.path("keeper.log"))
    except (OSError, JobError):
        return
    with open(fd, "w", encoding="utf-8") as log:
        if os.fstat(fd).st_size > LOG_LIMIT:
            return  # the same again and again
        while frame is not None:
            log.write("%s:%d\n" % (frame.tb_frame.f_code.co_filename, frame.tb_lineno))
            frame = frame.tb_next
        log.write("%s: %s\n" % (kind.__name__ if kind else "", error))
