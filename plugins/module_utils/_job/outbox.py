# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The outbox: where the notifications of jobs lie until they are delivered.

One file for each job that has ``notify``, with room for everything from the launch on: a full disk loses nothing. ::

    <async dir>/.durable/outbox/
        <jid>       sinks with their secrets, what has become of each notification, and the event: a line of JSON each,
                    in a part of the file of its own. Its time says when a delivery is due; 0 before there is an event
        <jid>.<n>   the same of attempt n, if somebody wants to hear of it. It is made when the attempt has failed; its
                    time is 0 until the record says that the attempt is tried again
        bell        FIFO: the deliverer of this async dir holds its lock, and wakes when somebody writes to it
        boot        the boot whose jobs may be live: in another one those without an event must be looked at
    <async dir>/.durable/jobs/<jid>/outbox, outbox.<n>
                    the same files when nothing is left to deliver, without what is secret

They do not lie in the job's folder, so that a job can be removed before its end has been told. There is no room for the
event of an attempt before it is over. So if the disk has none then, the event is made later, of the job's record. Until
that has been done, ``<jid>`` stays here, and the job cannot be removed.
"""

from __future__ import annotations

import fcntl
import json
import os
import time

from . import files, host, notifying, record_io, schema
from .errors import MISHAPS, JobError
from .record_io import DamagedRecord, MissingRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .job import Job
    from .record_io import RecordIO
    from .schema import Record
    from .store import Store

FOLDER = "outbox"
BOOT = "boot"
NEW = ".new"  # the end of the name of a file that is being made
SETTLED = "outbox"  # in the job's folder
SINKS, STATES, EVENT = range(
    3
)  # the parts of a file; the last may outgrow its room where the disk has more
_HEADER = 64  # bytes, in which the sizes of the parts stand
_EVENT_ROOM = 16384  # bytes that an event may have more than the record of its job at the launch
_ATTEMPT_ROOM = 400  # bytes that the event may have more for each attempt,
_ATTEMPTS = 256  # of so many; whoever has more needs a disk that has room
_TAIL_ROOM = 2 * 12 * schema.TAIL_BYTES  # of two streams, every character escaped (RFC 8259, 7)
_STATE_ROOM = 512  # of each sink
REASON_LIMIT = 160  # characters
LONGEST_PAUSE = 300.0  # seconds between two attempts to deliver


def file_name(jid: str, number: int) -> str:
    """Return the name of the file of an attempt; of the job's end if the number is 0."""
    return "%s.%d" % (jid, number) if number else jid


def parsed(name: str) -> tuple[str, int] | None:
    """Return what :func:`file_name` was given; None if the file is another one."""
    if schema.valid_jid(name):
        return name, 0
    jid, _dot, number = name.rpartition(".")
    is_number = number.isascii() and number.isdigit() and not number.startswith("0")
    return (jid, int(number)) if is_number and schema.valid_jid(jid) else None


class Outbox:
    """One file: of a job's end, or of one of its attempts.

    :param name: its name in ``folder_fd``.
    :param number: of the attempt; 0 for the end of the job.
    :raises OSError: it cannot be opened; FileNotFoundError: it is not there.
    :raises JobError: what is there is not what we made.
    """

    def __init__(self, store: Store, jid: str, folder_fd: int, name: str, number: int = 0) -> None:
        self.jid = jid
        self.number = number
        self._store = store
        path = store.private_path(FOLDER, file_name(jid, number))
        self.fd = store.open_own(folder_fd, name, os.O_RDWR, path)
        try:
            self._sizes = [int(size) for size in os.pread(self.fd, _HEADER, 0).split()]
        except ValueError:
            self._sizes = []
        if len(self._sizes) != 3:
            self._sizes = [0, 0, 0]  # whatever it was, nothing of it can be read

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.fd)

    def read(self, part: int) -> Any:
        """Return what a part holds; None if nothing, or nothing that can be understood."""
        size = os.fstat(self.fd).st_size if part == EVENT else self._sizes[part]
        data = os.pread(self.fd, size, self._offset(part))
        line, newline, _rest = data.partition(b"\n")
        try:
            return record_io.loads(line) if newline else None
        except ValueError:
            return None

    def write(self, part: int, content: object) -> None:
        """Write a part durably, in its own room."""
        data = json.dumps(content).encode() + b"\n"
        if len(data) > self._sizes[part] and part != EVENT:
            raise JobError("the outbox of job %s has no room for %d bytes" % (self.jid, len(data)))
        os.pwrite(self.fd, data.ljust(self._sizes[part], b"\0"), self._offset(part))
        os.fdatasync(self.fd)

    def _offset(self, part: int) -> int:
        return _HEADER + sum(self._sizes[:part])

    def sinks(self) -> list[Record]:
        """Return the sinks; none if they cannot be read."""
        asked = self.read(SINKS)
        found = asked.get("sinks") if isinstance(asked, dict) else None
        return found if isinstance(found, list) else []

    def states(self) -> list[Record]:
        """Return what has become of the notification of each sink. What cannot be read counts as not delivered."""
        told, sinks = self.read(STATES), self.sinks()
        found = told if isinstance(told, list) and len(told) == len(sinks) else [None] * len(sinks)
        fresh = {"state": notifying.PENDING, "reason": None, "tries": 0}
        return [dict(fresh, **one) if isinstance(one, dict) else dict(fresh) for one in found]

    def is_scheduled(self) -> bool:
        """Tell whether somebody has said when a delivery is due."""
        return os.fstat(self.fd).st_mtime != 0

    def due_in(self, seconds: float) -> None:
        """Say when the next delivery is due."""
        when = time.time() + seconds
        os.utime(self.fd, (when, when))

    def await_event(self) -> None:
        """Say that there is no event yet. If somebody writes it at this moment, it stays due."""
        os.utime(self.fd, (0, 0))
        # Whoever writes it after this makes it due, as any writing sets the time of a file.
        if self.read(EVENT) is not None:
            self.due_in(0)

    def lock(self) -> bool:
        """Be the only one who delivers this, until the file is closed; False if somebody else is."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def settle(self) -> None:
        """Put the file into the job's folder, without secrets: nothing is left to deliver. It needs no room."""
        asked = self.read(SINKS)
        if isinstance(asked, dict):
            shown = [{key: one[key] for key in ("to", "on") if key in one} for one in self.sinks()]
            self.write(SINKS, dict(asked, sinks=shown))
        if self.number and all(one["state"] == notifying.DELIVERED for one in self.states()):
            os.ftruncate(self.fd, self._offset(EVENT))  # there may be many of these
        name = file_name(self.jid, self.number)
        outbox = self._store.private(FOLDER, create=False)
        try:
            home = self._store.private("jobs", self.jid, create=False)
        except FileNotFoundError:  # the job has been removed
            files.unlink(name, outbox)
        else:
            os.rename(name, file_name(SETTLED, self.number), src_dir_fd=outbox, dst_dir_fd=home)
            os.close(home)
        finally:
            os.close(outbox)


@files.with_private_umask
def create(job: Job, request: Record, record: Record) -> None:
    """Make the outbox of a job that is about to exist, durably, with all the room that it will need.

    :param request: what the user asked for, as the launcher got it.
    """
    sinks = [dict(one, to=notifying.described(one)[:REASON_LIMIT]) for one in request["notify"]]
    asked = {name: request.get(name) for name in ("notify_for", "source", "timeout", "grace")}
    room = len(json.dumps(record)) + _EVENT_ROOM
    room += _ATTEMPT_ROOM * min(_ATTEMPTS, record["max_attempts"])
    room += _TAIL_ROOM if any(one.get("include_output") for one in sinks) else 0
    outbox = job.store.private(FOLDER)
    try:
        _write_file(outbox, job.jid, dict(asked, sinks=sinks), b"", room)
        os.fsync(outbox)
    finally:
        os.close(outbox)


@files.with_private_umask
def _write_file(
    outbox: int, name: str, asked: Record, event: bytes, room: int, when: float = 0
) -> None:
    """Make a file of the outbox, durably.

    :param asked: what its first part is to hold.
    :param event: what its last part is to hold.
    :param room: of its last part, in bytes.
    :param when: the time of the file.
    """
    line = json.dumps(asked).encode() + b"\n"
    sizes = (len(line), _STATE_ROOM * len(asked["sinks"]), room)
    fd = os.open(name, os.O_WRONLY | files.NEW_FLAGS, 0o600, dir_fd=outbox)
    try:
        files.allocate(fd, _HEADER + sum(sizes))
        header = ("%d %d %d\n" % sizes).encode()
        os.pwrite(fd, header.ljust(_HEADER) + line, 0)
        os.pwrite(fd, event, _HEADER + sizes[SINKS] + sizes[STATES])
        os.utime(fd, (when, when))
        os.fsync(fd)
    except OSError:
        files.unlink(name, outbox)
        raise
    finally:
        os.close(fd)


def find(store: Store, jid: str, number: int = 0) -> Outbox | None:
    """Open a file of a job that may have something to deliver; None if there is none.

    :param number: of the attempt; 0 for the end of the job.
    """
    try:
        outbox = store.private(FOLDER, create=False)
    except FileNotFoundError:
        return None
    try:
        return Outbox(store, jid, outbox, file_name(jid, number), number)
    except FileNotFoundError:
        return None
    finally:
        os.close(outbox)


def drop(job: Job) -> None:
    """Remove the outbox of a job that never was."""
    try:
        outbox = job.store.private(FOLDER, create=False)
    except FileNotFoundError:
        return
    files.unlink(job.jid, outbox)
    os.close(outbox)


def post(job: RecordIO, record: Record) -> None:
    """Write the event of a job's end into its outbox, durably, before anybody is told of the end.

    What fails here holds up no end: the event can be made again of the final record, see ``delivery``.

    :param record: the final one.
    """
    try:
        outbox = find(job.store, job.jid)
    except MISHAPS:
        return
    if outbox is None:
        return
    try:
        release(job, record)
        withdraw(job, schema.tried_again(record) + 1)
        if outbox.read(EVENT) is None:
            _write_event(outbox, record)
        elif not outbox.is_scheduled():
            outbox.due_in(0)
    except MISHAPS:
        pass
    finally:
        outbox.close()


def _write_event(outbox: Outbox, record: Record) -> None:
    sinks, asked = outbox.sinks(), outbox.read(SINKS)
    wanted = [notifying.wants(one, record) for one in sinks]
    states = outbox.states()
    for state, is_wanted in zip(states, wanted):
        state["state"] = notifying.PENDING if is_wanted else notifying.UNWANTED
    outbox.write(STATES, states)
    event = notifying.event(record, asked["source"] if asked else None)
    outbox.write(EVENT, _told(event, sinks, lambda: notifying.tail(record)))
    # The events of attempts may not have been made yet: who delivers sees to that before it settles this.
    if not any(wanted) and not any(map(notifying.wants_attempts, sinks)):
        outbox.settle()


def _told(event: Record, sinks: list[Record], tail: Callable[[], Record | None]) -> Record:
    """Return what the last part of a file holds: the event, the tail if a sink wants it, and when it was."""
    found: Record = {"event": event}
    if any(one.get("include_output") for one in sinks):
        found["tail"] = tail()
    found.update(epoch=time.time(), monotonic=time.monotonic(), boot_id=host.boot_id())
    return found


# -- attempts that are tried again ------------------------------------------------------------------------------------


def prepare(job: RecordIO, record: Record) -> None:
    """Write the event of an attempt that has failed, durably, before the record says that it is tried again.

    It is not sent before :func:`release`. What fails here is no failure of the job: see :func:`complete`.

    :param record: that of the pause.
    """
    try:
        home = find(job.store, job.jid)
        if home is not None:
            try:
                _make_event(job, home, record, schema.tried_again(record), when=0)
            finally:
                home.close()
    except MISHAPS:
        pass


def withdraw(job: RecordIO, number: int) -> bool:
    """Remove the event of an attempt that has not been released; tell whether there was one."""
    try:
        outbox = job.store.private(FOLDER, create=False)
    except FileNotFoundError:
        return False
    name = file_name(job.jid, number)
    try:
        files.unlink(name + NEW, outbox)
        return files.unlink_or_rmdir(name, outbox)
    finally:
        os.close(outbox)


def release(job: RecordIO, record: Record) -> bool:
    """Let the event of the latest attempt that is tried again be sent, now that the record says so.

    If it could not be written, see that it is made again. Tell whether there is something to send.
    """
    number = schema.tried_again(record)
    try:
        home = find(job.store, job.jid) if number else None
        if home is None:
            return False
        try:
            if not any(map(notifying.wants_attempts, home.sinks())):
                return False
            found = find(job.store, job.jid, number)
            if found is None:
                if not _is_there(job, number):
                    home.due_in(0)
                return True
            try:
                if not found.is_scheduled():
                    found.due_in(0)
            finally:
                found.close()
        finally:
            home.close()
    except MISHAPS:  # the next keeper, or the end of the job, does it
        pass
    return True


def complete(job: RecordIO, home: Outbox) -> None:
    """Make the events of attempts that could not be written when they were over.

    :param home: the file of the job's end, whose lock the caller holds.
    :raises OSError: the disk has no room for them. :raises JobError: there is something else in their place.
    """
    record, numbers = missing(job, home)
    for number in numbers:
        _make_event(job, home, record, number, when=time.time())


def missing(job: RecordIO, home: Outbox) -> tuple[Record, list[int]]:
    """Return the record of a job, and of which attempts the event is still to be made of it."""
    if not any(map(notifying.wants_attempts, home.sinks())):
        return {}, []
    try:
        record = job.read_record(brief=True)
    except (MissingRecord, DamagedRecord):  # nothing tells of them any more
        return {}, []
    numbers = range(1, schema.tried_again(record) + 1)
    return record, [number for number in numbers if not _is_there(job, number)]


def require_complete(job: RecordIO) -> None:
    """See that the events of all attempts are there, before the job's record goes of which they are made.

    :raises OSError: the disk has no room for them. :raises JobError: somebody else is about to make them.
    """
    home = find(job.store, job.jid)
    if home is None:
        return
    try:
        if home.lock():
            complete(job, home)
        elif missing(job, home)[1]:
            raise JobError("an event of job %s is still to be written: try it again" % job.jid)
    finally:
        home.close()


def _make_event(job: RecordIO, home: Outbox, record: Record, number: int, *, when: float) -> None:
    """Make the file of an attempt, with its event, durably; if there is one, or nobody wants it, do nothing.

    :param home: the file of the job's end, which has the sinks.
    :param when: it is due; 0 for not before :func:`release`.
    """
    sinks = [one for one in home.sinks() if notifying.wants_attempts(one)]
    if not sinks or _is_there(job, number):
        return
    asked = home.read(SINKS)
    event = notifying.attempt_event(record, number, asked["source"])
    told = _told(event, sinks, lambda: notifying.attempt_tail(record, number))
    line = json.dumps(told).encode() + b"\n"
    name = file_name(job.jid, number)
    outbox = job.store.private(FOLDER)
    try:
        files.unlink(name + NEW, outbox)  # of a predecessor that died before it was done
        _write_file(outbox, name + NEW, dict(asked, sinks=sinks), line, len(line), when)
        os.rename(name + NEW, name, src_dir_fd=outbox, dst_dir_fd=outbox)
        os.fsync(outbox)
    finally:
        os.close(outbox)


def _is_there(job: RecordIO, number: int) -> bool:
    """Tell whether the event of an attempt has been made."""
    where = (job.store.private_path(FOLDER, file_name(job.jid, number)), _settled_path(job, number))
    return any(map(os.path.lexists, where))


def _settled_path(job: RecordIO, number: int) -> str:
    return job.path(file_name(SETTLED, number))


# -- looking ----------------------------------------------------------------------------------------------------------


def age(told: Record) -> float:
    """Return for how many seconds an event has been there, by a clock that nobody sets where there is one."""
    if told.get("boot_id") == host.boot_id():
        return float(time.monotonic() - told["monotonic"])
    return float(max(0.0, time.time() - told["epoch"]))


def summary(job: Job, record: Record) -> Record | None:
    """Return the ``notifications`` of a job dictionary; None for a job without ``notify``.

    :param record: the job's, its private part included.
    """
    number = record.get(schema.PRIVATE, {}).get("notify")
    if not number:
        return None
    sinks: list[Record] = []
    try:
        states, _event = told(job, sinks=sinks)
    except MISHAPS as error:
        states = [_given_up(error, 0)] * number
    attempts = _attempts_told(job, schema.tried_again(record), sinks)
    shown = [one for one in attempts if one["state"] != notifying.DELIVERED]
    return dict(notifying.counts(states + attempts), sinks=states + shown)


def _attempts_told(job: Job, number: int, sinks: list[Record]) -> list[Record]:
    """Return what has become of the notifications of attempts.

    :param number: how many attempts are tried again.
    :param sinks: of the job.
    """
    sinks = [one for one in sinks if notifying.wants_attempts(one)]
    found = []
    for one in range(1, number + 1 if sinks else 0):
        try:
            found += told(job, one)[0]
        except FileNotFoundError:  # it has yet to be made
            fresh = {"state": notifying.PENDING, "reason": None, "tries": 0, "attempt": one}
            found += [dict(fresh, to=sink.get("to")) for sink in sinks]
        except MISHAPS as error:
            found += [_given_up(error, one)] * len(sinks)
    return found


def _given_up(error: BaseException, number: int) -> Record:
    reason = "its outbox cannot be read: %s" % error
    found = {"to": None, "state": notifying.GIVEN_UP, "reason": reason, "tries": 0}
    return dict(found, attempt=number or None)


def told(
    job: Job, number: int = 0, *, sinks: list[Record] | None = None
) -> tuple[list[Record], Record | None]:
    """Return what has become of the notification of each sink (null before there is an event), and the event.

    :param number: of the attempt; 0 for the end of the job.
    :param sinks: gets the sinks, without their secrets if all has been settled.
    :raises OSError: there is no outbox. :raises JobError: there is something else in its place.
    """
    outbox = find(job.store, job.jid, number)
    outbox = outbox or Outbox(job.store, job.jid, job.fd, file_name(SETTLED, number), number)
    try:
        event, found = outbox.read(EVENT), outbox.sinks()
        if not found:
            raise JobError("it has been damaged")
        if sinks is not None:
            sinks += found
        states = []
        for sink, state in zip(found, outbox.states()):
            known = {} if number or isinstance(event, dict) else {"state": None}
            states.append(dict(state, to=sink.get("to"), attempt=number or None, **known))
        return states, event
    finally:
        outbox.close()


class Waiting:
    """What lies in the outbox of an async dir: the names of files, and when a delivery of each is due.

    ``live``: of jobs that have not ended, as far as is known. ``pending``: with the seconds until they are due.
    """

    def __init__(self, outbox: int) -> None:
        self.live: list[str] = []
        self.pending: list[tuple[float, str]] = []
        now = time.time()
        with os.scandir(outbox) as entries:
            for entry in entries:
                if parsed(entry.name) is None:
                    continue
                try:
                    when = entry.stat(follow_symlinks=False).st_mtime
                except FileNotFoundError:  # settled at this moment
                    continue
                if when == 0:
                    self.live.append(entry.name)
                else:
                    self.pending.append((_seconds_until(when, now), entry.name))
        self.pending.sort()


def _seconds_until(when: float, now: float) -> float:
    pause = when - now
    return pause if 0 < pause <= LONGEST_PAUSE * 2 else 0.0  # else somebody has set the clock back


def is_known_boot(outbox: int) -> bool:
    """Tell whether the jobs without an event have been looked at since the machine was booted."""
    try:
        fd = os.open(BOOT, os.O_RDONLY | files.OWN_FLAGS, dir_fd=outbox)
    except OSError:
        return False
    try:
        return os.read(fd, 100).decode("ascii", "replace") == host.boot_id()
    finally:
        os.close(fd)


@files.with_private_umask
def note_boot(outbox: int) -> None:
    """Note that they have been. On a full disk they are looked at again."""
    try:
        files.remove_tree(BOOT + ".new", outbox)
        fd = os.open(BOOT + ".new", os.O_WRONLY | files.NEW_FLAGS, 0o600, dir_fd=outbox)
        try:
            os.write(fd, host.boot_id().encode())
        finally:
            os.close(fd)
        os.rename(BOOT + ".new", BOOT, src_dir_fd=outbox, dst_dir_fd=outbox)
    except OSError:
        pass
