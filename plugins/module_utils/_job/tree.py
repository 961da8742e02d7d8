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
    from typing import Callable, Iterable

# Seconds after the first SIGKILL until what is still alive is called a survivor.
KILL_PATIENCE = 2.0
# Seconds between two looks at a tree that is being ended: the first, and the longest.
SWEEP_INTERVAL = (0.01, 0.25)


class Process:
    """One process as /proc showed it: ``pid`` and ``started`` (clock ticks since boot) together are its identity."""

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

    def described(self) -> dict[str, object]:
        """Return what a record says of a process."""
        return {"pid": self.pid, "name": printable(self.name)}


def process(pid: int) -> Process | None:
    """Look at one process; None if there is none of that pid."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as stat:
            return Process(pid, stat.read())
    except (OSError, IndexError):
        return None


def is_alive(pid: int, started: int) -> bool:
    """Tell whether this very process, not a later one with its pid, is there and not a zombie."""
    found = process(pid)
    return found is not None and found.started == started and not found.zombie


def is_command(pid: int, started: int) -> bool:
    """Tell whether the command of a job is alive, given what was seen of it when it was forked.

    A later process with its pid has started in a later clock tick (of 10 ms), or at least does not lead a session.
    """
    found = process(pid)
    return (
        found is not None and found.started == started and found.session == pid and not found.zombie
    )


def all_processes() -> dict[int, Process]:
    """Look at every process that /proc shows, by pid."""
    found = (process(int(name)) for name in os.listdir("/proc") if name.isdigit())
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
    if session is None and not marked:
        # Cheap, and made for a hundred keepers that end their jobs at the same time. It may miss what is being born or
        # dies: "nothing" is only believed of a look at all processes.
        seen = (process(pid) for pid in sorted(_family(roots) - spared))
        alive = [one for one in seen if one is not None and not one.zombie]
        if alive:
            return alive
    table = all_processes()
    found = descendants(table, roots)
    if session is not None and _is_session_of(*session):
        found.update(one.pid for one in table.values() if one.session == session[0])
    if marked:
        mark = ("%s=%s" % (COOKIE, jid)).encode()
        found.update(pid for pid in table if mark in _environment(pid))
    return [table[pid] for pid in sorted(found - spared) if not table[pid].zombie]


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


def _family(roots: Iterable[int]) -> set[int]:
    """Return the pids of what descends from some processes, as each of them names its children (proc(5))."""
    found = set()
    todo = list(roots)
    while todo:
        tasks = "/proc/%d/task" % todo.pop()
        try:
            for thread in os.listdir(tasks):
                with open("%s/%s/children" % (tasks, thread), "rb") as children:
                    todo += [int(pid) for pid in children.read().split() if int(pid) not in found]
        except OSError:  # it has ended, or the kernel was built without such lists
            continue
        found.update(todo)
    return found


def _is_session_of(pid: int, started: int) -> bool:
    """Tell whether a session is still that of the process that founded it.

    As long as a process of it lives, nobody else gets that pid. Afterwards a stranger may, and found another one.
    """
    leader = process(pid)
    return leader is None or leader.started == started


def marked(jid: str) -> list[Process]:
    """Return the living processes that carry the job's mark in their environment, other than this one."""
    return members(jid, roots=[], session=None, spared={os.getpid()}, marked=True)


def send(target: Process, number: int) -> None:
    """Send a signal to this very process; one that is gone, or that we may not signal, is left alone."""
    try:
        if hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal"):
            fd = os.pidfd_open(target.pid)
            try:
                if is_alive(target.pid, target.started):
                    signal.pidfd_send_signal(fd, number)
            finally:
                os.close(fd)
            return
    except ProcessLookupError:
        return
    except OSError:
        pass  # a kernel older than the interpreter, or not ours to signal: the plain call tells
    try:
        if is_alive(target.pid, target.started):
            os.kill(target.pid, number)
    except OSError:
        pass


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
