# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Delivering what lies in the outbox: who does it, how many at once, and when it is tried again.

Three kinds of processes, all of them gone when nothing is left to deliver:

* the guardian: the keeper of a job that has ended, or a child of the engine that was asked something. It forks
* the deliverer, one for each async dir (it holds the lock of ``bell``). It sleeps until something is due, and forks
* workers, at most ``WORKERS`` at once. Only these import http.client and ssl, and they end when their list is done.

Guardian and deliverer watch each other, so that no single SIGKILL ends the delivery.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import select
import signal
import time

from . import files, kernel, notifying, outbox, removing, schema, status
from .errors import MISHAPS, JobError
from .outbox import LONGEST_PAUSE
from .record_io import DamagedRecord, MissingRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, NoReturn

    from .job import Job
    from .outbox import Outbox
    from .schema import Record
    from .store import Store

BELL = "bell"
WORKERS = 4  # deliverers at once
AT_ONCE = 25  # outboxes that one worker is given
FIRST_PAUSE, FACTOR, JITTER = 1.0, 2.0, 0.25  # of the pauses between attempts: seconds, and shares
SILENCE = 30.0  # seconds for which a worker asks a receiver nothing that has kept it waiting
REST = 5.0  # seconds
AGAIN = 1.0  # seconds after which a process that was killed is replaced
_LIVING = 1.0  # seconds between two looks at workers; one that ends by itself rings the bell


def wake(store: Store) -> None:
    """See to it that what lies in the outbox is delivered. Nothing here takes long, and nothing is a failure."""
    duty = claim(store)
    if duty is None:
        return
    try:
        if os.fork() == 0:
            stay(store, duty)
    except OSError:  # too many processes: the next look tries it again
        pass
    finally:
        for fd in duty:
            os.close(fd)


def claim(store: Store) -> tuple[int, int] | None:
    """Take it upon us to deliver: return the outbox's descriptor and that of the bell, which holds the lock.

    None if there is nothing to do, or somebody who does it; he is woken.
    """
    try:
        folder = store.private(outbox.FOLDER, create=False)
    except (OSError, JobError):  # no job has ever had notifications
        return None
    bell = -1
    try:
        if _ring(folder):
            return None
        if not outbox.is_known_boot(folder) or outbox.Waiting(folder).pending:
            bell = _take(store, folder)
    except MISHAPS:
        pass
    finally:
        if bell < 0:
            os.close(folder)
    return None if bell < 0 else (folder, bell)


def see_out(job: Job) -> None:
    """Be the second witness of an end, in its runner: if the keeper is killed before it has told the end, we do."""
    try:
        keeper = job.watch("keeper")
        if keeper is not None:
            hangs_up = select.poll()
            hangs_up.register(keeper, 0)
            hangs_up.poll()
            os.close(keeper)
        status.judged(job, settle=True)
    except (MissingRecord, DamagedRecord, *MISHAPS):
        pass
    wake(job.store)


def _ring(folder: int) -> bool:
    """Wake the deliverer; tell whether there is one."""
    try:
        bell = os.open(BELL, os.O_WRONLY | files.OWN_FLAGS, dir_fd=folder)
    except OSError:
        return False
    try:
        os.write(bell, b"!")
    except BlockingIOError:  # it has been rung often enough
        pass
    except OSError as error:
        return error.errno != errno.EPIPE
    finally:
        os.close(bell)
    return True


@files.with_private_umask
def _take(store: Store, folder: int) -> int:
    """Take the lock of the one who delivers; -1 if somebody has it."""
    import stat

    try:
        os.mkfifo(BELL, 0o600, dir_fd=folder)
    except FileExistsError:
        pass
    path = store.private_path(outbox.FOLDER, BELL)
    bell = store.open_own(folder, BELL, os.O_RDWR, path, kind=stat.S_IFIFO)
    try:
        fcntl.flock(bell, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(bell)
        return -1
    return bell


# -- guardian and deliverer -------------------------------------------------------------------------------------------


def stay(store: Store, duty: tuple[int, int]) -> NoReturn:
    """Be the guardian until nothing is left to deliver. The process ends with that.

    :param duty: what :func:`claim` returned.
    """
    folder, bell = duty
    try:
        if os.getsid(0) != os.getpid():  # else it has been a keeper
            os.setsid()
        os.chdir("/")
        os.umask(0o077)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        # A hang-up is for whoever asked. SIGIO tells of writing to streams that are none of our business.
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGIO, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        kernel.become_subreaper(False)
        store.open_jobs = None
        _keep_only(store.fd, folder, bell)
        _guard(store, folder, bell)
    finally:
        os._exit(0)


def _keep_only(*kept: int) -> None:
    """Close all descriptors but these: a pipe that we held would keep somebody waiting."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    low = 3
    for fd in (*sorted(kept), max(map(int, os.listdir("/proc/self/fd"))) + 1):
        os.closerange(low, fd)
        low = fd + 1


def _guard(store: Store, folder: int, bell: int) -> None:
    """Replace the deliverer whenever it has been killed; return when it has nothing left to do."""
    while bell >= 0:
        try:
            status = _watched(store, folder, bell)
        except OSError:  # too many processes
            status = -1
        if status != 0:
            time.sleep(AGAIN)
            continue
        os.close(bell)
        # Somebody may have rung after its last look, and before this.
        bell = _take(store, folder) if outbox.Waiting(folder).pending else -1


def _watched(store: Store, folder: int, bell: int) -> int:
    """Fork the deliverer, wait for its end and return its wait status."""
    lifeline_out, lifeline_in = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(lifeline_in)
            if _Deliverer(store, folder, bell, lifeline_out).run():
                os.close(lifeline_out)
                _guard(store, folder, bell)  # the guardian has been killed
            code = 0
        finally:
            os._exit(code)
    os.close(lifeline_out)
    try:
        return os.waitpid(pid, 0)[1]
    finally:
        os.close(lifeline_in)


class _Deliverer:
    """Sleeps until something is due, and gives it to workers.

    :param lifeline: hangs up when the guardian ends.
    """

    def __init__(self, store: Store, folder: int, bell: int, lifeline: int) -> None:
        self._store = store
        self._folder = folder
        self._bell = bell
        self._lifeline = lifeline
        self._poll = select.poll()
        self._poll.register(bell, select.POLLIN)
        self._poll.register(lifeline, 0)
        self._busy: dict[int, list[str]] = {}  # what each worker has been given
        self._resting: dict[
            str, float
        ] = {}  # until when nobody is given these, by the monotonic clock

    def run(self) -> bool:
        """Deliver; return when nothing is left, or with True when the guardian has been killed."""
        is_orphan = False
        if not outbox.is_known_boot(self._folder):
            look_at_live(self._store, outbox.Waiting(self._folder).live)
            outbox.note_boot(self._folder)
        while True:
            is_killed, done = self._reap()
            waiting = outbox.Waiting(self._folder)
            self._rest(waiting, done)
            if is_orphan and not self._busy:
                return True
            if not waiting.pending and not self._busy:
                return False
            if not is_orphan and not is_killed:
                self._employ(waiting)
            events = dict(self._poll.poll(int(self._patience(waiting, is_killed) * 1000) + 1))
            if self._bell in events:
                os.read(self._bell, 4096)
            if self._lifeline in events:
                self._poll.unregister(self._lifeline)
                is_orphan = True

    def _patience(self, waiting: outbox.Waiting, is_killed: bool) -> float:
        if self._busy or is_killed or not waiting.pending:
            return _LIVING
        return waiting.pending[0][0] or _LIVING

    def _reap(self) -> tuple[bool, list[str]]:
        """Take note of workers that have ended; tell whether one was killed, and what the others have been through."""
        is_killed, done = False, []
        for pid in list(self._busy):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                jids = self._busy.pop(pid)
                is_killed = is_killed or status != 0
                done += jids if status == 0 else []
        return is_killed, done

    def _rest(self, waiting: outbox.Waiting, done: list[str]) -> None:
        """Leave alone for a while what a worker has been through, and what is still as due: it cannot be opened."""
        now = time.monotonic()
        due = {jid for seconds, jid in waiting.pending if seconds <= 0}
        self._resting = {jid: until for jid, until in self._resting.items() if until > now}
        self._resting.update((jid, now + REST) for jid in done if jid in due)

    def _employ(self, waiting: outbox.Waiting) -> None:
        """Give what is due to new workers, as many as there may be."""
        taken = {jid for jids in self._busy.values() for jid in jids}
        taken.update(self._resting)
        due = [jid for seconds, jid in waiting.pending if seconds <= 0 and jid not in taken]
        while due and len(self._busy) < WORKERS:
            share = max(1, min(AT_ONCE, len(due) // (WORKERS - len(self._busy))))
            jids, due = due[:share], due[share:]
            try:
                pid = os.fork()
            except OSError:  # too many processes
                return
            if pid == 0:
                _work(self._store, jids, self._bell)
            self._busy[pid] = jids


def look_at_live(store: Store, jids: list[str]) -> None:
    """Look at the jobs whose end has not been told. One that is gone gets its verdict, and with that its event."""
    for jid in jids:
        _has_ended(store, jid)


def _has_ended(store: Store, jid: str) -> bool:
    """Look at one such job: tell whether it has ended, after its event has been written."""
    job = store.job(jid)
    try:
        record = status.judged(job, settle=True)
        if record["finished"]:
            outbox.post(job, record)
        return bool(record["finished"])
    except (MissingRecord, FileNotFoundError):
        _drop_abandoned(job)
    except (DamagedRecord, *MISHAPS):  # nobody can say here what has become of it
        pass
    finally:
        job.close()
    return False


def _drop_abandoned(job: Job) -> None:
    """Remove the outbox of a launch that was killed before there was a record."""
    found = outbox.find(job.store, job.jid)
    if found is not None:
        is_old = time.time() - os.fstat(found.fd).st_ctime >= removing.ABANDONED_AFTER
        found.close()
        if is_old and not job.is_held("keeper"):
            outbox.drop(job)


# -- workers ----------------------------------------------------------------------------------------------------------


def _work(store: Store, jids: list[str], bell: int) -> None:
    """Be a worker: deliver what is in some outboxes, ring the bell and end."""
    code = 1
    try:
        silent: dict[str, tuple[float, str]] = {}
        for jid in jids:
            try:
                found = outbox.find(store, jid)
                if found is not None:
                    if found.lock():  # else a worker whose deliverer was killed is still at it
                        _deliver(store, found, silent)
                    found.close()
            except MISHAPS:  # it is tried again
                pass
        code = 0
        os.write(bell, b".")
    except BlockingIOError:
        pass
    finally:
        os._exit(code)


def _deliver(store: Store, found: Outbox, silent: dict[str, tuple[float, str]]) -> None:
    """Try each notification of a job that is left to be delivered, once.

    :param silent: receivers that have kept us waiting: until when to leave them alone, and why.
    """
    told, asked, sinks = found.read(outbox.EVENT), found.read(outbox.SINKS), found.sinks()
    if not isinstance(told, dict) or not isinstance(asked, dict) or not sinks:
        _without_event(store, found, asked)
        return
    is_old = outbox.age(told) > (asked["notify_for"] or 0)
    states = found.states()
    for state, sink in zip(states, sinks):
        if state["state"] == notifying.PENDING:
            reason = _attempt(sink, told, asked, silent)
            state.update(tries=state["tries"] + 1, reason=reason and reason[: outbox.REASON_LIMIT])
            state["at"] = schema.timestamp(time.time())
            if reason is None:
                state["state"] = notifying.DELIVERED
            elif is_old:
                state["state"] = notifying.GIVEN_UP
            found.write(outbox.STATES, states)
    left = [one["tries"] for one in states if one["state"] == notifying.PENDING]
    if left:
        found.due_in(pause(min(left), random.uniform))
    else:
        found.settle()


def pause(tries: int, uniform: Callable[[float, float], float]) -> float:
    """Return how many seconds to wait after so many attempts."""
    seconds = min(FIRST_PAUSE * FACTOR ** min(tries - 1, 30), LONGEST_PAUSE)
    return seconds * uniform(1 - JITTER, 1 + JITTER)


def _attempt(
    sink: Record, told: Record, asked: Record, silent: dict[str, tuple[float, str]]
) -> str | None:
    """Try one notification; return why it has not been taken, None if it has."""
    # Imported here: nobody but a worker needs it.
    from . import sinks

    until, reason = silent.get(sink["to"], (0.0, ""))
    if time.monotonic() < until:
        return reason
    began = time.monotonic()
    try:
        sinks.send(sink, sinks.body_of(told, sink), told["event"], asked)
    except sinks.Refused as refusal:
        reason = str(refusal)
        if time.monotonic() - began > AGAIN and "url" in sink:
            silent[sink["to"]] = (time.monotonic() + SILENCE, reason)
        return reason
    return None


def _without_event(store: Store, found: Outbox, asked: object) -> None:
    """Deal with an outbox that should hold an event and does not.

    It is being written at this moment, its writer was killed, the disk has no room for it, or all is damaged.
    """
    if not isinstance(asked, dict) or not found.sinks():
        found.settle()  # nobody can know any more who was to be told
    elif _has_ended(store, found.jid):
        if found.read(outbox.EVENT) is None:
            found.due_in(REST)
    else:
        found.await_event()
