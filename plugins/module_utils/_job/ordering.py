# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The launch of jobs of which some come after others: what it needs beyond what queueing and launcher do for all.

It lies apart, as keepers carry all the code that is loaded.
"""

from __future__ import annotations

import fcntl
import os

from . import after, files, predecessors, schema
from .queueing import Turn, watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .launcher import Launch
    from .schema import Record
    from .store import Job, Store


def check(store: Store, requests: list[Record], known: Record) -> None:
    """Find the jobs after which jobs come, see ``predecessors.resolve``.

    :raises JobError: one is not there, or some wait for each other.
    """
    predecessors.resolve(store, requests, known)
    after.levels(requests)


class Ordering:
    """The jobs of one call, and in which order they are launched and get slots.

    :param every: the launches, in the order of the batch.
    :param slots: how many may run at once; 0 for no limit.
    :raises OSError: the table of a queue cannot be made.
    """

    def __init__(self, store: Store, every: list[Launch], slots: int) -> None:
        levels = after.levels([one.request for one in every])
        self._places = {launch: place for place, launch in enumerate(every)}
        self._levels = dict(zip(every, levels))
        self._by_name = {one.request["name"]: one for one in every}
        self._slots = slots
        self._table = Table(store, len(every)) if slots else None

    def in_order(self, launches: list[Launch]) -> list[Launch]:
        """Return launches in the order in which they are made: those that others come after, first."""
        return sorted(launches, key=lambda one: self._levels[one])

    def _before(self, launch: Launch) -> list[tuple[Record, Launch]]:
        """Return the launches of this call after which a job comes, each with what the request says of it."""
        return [
            (one, self._by_name[one["name"]])
            for one in launch.request.get("others") or ()
            if one["jid"] is None and one["name"] in self._by_name
        ]

    def must_settle(self, launch: Launch) -> bool:
        """Tell whether nobody knows yet what becomes of a launch after which this job comes."""
        return any(other.answer is None for _one, other in self._before(launch))

    def waits(self, launch: Launch, job: Job) -> bool:
        """Tell whether a job has to wait for others, which will know of it then.

        :raises JobError: one of them cannot be seen.
        """
        request = launch.request
        if not request.get("after"):
            return False
        for one, other in self._before(launch):
            found = other.answer or {}
            record = found.get("record") or {}
            one["jid"] = record.get("ansible_job_id") or found.get("jid")
            if "error" in found:
                # What was refused because of another job of its name has not failed.
                is_refused = "differs" in found["error"]
                one["state"] = after.REFUSED if is_refused else schema.FAILED
        waits = predecessors.attach(job, request)
        del request["others"]  # which no keeper needs to carry
        return waits

    def turn(self, launch: Launch, is_held_back: bool) -> Turn | None:
        """Return a job's place in the queue; None if there is none.

        :param is_held_back: whether it waits for its time, or for others.
        """
        if self._table is None:
            return None
        place = self._places[launch]
        return RankedTurn(self._table, place, self._slots, is_held_back=is_held_back)


class Table:
    """How far the jobs of a batch have come in which some come after others, and so not in the order of the batch.

    It is a file without a name that their keepers share: a letter for each job, then the jids. A letter is only a hint:
    a held lock proves that a job is live. A keeper changes letters under a lock that ends with the process (fcntl(2)).

    :param size: how many jobs there are.
    """

    BEHIND, READY, TAKEN = b"\0", b"r", b"t"  # waits for others, for a slot; has one, or had one
    JID = 64  # bytes of each

    def __init__(self, store: Store, size: int) -> None:
        self.size = size
        self.fd = _nameless(store)
        try:
            os.ftruncate(self.fd, size * (1 + self.JID))
        except BaseException:
            os.close(self.fd)
            raise

    def lock(self) -> None:
        """Wait until no other process changes the table."""
        fcntl.lockf(self.fd, fcntl.LOCK_EX)

    def unlock(self) -> None:
        """Let others change it."""
        fcntl.lockf(self.fd, fcntl.LOCK_UN)

    def letters(self) -> bytes:
        """Return the letters of all jobs."""
        return os.pread(self.fd, self.size, 0)

    def jid(self, place: int) -> str:
        """Return the jid of a job."""
        return os.pread(self.fd, self.JID, self.size + place * self.JID).rstrip(b"\0").decode()

    def enter(self, place: int, jid: str) -> None:
        """Write the jid of a job down."""
        os.pwrite(self.fd, jid.encode(), self.size + place * self.JID)

    def mark(self, place: int, letter: bytes) -> None:
        """Say how far a job has come."""
        os.pwrite(self.fd, letter, place)


class RankedTurn(Turn):
    """A job's place in a batch in which some come after others.

    A job that has to wait for nothing but a slot is ready. It takes one if fewer than ``slots`` jobs are live or ready
    and before it in the batch. It watches the nearest of the ready ones before it, or else the live ones. So the end
    of a job wakes one that is ready, and its start the next.

    :param place: in the batch, from 0.
    :param is_held_back: whether it waits for its time, or for others.
    """

    def __init__(self, table: Table, place: int, slots: int, *, is_held_back: bool) -> None:
        super().__init__([], slots)
        self.table_fd = table.fd
        self._table = table
        self._place = place
        taken = table.letters().count(table.TAKEN)
        self._was_queued = is_held_back or taken >= slots

    def enter(self, jid: str) -> None:
        """Let others of the batch see the job."""
        self._table.enter(self._place, jid)
        if not self._was_queued:
            self._table.mark(self._place, self._table.TAKEN)

    def has_come(self, store: Store) -> bool:
        """Tell whether the job may start now, and take a slot then. If not, see the method of Turn."""
        table = self._table
        table.lock()
        try:
            letters = table.letters()
            if (
                letters[self._place : self._place + 1] == table.TAKEN
            ):  # a predecessor of this keeper has
                return True
            taken = [at for at in range(table.size) if letters[at : at + 1] == table.TAKEN]
            self.ahead = []  # those that are live
            for at in taken:
                jid = table.jid(at)
                if self.is_live(store, jid):
                    self.ahead.append(jid)
                else:
                    table.mark(at, table.BEHIND)
            live = len(self.ahead)
            before = [at for at in range(self._place) if letters[at : at + 1] == table.READY]
            if before and live + len(before) >= self.slots:
                before = self._still_queued(store, before)
            if live + len(before) < self.slots:
                self.rest()
                table.mark(self._place, table.TAKEN)
                return True
            table.mark(self._place, table.READY)
            return False
        finally:
            table.unlock()

    def _still_queued(self, store: Store, before: list[int]) -> list[int]:
        """Return which of the ready jobs are still there; the nearest of them is watched instead of the live jobs."""
        while before:
            job = store.job(self._table.jid(before[-1]))
            hangup = watch(job, "turn")
            job.close()
            if hangup is not None:
                self.rest()
                self.hangups = [hangup]
                break
            self._table.mark(before.pop(), self._table.BEHIND)
        return before


@files.with_private_umask
def _nameless(store: Store) -> int:
    """Return a descriptor of a new file that has no name any more."""
    folder = store.private()
    name = "queue.%d" % os.getpid()
    try:
        files.remove_tree(name, folder)
        fd = os.open(name, os.O_RDWR | files.NEW_FLAGS, 0o600, dir_fd=folder)
        os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)
    return fd
