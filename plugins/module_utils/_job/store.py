# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where jobs lie. The only code that opens, locks, renames, lists and removes what is in an async dir.

::

    <async dir>/<jid>                 the record: JSON, replaced atomically, readable by the builtin async_status
    <async dir>/.durable/             everything else, for the owner only
        engine/<digest>/_job/         a copy of this package, the program of launcher, keeper and runner
        names/<name>.lock, .jid       who holds the lock decides about the name; the jids that it means, and meant
        key                           of the digests by which secrets are compared
        jobs/<jid>/
            keeper, runner            FIFOs: whoever has the name of one holds its lock for as long as it lives
            turn                      the same, of a job that is queued: its keeper holds it until the job has started
            stdout, stderr            what the command writes
            exit                      slot: the wait status, written by the runner the moment the command ends
            ending                    slot: why and how the keeper ended the job, written before the first signal
            record                    room for the final record; becomes <async dir>/<jid> by rename. Until
                                      then it holds a copy of the first one, in case that is damaged
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import sys
import time

from . import schema, way
from .errors import JobError
from .way import user_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, TypeVar

    from .schema import Record

    Maker = TypeVar("Maker", bound=Callable[..., Any])

PRIVATE_DIR = ".durable"
SLOT_BYTES = 4096  # room of a slot, allocated at launch so that a full disk cannot keep an end from being written down
RECORD_LIMIT = 64 * 1024 * 1024  # bytes; nothing that large is a record
SCARCE = 64 * 1024 * 1024  # bytes; with less left, a disk is watched while jobs write to it
KEY_BYTES = 32
ENGINES_KEPT = 3  # when another is installed: releases that take turns must not replace each other
ABANDONED_AFTER = 86400  # seconds; no launch takes as long between its first file and its record
MAX_DIGITS = 4300  # of an integer in a record; Python's own limit since 3.11

_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FLAGS = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OWN_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class MissingRecord(Exception):
    """There is no record of that jid."""


class DamagedRecord(Exception):
    """There is something of that jid, but it is not a record."""


def boot_id() -> str:
    """Return the id of the machine's current boot (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as source:
        return source.read().strip()


def machine() -> Record:
    """Return what tells this machine from others: its id (machine-id(5)), empty where there is none, and its name."""
    try:
        with open("/etc/machine-id", encoding="ascii", errors="replace") as source:
            known = source.read(64).strip()
    except OSError:
        known = ""
    return {"id": known, "name": os.uname().nodename}


def write_all(fd: int, data: bytes) -> None:
    """Write all of data at the beginning of a file and cut the file there."""
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], done)
    os.ftruncate(fd, len(data))


def _privately(make: Maker) -> Maker:
    """Let what a function makes be for its owner, and for him at once, whatever the umask of the process."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before = os.umask(0o077)
        try:
            return make(*args, **kwargs)
        finally:
            os.umask(before)

    wrapped.__doc__ = make.__doc__
    return wrapped  # type: ignore[return-value]


class Store:
    """An async dir that has been found to be safe to use.

    Everything is opened relative to a descriptor of the directory, so that nobody can put another one in its place.
    """

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        self._engine = -1  # held until we end, so that nobody removes what our launcher runs

    @classmethod
    @_privately
    def open(cls, path: str, *, create: bool) -> Store:
        """Open an async dir.

        :param path: as the user gave it; ``~`` must have been expanded.
        :param create: make it, and the folders above it, if it is not there.
        :raises FileNotFoundError: it is not there, and ``create`` is false.
        :raises JobError: it cannot be made, is no directory, a symlink, somebody else's, not writable,
            or others could put something into it or in its place.
        """
        if not os.path.isabs(path):
            raise way.refusal(
                path,
                "it is not an absolute path",
                "give a path that begins with / or with the ~ of a user who has a home",
            )
        path = os.path.normpath(path)
        way.check_way(path)
        if create:
            way.make_path(path)
        try:
            fd = os.open(path, _DIR_FLAGS)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise way.refusal(path, *way.why_not(path, error)) from None
        try:
            way.check_own(path, os.fstat(fd), create)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd)

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
        return way.refusal(
            self.path, "%s %s" % (path, why), "find out who put it there and remove it"
        )

    @_privately
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
            self._require(os.stat(name, dir_fd=folder, follow_symlinks=False), kind, path)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
        fd = os.open(name, flags | _OWN_FLAGS, 0o600, dir_fd=folder)
        try:
            self._require(os.fstat(fd), kind, path)
            if kind == stat.S_IFREG:
                os.set_blocking(fd, True)  # it may become the command's stdout
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _require(self, found: os.stat_result, kind: int, path: str) -> None:
        flaw = way.flaw(found, kind)
        if flaw:
            raise self.refusal(path, flaw)

    def private_path(self, *names: str) -> str:
        """Return the path of something below the private folder."""
        return os.path.join(self.path, PRIVATE_DIR, *names)

    @_privately
    def install_engine(self, digest: str, files: dict[str, bytes]) -> str:
        """Put a copy of this package into the async dir, whole or not at all, and return its path.

        It stays at least until this process ends. Engines of other releases go when they have become many.

        :param digest: of the contents; an engine of that digest which is there already is used as it is.
        :raises JobError: there is something else in its place, or in that of one of its files.
        """
        if not self._use_engine(digest, files):
            engines = self.private("engine")
            try:
                fcntl.flock(engines, fcntl.LOCK_EX)
                if not self._use_engine(digest, files):
                    _remove_tree(digest, engines)  # a part of it is missing
                    self._write_engine(engines, digest, files)
                    self._use_engine(digest, files)
                    self._sweep_engines(engines, digest)
            finally:
                os.close(engines)
        return self.private_path("engine", digest, "_job")

    def _use_engine(self, digest: str, files: dict[str, bytes]) -> bool:
        """Keep an engine from being removed; tell whether it is there, and whole."""
        where = ("engine", digest, "_job")
        try:
            package = self.private(*where, create=False)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(package, fcntl.LOCK_SH | fcntl.LOCK_NB)
            sizes = self._sizes(package, self.private_path(*where))
            cache = self.private(*where, "__pycache__", create=False)
            try:
                self._sizes(cache, self.private_path(*where, "__pycache__"))
            finally:
                os.close(cache)
            if all(sizes.get(name) == len(content) for name, content in files.items()):
                package, self._engine = self._engine, package
                return True
        except (BlockingIOError, FileNotFoundError):  # it is being removed, or a part has been
            pass
        finally:
            if package >= 0:
                os.close(package)
        return False

    def _sizes(self, folder: int, path: str) -> dict[str, int]:
        """Return the size of every file in a folder that holds nothing but files of ours and a cache."""
        found = {}
        for name in os.listdir(folder):
            if name != "__pycache__":
                seen = os.stat(name, dir_fd=folder, follow_symlinks=False)
                self._require(seen, stat.S_IFREG, os.path.join(path, name))
                found[name] = seen.st_size
        return found

    def _write_engine(self, engines: int, digest: str, files: dict[str, bytes]) -> None:
        scratch = digest + ".new"  # only the holder of the lock of `engines` writes here
        _remove_tree(scratch, engines)
        try:
            package = self.private("engine", scratch, "_job")
            try:
                os.close(self.private("engine", scratch, "_job", "__pycache__"))
                for name, content in files.items():
                    _write_new(package, name, content)
                os.fsync(package)
            finally:
                os.close(package)
            os.rename(scratch, digest, src_dir_fd=engines, dst_dir_fd=engines)
        except OSError:
            _remove_tree(scratch, engines)
            raise

    def _sweep_engines(self, engines: int, mine: str) -> None:
        """Remove what crashes have left, and the oldest engines from which nobody launches just now."""
        ages = {}
        for name in os.listdir(engines):
            ages[name] = os.stat(name, dir_fd=engines, follow_symlinks=False).st_mtime
        others = sorted(set(ages) - {mine}, key=lambda name: ("." in name, -ages[name]))
        kept = [name for name in others if "." not in name][: ENGINES_KEPT - 1]
        for name in others:
            if name in kept:
                continue
            try:
                package = self.private("engine", name, "_job", create=False)
            except (FileNotFoundError, JobError):  # half-made, or not ours to judge
                package = -1
            try:
                if package >= 0:
                    fcntl.flock(package, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_tree(name, engines)
            except OSError:  # in use, or not to be removed: the next one will try again
                pass
            finally:
                if package >= 0:
                    os.close(package)

    def job(self, jid: str) -> Job:
        """Return the job of that jid, whether there is one or not."""
        return Job(self, schema.check_jid(jid))

    @_privately
    def lock_name(self, name: str, *, wait: bool = True) -> int:
        """Take the lock of a name; it is held until the descriptor is closed everywhere.

        Whoever holds it may decide what a launch under this name means, and launch.

        :param wait: for whoever holds it; without it, BlockingIOError is raised.
        """
        file = schema.check_name(name) + ".lock"
        path = self.private_path("names", file)
        names = self.private("names")
        try:
            while True:
                fd = self.open_own(names, file, os.O_RDWR | os.O_CREAT, path)
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

    def forget_name(self, name: str) -> None:
        """Remove what is kept of a name, unless a job of it is there or somebody decides about it just now."""
        try:
            lock = self.lock_name(name, wait=False)
        except BlockingIOError:
            return
        try:
            if self.latest(name) is None:
                names = self.private("names")
                for suffix in (".new", ".jid", ".lock"):
                    _unlink(name + suffix, names)
                os.close(names)
        finally:
            os.close(lock)

    def latest(self, name: str) -> Job | None:
        """Return the latest job of a name; None if there is none."""
        for jid in self._named(name):
            if jid and os.path.lexists(os.path.join(self.path, jid)):
                return self.job(jid)
        return None

    @_privately
    def set_latest(self, name: str, jid: str) -> None:
        """Let a name mean another job, durably. Only the holder of the name's lock may call this."""
        self._name(name, jid, self._named(name)[0])

    def forget_latest(self, name: str, jid: str) -> None:
        """Let a name mean again what it meant before this job. Only the holder of the name's lock may call this."""
        latest, before = self._named(name)
        if latest == jid:
            self._name(name, before, "")

    def _name(self, name: str, jid: str, before: str) -> None:
        names = self.private("names")
        try:
            _remove_tree(name + ".new", names)
            _write_new(names, name + ".new", ("%s %s\n" % (jid, before)).encode())
            os.rename(name + ".new", name + ".jid", src_dir_fd=names, dst_dir_fd=names)
            os.fsync(names)
        finally:
            os.close(names)

    def _named(self, name: str) -> list[str]:
        """Return the jid that a name means, and the one that it meant before."""
        file = schema.check_name(name) + ".jid"
        try:
            names = self.private("names", create=False)
        except FileNotFoundError:
            return ["", ""]
        try:
            fd = self.open_own(names, file, os.O_RDONLY, self.private_path("names", file))
        except FileNotFoundError:
            return ["", ""]
        finally:
            os.close(names)
        with open(fd, encoding="ascii", errors="replace") as source:
            source_text = source.read(1024)
        first, _blank, second = source_text.partition(" ")
        return [jid if schema.valid_jid(jid) else "" for jid in (first, second.strip())]

    @_privately
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
                    _remove_tree("key.new", folder)
                    key = os.urandom(KEY_BYTES)
                    _write_new(folder, "key.new", key)
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

    def sweep(self) -> None:
        """Remove the folders of launches and removals that were killed half-way.

        They have no record, nobody holds a lock in them, and they are a day old.
        """
        try:
            jobs = self.private("jobs", create=False)
        except FileNotFoundError:
            return
        try:
            for jid in os.listdir(jobs):
                age = time.time() - os.stat(jid, dir_fd=jobs, follow_symlinks=False).st_mtime
                if age < ABANDONED_AFTER or not schema.valid_jid(jid):
                    continue
                if os.path.lexists(os.path.join(self.path, jid)):
                    continue
                job = self.job(jid)
                if not job.is_held("keeper") and not job.is_held("runner"):
                    _remove_tree(jid, jobs)
        finally:
            os.close(jobs)

    @_privately
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


class Job:
    """One job's files. The folder is opened when it is first needed and stays open."""

    def __init__(self, store: Store, jid: str) -> None:
        self.store = store
        self.jid = jid
        self.results_file = os.path.join(store.path, jid)
        self._fd: int | None = None

    @property
    def fd(self) -> int:
        """The folder's descriptor. :raises FileNotFoundError: there is no folder."""
        if self._fd is None:
            self._fd = self.store.private("jobs", self.jid, create=False)
        return self._fd

    def close(self) -> None:
        """Let go of the folder until it is needed again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def path(self, name: str) -> str:
        """Return the path of one of the job's files, for people to read."""
        return self.store.private_path("jobs", self.jid, name)

    # -- the record -------------------------------------------------------------------------------------------------

    def read_record(self) -> Record:
        """Read the record; if it is damaged, its copy in our folder, which then says so (``schema.FLAW``).

        :raises MissingRecord: there is none.
        :raises DamagedRecord: what is there is not a record that this version understands, and there
            is no copy. The text says why.
        """
        try:
            return self._read_record(self.jid, self.store.fd)
        except DamagedRecord as damage:
            try:
                copy = self._read_record("record", self.fd)
            except (OSError, JobError, MissingRecord, DamagedRecord):
                raise damage from None
            if schema.PRIVATE not in copy:
                raise
            copy[schema.PRIVATE][schema.FLAW] = str(damage)
            return copy

    def _read_record(self, name: str, folder: int) -> Record:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            kind = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            if not stat.S_ISREG(kind):
                raise DamagedRecord("it is %s" % way.KINDS.get(stat.S_IFMT(kind), "unknown"))
            fd = os.open(name, flags, dir_fd=folder)
        except FileNotFoundError:
            raise MissingRecord(self.jid) from None
        except OSError as error:
            raise DamagedRecord("it cannot be read: %s" % error.strerror) from None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise DamagedRecord("it is no regular file any more")
            if found.st_uid != os.geteuid():
                raise DamagedRecord("it belongs to user %s" % user_name(found.st_uid))
            if found.st_size > RECORD_LIMIT:
                raise DamagedRecord("it is too large")
            with open(fd, "rb", closefd=False) as source:
                return _parse_record(self.jid, source.read(RECORD_LIMIT))
            # A second name of this very file is harmless, and in a folder that others may enter they can give it one.
        except OSError as error:
            raise DamagedRecord("it cannot be read: %s" % error.strerror) from None
        finally:
            os.close(fd)

    @_privately
    def publish(self, record: Record) -> None:
        """Write the job's first record, durably: from now on the job exists for everybody."""
        self._reserve("record", 0)
        self.replace(record)

    @_privately
    def replace(self, record: Record) -> None:
        """Write a record that is not the last one, durably, and make room for the next.

        Only the holder of the keeper's lock may call this.
        """
        data = json.dumps(record).encode()
        _remove_tree("next", self.fd)  # of a predecessor that died before it was done
        _write_new(self.fd, "next", data)
        self._make_room("record", data)
        self._install("next")

    @_privately
    def conclude(self, record: Record, *, by_reader: bool = False) -> Record:
        """Replace the record by its final form, durably; one writer at a time, and the first one's holds.

        On a full disk it loses the embedded output, nothing else, and says so (``schema.BARE``).

        :param by_reader: do not wait for another writer, and do not bring back what has been cleaned up.
        :return: the final record that is there now.
        :raises MissingRecord: a reader's job has been cleaned up.
        """
        # Not the keeper's lock: other readers would take its holder for a keeper, and the job for alive.
        lock = self._lock_record(wait=not by_reader)
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

    def _lock_record(self, *, wait: bool) -> int | None:
        """Take the lock of the final record; None if somebody has it, or if there is no folder to be locked."""
        try:
            # A descriptor of its own: self.fd is shared with forked processes, and so would be its lock.
            fd = os.open(".", _DIR_FLAGS, dir_fd=self.fd)
        except (FileNotFoundError, JobError):
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

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
        data = json.dumps(record).encode()
        bare = dict(record, stdout="", stderr="", truncated=True)
        if schema.PRIVATE in bare:
            bare[schema.PRIVATE] = dict(bare[schema.PRIVATE], **{schema.BARE: True})
        try:
            fd = self._open_final()
        except (
            FileNotFoundError
        ):  # somebody has removed the folder: the record itself is still there
            scratch = self._scratch()
            _remove_tree(scratch, self.store.fd)
            _write_new(self.store.fd, scratch, data)
            os.rename(scratch, self.jid, src_dir_fd=self.store.fd, dst_dir_fd=self.store.fd)
            os.fsync(self.store.fd)
            return
        try:
            try:
                write_all(fd, data)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                write_all(fd, json.dumps(bare).encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        self._install("record")

    def _scratch(self) -> str:
        return ".%s.final" % self.jid

    def pending_record(self) -> Record | None:
        """Return a final record that is whole but has not been installed; None if there is none.

        Between the two steps its writer may be killed, or the power go: whoever has seen the record installed
        has seen what is on the disk here, but the disk need not know of the rename yet.
        """
        try:
            record = self._read_record("record", self.fd)
        except (OSError, JobError, MissingRecord, DamagedRecord):  # not written to its end
            return None
        return record if record.get("finished") and schema.PRIVATE in record else None

    def output_error(self, *, probe: bool) -> str | None:
        """Say what the system tells a command that writes its output now; None if it would be written.

        The command writes straight into its files, so nobody can count what it is refused. But this can be known.

        :param probe: really ask for room. Without it only a disk that looks nearly full is asked, for asking
            is work for the disk. Only the holder of the keeper's lock may call this.
        """
        try:
            seen = os.statvfs(self.fd)
            room = seen.f_bavail * seen.f_frsize
            if (
                not probe
                and not seen.f_flag & os.ST_RDONLY
                and (room > SCARCE or not seen.f_blocks)
            ):
                return None
            fd = self.store.open_own(self.fd, "record", os.O_WRONLY, self.path("record"))
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
            return None if error.errno in (errno.EOPNOTSUPP, errno.EINVAL) else error.strerror
        finally:
            os.close(fd)
        return None

    def _open_final(self) -> int:
        path = self.path("record")
        try:
            return self.store.open_own(self.fd, "record", os.O_WRONLY, path)
        except FileNotFoundError:  # used up by a predecessor that died before it was done
            pass
        except JobError:  # not what we made: put away, not written to
            _remove_tree("record", self.fd)
        self._reserve("record", SLOT_BYTES)
        return self.store.open_own(self.fd, "record", os.O_WRONLY, path)

    # -- slots ------------------------------------------------------------------------------------------------------

    @_privately
    def fill(self, slot: str, content: Record) -> None:
        """Write a slot durably. Its room was allocated at launch, and a reader takes it only when it is whole."""
        try:
            fd = self.store.open_own(self.fd, slot, os.O_WRONLY, self.path(slot))
        except JobError:  # not what we made: put away, not written to
            _remove_tree(slot, self.fd)
            fd = os.open(slot, os.O_WRONLY | _NEW_FLAGS, 0o600, dir_fd=self.fd)
        try:
            os.pwrite(fd, json.dumps(content).encode() + b"\n", 0)
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def slot(self, slot: str) -> Record | None:
        """Read a slot; None if it was never filled, or holds nothing that can be understood (see :meth:`spoilt`).

        :raises JobError: there is something else in its place.
        """
        try:
            data = self._slot_bytes(slot)
            content: Record = _loads(data) if data.endswith(b"\n") else {}
        except (OSError, ValueError):
            return None
        return None if schema.slot_flaw(slot, content) else content

    def spoilt(self, slot: str) -> bool:
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
        """Return a descriptor that hangs up (POLLHUP) when the holder of a lock ends; None if nobody holds it."""
        try:
            fd = self.open_fifo(role, os.O_RDONLY)
        except OSError:
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
        """Tell whether somebody holds a lock."""
        fd = self.watch(role)
        if fd is not None:
            os.close(fd)
        return fd is not None

    def open_fifo(self, role: str, flags: int) -> int:
        """Open the FIFO of a role. :raises OSError: it is not there, or nobody reads what would be written."""
        return self.store.open_own(self.fd, role, flags, self.path(role), kind=stat.S_IFIFO)

    # -- beginning and end ------------------------------------------------------------------------------------------

    @_privately
    def furnish(self, *, queued: bool = False) -> None:
        """Make the files of a new job."""
        for role in ("keeper", "runner", "turn") if queued else ("keeper", "runner"):
            os.mkfifo(role, 0o600, dir_fd=self.fd)
        for slot in ("exit", "ending"):
            self._reserve(slot, SLOT_BYTES)
        for stream in ("stdout", "stderr"):
            os.close(os.open(stream, os.O_WRONLY | _NEW_FLAGS, 0o600, dir_fd=self.fd))

    def leave_queue(self, turn: int) -> None:
        """Let go of the lock ``turn``: the next job of the batch may look whether its own has come."""
        os.unlink("turn", dir_fd=self.fd)
        os.close(turn)

    def open_stream(self, stream: str, flags: int) -> int:
        """Open stdout or stderr.

        :raises OSError: it is not there.
        :raises JobError: there is something else in its place.
        """
        return self.store.open_own(self.fd, stream, flags, self.path(stream))

    def stdin_file(self, content: bytes) -> int:
        """Return a descriptor from which the command reads ``content``. The file has no name any more."""
        fd = os.open("stdin", os.O_RDWR | _NEW_FLAGS, 0o600, dir_fd=self.fd)
        try:
            os.unlink("stdin", dir_fd=self.fd)
            write_all(fd, content)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def log_loss(self) -> None:
        """Write the exception that is being handled to keeper.log: what ended a process of ours.

        By hand: the module traceback would cost every keeper memory.
        """
        kind, error, frame = sys.exc_info()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        fd = self.store.open_own(self.fd, "keeper.log", flags, self.path("keeper.log"))
        with open(fd, "w", encoding="utf-8") as log:
            while frame is not None:
                log.write("%s:%d\n" % (frame.tb_frame.f_code.co_filename, frame.tb_lineno))
                frame = frame.tb_next
            log.write("%s: %s\n" % (kind.__name__ if kind else "", error))

    def remove(self) -> None:
        """Remove the record, then everything else. What a crash leaves in between has no record and is nobody's job.

        :raises JobError: something in its place cannot be removed.
        """
        try:
            name = self.read_record().get("name")
        except (MissingRecord, DamagedRecord):
            name = None
        path = self.results_file
        try:
            _unlink_or_rmdir(self.jid, self.store.fd)
            _unlink(self._scratch(), self.store.fd)
            os.fsync(self.store.fd)
            path = os.path.dirname(self.path(""))
            try:
                jobs = self.store.private("jobs", create=False)
            except FileNotFoundError:  # a job of the builtin
                return
            try:
                _remove_tree(self.jid, jobs)
            finally:
                os.close(jobs)
        except OSError as error:
            why = "cannot be removed: %s" % error.strerror
            raise self.store.refusal(path, why) from None
        if isinstance(name, str) and schema.valid_name(name):
            self.store.forget_name(name)

    def _reserve(self, name: str, size: int) -> None:
        fd = os.open(name, os.O_WRONLY | _NEW_FLAGS, 0o600, dir_fd=self.fd)
        try:
            _allocate(fd, size)
        finally:
            os.close(fd)

    def _make_room(self, name: str, data: bytes) -> None:
        """Let a reserved file hold a copy of a record, and have room for its successor.

        A copy need not be durable: what a power cut spares, the record is.
        """
        fd = self.store.open_own(self.fd, name, os.O_WRONLY, self.path(name))
        try:
            _allocate(fd, len(data) + SLOT_BYTES)
            os.pwrite(fd, data.ljust(os.fstat(fd).st_size, b"\0"), 0)
        finally:
            os.close(fd)

    def _install(self, name: str) -> None:
        os.rename(name, self.jid, src_dir_fd=self.fd, dst_dir_fd=self.store.fd)
        os.fsync(self.store.fd)


def _parse_record(jid: str, data: bytes) -> Record:
    data = data.rstrip(b"\0")  # a copy lies in more room than it needs
    if not data.strip():
        raise DamagedRecord("it is empty")
    try:
        record: Record = _loads(data)
    except ValueError:
        raise DamagedRecord("it is not JSON") from None
    flaw = schema.record_flaw(jid, record)
    if flaw:
        raise DamagedRecord(flaw)
    return record


def _loads(data: bytes) -> Any:
    """Read JSON, whatever it is. :raises ValueError: it is none, or nothing that can be read."""
    try:
        return json.loads(data, parse_int=_bounded)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _bounded(digits: str) -> int:
    """Read an integer. Reading, and writing, millions of digits takes hours where Python itself sets no limit."""
    if len(digits) > MAX_DIGITS:
        raise ValueError("too many digits")
    return int(digits)


def _allocate(fd: int, size: int) -> None:
    """Give a file the room for so many bytes (posix_fallocate(3))."""
    try:
        if size:
            os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        write_all(fd, bytes(size))  # a C library that does not emulate it


def _write_new(folder: int, name: str, data: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | _NEW_FLAGS, 0o600, dir_fd=folder)
    try:
        write_all(fd, data)
        os.fsync(fd)
    except OSError:  # a full disk: leave nothing half-written
        _unlink(name, folder)
        raise
    finally:
        os.close(fd)


def _unlink(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass


def _unlink_or_rmdir(name: str, folder: int) -> None:
    """Remove what lies in a record's place. Of a directory there only an empty one: what is in it is not ours."""
    try:
        _unlink(name, folder)
    except IsADirectoryError:
        os.rmdir(name, dir_fd=folder)


def _remove_tree(name: str, folder: int) -> None:
    """Remove a file, or a folder and all that is in it. A link is removed, not followed; nothing there is fine."""
    try:
        fd = os.open(name, _DIR_FLAGS, dir_fd=folder)
    except FileNotFoundError:
        return
    except NotADirectoryError:  # a link too, for O_NOFOLLOW
        _unlink(name, folder)
        return
    try:
        for entry in os.listdir(fd):
            _remove_tree(entry, fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=folder)
