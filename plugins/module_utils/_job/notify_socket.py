# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a command reports of itself, in the way of services: datagrams to the socket NOTIFY_SOCKET (sd_notify(3)).

Only what is of use here is taken: ``STATUS``, ``X_PROGRESS``, ``EXTEND_TIMEOUT_USEC`` and ``WATCHDOG=1``. Whatever else
comes, and however much of it, is read and forgotten.
"""

from __future__ import annotations

import _socket  # not socket, which would cost every keeper memory
import os
import re
import select
import struct
import time

from . import files, schema
from .job import write_progress
from .printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .schema import Record
    from .store import Job

ADDRESS = "NOTIFY_SOCKET"  # environment variables, see sd_notify(3) and sd_watchdog_enabled(3)
WATCHDOG = "WATCHDOG_USEC"
INHERITED = (ADDRESS, WATCHDOG, "WATCHDOG_PID")  # somebody else's are not for our command
MESSAGE_LIMIT = 4096  # bytes; a longer message is ignored, as systemd does
LINES = 32  # of a message that are looked at
STATUS_LIMIT = 200  # characters
FOR_EVER = 100 * 365 * 86400.0  # seconds; more time than that is not worth a number of its own
BATCH = 256  # messages that are read in a row
BACKLOG = 4096  # messages that are read in a row when something depends on them
REST = 0.005  # seconds until the next are read: whoever floods us waits, and does not cost us a processor
SAVE_INTERVAL = 0.5  # seconds between two writes of what has been reported

_NAME = "notify"  # of the socket
_PATH_LIMIT = 107  # bytes of a socket's path (unix(7))
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
# Room for the sender's credentials and nothing else: descriptors that come along are closed by the kernel.
_ANCILLARY_ROOM = _socket.CMSG_SPACE(_CREDENTIALS.size)
_PERCENT = re.compile(r"[0-9]{1,3}(\.[0-9]{1,9})?", re.ASCII)
_MICROSECONDS = re.compile(r"[0-9]{1,20}", re.ASCII)


def address(job: Job, runner: int) -> str | None:
    """Return the path by which a command of ours reaches the socket; None if there is none.

    A path that is too long for a socket leads through the runner, which has the folder open and outlives the command.
    """
    try:
        os.stat(_NAME, dir_fd=job.fd, follow_symlinks=False)
    except OSError:
        return None
    path = job.path(_NAME)
    if len(os.fsencode(path)) > _PATH_LIMIT:
        return "/proc/%d/fd/%d/%s" % (runner, job.fd, _NAME)
    return path


def environment(job: Job, request: Record, runner: int) -> dict[str, str]:
    """Return the variables that tell a command where to report, and how often it must."""
    found = {}
    where = address(job, runner)
    if where is not None:
        found[ADDRESS] = where
    if request["watchdog"]:
        # Without WATCHDOG_PID: whichever process of the job is asked for a sign of life may give it.
        found[WATCHDOG] = "%d" % (request["watchdog"] * 1000000)
    return found


def listen(job: Job) -> bool:
    """Make the socket of a job, ``Job.inbox``, unless it has one; tell whether it has one now."""
    if job.inbox < 0:
        made = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        try:
            os.fchmod(made.fileno(), 0o600)
            made.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
            files.remove_tree(_NAME, job.fd)  # a predecessor's, which nobody reads any more
            made.bind("/proc/self/fd/%d/%s" % (job.fd, _NAME))
        except OSError:  # a file system without sockets; the record says so
            made.close()
            return False
        job.inbox = made.detach()
    return True


class Reports:
    """What has been reported: read by the keeper, and shown to readers of the record.

    :param job: the job.
    :param request: what the user asked for, see launcher.
    :param began: the moment of the start (monotonic clock).
    """

    def __init__(self, job: Job, request: Record, began: float) -> None:
        self.heard = began  # when the last sign of life came (monotonic clock)
        # Until when the command has asked to go on, at the least (monotonic clock).
        self._extended = 0.0
        self._job = job
        self._began = began
        self._hidden = request["no_log"]
        self._longest = request["max_timeout"]
        self._waiting = select.poll()
        self._socket: _socket.socket | None = None
        if job.inbox >= 0:
            self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM, 0, job.inbox)
            self._waiting.register(job.inbox, select.POLLIN)
        self._progress: Record | None = None  # percent and status
        self._at = 0.0  # when it was reported (monotonic clock)
        self._pending = False  # something is newer than what readers see
        self._saved = 0.0  # when readers were shown something last (monotonic clock)

    def resume(self, reported: Record | None) -> None:
        """Go on from what a predecessor has shown, see ``schema.with_reports``."""
        self.heard = time.monotonic()  # nobody listened meanwhile
        if reported is not None:
            if reported["at"] is not None:
                self._progress = {key: reported[key] for key in ("percent", "status")}
                self._at = self._began + reported["at"]
            if reported["extended"] is not None:
                self._extended = self._began + reported["extended"]

    def take(self, most: int = BATCH) -> None:
        """Read what has come, up to so many messages."""
        for _number in range(most):
            if self._socket is None or not self._waiting.poll(0):
                break
            data, told, flags, _sender = self._socket.recvmsg(
                MESSAGE_LIMIT, _ANCILLARY_ROOM, _socket.MSG_DONTWAIT
            )
            if not flags & _socket.MSG_TRUNC and _counts(told):
                self._understand(data.decode("utf-8", "replace"))

    def _understand(self, message: str) -> None:
        known: dict[str, str] = {}
        for line in message.split("\n", LINES)[:LINES]:
            name, _equals, value = line.partition("=")
            known[name] = value
        now = time.monotonic()
        if known.get("WATCHDOG") == "1":
            self.heard = now
        longer = known.get("EXTEND_TIMEOUT_USEC", "")
        if _MICROSECONDS.fullmatch(longer):
            self._extended = max(self._extended, now + min(int(longer) / 1000000, FOR_EVER))
            self._pending = True
        percent = _percent(known.get("X_PROGRESS", ""))
        if percent is not None or "STATUS" in known:
            found = self._progress or {"percent": None, "status": None}
            if percent is not None:
                found["percent"] = percent
            if "STATUS" in known:
                found["status"] = schema.HIDDEN if self._hidden else _plain(known["STATUS"])
            self._progress, self._at, self._pending = found, now, True

    # -- what readers see -------------------------------------------------------------------------------------------

    def patience(self, seconds: float | None) -> float | None:
        """Return how long to sleep at the most, and not beyond the moment at which readers must be shown something.

        :param seconds: the most without that; None for as long as nothing happens.
        """
        if not self._pending:
            return seconds
        left = max(0.0, self._saved + SAVE_INTERVAL - time.monotonic())
        return left if seconds is None else min(left, seconds)

    def shown(self, record: Record, end: float = float("inf")) -> Record:
        """Return what readers of a record are to see, see ``schema.with_reports``.

        :param end: of the command (monotonic clock), if it has ended. What is read later was reported before.
        """
        found: Record = {"percent": None, "status": None, "at": None, "extended": None}
        if self._progress is not None:
            found.update(self._progress, at=max(0.0, min(self._at, end) - self._began))
        timeout = record["timeout"]
        until = self.deadline(timeout)
        if timeout and until > self._began + timeout:
            found["extended"] = until - self._began
        return found

    def deadline(self, timeout: float) -> float:
        """Return when the job's limit is reached (monotonic clock), given what the command has asked for."""
        until = max(self._began + timeout, self._extended)
        if self._longest:
            until = min(until, self._began + max(timeout, self._longest))
        return until

    def save(self, record: Record) -> None:
        """Show readers what has been reported."""
        try:
            write_progress(self._job, self.shown(record))
        except OSError:
            pass  # a full disk: readers see it later, at the latest in the final record
        self._saved, self._pending = time.monotonic(), False

    def leave(self) -> None:
        """Let go of the socket, and forget what has been shown: another attempt may report to the same socket."""
        if self._socket is not None:
            self._socket.detach()
            self._socket = None
        try:
            files.remove_tree(schema.PROGRESS, self._job.fd)
        except OSError:
            pass  # a broken disk

    def close(self) -> None:
        """Remove the socket, and what the final record says too."""
        for name in (_NAME, schema.PROGRESS):
            try:
                files.remove_tree(name, self._job.fd)
            except OSError:
                pass  # somebody else's, or a broken disk: no reader asks for it any more


def discard(job: Job) -> None:
    """Read and forget what has come: where nobody reads, senders would wait for ever (unix(7))."""
    waiting = select.poll()
    if job.inbox >= 0:
        waiting.register(job.inbox, select.POLLIN)
    for _number in range(BACKLOG):
        if waiting.poll(0):
            os.read(job.inbox, 1)


def _counts(told: list[tuple[int, int, bytes]]) -> bool:
    """Tell whether a message has been sent by the job's user, or by root.

    Not whether by a process of the job: who has sent a message and ended cannot be asked any more where he belonged.
    """
    for level, kind, data in told:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_CREDENTIALS):
            return _CREDENTIALS.unpack(data)[1] in (0, os.geteuid())
    return False


def _percent(text: str) -> float | None:
    """Return a share that a command has reported; None if it is none."""
    if not _PERCENT.fullmatch(text) or float(text) > 100:
        return None
    value = round(float(text), 2)
    return int(value) if value == int(value) else value


def _plain(text: str) -> str | None:
    """Return a status as one line that a terminal can be shown; None if it says nothing."""
    clean = printable(text[: 4 * STATUS_LIMIT], replacement=" ")
    return " ".join(clean.split())[:STATUS_LIMIT] or None
