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
            stdout, stderr            what the command writes
            exit                      slot: the wait status, written by the runner the moment the command ends
            ending                    slot: why and how the keeper ended the job, written before the first signal
            record                    room for the final record; becomes <async dir>/<jid> by rename
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pwd
import stat
import sys
import time

from . import schema
from .errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

    from .schema import Record

PRIVATE_DIR = ".durable"
SLOT_BYTES = 4096  # room of a slot, allocated at launch so that a full disk cannot keep an end from being written down
RECORD_LIMIT = 64 * 1024 * 1024  # bytes; nothing that large is a record

_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FLAGS = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class MissingRecord(Exception):
    """There is no record of that jid."""


class DamagedRecord(Exception):
    """There is something of that jid, but it is not a record."""


def user_name(uid: int) -> str:
    """Return the name of a user, or its number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def boot_id() -> str:
    """Return the id of the machine's current boot (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as source:
        return source.read().strip()


def write_all(fd: int, data: bytes) -> None:
    """Write all of data at the beginning of a file and cut the file there."""
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], done)
    os.ftruncate(fd, len(data))


class Store:
    """An async dir that has been found to be safe to use.

    Everything is opened relative to a descriptor of the directory, so that nobody can put another one in its place.
    """

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    @classmethod
    def open(cls, path: str, *, create: bool) -> Store:
        """Open an async dir.

        :param path: as the user gave it; ``~`` must have been expanded.
        :param create: make it, and the folders above it, if it is not there.
        :raises FileNotFoundError: it is not there, and ``create`` is false.
        :raises JobError: it cannot be made, is no directory, a symlink, somebody else's, or not writable.
        """
        if not os.path.isabs(path):
            raise _refusal(
                path,
                "it is not an absolute path",
                "give a path that begins with / or with the ~ of a user who has a home",
            )
        path = os.path.normpath(path)
        if create:
            _make_path(path)
        try:
            fd = os.open(path, _DIR_FLAGS)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _refusal(path, *_why_not(path, error)) from None
        try:
            owner = os.fstat(fd).st_uid
            if owner != os.geteuid():
                advice = (
                    "run the task as that user (become_user: %s) or give another async_dir"
                    % user_name(owner)
                )
                raise _refusal(path, "it belongs to user %s" % user_name(owner), advice)
            if create and not os.access(path, os.W_OK | os.X_OK):
                raise _refusal(
                    path, "it is not writable", "make it writable or give another async_dir"
                )
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd)

    def failure(self, error: OSError) -> JobError:
        """Return what to tell the user when the system refuses something in here."""
        return JobError(
            "cannot launch a job in async_dir %s as user %s: %s"
            % (self.path, user_name(os.geteuid()), error.strerror),
            errno=error.errno,
        )

    def private(self, *names: str, create: bool = True) -> int:
        """Open a folder below the private folder, made 0700 if it is not there, and return its descriptor."""
        fd = os.dup(self.fd)
        for name in (PRIVATE_DIR, *names):
            parent = fd
            try:
                if create:
                    try:
                        os.mkdir(name, 0o700, dir_fd=parent)
                    except FileExistsError:
                        pass
                fd = os.open(name, _DIR_FLAGS, dir_fd=parent)
                if os.fstat(fd).st_uid != os.geteuid():
                    os.close(fd)
                    raise _refusal(
                        os.path.join(self.path, PRIVATE_DIR),
                        "%s in it belongs to another user" % name,
                        "remove that folder",
                    )
            except NotADirectoryError:  # O_NOFOLLOW makes it the answer for a symlink too
                raise _refusal(
                    self.path, "%s in it is not a directory of its own" % name, "remove it"
                ) from None
            finally:
                os.close(parent)
        return fd

    def private_path(self, *names: str) -> str:
        """Return the path of something below the private folder."""
        return os.path.join(self.path, PRIVATE_DIR, *names)

    def install_engine(self, digest: str, files: dict[str, bytes]) -> str:
        """Put a copy of this package into the async dir, whole or not at all, and return its path.

        :param digest: of the contents; an engine of that digest which is there already is used as it is.
        """
        path = self.private_path("engine", digest, "_job")
        if os.path.isdir(path):
            return path
        scratch = "%s.%d" % (digest, os.getpid())
        package = self.private("engine", scratch, "_job")
        os.close(self.private("engine", scratch, "_job", "__pycache__"))
        for name, content in files.items():
            _write_new(package, name, content)
        os.fsync(package)
        engines = self.private("engine")
        try:
            os.rename(scratch, digest, src_dir_fd=engines, dst_dir_fd=engines)
        except OSError:
            # Somebody else was faster: theirs is the same, to the byte.
            for name in files:
                os.unlink(name, dir_fd=package)
            os.rmdir("__pycache__", dir_fd=package)
            os.rmdir(scratch + "/_job", dir_fd=engines)
            os.rmdir(scratch, dir_fd=engines)
        finally:
            os.close(package)
            os.close(engines)
        return path

    def job(self, jid: str) -> Job:
        """Return the job of that jid, whether there is one or not."""
        return Job(self, schema.check_jid(jid))

    def lock_name(self, name: str) -> int:
        """Take the lock of a name, waiting for it; it is held until the descriptor is closed everywhere.

        Whoever holds it may decide what a launch under this name means, and launch.
        """
        names = self.private("names")
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name + ".lock", flags, 0o600, dir_fd=names)
        finally:
            os.close(names)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    def latest(self, name: str) -> Job | None:
        """Return the latest job of a name; None if there is none."""
        for jid in self._named(name):
            if jid and os.path.lexists(os.path.join(self.path, jid)):
                return self.job(jid)
        return None

    def set_latest(self, name: str, jid: str) -> str:
        """Let a name mean another job, durably, and return the jid that it meant before.

        Only the holder of the name's lock may call this. An empty jid stands for no job.
        """
        before = self._named(name)[0]
        names = self.private("names")
        try:
            _unlink(name + ".new", names)
            _write_new(names, name + ".new", ("%s %s\n" % (jid, before)).encode())
            os.rename(name + ".new", name + ".jid", src_dir_fd=names, dst_dir_fd=names)
            os.fsync(names)
        finally:
            os.close(names)
        return before

    def _named(self, name: str) -> list[str]:
        """Return the jid that a name means, and the one that it meant before."""
        try:
            names = self.private("names", create=False)
        except FileNotFoundError:
            return ["", ""]
        try:
            fd = os.open(name + ".jid", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=names)
        except FileNotFoundError:
            return ["", ""]
        finally:
            os.close(names)
        with open(fd, encoding="ascii", errors="replace") as source:
            source_text = source.read(1024)
        first, _blank, second = source_text.partition(" ")
        return [jid if schema.valid_jid(jid) else "" for jid in (first, second.strip())]

    def secret(self, *, create: bool = True) -> bytes:
        """Return the key of this async dir, with which secrets are compared without being kept.

        :raises FileNotFoundError: there is none, and ``create`` is false.
        """
        folder = self.private(create=create)
        try:
            try:
                fd = os.open("key", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            except FileNotFoundError:
                if not create:
                    raise
                fd = _make_key(folder)
        finally:
            os.close(folder)
        with open(fd, "rb") as source:
            return source.read()

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

    def path(self, name: str) -> str:
        """Return the path of one of the job's files, for people to read."""
        return self.store.private_path("jobs", self.jid, name)

    # -- the record -------------------------------------------------------------------------------------------------

    def read_record(self) -> Record:
        """Read the record.

        :raises MissingRecord: there is none.
        :raises DamagedRecord: what is there is not a record that this version understands; the text says why.
        """
        try:
            fd = os.open(
                self.jid,
                os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                dir_fd=self.store.fd,
            )
        except FileNotFoundError:
            raise MissingRecord(self.jid) from None
        except OSError as error:
            raise DamagedRecord("it cannot be read: %s" % error.strerror) from None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise DamagedRecord("it is not a regular file")
            if found.st_uid != os.geteuid():
                raise DamagedRecord("it belongs to user %s" % user_name(found.st_uid))
            if found.st_size > RECORD_LIMIT:
                raise DamagedRecord("it is too large")
            with open(fd, "rb", closefd=False) as source:
                return _parse_record(source.read())
        finally:
            os.close(fd)

    def publish(self, record: Record) -> None:
        """Write the job's first record, durably: from now on the job exists for everybody."""
        data = json.dumps(record).encode()
        _write_new(self.fd, "first", data)
        self._reserve("record", len(data) + SLOT_BYTES)
        self._install("first")

    def conclude(self, record: Record) -> None:
        """Replace the record by its final form, durably. On a full disk it loses the embedded output, nothing else.

        Only the holder of the keeper's lock may call this.
        """
        data = json.dumps(record).encode()
        without_output = json.dumps(dict(record, stdout="", stderr="", truncated=True)).encode()
        try:
            fd = self._open_final()
        except (
            FileNotFoundError
        ):  # somebody has removed the folder: the record itself is still there
            scratch = ".%s.final" % self.jid
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
                write_all(fd, without_output)
            os.fsync(fd)
        finally:
            os.close(fd)
        self._install("record")

    def _open_final(self) -> int:
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open("record", flags, dir_fd=self.fd)
        except FileNotFoundError:  # used up by a predecessor that died before it was done
            self._reserve("record", SLOT_BYTES)
            return os.open("record", flags, dir_fd=self.fd)

    # -- slots ------------------------------------------------------------------------------------------------------

    def fill(self, slot: str, content: Record) -> None:
        """Write a slot durably. Its room was allocated at launch, and a reader takes it only when it is whole."""
        fd = os.open(slot, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            os.pwrite(fd, json.dumps(content).encode() + b"\n", 0)
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def slot(self, slot: str) -> Record | None:
        """Read a slot; None if it was never filled, or not whole."""
        try:
            fd = os.open(
                slot, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd
            )
        except OSError:
            return None
        try:
            data, newline, _rest = os.pread(fd, SLOT_BYTES, 0).partition(b"\n")
            content = json.loads(data) if newline else None
        except (OSError, ValueError):
            return None
        finally:
            os.close(fd)
        return content if isinstance(content, dict) else None

    # -- locks ------------------------------------------------------------------------------------------------------

    def lock(self, role: str) -> int | None:
        """Take the lock of ``keeper`` or ``runner``; None if somebody has it.

        The lock is held until the descriptor is closed, at the latest by the death of the process
        and of all its children
        that inherited it. Who holds it also holds the FIFO open, which is how others wait for its end without polling.
        """
        fd = os.open(role, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        return fd

    def watch(self, role: str) -> int | None:
        """Return a descriptor that hangs up (POLLHUP) when the holder of a lock ends; None if nobody holds it."""
        try:
            fd = os.open(
                role, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd
            )
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

    # -- beginning and end ------------------------------------------------------------------------------------------

    def furnish(self) -> None:
        """Make the files of a new job."""
        for role in ("keeper", "runner"):
            os.mkfifo(role, 0o600, dir_fd=self.fd)
        for slot in ("exit", "ending"):
            self._reserve(slot, SLOT_BYTES)
        for stream in ("stdout", "stderr"):
            os.close(os.open(stream, os.O_WRONLY | _NEW_FLAGS, 0o600, dir_fd=self.fd))

    def open_stream(self, stream: str, flags: int) -> int:
        """Open stdout or stderr. :raises OSError: it is not there."""
        return os.open(stream, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)

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
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(
            os.open("keeper.log", flags, 0o600, dir_fd=self.fd), "w", encoding="utf-8"
        ) as log:
            while frame is not None:
                log.write("%s:%d\n" % (frame.tb_frame.f_code.co_filename, frame.tb_lineno))
                frame = frame.tb_next
            log.write("%s: %s\n" % (kind.__name__ if kind else "", error))

    def remove(self) -> None:
        """Remove the record, then everything else. What a crash leaves in between has no record and is nobody's job."""
        _unlink(self.jid, self.store.fd)
        os.fsync(self.store.fd)
        try:
            for name in os.listdir(self.fd):
                _unlink(name, self.fd)
        except FileNotFoundError:  # a job of the builtin, or half-removed before
            return
        jobs = self.store.private("jobs")
        try:
            os.rmdir(self.jid, dir_fd=jobs)
        except FileNotFoundError:
            pass
        finally:
            os.close(jobs)

    def _reserve(self, name: str, size: int) -> None:
        fd = os.open(name, os.O_WRONLY | _NEW_FLAGS, 0o600, dir_fd=self.fd)
        try:
            try:
                os.posix_fallocate(fd, 0, size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                write_all(fd, bytes(size))  # a C library that does not emulate it
        finally:
            os.close(fd)

    def _install(self, name: str) -> None:
        os.rename(name, self.jid, src_dir_fd=self.fd, dst_dir_fd=self.store.fd)
        os.fsync(self.store.fd)


def whose(path: str, jid: str) -> Iterator[str]:
    """Yield the users, other than ourselves, whose async dir visibly holds a job of that jid.

    :param path: our own async dir. Below our home it is looked for at the same place below theirs.
    """
    home = os.path.expanduser("~")
    inside = (
        os.path.relpath(path, home) if path.startswith(home.rstrip("/") + "/") else ".ansible_async"
    )
    seen = {os.path.realpath(path)}
    for entry in pwd.getpwall():
        folder = os.path.realpath(os.path.join(entry.pw_dir, inside))
        if folder not in seen:
            seen.add(folder)
            if os.path.lexists(os.path.join(folder, jid)):
                yield "user %s in %s" % (entry.pw_name, folder)


def _parse_record(data: bytes) -> Record:
    try:
        record = json.loads(data)
    except ValueError:
        raise DamagedRecord("it is not JSON" if data.strip(b"\0 \n") else "it is empty") from None
    if not isinstance(record, dict):
        raise DamagedRecord("it is not a JSON object")
    private = record.get(schema.PRIVATE)
    if private is not None and (
        not isinstance(private, dict) or private.get("version") != schema.VERSION
    ):
        raise DamagedRecord("its format is not known to this version of durable.jobs")
    return record


def _make_path(path: str) -> None:
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
            raise _refusal(
                missing[0],
                "%s cannot be made: %s" % (folder, error.strerror),
                "make it or give another async_dir",
            ) from None


def _why_not(path: str, error: OSError) -> list[str]:
    if os.path.islink(path):
        return ["it is a symlink to %s" % os.readlink(path), "give the real path"]
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        return ["it is not a directory", "remove it or give another async_dir"]
    return [str(error.strerror), "make it accessible or give another async_dir"]


def _refusal(path: str, why: str, advice: str) -> JobError:
    return JobError(
        "cannot use async_dir %s as user %s: %s; %s" % (path, user_name(os.geteuid()), why, advice),
        async_dir=path,
    )


def _write_new(folder: int, name: str, data: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | _NEW_FLAGS, 0o600, dir_fd=folder)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def _make_key(folder: int) -> int:
    scratch = "key.%d" % os.getpid()
    _write_new(folder, scratch, os.urandom(32))
    try:
        os.link(scratch, "key", src_dir_fd=folder, dst_dir_fd=folder)
    except FileExistsError:  # somebody else was faster, and theirs is the key
        pass
    finally:
        _unlink(scratch, folder)
    return os.open("key", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)


def _unlink(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
