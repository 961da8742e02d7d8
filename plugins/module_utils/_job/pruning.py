# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removing what finished jobs have left: which of them go, and how. Private to the collection.

Whether a run removes or only predicts, the same lines decide. No output is read.
"""

from __future__ import annotations

import os
import time

from . import host, removing, schema, status
from .errors import JobError
from .names import latest_job, mend_name
from .record_io import DamagedRecord, MissingRecord, is_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .schema import Record
    from .store import Job, Store

BEING_WRITTEN = (
    60.0  # seconds; the builtin writes its records in place, so a young one may not be whole yet
)
# What a launch may spend on pruning in passing; the next one goes on.
PASSING_TIME = 0.05  # seconds
PAUSE = 100  # times what a look at all records took, until a launch takes the next one


class Finished:
    """A job that has finished and whose record is there.

    ``when``: seconds since the epoch at which its end was written down. ``age``: seconds since then.
    """

    __slots__ = ("age", "jid", "name", "ours", "room", "state", "when")

    def __init__(self, job: Job, record: Record, when: float, age: float) -> None:
        self.jid = job.jid
        self.name: str | None = record["name"]
        self.state: str = record["state"]
        self.ours = schema.PRIVATE in record
        self.when = when
        self.age = age
        self.room: int | None = None  # bytes of the disk, as soon as somebody wants to know

    def described(self) -> Record:
        """Return what a result says of it."""
        return {
            "ansible_job_id": self.jid,
            "name": self.name,
            "state": self.state,
            "bytes": self.room,
        }


class Pruning:
    """One look at all jobs of an async dir, and the removal of some of them.

    :param settle: whether final verdicts may be written down.
    """

    def __init__(self, store: Store, *, settle: bool) -> None:
        self._store = store
        self._settle = settle
        self._clocks = _Clocks()
        self._names: dict[str, list[str]] = {}  # the jids of each, for names that have lost jobs
        self._doubtful: list[Job] = []
        self.finished: list[Finished] = []
        self.others = 0  # live jobs, and those of which nobody can say here whether they are
        for jid in store.jids():
            self._look(store.job(jid))
        self._judge_doubtful()
        self.finished.sort(key=lambda one: (one.when, _launched(one.jid)), reverse=True)

    def _look(self, job: Job) -> None:
        try:
            found, record = _finished(job, self._clocks, settle=self._settle)
        except (MissingRecord, FileNotFoundError):  # removed at this moment
            return
        except (JobError, OSError):  # another machine's, for example: what cannot be judged stays
            self.others += 1
            return
        finally:
            job.close()
        if record["name"] is not None:
            self._names.setdefault(record["name"], []).append(job.jid)
        if found is None:
            self.others += 1
        elif record["reason"] == schema.DAMAGED and not found.ours:
            self._doubtful.append(job)
            self.finished.append(found)
        else:
            self.finished.append(found)

    def _judge_doubtful(self) -> None:
        """Keep what may be the record of a live job of the builtin's: it has none of our locks, and can be torn."""
        foreign = [job for job in self._doubtful if not is_ours(job)]
        if not foreign:
            return
        # Imported here, and not by every run: what a module imports is compiled in every run.
        from . import builtin

        proved, _refused = builtin.prove(foreign)
        live = {one.job.jid for one in proved}
        suspects = {job.jid for job in foreign}
        kept = []
        for one in self.finished:
            if one.jid in live or (one.jid in suspects and one.age < BEING_WRITTEN):
                self.others += 1
            else:
                kept.append(one)
        self.finished = kept

    def choose(
        self,
        *,
        states: list[str] | None,
        older_than: float | None,
        keep_last: int | None,
        max_bytes: int | None,
    ) -> list[Finished]:
        """Return the finished jobs that go, the oldest first.

        :param states: only jobs of these states are looked at; None for all.
        :param older_than: those go that finished at least so many seconds ago.
        :param keep_last: those go that are not among the so many latest ones.
        :param max_bytes: the oldest go, as many as it takes for the others to have no more bytes than that.
        """
        chosen: list[Finished] = []
        kept = room = 0
        limited = (older_than, keep_last, max_bytes) != (None, None, None)
        for one in [one for one in self.finished if states is None or one.state in states]:
            goes = not limited or (older_than is not None and one.age >= older_than)
            goes = goes or (keep_last is not None and kept >= keep_last)
            if not goes and max_bytes is not None:
                room += self._room(one) or 0
                goes = room > max_bytes
            kept += not goes
            if goes:
                chosen.append(one)
        return [one for one in reversed(chosen) if self._room(one) is not None]

    def _room(self, one: Finished) -> int | None:
        """Return how many bytes of the disk a job takes; None if it has just been removed."""
        if one.room is None:
            job = self._store.job(one.jid)
            try:
                one.room = removing.room(job)
            except FileNotFoundError:
                pass
            finally:
                job.close()
        return one.room

    def remove(self, chosen: list[Finished]) -> tuple[list[Finished], dict[str, JobError]]:
        """Remove jobs; return those that nobody else has removed meanwhile, and by jid why others could not be."""
        removed = []
        refused = {}
        for one in chosen:
            job = self._store.job(one.jid)
            try:
                if removing.discard(job, durably=False):
                    removed.append(one)
            except JobError as error:
                refused[one.jid] = error
            finally:
                job.close()
        os.fsync(self._store.fd)
        for name in removing.names(self._store):
            jids = sorted(self._names.get(name, ()), key=_launched, reverse=True)
            mend_name(self._store, name, jids)
        removing.sweep(self._store)
        return removed, refused


def in_passing(store: Store, seconds: float, begun: float) -> None:
    """Remove the oldest of our jobs that finished at least so many seconds ago, as many as a launch has time for.

    :param begun: since when the launch has been busy with this (monotonic clock).
    """
    if not removing.claim(store):
        return
    clocks = _Clocks()
    before = removing.written_before(store, clocks.now - seconds)
    old = [jid for jid in before if schema.is_own_jid(jid)]
    looked = time.monotonic()
    for number, jid in enumerate(old, 1):
        _remove_in_passing(store.job(jid), seconds, clocks)
        if time.monotonic() - looked >= PASSING_TIME and number < len(old):
            removing.pause(store, 0)
            return
    removing.pause(store, (looked - begun) * PAUSE)


def _remove_in_passing(job: Job, seconds: float, clocks: _Clocks) -> None:
    try:
        found, record = _finished(job, clocks, settle=True)
        if (
            found is not None
            and found.ours
            and found.age >= seconds
            and not _is_needed(job, record)
        ):
            removing.discard(job, durably=False)
            if found.name is not None:
                mend_name(job.store, found.name)
    except (MissingRecord, JobError, OSError):
        # Removed at this moment, or what cannot be judged or removed: job_prune says why.
        pass
    finally:
        job.close()


def _is_needed(job: Job, record: Record) -> bool:
    """Tell whether a record may keep work from being done again: ``rerun`` asks the latest job of a name."""
    if record["name"] is None or record[schema.PRIVATE]["rerun"] == "always":
        return False
    latest = latest_job(job.store, record["name"])
    return latest is not None and latest.jid == job.jid


class _Clocks:
    """The time, and what is needed to tell for how long it has been going as it goes."""

    def __init__(self) -> None:
        self.now = time.time()
        self._boot_id = host.boot_id()
        self._offset = self.now - time.monotonic()

    def age(self, record: Record, when: float) -> float:
        """Return how many seconds have passed since a moment at which a record was written.

        Where a clock has been set forward since the job was launched, that is no time that has passed.
        """
        private = record.get(schema.PRIVATE) or {}
        forward = 0.0
        if private.get("boot_id") == self._boot_id:
            forward = self._offset - (private["epoch"] - private["monotonic"])
        return max(0.0, self.now - when - max(0.0, forward))


def _finished(job: Job, clocks: _Clocks, *, settle: bool) -> tuple[Finished | None, Record]:
    """Return what may be removed of a job, and its record; None for the first if it has not finished.

    :raises MissingRecord: there is no such job; FileNotFoundError: it has just been removed.
    :raises JobError: nobody can say here whether it is live.
    """
    when = job.store.written(job.jid) / 1e9
    try:
        record = job.read_record(brief=True)
        known = schema.PRIVATE in record and record["finished"]
    except DamagedRecord:
        known = False
    if not known:
        record = status.judged(job, settle=settle)
        if not record["finished"]:
            return None, record
        if schema.PRIVATE in record:
            when = clocks.now  # this is the moment at which its end becomes known
    return Finished(job, record, when, clocks.age(record, when)), record


def _launched(jid: str) -> tuple[int, int]:
    """Return what sorts jids by the moment of the launch, as far as they tell it."""
    first, _dot, second = jid[1:].partition(".")
    return int(first), int(second)
