# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One job's record: reading it, however damaged it is, and replacing it durably. See store for where it lies."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from binascii import crc32

from . import files, schema, trust, validation
from .errors import SHORTAGES, JobError
from .host import user_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .schema import Record
    from .store import Store

SLOT_BYTES = 4096  # room of a slot, allocated at launch so that a full disk cannot keep an end from being written down
RECORD_LIMIT = 64 * 1024 * 1024  # bytes; nothing that large is a record
MODULE = "module"  # folder of a job that is a module: its file, and what belongs to it
MAX_DIGITS = 4300  # of an integer in a record; Python's own limit since 3.11
EDGE = 16 * 1024  # bytes at each end of a large record; without its output no more is read


class MissingRecord(Exception):
    """There is no record of that jid."""


class DamagedRecord(Exception):
    """There is something of that jid, but it is not a record."""


class RecordIO:
    """A job's folder and its record. The folder is opened when it is first needed and stays open."""

    def __init__(self, store: Store, jid: str) -> None:
        self.store = store
        self.jid = jid
        self.results_file = os.path.join(store.path, jid)
        self.scratch = ".%s.final" % jid  # beside the record, where there is no folder
        self._fd: int | None = None

    @property
    def fd(self) -> int:
        """The folder's descriptor. :raises FileNotFoundError: there is no folder."""
        if self._fd is None:
            self._fd = self.store.private("jobs", self.jid, create=False)
            if self.store.open_jobs is not None:
                self.store.open_jobs.add(self)
        return self._fd

    def close(self) -> None:
        """Let go of the folder until it is needed again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            if self.store.open_jobs is not None:
                self.store.open_jobs.discard(self)

    def path(self, name: str) -> str:
        """Return the path of one of the job's files, for people to read."""
        return self.store.private_path("jobs", self.jid, name)

    def read_record(self, *, brief: bool = False) -> Record:
        """Read the record; if it is damaged, its copy in our folder, which then says so (``schema.FLAW``).

        :param brief: nobody wants the output that is embedded in it, and of a large record it is not read.
        :raises MissingRecord: there is none.
        :raises DamagedRecord: what is there is not a record that this version understands, and there
            is no copy. The text says why.
        :raises JobError: this process may open no more files.
        """
        try:
            record = self._read_record(self.jid, self.store.fd, brief=brief)
            if schema.PRIVATE not in record and is_ours(self):
                raise DamagedRecord("it lacks what durable.jobs has written into it")
            return record
        except DamagedRecord as damage:
            try:
                copy = self._read_record("record", self.fd)
            except (OSError, JobError, MissingRecord, DamagedRecord):
                raise damage from None
            if schema.PRIVATE not in copy:
                raise
            copy[schema.PRIVATE][schema.FLAW] = str(damage)
            return copy

    def _read_record(self, name: str, folder: int, *, brief: bool = False) -> Record:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            kind = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            if not stat.S_ISREG(kind):
                raise DamagedRecord("it is %s" % trust.KINDS.get(stat.S_IFMT(kind), "unknown"))
            fd = os.open(name, flags, dir_fd=folder)
        except FileNotFoundError:
            raise MissingRecord(self.jid) from None
        except OSError as error:
            raise self._unreadable(error) from None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise DamagedRecord("it is no regular file any more")
            if found.st_uid != os.geteuid():
                raise DamagedRecord("it belongs to user %s" % user_name(found.st_uid))
            if found.st_size > RECORD_LIMIT:
                raise DamagedRecord("it is too large")
            record = _without_output(self.jid, fd, found.st_size) if brief else None
            return record or _whole(self.jid, fd, found.st_size)
            # A second name of this very file is harmless, and in a folder that others may enter they can give it one.
        except OSError as error:
            raise DamagedRecord("it cannot be read: %s" % error.strerror) from None
        finally:
            os.close(fd)

    def unseen(self, error: OSError) -> JobError:
        """Return what to tell the user when this process may open no more files."""
        return JobError("cannot look at job %s: %s" % (self.jid, error.strerror))

    def _unreadable(self, error: OSError) -> Exception:
        if error.errno in SHORTAGES:  # that says nothing of the record
            return self.unseen(error)
        return DamagedRecord("it cannot be read: %s" % error.strerror)

    @files.with_private_umask
    def publish(self, record: Record) -> None:
        """Write the job's first record, durably: from now on the job exists for everybody."""
        self.reserve("record", 0)
        self.replace(record)

    @files.with_private_umask
    def replace(self, record: Record) -> None:
        """Write a record that is not the last one, durably, and make room for the next.

        Only the holder of the keeper's lock may call this.
        """
        data = json.dumps(record).encode()
        files.remove_tree("next", self.fd)  # of a predecessor that died before it was done
        files.write_new(self.fd, "next", data)
        self._make_room("record", data)
        self._install("next")

    @files.with_private_umask
    def conclude(self, record: Record, *, by_reader: bool = False) -> Record:
        """Replace the record by its final form, durably; one writer at a time, and the first one's holds.

        On a full disk, or beyond a hard RLIMIT_FSIZE, it loses the embedded output, nothing else, and says so
        (``schema.BARE``).

        :param by_reader: do not wait for another writer, and do not bring back what has been cleaned up.
        :return: the final record that is there now.
        :raises MissingRecord: a reader's job has been cleaned up.
        """
        # Not the keeper's lock: other readers would take its holder for a keeper, and the job for alive.
        lock = lock_record(self, wait=not by_reader)
        try:
            if by_reader and lock is None:
                return record  # another reader is about to write the same
            written = self._written(by_reader)
            if written is None:
                self._conclude(record)
            return written or record
        finally:
            if lock is not None:
                os.close(lock)

    def _written(self, by_reader: bool) -> Record | None:
        """Return the final record that somebody else has written meanwhile."""
        try:
            record = self.read_record()
        except (MissingRecord, DamagedRecord):
            if by_reader:
                raise
            return None
        return record if record.get("finished") else None

    def _conclude(self, record: Record) -> None:
        self._unstage()
        self._post(record)
        data = sealed(record)
        bare = _bare(record)
        # A module's result may be larger than anything that readers take for a record.
        if len(data) > RECORD_LIMIT:
            text = "%s; its result is too large for this record, and whole in %s"
            bare["msg"] = text % (bare["msg"], bare["stdout_file"])
            data = sealed(bare)
        try:
            fd = self._open_final()
        except (
            FileNotFoundError
        ):  # somebody has removed the folder: the record itself is still there
            write_beside(self, data)
            return
        try:
            try:
                files.write_all(fd, data)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                files.write_all(fd, sealed(bare))
            os.fsync(fd)
        finally:
            os.close(fd)
        self._install("record")

    def _post(self, record: Record) -> None:
        """Write down what is to be told of the end, before anybody can see it."""
        if record.get(schema.PRIVATE, {}).get("notify"):
            # Imported here: few jobs have notifications, and no keeper is to be larger for those of others.
            from . import outbox

            outbox.post(self, record)

    def pending_record(self) -> Record | None:
        """Return a final record that is whole but has not been installed; None if there is none.

        Between the two steps its writer may be killed, or the power go: whoever has seen the record installed
        has seen what is on the disk here, but the disk need not know of the rename yet. If the power goes during the
        writing, the disk may hold some sectors of it among those of the copy that lay there.
        """
        try:
            record = self._read_record("record", self.fd)
        except (OSError, JobError, MissingRecord, DamagedRecord):  # not written to its end
            return None
        is_final = record.get("finished") and schema.PRIVATE in record
        return record if is_final and _is_whole(record) else None

    def _open_final(self) -> int:
        path = self.path("record")
        try:
            return self.store.open_own(self.fd, "record", os.O_WRONLY, path)
        except FileNotFoundError:  # used up by a predecessor that died before it was done
            pass
        except JobError:  # not what we made: put away, not written to
            files.remove_tree("record", self.fd)
        self.reserve("record", SLOT_BYTES)
        return self.store.open_own(self.fd, "record", os.O_WRONLY, path)

    def _make_room(self, name: str, data: bytes) -> None:
        """Let a reserved file hold a copy of a record, and have room for its successor.

        A copy need not be durable: what a power cut spares, the record is.
        """
        fd = self.store.open_own(self.fd, name, os.O_WRONLY, self.path(name))
        try:
            files.allocate(fd, len(data) + SLOT_BYTES)
            os.pwrite(fd, data.ljust(os.fstat(fd).st_size, b"\0"), 0)
        finally:
            os.close(fd)

    def _install(self, name: str) -> None:
        os.rename(name, self.jid, src_dir_fd=self.fd, dst_dir_fd=self.store.fd)
        os.fsync(self.store.fd)

    def _unstage(self) -> None:
        """Remove the files of the module that was the job."""
        try:
            files.remove_tree(MODULE, self.fd)
        except (
            OSError,
            JobError,
        ):  # it has locked us out: they go with the record, or that says why not
            pass

    def reserve(self, name: str, size: int) -> None:
        """Make a file with room for so many bytes."""
        fd = os.open(name, os.O_WRONLY | files.NEW_FLAGS, 0o600, dir_fd=self.fd)
        try:
            files.allocate(fd, size)
        finally:
            os.close(fd)


def _bare(record: Record) -> Record:
    """Return a final record without any output, which is in the files, see ``schema.BARE``."""
    bare = dict(record, stdout="", stderr="", truncated=True)
    if bare.get("attempts"):
        bare["attempts"] = [dict(one, stdout="", stderr="") for one in bare["attempts"]]
    if schema.PRIVATE in bare:
        for key in bare[schema.PRIVATE].get("merged", []):
            bare.pop(key, None)
        bare[schema.PRIVATE] = dict(bare[schema.PRIVATE], merged=[], **{schema.BARE: True})
    return bare


def sealed(record: Record) -> bytes:
    """Return a final record as it is written: JSON, with a checksum in its private part."""
    if schema.PRIVATE not in record:
        return json.dumps(record).encode()
    private = dict(record[schema.PRIVATE], **{schema.CHECKSUM: _checksum(record)})
    return json.dumps(dict(record, **{schema.PRIVATE: private})).encode()


def _is_whole(record: Record) -> bool:
    """Tell whether a final record is as it was written. Those of earlier releases have no checksum."""
    known = record[schema.PRIVATE].get(schema.CHECKSUM)
    return known is None or known == _checksum(record)


def _checksum(record: Record) -> int:
    private = {
        key: value for key, value in record[schema.PRIVATE].items() if key != schema.CHECKSUM
    }
    return crc32(json.dumps(dict(record, **{schema.PRIVATE: private})).encode())


def is_ours(job: RecordIO) -> bool:
    """Tell whether we have launched a job, and not ``async``: by its folder or its id, not by its record."""
    return schema.is_own_jid(job.jid) or os.path.lexists(os.path.dirname(job.path("exit")))


def lock_record(job: RecordIO, *, wait: bool) -> int | None:
    """Take the lock under which the final record is written; None if somebody has it, or if there is no folder."""
    try:
        # A descriptor of its own: job.fd is shared with forked processes, and so would be its lock.
        fd = os.open(".", files.DIR_FLAGS, dir_fd=job.fd)
    except (FileNotFoundError, JobError):
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


@files.with_private_umask
def write_beside(job: RecordIO, data: bytes) -> None:
    """Replace a record by way of a file beside it, where there is no folder of ours."""
    name, folder = job.scratch, job.store.fd
    files.remove_tree(name, folder)
    files.write_new(folder, name, data)
    os.rename(name, job.jid, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def _parse_record(jid: str, data: bytes) -> Record:
    data = data.rstrip(b"\0")  # a copy lies in more room than it needs
    if not data.strip():
        raise DamagedRecord("it is empty")
    try:
        record: Record = loads(data)
    except ValueError:
        raise DamagedRecord("it is not JSON") from None
    flaw = validation.record_flaw(jid, record)
    if flaw:
        raise DamagedRecord(flaw)
    return record


def _whole(jid: str, fd: int, size: int) -> Record:
    with open(fd, "rb", closefd=False) as source:
        return _parse_record(jid, source.read(size))


def _without_output(jid: str, fd: int, size: int) -> Record | None:
    """Read a large record of ours from its two ends, without the output that it embeds; None if that cannot be done.

    In JSON a quote inside a string is escaped, so no output can hold the keys between which it lies.
    """
    if size <= 2 * EDGE:
        return None
    before, begin, _rest = os.pread(fd, EDGE, 0).partition(b', "stdout": "')
    _rest, end, after = os.pread(fd, EDGE, size - EDGE).partition(b', "stdout_bytes": ')
    if not begin or not end:
        return None
    try:
        record = _parse_record(jid, b"".join((before, begin, b'", "stderr": ""', end, after)))
    except DamagedRecord:
        return None
    return record if schema.PRIVATE in record else None


def loads(data: bytes) -> Any:
    """Read JSON, whatever it is. :raises ValueError: it is none, or nothing that can be read.

    What is no number, or more than a float can hold, is null: Python writes NaN and Infinity, which nobody else reads.
    """
    try:
        return json.loads(
            data, parse_int=_bounded, parse_float=_finite, parse_constant=lambda _name: None
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if abs(number) != float("inf") else None


def _bounded(digits: str) -> int:
    """Read an integer. Reading, and writing, millions of digits takes hours where Python itself sets no limit."""
    if len(digits) > MAX_DIGITS:
        raise ValueError("too many digits")
    return int(digits)
