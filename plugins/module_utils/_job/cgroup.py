# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control groups of a job: entering them, who is in them, what the kernel did there. See unit for where they lie.

A job whose ``containment`` is ``systemd`` has a group of its own below that of a transient unit. Its keeper and its
runner are in another one, so neither the job's limits nor what ends all of the job reach them. The first of a job's
groups holds its processes together; where the kernel still has the old hierarchies (cgroups(7), version 1), further
ones hold its limits.
"""

from __future__ import annotations

import errno
import os

from . import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .schema import Record

# The parameters that are limits: controller, files of version 2, files of version 1. All are written that are there,
# the first one must be. Swap is no memory: a limit that only made the machine swap would be none.
CONTROLS = {
    "memory_max": (
        "memory",
        ("memory.max", "memory.swap.max"),
        ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    ),
    "cpu_quota": ("cpu", ("cpu.max",), ("cpu.cfs_quota_us",)),
    "tasks_max": ("pids", ("pids.max",), ("pids.max",)),
}
PERIOD = 100000  # microseconds over which cpu_quota is counted, the kernel's default
# What tells of kills for lack of memory: versions 2 and 1, each with a line "oom_kill <number>".
OOM_FILES = ("memory.events", "memory.oom_control")


class Refused(OSError):
    """A group could not be entered, or a limit not be set; ``parameter`` says which."""

    def __init__(self, error: OSError, parameter: str, subject: str) -> None:
        super().__init__(error.errno, error.strerror)
        self.parameter = parameter
        self.subject = subject


def enter(groups: list[str], limits: Record) -> None:
    """Make a job's groups, set their limits, and let this process, which will be the job's command, be in them.

    :param limits: values of the parameters in schema.LIMITS; null for none.
    :raises Refused: the kernel says no.
    """
    parameter, subject = "containment", ""
    try:
        for subject in groups:
            os.mkdir(subject, 0o755)
        for parameter, value in sorted(limits.items()):
            if value is not None:
                subject = str(value)
                _limit(groups, parameter, value)
        parameter = "containment"
        for subject in groups:
            write(subject + "/cgroup.procs", "0")
    except OSError as error:
        raise Refused(error, parameter, subject) from None


def _limit(groups: list[str], parameter: str, value: int) -> None:
    _controller, new, old = CONTROLS[parameter]
    for group in groups:
        names = new if os.path.exists("%s/%s" % (group, new[0])) else old
        if not os.path.exists("%s/%s" % (group, names[0])):
            continue
        content = {
            "memory.swap.max": "0",
            "cpu.max": "%d %d" % (value * PERIOD // 100, PERIOD),
            "cpu.cfs_quota_us": "%d" % (value * PERIOD // 100),
        }
        write("%s/%s" % (group, names[0]), content.get(names[0], str(value)))
        for name in names[1:]:  # a kernel without swap has none
            if os.path.exists("%s/%s" % (group, name)):
                write("%s/%s" % (group, name), content.get(name, str(value)))
        return
    raise OSError(errno.ENOSYS, "no control group enforces it")


def members(groups: list[str]) -> set[int]:
    """Return the pids of all processes in a job's group and in those that it may have made below."""
    found: set[int] = set()
    todo = groups[:1]
    while todo:
        group = todo.pop()
        todo += _below(group)
        try:
            with open(group + "/cgroup.procs", "rb") as procs:
                found.update(map(int, procs.read().split()))
        except OSError:  # it is gone, or made of threads, whose processes are in the group above
            continue
    return found


def living(groups: list[str], jid: str) -> list[processes.Process]:
    """Return the living processes in a job's group, without those of other jobs that were launched from it."""
    inside = members(groups)
    seen = (processes.process(pid) for pid in sorted(inside - processes.of_other_jobs(inside, jid)))
    return [one for one in seen if one is not None and not one.zombie]


def joined(found: list[processes.Process], groups: list[str], jid: str) -> list[processes.Process]:
    """Return the processes that have been found, and those living in the group of job ``jid`` beside them."""
    known = {one.pid for one in found}
    return found + [one for one in living(groups, jid) if one.pid not in known]


def kill(groups: list[str], jid: str) -> None:
    """Kill all that is in a job's group at once, also what is being born (cgroup.kill of kernel 5.14 and later).

    Unless there are processes of other jobs in it: then whoever looks for its members kills them one by one.
    """
    for group in groups[:1]:
        if processes.of_other_jobs(members([group]), jid):
            continue
        try:
            write(group + "/cgroup.kill", "1")
        except OSError:
            pass  # an older kernel, or it is gone: who looks for its members kills them one by one


def oom_killed(groups: list[str]) -> bool:
    """Tell whether the kernel has killed a process of the job for lack of memory."""
    for group in groups:
        for name in OOM_FILES:
            try:
                with open("%s/%s" % (group, name), "rb") as events:
                    words = events.read().split()
            except OSError:
                continue
            if b"oom_kill" in words and words[words.index(b"oom_kill") + 1] != b"0":
                return True
    return False


def remove(groups: list[str]) -> None:
    """Remove a job's groups if nothing is in them any more. What is left goes with the unit."""
    for group in groups:
        for below in _below(group):
            remove([below])
        try:
            os.rmdir(group)
        except OSError:  # a process that the job has left behind lives there
            pass


def _below(group: str) -> list[str]:
    try:
        with os.scandir(group) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def write(path: str, content: str) -> None:
    """Write to a file of a control group, which takes it in one piece."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, content.encode())
    finally:
        os.close(fd)
