# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel offers and not every one has, or the standard library does not know; and what to do without."""

from __future__ import annotations

import errno
import fcntl
import os
import time

try:
    import ctypes

    _LIBC = ctypes.CDLL(None, use_errno=True)
    # Without errno, whose handling would write to nine more pages of every keeper and every runner.
    _SIMPLE = ctypes.CDLL(None)
    _PRCTL = _SIMPLE.prctl
except (ImportError, OSError):  # an interpreter built without libffi
    _LIBC = _SIMPLE = _PRCTL = None  # type: ignore[assignment]

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_TFD_TIMER_ABSTIME = 1  # timerfd_create(2)
_FALLOC_FL_KEEP_SIZE = 1  # fallocate(2)
_FALLOC_FL_PUNCH_HOLE = 2
_EMULATED_TAIL = (
    1024 * 1024
)  # bytes at the end of a stream that survive where holes cannot be punched


def become_subreaper(wanted: bool = True) -> bool:
    """Make orphaned descendants children of this process; tell whether the kernel agreed (prctl(2)).

    :param wanted: false to undo it.
    """
    return _PRCTL is not None and _PRCTL(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0) == 0


def boottime() -> float:
    """Return the seconds since boot by the clock that also counts while the machine is suspended (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def open_timer() -> int:
    """Return a descriptor that becomes readable at a moment of that clock, see :func:`set_timer`; -1 for none.

    poll(2) counts by a clock that stands still while the machine is suspended.
    """
    make = getattr(_SIMPLE, "timerfd_create", None)
    return int(make(time.CLOCK_BOOTTIME, os.O_NONBLOCK | os.O_CLOEXEC)) if make else -1


def set_timer(timer: int, when: float) -> None:
    """Let a timer fire at a moment of CLOCK_BOOTTIME (timerfd_settime(2))."""
    seconds = int(when)
    spec = (ctypes.c_long * 4)(0, 0, seconds, max(1, int((when - seconds) * 1e9)))
    _SIMPLE.timerfd_settime(timer, _TFD_TIMER_ABSTIME, spec, None)


def announce_writing(folder: int) -> bool:
    """Ask for one SIGIO at the next write to a file of a folder (F_NOTIFY of fcntl(2)); tell whether it will come."""
    try:
        fcntl.fcntl(folder, fcntl.F_NOTIFY, fcntl.DN_MODIFY)
    except OSError:  # a kernel without it
        return False
    return True


def punch_hole(fd: int, start: int, end: int) -> None:
    """Give back the disk blocks of a file between two offsets; its size and all other bytes stay (fallocate(2)).

    Where the file system cannot do that, the file is cut at ``start`` and grown again, and the last bytes are put back
    in their place. What its writer appends in these microseconds may be lost.
    """
    if _LIBC is not None:
        punch = getattr(_LIBC, "fallocate64", _LIBC.fallocate)
        length = ctypes.c_int64(end - start)
        if (
            punch(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, ctypes.c_int64(start), length)
            == 0
        ):
            return
        if ctypes.get_errno() not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    size = os.fstat(fd).st_size
    kept_from = max(end, size - _EMULATED_TAIL)
    tail = os.pread(fd, size - kept_from, kept_from)
    os.ftruncate(fd, start)
    os.pwrite(fd, tail, kept_from)
