# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The jobs that another one comes after: which ones are meant at a launch, and how its keeper waits for them.

Its keeper sleeps in one poll(2) on their hang-up descriptors. A short-lived child of the keeper looks at those that
have hung up: what a keeper reads becomes memory of its own.
"""

from __future__ import annotations

import os
import time

from . import after, kernel, retrying, schema, status, verdicts
from .errors import MISHAPS, JobError
from .names import latest_job, lock_name, mend_name
from .record_io import MissingRecord, is_ours, lock_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select
    from typing import Callable

    from .job import Job
    from .schema import Record
    from .store import Store

RECHECK_INTERVAL = (
    1.0  # seconds between two looks at a job of which no descriptor tells when it ends
)
NONE_YET = "-"  # in place of a state
OPENED_EARLY = 4  # jobs that are watched before the keeper is forked, see launcher.DESCRIPTORS


# -- launch ---------------------------------------------------------------------------------------------------------


def resolve(store: Store, requests: list[Record], known: Record) -> None:
    """Find the jobs after which jobs come, before any is launched.

    Each request gets ``others``: for each of ``after`` the ``name`` and ``jid`` as far as there are any, and the
    ``state`` of one that is not launched at all.

    :param known: states by name, of what this call was to launch as well, and does not.
    :raises JobError: there is no such job.
    """
    own = {request["name"] for request in requests}
    found: dict[str, Record] = {}
    for place, request in enumerate(requests):
        for word in request.get("after") or ():
            try:
                if word not in found:
                    found[word] = _meant(store, word, word in own, known)
            except JobError as error:
                text = error.msg
                if request.get("place") is not None:
                    text = schema.NOTHING_LAUNCHED % (request.get("place", place), text)
                raise JobError(text) from None
        request["others"] = [found[word] for word in request.get("after") or ()]


def _meant(store: Store, word: str, is_own: bool, known: Record) -> Record:
    if schema.valid_jid(word):
        if word == schema.PREDICTED_JID:  # its launch was made unnecessary by creates or removes
            return {"name": None, "jid": None, "state": schema.SUCCEEDED}
        job: Job | None = store.job(word)
        name = None
    elif is_own or word in known:
        return {"name": word, "jid": None, "state": known.get(word)}
    else:
        job, name = _latest(store, word), word
    if job is None or not store.has_record(job.jid):
        text = "after has %s, and there is no such job in %s, and none among those of this call"
        raise JobError(text % (word, store.path))
    if not is_ours(job):
        text = "after has %s, which async has launched: nothing tells when such a job ends"
        raise JobError(text % word)
    return {"name": name, "jid": job.jid, "state": None}


def _latest(store: Store, name: str) -> Job | None:
    """Return the latest job of a name, also one that is being launched at this moment."""
    lock = lock_name(store, name)
    try:
        job = latest_job(store, name)
    finally:
        os.close(lock)
    if job is None:
        mend_name(store, name)  # taking its lock has made a file
    return job


def attach(job: Job, request: Record) -> bool:
    """Let a job that is about to be launched wait for others; tell whether it has to.

    :param request: ``others`` have a jid or a state each.
    :raises JobError: one of them cannot be seen.
    """
    others = request["others"]
    states = [one["state"] for one in others]
    verdicts.create(job, states)
    for place, one in enumerate(others):
        if states[place] is None:
            state = states[place] = _enlisted(job.store.job(one["jid"]), job.jid, place)
            if state is not None:
                verdicts.tell(job, place, state)
    event, _place = after.decide(request["after_state"], states)
    if event == retrying.MET:
        return False
    request["unmet"] = event == retrying.UNMET
    jid = schema.PREDICTED_JID
    request["predecessors"] = [[one["jid"] or jid, one["name"]] for one in others]
    request["longest"] = after.longest(
        retrying.longest(request), [_longest(job.store, one) for one in others]
    )
    return True


def _enlisted(other: Job, dependant: str, place: int) -> str | None:
    """Return the state in which a job has finished; if it has not, note who waits for it."""
    lock = lock_record(other, wait=True)
    try:
        record = status.judged(other, settle=False)
        if not record["finished"]:
            verdicts.enlist(other, dependant, place)
            return None
        return str(record["state"])
    except (MissingRecord, FileNotFoundError):
        text = "job %s, after which the job was to start, has just been removed"
        raise JobError(text % other.jid) from None
    finally:
        if lock is not None:
            os.close(lock)
        other.close()


def _longest(store: Store, one: Record) -> float:
    """Return for how many seconds another job can be unfinished at the most; 0 for no limit."""
    if one["jid"] is None:
        return 1  # it will not run
    try:
        record = store.job(one["jid"]).read_record(brief=True)
    except MissingRecord:
        return 1
    private = record.get(schema.PRIVATE, {})
    if "longest" in private:
        return float(private["longest"])
    limits = {"max_timeout": None, "grace": 0, **private, "timeout": record["timeout"]}
    limit = retrying.longest({**limits, "timeout_total": record.get("timeout_total")})
    waits = max(0.0, (private.get("due") or 0.0) - kernel.boottime())
    return limit and limit + waits + limits["grace"]


# -- the keeper -----------------------------------------------------------------------------------------------------


class Predecessors:
    """The jobs that a keeper waits for.

    :param job: the keeper's.
    :param request: see launcher.
    :param poll: where the keeper sleeps.
    """

    def __init__(self, job: Job, request: Record, poll: select.poll) -> None:
        self._job = job
        self._others: list[list[str]] = request["predecessors"]
        self._wanted: str = request["after_state"]
        self._poll = poll
        self._hangups: dict[int, int] = {}  # the place of a job, by descriptor
        self.states = verdicts.told(job, len(self._others))
        self._silent = {place for place, state in enumerate(self.states) if state is None}
        self._due = 0.0  # when to look at those of which no descriptor tells (CLOCK_MONOTONIC)

    def hear(self, fd: int) -> None:
        """Take note of a descriptor that has hung up."""
        if fd in self._hangups:
            place = self._drop(fd)
            if self.states[place] is None:
                self._silent.add(place)
                self._due = 0.0

    def _drop(self, fd: int) -> int:
        self._poll.unregister(fd)
        os.close(fd)
        return self._hangups.pop(fd)

    def open(self) -> None:
        """Watch the jobs before the keeper is forked, if they are few: what it does itself costs it memory."""
        if len(self._others) <= OPENED_EARLY:
            for place in sorted(self._silent):
                self._watch(place)

    def opened(self) -> list[int]:
        """Return the descriptors that are open."""
        return list(self._hangups)

    def close(self) -> None:
        """Close all descriptors."""
        for fd in list(self._hangups):
            self._drop(fd)

    def patience(self) -> float | None:
        """Return how many seconds to sleep at the most; None for as long as nothing hangs up."""
        return max(0.0, self._due - time.monotonic()) if self._silent else None

    def decision(self, by_hand: Callable[[Callable[[], bytes]], bytes]) -> tuple[str | None, int]:
        """Say what is decided, see ``after.decide``.

        :param by_hand: lets a child of the keeper do some work, see ``spawn``.
        :raises JobError: nobody can tell now.
        """
        if self._silent and time.monotonic() >= self._due:
            self._due = time.monotonic() + RECHECK_INTERVAL
            for place in sorted(self._silent):
                self._watch(place)
            self._look_at_silent(by_hand)
        return after.decide(self._wanted, self.states)

    def _look_at_silent(self, by_hand: Callable[[Callable[[], bytes]], bytes]) -> None:
        places = sorted(self._silent)
        if places:
            found = by_hand(lambda: " ".join(map(self._look, places)).encode()).decode().split()
            for place, state in zip(places, found):
                if state != NONE_YET:
                    self.states[place] = state
                    self._silent.discard(place)

    def _watch(self, place: int) -> None:
        """Watch a job that is live: it cannot end without a hang-up."""
        other = self._job.store.job(self._others[place][0])
        try:
            for role in ("keeper", "runner", "standby"):
                fd = other.watch(role)
                if fd is not None:
                    self._hangups[fd] = place
                    self._poll.register(fd, 0)
                    self._silent.discard(place)
                    return
        except OSError:  # removed, or this process may open no more files
            pass
        finally:
            other.close()

    def _look(self, place: int) -> str:
        """Return the state in which a job has finished. Called in a child of the keeper."""
        other = self._job.store.job(self._others[place][0])
        try:
            record = status.judged(other)
            if not record["finished"]:
                return NONE_YET
            self._note(place, record["state"])
            return str(record["state"])
        except (MissingRecord, FileNotFoundError):  # whoever has removed it has told us before
            told = verdicts.told(self._job, len(self._others))[place]
            return told or schema.LOST
        except MISHAPS:  # nobody can say now
            return NONE_YET
        finally:
            other.close()

    def _note(self, place: int, state: str) -> None:
        """Write a state down, so that the next keeper decides alike, even if somebody removes that job by hand."""
        try:
            verdicts.tell(self._job, place, state)
        except MISHAPS:  # that job can still tell
            pass

    def ending(self, place: int) -> Record:
        """Return the ending of the job if it is not to be started because of one of the others."""
        jid, name = self._others[place]
        return after.skipped(self._wanted, name or jid, self.states[place] or "")

    def may_be_shutdown(self) -> bool:
        """Tell whether the end of one of the others may be that of the machine."""
        return schema.LOST in self.states
