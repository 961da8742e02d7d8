# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a command has written: keeping it within its limit, and showing it.

The command writes straight into its files. Beyond the limit the middle of a file becomes a hole, so
that offsets and the
size stay those of the stream, whoever reads and whenever.
"""

from __future__ import annotations

import codecs
import errno
import os

from . import kernel, schema
from .errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .job import Job

# Seconds between two looks at the size of what grows: disk use stays within limit plus one second of writing.
CHECK_INTERVAL = 0.8

_BLOCK = 4096  # holes are made of whole blocks
_NOWHERE = 1 << 62  # beyond the end of any file
_MARK = "\n[... %d bytes are not shown here ...]\n"
_MARK_ROOM = 64


class Limiter:
    """Keeps the first and the last half of ``limit`` bytes of one stream on disk.

    :param fd: the stream's file, open for reading and writing, without O_APPEND.
    :param limit: bytes to keep; 0 keeps all.
    """

    def __init__(self, fd: int, limit: int) -> None:
        self.fd = fd
        self.limit = limit
        self._hole_from = -(-(limit // 2) // _BLOCK) * _BLOCK
        self._tells_holes = True  # does the file system
        self._size = 0

    def check(self) -> bool:
        """Punch out what has come to lie in the middle since the last check; tell whether the size has changed.

        Where that begins is not remembered, but asked (lseek(2)): a command may truncate its output, or write it anew.
        """
        size = os.lseek(self.fd, 0, os.SEEK_END)  # a number; fstat would make twenty
        has_changed = size != self._size
        end = (size - (self.limit - self.limit // 2)) // _BLOCK * _BLOCK
        if self.limit and end > self._hole_from and (self._tells_holes or has_changed):
            begin = self._first_data() // _BLOCK * _BLOCK
            if begin < end:
                kernel.punch_hole(self.fd, begin, end)
                self._tells_holes = self._tells_holes and self._first_data() >= end
        self._size = size
        return has_changed

    def _first_data(self) -> int:
        """Return where the first bytes beyond the head are that take room."""
        if not self._tells_holes:
            return self._hole_from
        try:
            return max(self._hole_from, os.lseek(self.fd, self._hole_from, os.SEEK_DATA))
        except OSError as error:
            return _NOWHERE if error.errno == errno.ENXIO else self._hole_from


class Streams:
    """Both streams of a job, and what the keeper does about them.

    :param fds: their files, in the order of ``schema.STREAMS``.
    :param limit: bytes to keep of each; 0 keeps all.
    """

    def __init__(self, fds: list[int], limit: int) -> None:
        self.fds = fds
        self.is_quiet = False  # nothing has been written lately, and the kernel tells when it is
        self.is_replaced = (
            False  # somebody has put another file in the place of one: not all output is in it
        )
        self.error: str | None = None  # what the disk told, or would have told, the command
        self._is_stirred = False
        self._limit = limit
        self._given = tuple(fds)  # what the command got
        self._limiters = [Limiter(fd, limit) for fd in fds]

    def stir(self) -> None:
        """Take note that something has been written in the folder, as :meth:`expect` asked."""
        self.is_quiet, self._is_stirred = False, True

    def expect(self, folder: int) -> None:
        """Have the first byte announced, before there can be any: so a command that writes nothing is never looked at.

        :param folder: descriptor of the one that holds them.
        """
        self.is_quiet = kernel.announce_writing(folder)

    def check(self, job: Job) -> bool:
        """Keep them within their limit, and tell whether they have grown since the last check."""
        grown = self._has_grown()
        if not grown:
            self.renew(job)
        # Asked for before the last look, so that nothing is written unnoticed in between. But not at once after the
        # last announcement: who writes the same bytes again and again would keep us awake.
        told = not grown and not self._is_stirred and kernel.announce_writing(job.fd)
        self._is_stirred = False
        self.is_quiet = told and not self._has_grown()
        return grown

    def renew(self, job: Job) -> None:
        """Go on with the files that have taken the place of ours; the command may write to these or to those."""
        for number, name in enumerate(schema.STREAMS):
            try:
                found = os.stat(name, dir_fd=job.fd, follow_symlinks=False)
                if os.path.samestat(found, os.fstat(self.fds[number])):
                    continue
                self.is_replaced = True
                fd = job.open_stream(name, os.O_RDWR)
            except (
                OSError,
                JobError,
            ):  # removed, or nothing that we may write to: we have what was there before
                continue
            before, self.fds[number] = self.fds[number], fd
            if before not in self._given:
                self._limiters = [one for one in self._limiters if one.fd != before]
                os.close(before)
            self._limiters.append(Limiter(fd, self._limit))

    def _has_grown(self) -> bool:
        grown = False
        for limiter in self._limiters:
            grown = limiter.check() or grown
        return grown

    def excerpts(self, limit: int) -> list[tuple[str, int, bool]]:
        """Return of each what :func:`excerpt` does; at most ``limit`` bytes."""
        return [excerpt(fd, min(limit, self._limit or limit)) for fd in self.fds]


def hole(fd: int, size: int) -> tuple[int, int]:
    """Return where the bytes that were cut out begin and end; both are ``size`` if all are there (lseek(2))."""
    try:
        start = os.lseek(fd, 0, os.SEEK_HOLE)
        return (start, os.lseek(fd, start, os.SEEK_DATA)) if start < size else (size, size)
    except OSError:  # empty, nothing but a hole, or a file system that does not tell
        return size, size


def excerpt(fd: int, limit: int) -> tuple[str, int, bool]:
    """Read a stream as text of at most ``limit`` bytes in UTF-8: all of it, or its beginning, a mark and its end.

    :param fd: the stream's file, open for reading.
    :param limit: bytes; with 0 nothing is read.
    :return: the text without trailing newlines, the stream's true size in bytes, and whether anything is missing.
    """
    size = os.fstat(fd).st_size
    if not limit:
        return "", size, size > 0
    cut_from, cut_to = hole(fd, size)
    if cut_from == cut_to and size <= limit:
        text = os.pread(fd, size, 0).decode("utf-8", "replace")
        if len(text) * 3 <= limit or len(text.encode("utf-8")) <= limit:
            return text.rstrip("\r\n"), size, False
    half = max(0, limit - _MARK_ROOM) // 2
    head_to = min(cut_from, half)
    tail_from = max(size - half, cut_to if cut_to < size else head_to)
    head = codecs.getincrementaldecoder("utf-8")("replace").decode(os.pread(fd, head_to, 0))
    tail = _skip_continuation(os.pread(fd, size - tail_from, tail_from)).decode("utf-8", "replace")
    head = head.encode("utf-8")[:half].decode("utf-8", "ignore")
    tail = tail.encode("utf-8")[-half:].decode("utf-8", "ignore") if half else ""
    return (head + _MARK % (tail_from - head_to) + tail).rstrip("\r\n"), size, True


def shortened(text: str, limit: int) -> tuple[str, bool]:
    """Return a text of at most ``limit`` bytes in UTF-8, as :func:`excerpt` does, and whether anything is missing."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return text, False
    half = max(0, limit - _MARK_ROOM) // 2
    head, tail = data[:half], data[-half:] if half else b""
    shown = [part.decode("utf-8", "ignore") for part in (head, tail)]
    return (_MARK % (len(data) - 2 * half)).join(shown), True


def _skip_continuation(data: bytes) -> bytes:
    """Drop what is left of a character whose beginning has been cut off."""
    skip = 0
    while skip < min(3, len(data)) and data[skip] & 0xC0 == 0x80:
        skip += 1
    return data[skip:]
