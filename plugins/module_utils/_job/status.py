# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at a job: from record and evidence to the job dictionary."""

from __future__ import annotations

import json
import os
import select
import time

from . import cgroup, host, output, processes, schema, unit, validation
from .errors import JobError
from .names import latest_job
from .record_io import DamagedRecord, MissingRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .schema import Record
    from .store import Job, Store

# Seconds between two looks at a job whose end nobody announces: the builtin's, or one whose command
# has been orphaned.
RECHECK_INTERVAL = 0.25
LONGEST_SLEEP = 3600.0  # seconds; poll(2) takes no more than a month
TIMED_OUT_MSG = "Timeout exceeded"  # what the builtin says of a job that it has killed


def look(job: Job, *, show: str = "full", settle: bool = True, reveal: bool = False) -> Record:
    """Return the job dictionary as it is now.

    :param show: ``full``, ``tail`` or ``none`` of the output.
    :param settle: write a verdict that is final down, so that every later reader sees the same.
    :param reveal: show the output also of a job that was launched with ``no_log``.
    :raises MissingRecord: there is no such job.
    :raises JobError: there is something that is not ours where the job's files should be, or another machine has it.
    """
    record = judged(job, show=show, settle=settle)
    if reveal and record.get(schema.PRIVATE, {}).get("no_log"):
        record = dict(record, **_revealed(job, record, schema.EMBED_LIMIT if show != "none" else 0))
    return schema.present(notified(job, record), show)


def notified(job: Job, record: Record) -> Record:
    """Return a record with what has become of the job's notifications, if it has any."""
    if not record.get(schema.PRIVATE, {}).get("notify"):
        return record
    from . import outbox

    return dict(record, notifications=outbox.summary(job, record))


def judged(job: Job, *, show: str = "none", settle: bool = True) -> Record:
    """Return the record, its private part included, with the verdict on a job that has no final one.

    Parameters and errors are those of :func:`look`.
    """
    try:
        record = job.read_record(brief=show == "none")
        if schema.PRIVATE not in record:
            return _from_builtin(job, record)
        if not record["finished"]:
            record = _judge(job, record, show, settle)
        if record[schema.PRIVATE].get(schema.BARE) and show != "none":
            record = dict(record, **_written(job, record))
            record["truncated"] = bool(record["truncated"] or record.get("output_error"))
        return record
    except DamagedRecord as damage:
        return _damaged(job, str(damage))


def latest(
    where: Store, name: str, *, settle: bool = True
) -> tuple[Job, Record] | tuple[None, None]:
    """Return the latest job of a name and its record as :func:`judged` gives it; two times None if there is none."""
    job = latest_job(where, name)
    if job is not None:
        try:
            return job, judged(job, settle=settle)
        except MissingRecord:  # cleaned up at this moment
            pass
    return None, None


def wait(
    job: Job, seconds: float, *, show: str = "full", settle: bool = True, reveal: bool = False
) -> Record:
    """Look at a job as soon as it has finished, at the latest after so many seconds.

    The kernel wakes us when the keeper ends; until then no time of the processor is used.

    :raises MissingRecord: there is no such job.
    """
    until = time.monotonic() + seconds
    while True:
        hangs_up = hangup(job)
        try:
            left = (
                until - time.monotonic()
            )  # before the look: the last one is taken when the time is over
            found = look(job, show=show, settle=settle, reveal=reveal)
            if found["finished"] or left <= 0:
                return found
            if hangs_up is None:
                time.sleep(min(left, RECHECK_INTERVAL))
            else:
                bell_poll = select.poll()
                bell_poll.register(hangs_up, 0)  # hang-ups are reported without being asked for
                bell_poll.poll(int(min(left, LONGEST_SLEEP) * 1000) + 1)
        finally:
            if hangs_up is not None:
                os.close(hangs_up)


def hangup(job: Job) -> int | None:
    """Return a descriptor that hangs up (POLLHUP) when something happens to a job; None if nothing tells of that."""
    for role in ("turn", "keeper", "runner", "standby"):
        try:
            fd = job.watch(role)
        except (
            OSError
        ):  # not there: a job of the builtin has none of these, and only a queued one has a turn
            continue
        if fd is not None:
            return fd
    return None


def _judge(job: Job, record: Record, show: str, settle: bool) -> Record:
    """Decide what has become of a job of ours whose record is not final."""
    keeper = job.is_held("keeper")
    if not keeper:
        # The keeper may have written the final record and ended since we read it.
        record = job.read_record(brief=show == "none")
        if record["finished"]:
            return record
        final = job.pending_record()
        if final is not None:
            return _reconcile(job, final) if settle else final
        keeper = job.is_held("standby")
    private = record[schema.PRIVATE]
    same_boot = private["boot_id"] == host.boot_id()
    exited = ending = None
    evidence = schema.Evidence(
        queued=record["state"] == schema.QUEUED,
        keeper=keeper or (same_boot and _outlives_its_folder(job, private)),
        same_boot=same_boot,
    )
    if (
        not evidence.keeper
    ):  # else nothing more counts, and who waits for a thousand jobs looks often
        host.require_proc()
        exited, ending = job.exit(), job.slot("ending")
        evidence.exited = exited is not None
        evidence.runner = job.is_held("runner")
        evidence.command = same_boot and _has_command(job, private)
        evidence.left = bool(
            ending
            and same_boot
            and cgroup.joined(processes.marked(job.jid), unit.groups(private), job.jid)
        )
        evidence.damaged = schema.FLAW in private or (exited is None and job.is_corrupt("exit"))
        if same_boot and not (evidence.exited or evidence.runner or evidence.command):
            _require_sight(job, private)
    state, reason = schema.verdict(evidence)
    if state == schema.QUEUED:
        is_pausing = record.get("attempts") and show != "none"
        return dict(record, **streams(job, record, schema.EMBED_LIMIT)) if is_pausing else record
    if state == schema.RUNNING:
        # The clock of another boot, of another machine that shares this folder, says nothing here.
        past = (
            time.monotonic() - private["monotonic"] if same_boot else time.time() - private["epoch"]
        )
        return dict(
            reported(job, record),
            reason=reason,
            elapsed=round(max(0.0, past), 3),
            **streams(job, record, schema.EMBED_LIMIT if show != "none" else 0),
        )
    if state == schema.LOST and not same_boot:
        _require_here(job, private)
    if evidence.queued:  # the slots hold the end of an attempt that is over
        exited = ending = None
    final = dict(reported(job, record), **streams(job, record, schema.EMBED_LIMIT))
    final = finish(job, final, state=state, reason=reason, exited=exited, ending=ending)
    return _reconcile(job, final) if settle else final


def finish(
    job: Job,
    record: Record,
    *,
    state: str,
    reason: str | None,
    exited: Record | None,
    ending: Record | None,
) -> Record:
    """Return the final form of a record, see ``schema.finish``; of a module's, with its result."""
    final = schema.finish(record, state=state, reason=reason, exited=exited, ending=ending)
    if "module" in final:
        from . import modules

        final = modules.merge(job, final, exited)
    is_attempt = record["state"] == schema.RUNNING or final["reason"] == schema.NOT_STARTED
    return schema.with_attempt(final) if is_attempt else final


def _written(job: Job, record: Record) -> Record:
    """Return what a job has written that its final record had no room for."""
    if "module" in record and not record[schema.PRIVATE]["no_log"]:
        from . import modules

        return modules.again(job, record)
    return streams(job, record, schema.EMBED_LIMIT)


def _revealed(job: Job, record: Record, limit: int) -> Record:
    """Return what the record of a job that was launched with ``no_log`` hides of its output."""
    if "module" in record and record["finished"]:
        from . import modules

        return modules.again(job, record)
    return _read_streams(job, limit)


def _require_here(job: Job, private: Record) -> None:
    """Refuse to call a job lost that another machine, with which we share the folder, may be running.

    :raises JobError: naming that machine.
    """
    theirs, ours = private["machine"], host.machine()
    if theirs["id"] and ours["id"] and theirs["id"] != ours["id"]:
        text = "job %s was launched on the machine %s; whether it still runs cannot be seen from %s: look at it there"
        told = text % (job.jid, theirs["name"], ours["name"])
        gone = "if that machine is no more, remove %s" % job.results_file
        raise JobError("%s, or, %s" % (told, gone))


def _is_elsewhere(private: Record) -> bool:
    """Tell whether a job was launched in another pid namespace, where its processes have other pids."""
    return private.get("pid_namespace", 0) not in (0, host.pid_namespace())


def _has_command(job: Job, private: Record) -> bool:
    if _is_elsewhere(private):
        return bool(processes.marked(job.jid))
    return processes.is_command(private["command"]["pid"], private["command"]["started"])


def _require_sight(job: Job, private: Record) -> None:
    """Refuse to call a job lost that was launched outside of the pid namespace that we are in.

    The first namespace lasts as long as its boot. Another one that is not ours has ended, as far as we can see: it was
    that of a container before its restart.

    :raises JobError: naming what to do.
    """
    if _is_elsewhere(private) and private["pid_namespace"] == host.FIRST_NAMESPACE:
        text = "job %s was launched outside of this pid namespace; whether it still runs cannot be seen from inside: "
        raise JobError((text + "look at it there") % job.jid)


def _outlives_its_folder(job: Job, private: Record) -> bool:
    """Tell whether the keeper lives though somebody has removed the file that it has locked.

    Then its pid must do: a stranger who has got it since would be younger than the command.
    """
    if os.path.lexists(job.path("keeper")) or "command" not in private:
        return False
    one = processes.process(private["keeper"])
    return one is not None and not one.zombie and 0 <= one.started <= private["command"]["started"]


def reported(job: Job, record: Record) -> Record:
    """Return a record of a job that has no final one with what its command has reported of itself so far."""
    return schema.with_reports(record, job.slot(schema.PROGRESS))


def streams(job: Job, record: Record, limit: int) -> Record:
    """Return what the files hold of a job's output, as keys of the job dictionary."""
    if record[schema.PRIVATE]["no_log"]:
        return dict.fromkeys(schema.STREAMS, schema.HIDDEN)
    return _read_streams(job, limit)


def _read_streams(job: Job, limit: int) -> Record:
    found: Record = {"truncated": False}
    for name in schema.STREAMS:
        try:
            fd = job.open_stream(name, os.O_RDONLY)
        except OSError:
            found.update({name: "", "truncated": True})
            continue
        try:
            found[name], found[name + "_bytes"], cut = output.excerpt(fd, limit)
        finally:
            os.close(fd)
        found["truncated"] = found["truncated"] or (cut and limit > 0)
    return found


def _reconcile(job: Job, final: Record) -> Record:
    """Write a final verdict down; one writer at a time, and the first one's verdict holds."""
    try:
        return job.conclude(final, by_reader=True)
    except OSError as error:
        # The evidence stays, and every look comes to the same verdict. What nobody can write down now, the job's own
        # processes could not either: that is why the end of a job that nobody killed may be unknown.
        if final["state"] == schema.LOST and final["reason"] == "killed":
            final = dict(final, reason=error.strerror)
        told = "%s; this could not be written down: %s" % (schema.message(final), error.strerror)
        return dict(final, msg=told)


def _damaged(job: Job, why: str) -> Record:
    """Return the dictionary of a job whose record cannot be read and has no copy: what locks and slots tell."""
    exited = job.exit()
    evidence = schema.Evidence(
        queued=False,  # nobody knows either
        keeper=job.is_held("keeper") or job.is_held("standby"),
        runner=job.is_held("runner"),
        exited=exited is not None,
        same_boot=True,  # nobody knows; no evidence of life outlives a boot
        command=False,
        damaged=True,
    )
    state, reason = schema.verdict(evidence)
    where: Record = {"results_file": job.results_file}
    for name in schema.STREAMS:
        path = job.path(name)
        where[name + "_file"] = path if os.path.exists(path) else None
    text = "the record of job %s, %s, is damaged: %s" % (job.jid, job.results_file, why)
    if (
        state == schema.RUNNING
    ):  # its keeper knows all that is in the record, and will write it anew
        found = schema.unknown(job.jid)
        found.update(where, started=True, finished=False, state=state)
        found.update(reason=reason or schema.DAMAGED, failed=False, changed=False, msg=text)
        return found
    found = schema.damaged(job.jid, where, exited, job.slot("ending"))
    found["msg"] += "; " + text
    return found


def _from_builtin(job: Job, record: Record) -> Record:
    """Return the dictionary of a job that ``async`` launched; its record is the result of any module."""
    # Imported here, for keepers never look at such jobs.
    from . import async_jobs

    reason = None
    if async_jobs.is_unfinished(job.jid, record):
        reason = async_jobs.why_lost(job)
        if reason is not None:
            record = job.read_record()
    unfinished = async_jobs.is_unfinished(job.jid, record)
    finished = not unfinished or reason is not None
    found = schema.unknown(job.jid)
    said = validation.usable(record)
    found.update((key, value) for key, value in said.items() if not key.startswith("_ansible_"))
    failed = finished and bool(record.get("failed"))
    state = schema.SUCCEEDED if finished else schema.RUNNING
    if failed:
        state = (
            schema.TIMED_OUT
            if record.get("msg") == TIMED_OUT_MSG and "child_pid" in record
            else schema.FAILED
        )
    by = schema.requester(record.get("stopped_by"))
    if failed and by and record.get("killed") is True:
        state = schema.STOPPED  # see _builtin.py
    else:
        found["stopped_by"] = None
    rc = found["rc"] if finished else None
    found.update(
        ansible_job_id=job.jid,
        name=None,
        progress=None,
        state=state,
        started=True,
        finished=finished,
        failed=failed,
        rc=rc,
        signal=schema.signal_name(-rc) if isinstance(rc, int) and rc < 0 else None,
        results_file=job.results_file,
        user=host.user_name(os.geteuid()),
    )
    if unfinished and reason is not None:
        found.update(state=schema.LOST, reason=reason, failed=True, changed=True, rc=None)
        found["msg"] = schema.message(found)
    elif failed and not found.get("msg"):
        found["msg"] = schema.message(found)
    elif found.get("msg") and not isinstance(found["msg"], str):
        found["msg"] = json.dumps(found["msg"])
    return found
