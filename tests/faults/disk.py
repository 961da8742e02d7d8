# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk that remembers what it was told, and that can break: a block device served by a process of ours.

The image lies on a file system of one file (fuse(4)), a loop device makes a disk of that file, and ext4 is mounted
from it with its defaults. So every write and every flush of the disk's cache arrives here, one after the other, and
is noted before it is answered. From the notes :meth:`Disk.cut` makes what a real disk could hold if the power had
gone at that moment. On request the disk refuses writes, or is gone altogether.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import struct
import subprocess
import sys
import time

import pytest

SECTOR = 512  # bytes; a disk writes a sector whole, or not at all
# Offset of ext4's superblock, whose two sectors share one checksum: torn, it can be mounted no more without its backup,
# whoever wrote the files. ext4 relies on disks that write it whole, and so do we: what is asked here is about files.
SUPERBLOCK = 1024
_REQUEST = struct.Struct("<IIQQIIIHH")  # fuse_in_header
_ANSWER = struct.Struct("<IiQ")  # fuse_out_header
_NOTE = struct.Struct("<cQI")  # what the log holds of a request: kind, offset, length
_ATTRIBUTES = struct.Struct("<QII6Q10I")  # fuse_attr_out
_MAX_WRITE = 1024 * 1024
_NO_ANSWER = {2, 36, 42}  # FORGET, INTERRUPT, BATCH_FORGET
_DONE = {18, 25}  # RELEASE, FLUSH
_MS_NOSUID, _MS_NODEV = 2, 4


class _Server:
    """Answers the kernel's requests for one file."""

    def __init__(self, image: str, log: str, mountpoint: str, seek: str) -> None:
        self.seek = float(seek)
        self.image = os.open(image, os.O_RDWR)
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.size = os.fstat(self.image).st_size
        self.refuses = False
        self.fuse = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.fuse},rootmode=100600,user_id=0,group_id=0,max_read={_MAX_WRITE}"
        libc = ctypes.CDLL(None, use_errno=True)
        flags = _MS_NOSUID | _MS_NODEV
        if libc.mount(b"disk", mountpoint.encode(), b"fuse", flags, options.encode()):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        signal.signal(signal.SIGUSR1, self._refuse)

    def _refuse(self, _number: int, _frame: object) -> None:
        self.refuses = True

    def serve(self) -> None:
        """Answer until the file system is unmounted."""
        handlers = {
            1: self._missing,
            3: self._attributes,
            4: self._attributes,
            14: self._open,
            15: self._read,
            16: self._write,
            17: self._statfs,
            20: self._flush,
            26: self._init,
        }
        while True:
            try:
                data = os.read(self.fuse, _MAX_WRITE + 4096)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                raise
            _length, opcode, unique, *_rest = _REQUEST.unpack_from(data)
            if opcode in _NO_ANSWER:
                continue
            body = memoryview(data)[_REQUEST.size :]
            failure, answer = errno.ENOSYS, b""
            if opcode in handlers:
                try:
                    failure, answer = 0, handlers[opcode](body)
                except OSError as error:
                    failure = error.errno or errno.EIO
            elif opcode in _DONE:
                failure = 0
            os.write(self.fuse, _ANSWER.pack(_ANSWER.size + len(answer), -failure, unique) + answer)

    def _note(self, kind: bytes, offset: int = 0, data: bytes = b"") -> None:
        os.write(self.log, _NOTE.pack(kind, offset, len(data)) + data)

    def _init(self, _body: memoryview) -> bytes:
        flags = (1 << 0) | (1 << 5) | (1 << 22)  # ASYNC_READ, BIG_WRITES, MAX_PAGES
        tail = (16, 12, _MAX_WRITE, 1, _MAX_WRITE // 4096, 0)
        return struct.pack("<IIIIHHIIHH8I", 7, 31, 1 << 17, flags, *tail, *([0] * 8))

    def _missing(self, _body: memoryview) -> bytes:
        raise OSError(errno.ENOENT, "there is one file only")

    def _attributes(self, _body: memoryview) -> bytes:
        times = (0,) * 3
        more = (*times, 0o100600, 1, 0, 0, 0, 4096, 0)
        return _ATTRIBUTES.pack(3600, 0, 0, 1, self.size, self.size // 512, *times, *more)

    def _open(self, _body: memoryview) -> bytes:
        return struct.pack("<QIi", 0, 1, 0)  # FOPEN_DIRECT_IO: the kernel keeps nothing back

    def _read(self, body: memoryview) -> bytes:
        _handle, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(self.image, size, offset)

    def _write(self, body: memoryview) -> bytes:
        _handle, offset, size = struct.unpack_from("<QQI", body)
        if self.refuses:
            raise OSError(errno.EIO, "on request")
        data = bytes(body[40 : 40 + size])
        os.pwrite(self.image, data, offset)
        self._note(b"W", offset, data)
        return struct.pack("<II", size, 0)

    def _flush(self, _body: memoryview) -> bytes:
        if self.refuses:
            raise OSError(errno.EIO, "on request")
        time.sleep(self.seek)
        self._note(b"F")
        return b""

    def _statfs(self, _body: memoryview) -> bytes:
        return struct.pack("<5Q10I", *(0,) * 5, 4096, 255, 4096, *(0,) * 7)


def require() -> None:
    """Skip the test where such a disk cannot be made."""
    tools = ("losetup", "mkfs.ext4", "mount")
    missing = [name for name in tools if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        pytest.skip("needs /dev/fuse and loop devices")


class Disk:
    """A disk with a mounted ext4 of ours.

    :param folder: for the image and the log. The file system is mounted at ``path``.
    :param seek: seconds that a flush of its cache takes, as a disk with a head needs them.
    :param options: of mkfs.ext4.
    """

    def __init__(self, folder, *, size=16 * 1024 * 1024, seek=0.0, options=()):
        require()
        self.folder = folder
        self.seek = seek
        self.path = folder / "mounted"
        self.log = folder / "log"
        self._base = folder / "base"
        self._file = folder / "file"
        self._server = None
        self._loop = None
        with open(self._base, "wb") as image:
            image.truncate(size)
        # No lazy initialisation: a process of the kernel would write while nothing happens.
        lazy = "lazy_itable_init=0,lazy_journal_init=0"
        mkfs = ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", lazy, *options, str(self._base)]
        subprocess.run(mkfs, check=True)

    def attach(self):
        """Start to serve the disk, and mount it."""
        image = self.folder / "image"
        shutil.copyfile(self._base, image)
        self._file.touch()
        self.path.mkdir()
        arguments = [sys.executable, "-B", __file__, image, self.log, self._file, str(self.seek)]
        self._server = subprocess.Popen(arguments, stdout=subprocess.PIPE)
        if self._server.stdout.readline() != b"up\n":
            self.detach()
            pytest.skip("needs the right to mount a FUSE file system")
        made = subprocess.run(
            ["losetup", "--find", "--show", str(self._file)],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            self.detach()
            pytest.skip(f"needs a free loop device: {made.stderr.strip()}")
        self._loop = made.stdout.strip()
        mount = ["mount", "-o", "errors=remount-ro", self._loop, str(self.path)]
        subprocess.run(mount, check=True)

    def detach(self):
        """Unmount the disk, however broken it is, and stop serving it."""
        for command in (
            ["umount", "-l", str(self.path)],
            ["losetup", "--detach", str(self._loop)],
            ["umount", "-l", str(self._file)],
        ):
            subprocess.run(command, check=False, stderr=subprocess.DEVNULL)
        if self._server is not None:
            try:
                self._server.wait(2)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            self._server.stdout.close()
            self._server = None

    def refuse_writes(self):
        """From now on every write, and every flush, fails."""
        self._server.send_signal(signal.SIGUSR1)

    def vanish(self):
        """From now on there is no disk any more."""
        self._server.kill()
        self._server.wait()

    # -- what lies on it ----------------------------------------------------------------------------------------

    def moment(self):
        """Return the present moment, as a position in the log."""
        return self.log.stat().st_size

    def notes(self):
        """Return all that the disk was told: (position after it, kind, offset, data)."""
        found = []
        with open(self.log, "rb") as log:
            data = log.read()
        at = 0
        while at < len(data):
            kind, offset, length = _NOTE.unpack_from(data, at)
            at += _NOTE.size + length
            found.append((at, kind, offset, data[at - length : at]))
        return found

    def cut(self, notes, moment, rng, path):
        """Make an image of what the disk may hold if the power goes at a moment.

        What was written before the last flush of its cache is there. Of each sector that was written later
        the old or the new content is there: all new, all old, or, which also tears writes, any mixture.
        """
        told = [note for note in notes if note[0] <= moment]
        flushed = max((number for number, one in enumerate(told) if one[1] == b"F"), default=-1)
        chance = rng.choice((0.0, 1.0, 0.5, rng.random()))
        shutil.copyfile(self._base, path)
        with open(path, "r+b") as image:
            for number, (_at, kind, offset, data) in enumerate(told):
                if kind == b"W" and number < flushed:
                    image.seek(offset)
                    image.write(data)
                elif kind == b"W":
                    start = 0
                    while start < len(data):
                        sectors = 2 if offset + start == SUPERBLOCK else 1
                        if rng.random() < chance:
                            image.seek(offset + start)
                            image.write(data[start : start + sectors * SECTOR])
                        start += sectors * SECTOR
        return len(told) - flushed - 1


if __name__ == "__main__":
    server = _Server(*sys.argv[1:])
    print("up", flush=True)
    server.serve()
