# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Flushes, counted over all processes of a protocol, of which one fails as a broken disk lets it fail: with EIO.

strace counts the calls of each process by itself, so the call is counted, and kept from the kernel, in the process.
This file is put before the launcher's program, too, see protocols.py.
"""

import errno
import fcntl
import os

NOTES, FAILING = "DURABLE_JOBS_CRASH_NOTES", "DURABLE_JOBS_CRASH_FAILING"
NONE = "none"  # instead of a number: no flush is done, and none fails


def count_flushes():
    """Let the flush fail whose number the environment tells, counted from 0; or, if it says so, let there be none."""
    if FAILING not in os.environ:
        return
    if os.environ[FAILING] == NONE:
        os.fsync = os.fdatasync = lambda fd: None
        return
    notes, failing = os.environ[NOTES], int(os.environ[FAILING])

    def counted(flush):
        def flush_or_fail(fd):
            counter = os.open(notes + ".count", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                fcntl.flock(counter, fcntl.LOCK_EX)
                number = os.fstat(counter).st_size
                os.write(counter, b"\n")
                if number == failing:
                    path = os.readlink(f"/proc/self/fd/{fd}")
                    with open(os.path.join(notes, "flushes"), "a", encoding="utf-8") as sink:
                        sink.write(f"flush failed: {path}\n")
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            finally:
                os.close(counter)
            flush(fd)

        return flush_or_fail

    os.fsync, os.fdatasync = counted(os.fsync), counted(os.fdatasync)


if __name__ == "__main__":  # put before the program of a launcher
    count_flushes()
