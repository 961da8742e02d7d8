# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run as a program: be PID 1 of a namespace, or a subreaper, run jobs below it and count what they leave.

Arguments: how it reaps (``never``, ``init``, ``subreaper``), what it runs (``ours``, ``builtin``), the number of jobs,
a folder. The counts are written to ``counts`` in that folder.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from ansible_collections.durable.jobs.plugins.module_utils._job import kernel, processes
from ansible_collections.durable.jobs.tests.faults.builtin import Builtin
from ansible_collections.durable.jobs.tests.unit.support import Launcher, until

# What a job may do to make zombies: orphans, daemons, children that end before and after it.
LINE = "sleep 0.1 & (sleep 0.1 &) ; setsid sleep 0.1 & (setsid true &) ; until [ -e {go} ]; do sleep 0.02; done"


def zombies(parent):
    return sorted(
        one.pid for one in processes.all_processes().values() if one.zombie and one.parent == parent
    )


def ours(count, folder, parent):
    """Run jobs of ours and return how many zombies there were while they ran, and what was left after them."""
    launcher = Launcher(folder / "async")
    line = LINE.format(go=folder / "async" / "go")
    for _number in range(count):
        launcher.shell(line)
    keepers = [pid for job in launcher.jobs for pid in launcher.keeper(job)]
    time.sleep(1)  # their children end meanwhile
    running = len(zombies(parent))
    launcher.release()
    for job in launcher.jobs:
        assert launcher.finished(job)["rc"] == 0
    until(lambda: not any(alive(pid) for pid in keepers))
    until(lambda: not any(launcher.processes(job) for job in launcher.jobs))
    return {"running": running, "alive": 0}


def alive(pid):
    found = processes.process(pid)
    return found is not None and not found.zombie


def builtin(count, folder, _parent):
    """Run jobs of the builtin and return the same."""
    made = Builtin(folder)
    jids = [made.launch("true") for _number in range(count)]
    for jid in jids:
        until(lambda jid=jid: made.status(jid).get("finished"))
        until(lambda jid=jid: not made.wrappers(jid))
    made.close()
    return {"running": 0, "alive": 0}


def main(reaps, what, count, folder):
    if reaps == "subreaper":
        kernel.become_subreaper()
    me = os.getpid()
    worker = os.fork()
    if worker == 0:
        counts = {"error": "it broke"}
        try:
            counts = {"ours": ours, "builtin": builtin}[what](int(count), Path(folder), me)
            if reaps != "never":
                until(lambda: not zombies(me))
            counts["zombies"] = len(zombies(me))
        finally:
            with open(f"{folder}/counts.new", "w", encoding="ascii") as target:
                json.dump(counts, target)
            os.rename(f"{folder}/counts.new", f"{folder}/counts")
            signal.pause()  # or we would be one more zombie
    while True:
        if reaps == "never":
            signal.pause()
        os.waitpid(-1, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
