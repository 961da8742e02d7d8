# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ending jobs that ``async`` launched. Private to the collection.

Such a job has two async_wrapper processes: a watcher, which ends the job at its time limit and removes the module's
temporary folder, and its child, which runs the module and writes the result. Both carry the first part of the jid in
their command lines. Nothing else proves that a process belongs to the job:
a pid in the record may be a stranger's by now.
"""

from __future__ import annotations

import json
import os
import signal
import time

from . import async_jobs, files, host, processes, schema
from .errors import JobError
from .record_io import DamagedRecord, MissingRecord, write_beside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .schema import Record
    from .store import Job

SETTLE = 1.0  # seconds that a wrapper may need to write its result when the module has gone
INTERVAL = 0.02  # seconds between two looks whether it has


class Wrapped:
    """One job of the builtin's and the processes that have been proved to be its own."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._mark = os.fsencode(job.jid.rpartition(".")[0])
        self._known: set[tuple[int, int]] = set()  # pid and start of each that has been its own
        self._sessions: set[int] = set()  # that its wrappers have founded
        self._folders: set[str] = set()  # temporary ones that its watcher would remove
        self.wrappers: list[processes.Process] = []  # that are alive
        self.others: list[processes.Process] = []

    def look(self, table: dict[int, processes.Process]) -> None:
        """Find the job's living processes, given all processes."""
        wrappers = {pid for pid in table if not table[pid].zombie and self._is_wrapper(pid)}
        known = {pid for pid, start in self._known if pid in table and table[pid].started == start}
        self._sessions.update(table[pid].session for pid in wrappers)
        # As long as a process of it lives, nobody else can found a session of that number.
        sessions = {table[pid].session for pid in wrappers | known} & self._sessions
        mine = {pid for pid in table if table[pid].session in sessions} | wrappers | known
        mine |= processes.descendants(table, mine)
        for pid, parent in processes.family(mine).items():  # also what /proc hides
            hidden = table.get(pid) or processes.process(pid, parent)
            if hidden is not None:
                table[pid] = hidden
                mine.add(pid)
        mine.discard(os.getpid())
        mine -= processes.of_other_jobs(mine, self.job.jid, table)
        self._known.update((pid, table[pid].started) for pid in mine)
        alive = [table[pid] for pid in sorted(mine) if not table[pid].zombie]
        self.wrappers = [one for one in alive if one.pid in wrappers]
        self.others = [one for one in alive if one.pid not in wrappers]

    def _is_wrapper(self, pid: int) -> bool:
        words = async_jobs.read_words(pid, "cmdline")
        for index, word in enumerate(words[:-3]):
            mark, limit, *rest = words[index + 1 :]
            is_one = async_jobs.is_wrapper(word) and limit.isdigit()
            if is_one and mark == self._mark and self._is_ours(pid):
                self._note_folder(rest)
                return True
        return False

    def _is_ours(self, pid: int) -> bool:
        """Tell whether a process is of our user and, as far as it says, of this async dir."""
        try:
            if os.stat("/proc/%d" % pid).st_uid != os.geteuid():
                return False
            for word in async_jobs.read_words(pid, "environ"):
                name, _equals, value = word.partition(b"=")
                if name == b"ANSIBLE_ASYNC_DIR":
                    return async_jobs.is_async_dir(value, self.job)
        except OSError:  # it has ended
            return False
        return True

    def _note_folder(self, words: list[bytes]) -> None:
        """Note where the module lies, given what follows the time limit in a wrapper's command line.

        That is the module's path and, until ansible-core 2.20, at the end whether to keep it; since 2.21 whether to
        keep it is what comes first.
        """
        keep = words[0].lower() == b"true" or b"-preserve_tmp" in words
        folder = os.path.dirname(os.fsdecode(words[words[0].lower() in (b"true", b"false")]))
        if os.path.basename(folder).startswith("ansible-tmp-") and not keep:
            self._folders.add(folder)

    def tidy(self) -> None:
        """Remove the temporary folder of the module, which its watcher cannot any more."""
        for folder in self._folders:
            try:
                parent = os.open(os.path.dirname(folder), files.DIR_FLAGS)
            except OSError:
                continue
            try:
                files.remove_tree(os.path.basename(folder), parent)
            except OSError:  # it is only rubbish
                pass
            finally:
                os.close(parent)

    def is_finished(self) -> bool:
        """Tell whether the record holds a result."""
        record = _record(self.job)
        return record is None or not async_jobs.is_unfinished(self.job.jid, record)


def prove(jobs: list[Job]) -> tuple[list[Wrapped], dict[str, JobError]]:
    """Return those of some jobs that can be ended, and by jid what to tell of the others."""
    host.require_proc()
    table = processes.all_processes()
    proved: list[Wrapped] = []
    refused = {}
    for job in jobs:
        one = Wrapped(job)
        one.look(table)
        if one.wrappers:
            proved.append(one)
        else:
            refused[job.jid] = JobError(
                "cannot stop job %s, which async launched: no process is provably its own, for no async_wrapper of it "
                "is there. Nothing was signalled. If its worker was killed, remove the record %s"
                % (job.jid, job.results_file)
            )
    return proved, refused


def end(jobs: list[Wrapped], *, number: int, grace: float, by: Record, reason: str) -> None:
    """End jobs of the builtin's, all at the same time, and write down what became of them.

    :param by: who asked, see ``schema.requester``.
    """
    signalled: set[str] = set()

    def find() -> list[processes.Process]:
        table = processes.all_processes()
        found = []
        for one in jobs:
            one.look(table)
            found += one.others
            if one.others and not one.is_finished():
                signalled.add(one.job.jid)
        return found

    def wrappers() -> list[processes.Process]:
        table = processes.all_processes()
        for one in jobs:
            one.look(table)
        return [process for one in jobs for process in one.wrappers + one.others]

    # The wrappers first live on, for they note what the module has said.
    processes.end(find, number=number, grace=grace, pause=_pause)
    until = time.monotonic() + SETTLE
    while time.monotonic() < until and not all(one.is_finished() for one in jobs):
        time.sleep(INTERVAL)
    processes.end(wrappers, number=signal.SIGKILL, grace=0, pause=_pause)
    for one in jobs:
        one.tidy()
        if one.job.jid in signalled or not one.is_finished():
            left = [process.described() for process in one.wrappers + one.others]
            _write_down(one.job, number, by, reason, left)


def _write_down(job: Job, number: int, by: Record, reason: str, left: list[Record]) -> None:
    """Write a record that tells the builtin's async_status, too, of a job that failed because it was killed."""
    found = _record(job)
    if found is None:  # somebody has removed it, and shall not get it back
        return
    final = dict(found)
    rc = final.get("rc")
    if not isinstance(rc, int) or isinstance(rc, bool) or rc == 0:
        final["rc"] = -number
    text = "job %s was stopped on request of %s" % (job.jid, schema.describe_requester(by))
    if left:
        text += "; still alive: %s" % ", ".join("%(name)s (pid %(pid)s)" % one for one in left)
    final.update(ansible_job_id=job.jid, started=True, finished=True, failed=True, changed=True)
    final.update(killed=True, stopped_by=by, reason=reason, survivors=left, msg=text)
    write_beside(job, json.dumps(final).encode())


def _record(job: Job) -> Record | None:
    try:
        return job.read_record()
    except DamagedRecord:  # it is being written; the builtin replaces nothing
        return {"started": True}
    except MissingRecord:
        return None


def _pause(seconds: float) -> bool:
    time.sleep(seconds)
    return True
