# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which jobs there are: those of an async dir that somebody asks for, the newest first. Private to the collection.

Of each job only its dictionary stays in memory, and its output is read last, of those that are shown.
"""

from __future__ import annotations

import fnmatch
import heapq
import re
import time

from . import schema, status
from .errors import JobError
from .record_io import MissingRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator, Tuple

    from .schema import Record
    from .store import Store

    Found = Tuple[int, str, Record]  # when it was launched (nanoseconds), its jid, its dictionary

UNKNOWN = "unknown"  # in counts: nobody can say here, so the state is null
# Our jids begin with the moment of the launch in nanoseconds, those of the builtin with a random number below 10**12.
_NANOSECONDS = re.compile(r"j([0-9]{16,})\.")
# Seconds for which verdicts are written down: after a reboot thousands of jobs may be lost, and each takes an fsync(2).
_SETTLING = 0.5
# What a listing without output shows of a job that is a module, or of the builtin's: its result may hold anything.
_KEYS = frozenset(schema.present(schema.unknown(""))) | {"module", "msg", "survivors"}


class Listing:
    """The jobs of an async dir that are asked for.

    :param store: the async dir; None if there is none, and so no job.
    :param jids: only these; None for all.
    :param names: only those whose name one of these globs fits; None for all.
    :param states: only those of one of these states; None for all.
    :param settle: whether final verdicts may be written down.
    :raises JobError: a jid or a glob is not valid.
    """

    def __init__(
        self,
        store: Store | None,
        *,
        jids: list[str] | None = None,
        names: list[str] | None = None,
        states: list[str] | None = None,
        settle: bool,
    ) -> None:
        self._store = store
        self._jids = None if jids is None else [schema.check_jid(jid) for jid in jids]
        self._has_name = _any_glob(names)
        self._states = states
        self._settle_until = time.monotonic() + (_SETTLING if settle else 0)
        self.counts = dict.fromkeys((*schema.STATES, UNKNOWN), 0)
        self.missing: list[str] = []

    def newest(self, limit: int, order: str = schema.NEWEST) -> list[Record]:
        """Return their job dictionaries without output, and count them all by state.

        :param limit: return no more than so many, the first of the order; 0 for all.
        :param order: one of ``schema.ORDERS``; ATTENTION for those that need attention first, among these the newest.
        """

        def rank(found: Found) -> tuple[int, int, str]:
            when, jid, record = found
            return -schema.needs_attention(record) if order == schema.ATTENTION else 0, when, jid

        every = self._found()
        found = heapq.nlargest(limit, every, rank) if limit else sorted(every, key=rank)[::-1]
        return [record for _when, _jid, record in found]

    def _found(self) -> Iterator[Found]:
        for jid in self._asked():
            try:
                found = self._look(jid)
            except (MissingRecord, FileNotFoundError):
                if self._jids is not None:
                    self.missing.append(jid)
                continue
            record = found[-1]
            is_meant = self._states is None or record["state"] in self._states
            if is_meant and self._has_name(record["name"]):
                self.counts[record["state"] or UNKNOWN] += 1
                yield found

    def _asked(self) -> list[str]:
        if self._jids is not None:
            # What job_start has predicted in check mode is not there, and nobody misses it.
            return [jid for jid in dict.fromkeys(self._jids) if jid != schema.PREDICTED_JID]
        return [] if self._store is None else self._store.jids()

    def _look(self, jid: str) -> Found:
        if self._store is None:
            raise MissingRecord(jid)
        job = self._store.job(jid)
        try:
            settle = time.monotonic() < self._settle_until
            record = status.notified(job, status.judged(job, settle=settle))
        except (JobError, OSError) as error:  # one job is not to hide the others
            record = _unknown(jid, job.results_file, str(error))
        finally:
            job.close()
        stated = _NANOSECONDS.match(jid)
        when = int(stated.group(1)) if stated else _launched(record, self._store.written(jid))
        if schema.PRIVATE not in record or "module" in record:
            record = {key: record[key] for key in record if key in _KEYS}
        return when, jid, schema.present(record, "none")

    def show(self, jobs: list[Record], output: str, total: int) -> None:
        """Put their output into job dictionaries.

        :param output: ``full``, ``tail`` or ``none`` of it.
        :param total: bytes of output that all together may hold; of each stream its end is shown.
        """
        if output == "none" or self._store is None:
            return
        limit = max(schema.TAIL_BYTES, total // max(1, 2 * len(jobs)))
        for found in jobs:
            job = self._store.job(found["ansible_job_id"])
            try:
                full = status.look(job, show=output, settle=False)
            except (MissingRecord, JobError, OSError):
                continue
            finally:
                job.close()
            schema.shorten(full, limit)
            # The rest is left as it was seen first, by which it was chosen.
            if output == "full":
                found.update((key, full[key]) for key in full if key not in found)
            for stream in schema.STREAMS:
                for key in (stream, stream + "_lines", stream + "_bytes"):
                    found[key] = full[key]
            found["truncated"] = full["truncated"]


def _any_glob(names: list[str] | None) -> Callable[[str | None], bool]:
    """Return what tells whether a name fits one of the globs."""
    if names is None:
        return lambda name: True
    try:
        globs = [re.compile(fnmatch.translate(glob)) for glob in names]
    except re.error as error:
        raise JobError("names: one of %s is not a glob: %s" % (names, error)) from None
    return lambda name: name is not None and any(glob.match(name) for glob in globs)


def _launched(record: Record, written: int) -> int:
    """Return when a job was launched whose jid does not tell.

    The builtin writes its record at the launch and again at the end. Then only some modules say when they began.

    :param written: when the record was.
    """
    private = record.get(schema.PRIVATE)
    if private is not None:
        return int(private["epoch"] * 1e9)
    start = record.get("start")
    if isinstance(start, str):
        try:
            return min(
                written, int(time.mktime(time.strptime(start[:19], "%Y-%m-%d %H:%M:%S"))) * 10**9
            )
        except (ValueError, OverflowError):
            pass
    return written


def _unknown(jid: str, results_file: str, why: str) -> Record:
    found = schema.unknown(jid)
    found.update(results_file=results_file, failed=True, msg=why)
    return found
