# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program: the launcher as it is, but one process of the job stops at its birth, so that a tracer can be attached.

Arguments: the launcher's program.py, whom to stop, and the file into which its pid is to be written. Whom: a role of
CHILDREN, or which child of which child of the launcher, each counted from 0: 0.1 is the second one of the keeper.
"""

import os
import runpy
import signal
import sys

# Who is forked by whom, in this order; whatever the runner forks after the command is a new keeper. What a keeper
# forks after the runner is the deliverer of a job that has notifications.
CHILDREN = {
    "launcher": ["keeper"],
    "keeper": ["runner", "deliverer"],
    "runner": ["command", "successor"],
    "deliverer": ["worker"],
}

program, victim, note = sys.argv[1:4]
me = {"role": "launcher", "path": [], "children": 0}
plain_fork = os.fork


def stop_if_meant():
    if victim in (me["role"], ".".join(me["path"])) and not os.path.exists(note):
        with open(note + ".new", "w", encoding="ascii") as target:
            target.write(str(os.getpid()))
        os.rename(note + ".new", note)
        os.kill(os.getpid(), signal.SIGSTOP)


def fork():
    pid = plain_fork()
    if pid == 0:
        roles = CHILDREN.get(me["role"], ["other"])
        me["path"].append(str(me["children"]))
        me.update(role=roles[min(me["children"], len(roles) - 1)], children=0)
        stop_if_meant()
    else:
        me["children"] += 1
    return pid


os.fork = fork
stop_if_meant()
runpy.run_path(program, run_name="__main__")
