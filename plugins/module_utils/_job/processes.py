# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding and ending the processes of a job. Nobody is signalled who has not been seen to belong to it."""

from __future__ import annotations

import os
import signal
import time

from .printable import printable
from .schema import COOKIE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable

# Seconds after the first SIGKILL until what is still alive is called a survivor.
KILL_PATIENCE = 2.0
# Seconds between two looks at a tree that is being ended: the first, and the longest.
SWEEP_INTERVAL = (0.01, 0.25)
# What a keeper or a runner has open of its job: the end of the path, and the mode of the link to it (proc(5)).
_ROLES = ("keeper", "runner", "turn", "standby")
_FOLDERS = ("/.durable/jobs", "/.durable/gone")
_BELL = "/.durable/outbox/bell"  # of those who deliver notifications: of all jobs, so of no job
_READ_AND_WRITE = 0o600
UNSEEN = -1  # the start of a process that is there, but that /proc hides from us


class Process:
    """One process as /proc showed it: ``pid`` and ``started`` (clock ticks since boot) together are its identity.

    Of a process that /proc hides (mount option ``hidepid``) ``started`` is UNSEEN: only the kernel's other answers
    tell that it is there.
    """

    __slots__ = ("name", "parent", "pid", "session", "started", "zombie")

    def __init__(self, pid: int, stat: bytes) -> None:
        # proc(5): pid (comm) state ppid pgrp session ...; comm may itself hold blanks and parentheses
        head, _paren, rest = stat.rpartition(b")")
        fields = rest.split()
        self.pid = pid
        self.name = head.partition(b"(")[2].decode("utf-8", "replace")
        self.zombie = fields[0] in (b"Z", b"X")
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.started = int(fields[19])

    @classmethod
    def hidden(cls, pid: int, parent: int, session: int) -> Process:
        """Return a process of which /proc shows nothing. Its parent is 0 if that is unknown."""
        fields = "S %d 0 %d%s %d" % (parent, session, " 0" * 15, UNSEEN)
        return cls(pid, b"%d (hidden process) " % pid + fields.encode())

    def described(self) -> dict[str, object]:
        """Return what a record says of a process."""
        return {"pid": self.pid, "name": printable(self.name)}


def process(pid: int, parent: int = 0) -> Process | None:
    """Look at one process; None if there is none of that pid.

    :param parent: who names it as a child; all that is known of the parent of a process that /proc hides.
    """
    try:
        with open("/proc/%d/stat" % pid, "rb") as stat:
            return Process(pid, stat.read())
    except (OSError, IndexError):
        return _hidden(pid, parent)


def _hidden(pid: int, parent: int) -> Process | None:
    """Ask the kernel about a process that /proc does not show: that proves nothing, it may only be hidden."""
    try:
        return Process.hidden(pid, parent, os.getsid(pid)) if pid > 0 else None
    except PermissionError:  # by a security module; so it is there
        return Process.hidden(pid, parent, 0)
    except OSError:
        return None


def is_blind() -> bool:
    """Tell whether /proc hides processes of other users from us: then it hides the first one."""
    first = process(1)
    return first is None or first.started == UNSEEN


def is_alive(pid: int, started: int) -> bool:
    """Tell whether this very process, not a later one with its pid, is there and not a zombie.

    A process of that pid that /proc hides counts as this one: nothing shows that it is another.
    """
    found = process(pid)
    return found is not None and found.started in (started, UNSEEN) and not found.zombie


def is_command(pid: int, started: int) -> bool:
    """Tell whether the command of a job is alive, given what was seen of it when it was forked.

    A later process with its pid has started in a later clock tick (of 10 ms), or at least does not lead a session.
    """
    found = process(pid)
    return (
        found is not None
        and found.session == pid
        and found.started in (started, UNSEEN)
        and not found.zombie
    )


def all_processes(others: dict[int, int] | None = None) -> dict[int, Process]:
    """Look at every process that /proc shows, by pid.

    :param others: pids of processes that /proc may hide, and of their parents, as :func:`family` returns them.
    """
    parents = others or {}
    pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}.union(parents)
    found = (process(pid, parents.get(pid, 0)) for pid in pids)
    return {one.pid: one for one in found if one is not None}


def members(
    jid: str,
    *,
    roots: Iterable[int],
    session: tuple[int, int] | None,
    spared: set[int],
    marked: bool,
) -> list[Process]:
    """Return the living processes of a job.

    :param roots: pids whose descendants belong to the job.
    :param session: pid and start of the command, whose session belongs to the job too; None if it is not to be asked.
    :param spared: pids of ours, which do not belong to it.
    :param marked: whether to look for the job's mark in every environment too. Needed where orphans
        do not become our children.
    """
    known = family(roots, jid)
    if session is None and not marked:
        # Cheap, and made for a hundred keepers that end their jobs at the same time. It may miss what is being born or
        # dies: "nothing" is only believed of a look at all processes.
        seen = (process(pid, known[pid]) for pid in sorted(set(known) - spared))
        alive = [one for one in seen if one is not None and not one.zombie]
        if alive:
            return alive
    if session is not None:
        known.setdefault(session[0], 0)
    table = all_processes(known)
    found = descendants(table, roots)
    if session is not None and _is_session_of(*session):
        found.update(one.pid for one in table.values() if one.session == session[0])
    if marked:
        found.update(pid for pid in table if is_marked(pid, jid))
    found -= spared
    found -= of_other_jobs(found, jid, table)
    return [table[pid] for pid in sorted(found) if not table[pid].zombie]


def descendants(table: dict[int, Process], roots: Iterable[int]) -> set[int]:
    """Return the pids of all that descends from some processes, given all processes."""
    children: dict[int, list[int]] = {}
    for one in table.values():
        children.setdefault(one.parent, []).append(one.pid)
    found = set()
    todo = list(roots)
    while todo:
        for pid in children.get(todo.pop(), ()):
            if pid not in found:
                found.add(pid)
                todo.append(pid)
    return found


def of_other_jobs(
    pids: Iterable[int], jid: str, table: dict[int, Process] | None = None
) -> set[int]:
    """Return the pids of the keepers and runners of other jobs than ``jid`` among some, and of all below these.

    A job that is launched from inside another one is a job of its own, though its keeper descends from that one.

    :param table: all processes; they are looked at if they are needed and not given.
    """
    foreign = {pid for pid in pids if _serves_other_job(pid, jid)}
    if foreign:
        foreign |= descendants(all_processes() if table is None else table, foreign)
    return foreign


def _serves_other_job(pid: int, jid: str) -> bool:
    """Tell whether a process is the keeper or the runner of another job: it has the FIFO of that role open.

    It has it open for reading and writing. Those who wait for the job's end only read (``Job.watch``).
    """
    folder = "/proc/%d/fd" % pid
    try:
        fds = os.listdir(folder)
    except PermissionError:  # somebody else's, so its command line must do
        return _runs_engine(pid)
    except OSError:
        return False
    for fd in fds:
        try:
            path = os.readlink("%s/%s" % (folder, fd))
            where, other, role = path.rsplit("/", 2)
            is_role = role in _ROLES and other != jid and where.endswith(_FOLDERS)
            is_role = is_role or path.endswith(_BELL)
            if is_role and os.lstat("%s/%s" % (folder, fd)).st_mode & 0o600 == _READ_AND_WRITE:
                return True
        except (OSError, ValueError):  # closed meanwhile; or no path of three names
            continue
    return False


def serves(pid: int, jid: str) -> bool:
    """Tell whether a process is one of those of ours that look after a job: it has the FIFO of such a role open."""
    folder = "/proc/%d/fd" % pid
    try:
        fds = os.listdir(folder)
    except OSError:
        return False
    for fd in fds:
        try:
            where, of, role = os.readlink("%s/%s" % (folder, fd)).rsplit("/", 2)
            is_role = role in _ROLES and of == jid and where.endswith(_FOLDERS)
            if is_role and os.lstat("%s/%s" % (folder, fd)).st_mode & 0o600 == _READ_AND_WRITE:
                return True
        except (OSError, ValueError):  # closed meanwhile; or no path of three names
            continue
    return False


def _runs_engine(pid: int) -> bool:
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as cmdline:
            words = cmdline.read().split(b"\0")
    except OSError:
        return False
    # The word that is put there for people, see ``_engine``; of a keeper of release 0.1 the path of its program.
    return b"durable.jobs" in words or any(b"/.durable/engine/" in word for word in words)


def family(roots: Iterable[int], jid: str = "") -> dict[int, int]:
    """Return the pids of what descends from some processes, and of the parent of each.

    Each process names its children (proc(5)), also those that /proc hides. Of these nobody names the children.

    :param jid: of a job; other jobs, and what is below them, are left out. Empty for none.
    """
    found: dict[int, int] = {}
    todo = list(roots)
    while todo:
        parent = todo.pop()
        new = [pid for pid in _children(parent) if pid not in found]
        if jid:
            new = [pid for pid in new if not _serves_other_job(pid, jid)]
        found.update(dict.fromkeys(new, parent))
        todo += new
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    tasks = "/proc/%d/task" % pid
    try:
        for thread in os.listdir(tasks):
            with open("%s/%s/children" % (tasks, thread), "rb") as children:
                found += map(int, children.read().split())
    except OSError:  # it has ended, is hidden, or the kernel was built without such lists
        pass
    return found


def _is_session_of(pid: int, started: int) -> bool:
    """Tell whether a session is still that of the process that founded it.

    As long as a process of it lives, nobody else gets that pid. Afterwards a stranger may, and found another one.
    """
    leader = process(pid)
    return leader is None or leader.started in (started, UNSEEN)


def marked(jid: str) -> list[Process]:
    """Return the living processes that carry the job's mark in their environment, other than this one."""
    return members(jid, roots=[], session=None, spared={os.getpid()}, marked=True)


def left(jid: str, survivors: Iterable[dict[str, Any]]) -> list[Process]:
    """Return those of a finished job's ``survivors`` that may still be alive.

    These are the ones that carry its mark, and those of the same name whose environment cannot be read: a process of
    another user, or one that has made itself undumpable (prctl(2)). They may be strangers by now, but nothing shows it.
    """
    found = []
    for told in survivors:
        one = process(told["pid"])
        if one is not None and not one.zombie:
            is_unreadable = not any(_environment(one.pid)) and one.name == told["name"]
            if is_unreadable or is_marked(one.pid, jid):
                found.append(one)
    return found


def is_marked(pid: int, jid: str) -> bool:
    """Tell whether a process can be seen to carry a job's mark in its environment."""
    return ("%s=%s" % (COOKIE, jid)).encode() in _environment(pid)


def send(target: Process, number: int) -> None:
    """Send a signal to this very process; one that is gone, or that we may not signal, is left alone."""
    try:
        if hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal"):
            fd = os.pidfd_open(target.pid)
            try:
                if _is_still(target):
                    signal.pidfd_send_signal(fd, number)
            finally:
                os.close(fd)
            return
    except ProcessLookupError:
        return
    except OSError:
        pass  # a kernel older than the interpreter, or not ours to signal: the plain call tells
    try:
        if _is_still(target):
            os.kill(target.pid, number)
    except OSError:
        pass


def _is_still(target: Process) -> bool:
    """Tell whether the pid of a process is still its own."""
    if target.started == UNSEEN:
        return target.pid in _children(target.parent)
    found = process(target.pid)
    return found is not None and found.started == target.started and not found.zombie


def end(
    find: Callable[[], list[Process]],
    *,
    number: int,
    grace: float,
    pause: Callable[[float], bool],
    kill_at: Callable[[], float] | None = None,
    at_once: Callable[[], None] | None = None,
) -> list[Process]:
    """End processes: the signal, ``grace`` seconds, SIGKILL; and see that they are gone.

    :param find: returns the living members at any moment; those that appear meanwhile get the signal too.
    :param pause: sleeps for at most so many seconds and tells whether the job has ended.
    :param kill_at: tells when the grace is over all the same (monotonic clock): somebody may come who cannot wait.
    :param at_once: kills all members in one step, where there is such a thing, before they are killed one by one.
    :return: who is still alive KILL_PATIENCE seconds after the first SIGKILL.
    """
    until = time.monotonic() + grace
    first = (lambda: until) if kill_at is None else (lambda: min(until, kill_at()))
    _sweep(find, (number, signal.SIGCONT), first, pause, again=False)
    if at_once is not None:
        at_once()
    last = time.monotonic() + KILL_PATIENCE
    return _sweep(find, (signal.SIGKILL,), lambda: last, pause, again=True)


def _sweep(
    find: Callable[[], list[Process]],
    numbers: tuple[int, ...],
    until: Callable[[], float],
    pause: Callable[[float], bool],
    *,
    again: bool,
) -> list[Process]:
    """Signal all members until none is left or the time is over; ``again`` at every look, else once."""
    nap, longest = SWEEP_INTERVAL
    seen = set()
    over = False
    while True:
        left = find()
        for one in left:
            if again or (one.pid, one.started) not in seen:
                seen.add((one.pid, one.started))
                for number in numbers:
                    send(one, number)
        if (over and not left) or time.monotonic() >= until():
            return left
        over = pause(max(0.0, min(nap, until() - time.monotonic())))
        nap = min(longest, nap * 2)


def _environment(pid: int) -> list[bytes]:
    try:
        with open("/proc/%d/environ" % pid, "rb") as environ:
            return environ.read().split(b"\0")
    except OSError:
        return []
