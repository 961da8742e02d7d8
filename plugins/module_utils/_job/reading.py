# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a stream of a job piece by piece. Private to the collection.

The cursor belongs to the reader: nothing on the target remembers what has been read.
"""

from __future__ import annotations

import codecs
import os
import select
import time

from . import output, schema, status
from .errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .job import Job
    from .schema import Record

RECHECK_INTERVAL = 0.1  # seconds between two looks at the size of a stream
UNSURE = "hidden: the record that says whether this may be shown is damaged"
_BLOCK = 65536  # bytes that are read at once while lines are counted from the end
_CHARACTER = 4  # bytes of the longest character in UTF-8


class _Text:
    """A stream of which there is only the text that a record holds.

    :param text: all of it; nothing is added any more.
    """

    def __init__(self, text: str) -> None:
        self._data = text.encode("utf-8", "replace")

    def size(self) -> int:
        return len(self._data)

    def hole(self) -> tuple[int, int]:
        return len(self._data), len(self._data)

    def read(self, number: int, offset: int) -> bytes:
        return self._data[offset : offset + number]

    def close(self) -> None:
        self._data = b""


class _File:
    """The file into which a command writes.

    :param fd: its descriptor, closed with this.
    :param is_limited: whether a hole in it is what the output limit has cut out.
    """

    def __init__(self, fd: int, *, is_limited: bool) -> None:
        self._fd = fd
        self._is_limited = is_limited

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def hole(self) -> tuple[int, int]:
        """Return where the bytes that were cut out begin and end; both are the size if all are there."""
        size = self.size()
        return output.hole(self._fd, size) if self._is_limited else (size, size)

    def read(self, number: int, offset: int) -> bytes:
        return os.pread(self._fd, number, offset)

    def close(self) -> None:
        os.close(self._fd)


class Reader:
    """Reads one stream of one job.

    :param attempt: which attempt's; None for the latest.
    :param reveal: show it also if the job was launched with ``no_log``.
    :param settle: whether a final verdict may be written down.
    :raises MissingRecord: there is no such job.
    :raises JobError: something else is in the place of its files; or there was no such attempt.
    """

    def __init__(
        self, job: Job, stream: str, *, reveal: bool, settle: bool, attempt: int | None = None
    ) -> None:
        self._job = job
        self._stream = stream
        self._settle = settle
        self._hangup = -1
        self._written = 0
        self._look()
        self.attempt = self._latest() if attempt is None else attempt
        # The next attempt may be waited for.
        most = self._latest() + (0 if self.record["finished"] else 1)
        if self.attempt > min(most, self.record.get("max_attempts") or 1):
            told = (job.jid, self.attempt, self._latest())
            raise JobError("job %s has no attempt %d: its latest one is %d" % told)
        self._source = self._open()
        self.hidden = None if reveal else self._why_hidden()

    def _look(self) -> None:
        """Take the job's hang-up descriptor, then look at the job: nothing that happens later is missed."""
        if self._hangup >= 0:
            os.close(self._hangup)
        hangup = status.hangup(self._job)
        self._hangup = -1 if hangup is None else hangup
        self.record: Record = status.judged(self._job, settle=self._settle)

    def _look_again(self) -> None:
        self._look()
        if self.record["finished"] and isinstance(self._source, _Text):
            self._source = self._open()

    def _open(self) -> _File | _Text:
        if self.attempt > self._latest():  # it has not begun
            return _Text("")
        private = self.record.get(schema.PRIVATE) or {}
        try:
            fd = self._open_file()
        except (
            OSError
        ):  # the builtin's, or somebody has removed the file: the final record holds what it holds
            found = status.look(self._job, settle=False)
            return _Text(found[self._stream])
        return _File(fd, is_limited=bool(private.get("output_limit", True)))

    def _open_file(self) -> int:
        """Open the file of the attempt. When the next one starts, it is put aside, at whatever moment."""
        aside = "%s.%d" % (self._stream, self.attempt)
        try:
            return self._job.open_stream(aside, os.O_RDONLY)
        except FileNotFoundError:
            if self.attempt < self._latest():
                text = "the output of attempt %d of job %s is not kept any more, see output_limit"
                raise JobError(text % (self.attempt, self._job.jid)) from None
        fd = self._job.open_stream(self._stream, os.O_RDONLY)
        try:
            moved = self._job.open_stream(aside, os.O_RDONLY)
        except FileNotFoundError:
            return fd
        os.close(fd)
        return moved

    def _latest(self) -> int:
        return int(self.record.get("attempt") or 1)

    def _is_over(self) -> bool:
        """Tell whether nothing can follow."""
        return bool(self.record["finished"]) or self.attempt <= len(self.record.get("attempts", ()))

    def _look_at_attempts(self) -> None:
        """Look again if an attempt has ended, or begun, since: no hang-up tells of that."""
        if (self.record.get("max_attempts") or 1) > 1:
            try:
                written = self._job.store.written(self._job.jid)
            except FileNotFoundError:  # it has just been removed
                return
            if written != self._written:
                self._written, before = written, self._latest()
                self._look()
                if before < self.attempt <= self._latest():
                    self._source = self._open()

    def _why_hidden(self) -> str | None:
        """Return what is shown instead of the output; None if that may be shown."""
        private = self.record.get(schema.PRIVATE)
        if private is not None:
            return schema.HIDDEN if private["no_log"] else None
        # The builtin makes no such files: this is a job of ours, of whose record nothing is left.
        return UNSURE if isinstance(self._source, _File) else None

    def close(self) -> None:
        """Close the stream and the hang-up descriptor."""
        self._source.close()
        if self._hangup >= 0:
            os.close(self._hangup)
            self._hangup = -1

    def wait(self, offset: int, seconds: float) -> None:
        """Return when there is something to read at an offset, when the job has finished, or after so many seconds."""
        until = time.monotonic() + seconds
        while not self._is_over():
            if not self.hidden:
                found = self.piece(offset, _CHARACTER)
                if found["content"] or found["shrunk"]:
                    return
            left = until - time.monotonic()
            if left <= 0:
                if seconds > 0:
                    self._look_again()  # the hang-up of an end may be late: it comes when the keeper is gone
                return
            pause = min(left, RECHECK_INTERVAL)
            if self._hangup < 0:
                time.sleep(pause)
            elif not _rings(self._hangup, pause):
                self._look_at_attempts()
                continue
            self._look_again()

    def tail(self, lines: int, limit: int) -> int:
        """Return where the last so many lines begin, of which all together have at most ``limit`` bytes."""
        size = self._source.size()
        cut_from, cut_to = self._source.hole()
        first = max(0, size - limit, cut_to if cut_from < cut_to else 0)
        first += _continued(self._source.read(_CHARACTER, first)) if first else 0
        at = size if lines else first
        left = (
            lines + 1
        )  # newlines to be found: the one before the first of these lines, and theirs
        if size and self._source.read(1, size - 1) != b"\n":
            left -= 1  # the last line has none yet
        while at > first:
            begin = max(first, at - _BLOCK)
            data = self._source.read(at - begin, begin)
            place = len(data)
            while left and place >= 0:
                place = data.rfind(b"\n", 0, place)
                left -= place >= 0
            if not left:
                return begin + place + 1
            at = begin
        return first if lines else size

    def piece(self, offset: int, max_bytes: int) -> Record:
        """Return what there is at an offset, as keys of a result.

        :param max_bytes: of it; but a whole character at least.
        """
        if self.hidden is not None:
            place = {"offset": offset, "next_offset": offset, "lost_bytes": 0, "size": None}
            return dict(self._shown(self.hidden), eof=self._is_over(), shrunk=False, **place)
        while True:
            size = self._source.size()
            cut_from, cut_to = before = self._source.hole()
            is_cut = cut_from < cut_to
            # Of what was cut out nothing can be read, so the reader goes on behind it.
            begin = cut_to if cut_from <= offset < cut_to else offset
            is_before_cut = is_cut and begin < cut_from
            end = cut_from if is_before_cut else size
            data = self._source.read(max(max_bytes, _CHARACTER), begin)[: max(0, end - begin)]
            if self._source.hole()[0] >= begin + len(data) or self._source.hole() == before:
                break  # else what has been read may have been cut out meanwhile
        is_last = begin + len(data) == end and (is_before_cut or self._is_over())
        text, used = _decoded(data, max_bytes, is_last=is_last)
        return dict(
            self._shown(text),
            offset=begin,
            next_offset=begin + used,
            eof=self._is_over() and begin + used >= size,
            size=size,
            lost_bytes=begin - offset,
            # An offset that we have returned lies within the stream, unless that has been truncated since.
            shrunk=offset > size,
            cut_from=cut_from if is_cut else None,
            cut_to=cut_to if is_cut else None,
        )

    def _shown(self, text: str) -> Record:
        return {
            "content": text,
            "content_lines": text.splitlines(),
            "cut_from": None,
            "cut_to": None,
        }


def _decoded(data: bytes, limit: int, *, is_last: bool) -> tuple[str, int]:
    """Return text of at most so many bytes, or of one character, and how many bytes it was made of.

    Of a character whose end is missing nothing is shown, unless nothing follows any more.

    :param is_last: whether nothing follows these bytes.
    """
    for number in range(min(limit, len(data)), len(data) + 1):
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data[:number], is_last and number == len(data))
        used = number - len(decoder.getstate()[0])
        if used:
            return text, used
    return "", 0


def _continued(data: bytes) -> int:
    """Return how many bytes at the beginning belong to a character that began before."""
    number = 0
    while number < min(_CHARACTER - 1, len(data)) and data[number] & 0xC0 == 0x80:
        number += 1
    return number


def _rings(hangup: int, seconds: float) -> bool:
    waiting = select.poll()
    waiting.register(hangup, 0)  # hang-ups are reported without being asked for
    return bool(waiting.poll(int(seconds * 1000) + 1))
