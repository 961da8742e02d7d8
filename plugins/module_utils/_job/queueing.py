# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a queued job may start: in the order of its batch, and while fewer than ``slots`` jobs before it are live.

Nobody hands out slots. Each waiting keeper decides by itself from what it sees of those before it, so nobody's death
can keep a slot or block the queue.
"""

from __future__ import annotations

import os

from . import store
from .record_io import DamagedRecord, MissingRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .store import Job, Store

WATCHED = 200  # live jobs whose ends are noticed at once; a descriptor each
RECHECK_INTERVAL = 1.0  # seconds until the ends of further ones are noticed


class Turn:
    """A job's place in its batch.

    :param ahead: jids of the jobs of the batch that were launched before it, in order.
    :param slots: how many jobs of the batch may run at once; 0 for no limit.
    """

    def __init__(self, ahead: list[str], slots: int) -> None:
        self.ahead = (
            ahead  # who may be live among those before us; gets shorter with what is learnt
        )
        self.slots = slots
        self._was_queued = 0 < slots <= len(ahead)
        self._unsettled = len(ahead)  # so many of them may not have had their turn
        self.hangups: list[int] = []  # descriptors that hang up when something changes

    def must_wait(self) -> bool:
        """Tell whether a job of this place is queued at its launch."""
        return self._was_queued

    def has_come(self, store: Store) -> bool:
        """Tell whether the job may start now. If not, watch :attr:`hangups` and call :meth:`rest` before asking again.

        :raises OSError: nobody can tell, as this process may open no more files.
        """
        while self._unsettled:
            job = store.job(self.ahead[self._unsettled - 1])
            hangup = _watch(job, "turn")
            if hangup is not None:
                self.hangups = [hangup]
                return False
            self._unsettled -= 1
            before = _live_at_start(job)
            if before is not None:
                self.ahead = before + self.ahead[self._unsettled :]
                self._unsettled = 0
        live = []
        for jid in self.ahead:
            job = store.job(jid)
            hangup = _watch(job, "keeper")
            for role in ("runner", "standby"):
                hangup = _watch(job, role) if hangup is None else hangup
            if hangup is not None:
                live.append(jid)
                if len(self.hangups) < WATCHED:
                    self.hangups.append(hangup)
                else:
                    os.close(hangup)
            job.close()
        self.ahead = live
        if len(live) < self.slots:
            self.rest()
            return True
        return False

    def patience(self) -> float | None:
        """Return how many seconds to wait for a hang-up at the most; None for as long as it takes."""
        return RECHECK_INTERVAL if len(self.ahead) > WATCHED else None

    def rest(self) -> None:
        """Close the hang-up descriptors."""
        for hangup in self.hangups:
            os.close(hangup)
        self.hangups = []


def _watch(job: Job, role: str) -> int | None:
    try:
        return job.watch(role)
    except FileNotFoundError:  # removed: it had finished
        return None
    except OSError:
        job.close()
        raise


def _live_at_start(job: Job) -> list[str] | None:
    """Return who was live when a job started; None if it never did, or nothing is left that tells."""
    try:
        record = job.read_record()
        return list(record[store.schema.PRIVATE]["ahead"]) if record["started"] else None
    except (MissingRecord, DamagedRecord, KeyError):
        return None
    finally:
        job.close()
