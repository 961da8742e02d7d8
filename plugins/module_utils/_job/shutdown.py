# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is this machine being shut down? Then what ends, ends for that reason, and nothing should be begun."""

from __future__ import annotations

import os
import select
import signal

from . import host

ANSWER = 2.0  # seconds that systemctl may need
# What a shutdown sends: systemd, by systemd.kill(5), and others before it.
SENT = (signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)


def listen() -> None:
    """Take note from now on, in this process and those that it forks, of a SIGTERM, which is ignored.

    A signal that is blocked waits even if it is ignored (sigpending(2)), at no cost. No other signal is blocked then,
    whatever the caller's mask: we rely on SIGCHLD and SIGIO.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, (signal.SIGTERM,))


def heard() -> bool:
    """Tell whether there was a SIGTERM."""
    return signal.SIGTERM in signal.sigpending()


def is_under_way() -> bool:
    """Tell whether systemd is shutting down the machine, or the container (``is-system-running`` of systemctl(1)).

    This starts a process, so it is for those who have a reason to ask.
    """
    if not host.runs_systemd():
        return False
    try:
        answer_out, answer_in = os.pipe()
        pid = os.fork()
    except OSError:  # nobody can tell
        return False
    if pid == 0:
        try:
            null = os.open("/dev/null", os.O_RDWR)
            for target, source in enumerate((null, answer_in, null)):
                os.dup2(source, target)
            os.execvp("systemctl", ["systemctl", "is-system-running"])
        finally:
            os._exit(127)
    os.close(answer_in)
    poll = select.poll()
    poll.register(answer_out, select.POLLIN)
    answer = os.read(answer_out, 64) if poll.poll(int(ANSWER * 1000)) else b""
    os.close(answer_out)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return answer.strip() == b"stopping"
