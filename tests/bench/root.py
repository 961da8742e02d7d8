# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The root of a family of processes: ``root.py STATUS_FD COMMAND...``. See family.py.

Runs the command and writes its exit status to STATUS_FD. As child subreaper it then stays, and reaps what the
command has left behind: the kernel adds the processor time of whoever is reaped to that of who reaps, so
nothing that any descendant has used is lost. SIGTERM ends the command, and this.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Be the root until somebody ends us."""
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit("this kernel has no child subreapers")
    status_fd, command = int(sys.argv[1]), sys.argv[2:]
    pid = os.posix_spawnp(command[0], command, os.environ)

    def end(_number: int, _frame: object) -> None:
        try:
            os.kill(pid, signal.SIGTERM)
        finally:
            os._exit(0)

    signal.signal(signal.SIGTERM, end)
    while True:
        try:
            reaped, status = os.wait()
        except ChildProcessError:  # and nobody can become ours any more
            signal.pause()
        if reaped == pid:
            os.write(status_fd, b"%d" % os.waitstatus_to_exitcode(status))
            os.close(status_fd)


if __name__ == "__main__":
    main()
