# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A command with unruly children, for jobs that are to be ended: ``offspring.py <kind> <folder>``.

Every process of it leaves a file in the folder, named after its pid, with the moment of its start.
"""

import os
import signal
import sys
import time

STORM = 300  # processes at the most
FOLDER = ""


def note():
    """Leave word of this process."""
    with open("/proc/self/stat", "rb") as stat:
        started = stat.read().rpartition(b")")[2].split()[19]
    with open(os.path.join(FOLDER, str(os.getpid())), "wb") as word:
        word.write(started)


def stay():
    note()
    while True:
        time.sleep(1000)


def child(*preparations):
    if os.fork() == 0:
        for prepare in preparations:
            prepare()
        stay()


def deaf():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def stopped():
    note()
    os.kill(os.getpid(), signal.SIGSTOP)


def double_fork():
    os.setsid()
    if os.fork():
        os._exit(0)


def group():
    os.setpgid(0, 0)


def exec_with(environment):
    """Become another program, which stays. Its kernel-visible environment is this one."""
    note()
    os.execve("/bin/sleep", ["sleep", "1000"], environment)


def storm():
    """Fork for as long as anybody of us lives, up to a number of processes that ends it."""
    deaf()
    ours = 0
    while True:
        if ours < STORM // 3 and os.fork() == 0:
            deaf()
            ours = STORM
            for _more in range(2):
                time.sleep(0.02)
                os.fork()
            os.setsid()
            note()
        elif ours < STORM:
            ours += 1
        time.sleep(0.02 if ours < STORM else 1000)


KINDS = {
    "ignores SIGTERM": lambda: child(deaf),
    "is stopped": lambda: child(stopped),
    "forks while it is killed": lambda: child(storm),
    "calls setsid": lambda: child(os.setsid),
    "double-forks": lambda: child(double_fork),
    "clears its environment": lambda: child(lambda: exec_with({})),
    "clears its environment and calls setsid": lambda: child(os.setsid, lambda: exec_with({})),
    "daemonizes with an empty environment": lambda: child(double_fork, lambda: exec_with({})),
    "was started by vfork": lambda: os.posix_spawn("/bin/sleep", ["sleep", "1000"], os.environ),
    "is in another process group": lambda: child(group),
}

if __name__ == "__main__":
    FOLDER = sys.argv[2]
    made = KINDS[sys.argv[1]]()
    if made:  # it cannot leave word itself
        with open("/proc/%d/stat" % made, "rb") as stat:
            started = stat.read().rpartition(b")")[2].split()[19]
        with open(os.path.join(FOLDER, str(made)), "wb") as word:
            word.write(started)
    stay()
