# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The outbox: where the notifications of jobs lie until they are delivered.

One file for each job that has ``notify``, with room for everything from the launch on: a full disk loses nothing. ::

    <async dir>/.durable/outbox/
        <jid>       sinks with their secrets, what has become of each notification, and the event: a line of JSON each,
                    in a part of the file of its own. Its time says when a delivery is due; 0 before there is an event
        bell        FIFO: the deliverer of this async dir holds its lock, and wakes when somebody writes to it
        boot        the boot whose jobs may be live: in another one those without an event must be looked at
    <async dir>/.durable/jobs/<jid>/outbox    the same file when nothing is left to deliver, without what is secret

It does not lie in the job's folder, so that a job can be removed before its end has been told.
"""

from __future__ import annotations

import fcntl
import json
import os
import time

from . import files, host, notifying, record_io, schema
from .errors import MISHAPS, JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .job import Job
    from .record_io import RecordIO
    from .schema import Record
    from .store import Store

FOLDER = "outbox"
BOOT = "boot"
SETTLED = "outbox"  # in the job's folder
SINKS, STATES, EVENT = range(
    3
)  # the parts of a file; the last may outgrow its room where the disk has more
_HEADER = 64  # bytes, in which the sizes of the parts stand
_EVENT_ROOM = 16384  # bytes that an event may have more than the record of its job at the launch
_TAIL_ROOM = 2 * 12 * schema.TAIL_BYTES  # of two streams, every character escaped (RFC 8259, 7)
_STATE_ROOM = 512  # of each sink
REASON_LIMIT = 160  # characters
LONGEST_PAUSE = 300.0  # seconds between two attempts to deliver


class Outbox:
    """One job's file.

    :param name: its name in ``folder_fd``.
    :raises OSError: it cannot be opened; FileNotFoundError: it is not there.
    :raises JobError: what is there is not what we made.
    """

    def __init__(self, store: Store, jid: str, folder_fd: int, name: str) -> None:
        self.jid = jid
        self._store = store
        self.fd = store.open_own(folder_fd, name, os.O_RDWR, store.private_path(FOLDER, jid))
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
            shown = [{"to": one.get("to")} for one in self.sinks()]
            self.write(SINKS, dict(asked, sinks=shown))
        outbox = self._store.private(FOLDER, create=False)
        try:
            home = self._store.private("jobs", self.jid, create=False)
        except FileNotFoundError:  # the job has been removed
            files.unlink(self.jid, outbox)
        else:
            os.rename(self.jid, SETTLED, src_dir_fd=outbox, dst_dir_fd=home)
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
    line = json.dumps(dict(asked, sinks=sinks)).encode() + b"\n"
    room = len(json.dumps(record)) + _EVENT_ROOM
    room += _TAIL_ROOM if any(one.get("include_output") for one in sinks) else 0
    sizes = (len(line), _STATE_ROOM * len(sinks), room)
    outbox = job.store.private(FOLDER)
    try:
        fd = os.open(job.jid, os.O_WRONLY | files.NEW_FLAGS, 0o600, dir_fd=outbox)
        try:
            files.allocate(fd, _HEADER + sum(sizes))
            header = ("%d %d %d\n" % sizes).encode()
            os.pwrite(fd, header.ljust(_HEADER) + line, 0)
            os.utime(fd, (0, 0))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.fsync(outbox)
    finally:
        os.close(outbox)


def find(store: Store, jid: str) -> Outbox | None:
    """Open the outbox of a job that may have something to deliver; None if there is none."""
    try:
        outbox = store.private(FOLDER, create=False)
    except FileNotFoundError:
        return None
    try:
        return Outbox(store, jid, outbox, jid)
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
        if outbox.read(EVENT) is None:
            _write_event(outbox, record)
        elif os.fstat(outbox.fd).st_mtime == 0:
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
    told: Record = {"event": notifying.event(record, asked["source"] if asked else None)}
    if any(one.get("include_output") for one in sinks):
        told["tail"] = notifying.tail(record)
    told.update(epoch=time.time(), monotonic=time.monotonic(), boot_id=host.boot_id())
    outbox.write(EVENT, told)
    if not any(wanted):
        outbox.settle()


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
    try:
        states, _told = told(job)
    except MISHAPS as error:
        reason = "its outbox cannot be read: %s" % error
        states = [{"to": None, "state": notifying.GIVEN_UP, "reason": reason, "tries": 0}] * number
    return dict(notifying.counts(states), sinks=states)


def told(job: Job) -> tuple[list[Record], Record | None]:
    """Return what has become of the notification of each sink (null before there is an event), and the event.

    :raises OSError: there is no outbox. :raises JobError: there is something else in its place.
    """
    outbox = find(job.store, job.jid) or Outbox(job.store, job.jid, job.fd, SETTLED)
    try:
        event, sinks = outbox.read(EVENT), outbox.sinks()
        if not sinks:
            raise JobError("it has been damaged")
        states = []
        for sink, state in zip(sinks, outbox.states()):
            known = {} if isinstance(event, dict) else {"state": None}
            states.append(dict(state, to=sink.get("to"), **known))
        return states, event
    finally:
        outbox.close()


class Waiting:
    """What lies in the outbox of an async dir: the jids, and when a delivery of each is due.

    ``live``: of jobs that have not ended, as far as is known. ``pending``: with the seconds until they are due.
    """

    def __init__(self, outbox: int) -> None:
        self.live: list[str] = []
        self.pending: list[tuple[float, str]] = []
        now = time.time()
        with os.scandir(outbox) as entries:
            for entry in entries:
                if not schema.valid_jid(entry.name):
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
