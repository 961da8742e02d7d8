# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job is: its id, its states, its dictionary and the table of verdicts. Pure functions only."""

from __future__ import annotations

import re
import signal
import time

from .errors import JobError
from .printable import make_printable, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable

    Record = Dict[str, Any]  # the job dictionary, plus the private part under the key PRIVATE

VERSION = 1  # of the record; a reader refuses a version that it does not know
PRIVATE = "durable_jobs"  # the record's key for what readers and keepers need and users do not
FLAW = "flaw"  # of the private part: what was wrong with a record that has been recovered
BARE = (
    "bare"  # private key of a final record for whose output the disk had no room; the files hold it
)
CHECKSUM = "checksum"  # private key: of a final record as it was written; 0 in those before
COOKIE = "DURABLE_JOB_ID"  # environment variable by which a job's processes can be recognised
NAME = "DURABLE_JOB_NAME"  # further ones of the command's: the job's name, if it has one,
ATTEMPT = "DURABLE_JOB_ATTEMPT"  # and the number of the attempt
PREDICTED_JID = "j0.0"  # what job_start returns in check mode

QUEUED = "queued"
RUNNING = "running"
SUCCEEDED = "succeeded"
FAILED = "failed"
TIMED_OUT = "timed_out"
STOPPED = "stopped"
LOST = "lost"
STATES = (QUEUED, RUNNING, SUCCEEDED, FAILED, TIMED_OUT, STOPPED, LOST)
REBOOTED = "rebooted"  # the reason of a job that was lost with the boot in which it was launched
UNSUPERVISED = "unsupervised"  # the reason of a running job that has lost its keeper
DAMAGED = "record damaged"  # the reason of a verdict that had to do without a record
WATCHDOG = "watchdog"  # the reason of a job that was ended because it gave no sign of life
OOM = "oom"  # the reason of a failed job of which the kernel killed a process for lack of memory
NOT_STARTED = "not started"  # the reason of a failed job whose turn came, but whose command could not be exec'ed
DELAYED = "delayed"  # the reason of a queued job that is to start later
RETRY = (
    "retry"  # the reason of a queued job that has been started, and pauses before its next attempt
)
TOTAL = "timeout_total"  # the reason of a job that was ended because all of its attempts together took too long
FINISHED_STATES = frozenset((SUCCEEDED, FAILED, TIMED_OUT, STOPPED, LOST))

REQUESTER = ("via", "user", "login", "controller_user", "controller")  # see requester()
REQUESTER_LIMIT = 64  # characters of each

AUTO = "auto"  # the values of the parameter containment
SYSTEMD = "systemd"
PROCESS = "process"
LIMITS = ("cpu_quota", "memory_max", "tasks_max")  # the parameters that need a unit, see cgroup

STREAMS = ("stdout", "stderr")
PROGRESS = "progress"  # the slot of what a command has reported of itself
NO_ATTENTION = 5  # see needs_attention()
FOR_EVER = 100 * 366 * 86400  # seconds; no limit of ours is longer
NEAR_LIMIT = 0.9  # share of its limit after which a running job is near it
TAIL_BYTES = 4096  # what `output: tail` shows of each stream
TAILS_BYTES = (
    256 * 1024
)  # what the record of a job holds of the output of all attempts that are over
# Parts of a specification that may be shown; the others are kept and compared as keyed digests.
SHOWN_SPEC = (
    *("chdir", "timeout", "max_timeout", "watchdog", "grace", "stop_signal", "umask", "nice"),
    *("output_limit", *LIMITS),
)
# The same, of what is compared where it was given: records of earlier releases have none of it.
GIVEN_SPEC = ("start_in", "timeout_total", "retries")
_TOLD_SPEC = (*SHOWN_SPEC, "start_in", "timeout_total")
LONGEST = 3653 * 86400  # seconds that a duration may have: ten years, with their leap days
LARGEST = 2**60  # what other numbers may be, such as bytes; the kernel knows eight times as many
UNSHOWN_PARAMETER = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"  # ansible-core's words
EMBED_LIMIT = 1024 * 1024  # bytes of each stream that a result may hold
NOTHING_LAUNCHED = "jobs[%d] cannot be launched, so nothing is: %s"
ORDERS = NEWEST, ATTENTION = "newest", "attention"  # in which jobs are listed
PIECE_BYTES = 1024 * 1024  # of output in one answer of job_output, unless the reader says otherwise
HIDDEN = "hidden: this job was launched with no_log"
# What the message says of a job that was ended where /proc does not show all processes.
UNSEEN = (
    "/proc hides the processes of other users here (hidepid), so more of its processes may be alive"
)

_JID = re.compile(r"j[0-9]+\.[0-9]+", re.ASCII)
_OWN_JID = re.compile(r"j[0-9]{16,}\.", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._@:+-]([A-Za-z0-9._@:+ -]{0,198}[A-Za-z0-9._@:+-])?")
_NAME_RULE = (
    "1 to 200 of A-Z a-z 0-9 . _ - @ : + and blanks, which may not be at the beginning or the end"
)
_JID_RULE = "a jid looks like j1234567890.1234, as ansible_job_id gives it"


def valid_jid(jid: str) -> bool:
    """Tell whether this can be the id of a job, ours or the builtin's."""
    return len(jid) <= 128 and _JID.fullmatch(jid) is not None


def is_own_jid(jid: str) -> bool:
    """Tell whether we have given a job its id.

    Ours begin with the moment of the launch in nanoseconds, those of ``async`` with a random number below 10**12.
    """
    return _OWN_JID.match(jid) is not None


def check_jid(jid: str) -> str:
    """Return the jid, or raise JobError with the rule that it breaks."""
    if not valid_jid(jid):
        raise JobError("could not find job %r: parameter jid is not valid; %s" % (jid, _JID_RULE))
    return jid


def valid_name(name: str) -> bool:
    """Tell whether this can be the name of a job."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Return the name, or raise JobError with the rule that it breaks."""
    if not valid_name(name):
        raise JobError(
            "name %r cannot be the name of a job: a name is made of %s" % (name[:210], _NAME_RULE)
        )
    return name


def signal_number(name: str) -> int:
    """Return the number of a signal given as ``TERM``, ``SIGTERM`` or ``15``; raise JobError if there is none."""
    text = name.strip().upper()
    try:
        if text.isascii() and text.isdigit() and len(text) < 4:
            return int(signal.Signals(int(text)))
        return int(signal.Signals[text if text.startswith("SIG") else "SIG" + text])
    except (KeyError, ValueError):
        raise JobError(
            "unknown signal %r: give a name such as TERM, INT or HUP, or its number" % name[:40]
        ) from None


def signal_name(number: int) -> str:
    """Return ``SIGKILL`` for 9; a real-time signal without a name of its own is called ``SIG<number>``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "SIG%d" % number


def timestamp(epoch: float) -> str:
    """Write a moment as the builtin ``command`` does: local time, ``2026-01-31 23:59:59.123456``."""
    micros = round(epoch * 1000000)
    return "%s.%06d" % (
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(micros // 1000000)),
        micros % 1000000,
    )


def duration(seconds: float) -> str:
    """Write a duration as the builtin ``command`` does: ``0:00:15.001234``, ``1 day, 0:00:01.000000``."""
    micros = max(0, round(seconds * 1000000))
    rest, micros = divmod(micros, 1000000)
    days, rest = divmod(rest, 86400)
    text = "%d:%02d:%02d.%06d" % (rest // 3600, rest // 60 % 60, rest % 60, micros)
    return "%d day%s, %s" % (days, "" if days == 1 else "s", text) if days else text


def exit_outcome(status: int) -> tuple[str, int, str | None]:
    """Split a wait status into state, rc and signal name; a death by signal has rc = -signal, as in ``command``."""
    if status & 0x7F:
        number = status & 0x7F
        return FAILED, -number, signal_name(number)
    rc = status >> 8 & 0xFF
    return (FAILED if rc else SUCCEEDED), rc, None


class Evidence:
    """What can be seen of a job whose record is not final.

    :param queued: whether the record says that the job has not had its turn yet.
    :param keeper: whether somebody holds the keeper's lock, or that of the standby, which gives the job its next one.
    :param runner: whether somebody holds the runner's lock.
    :param exited: whether a valid exit record exists.
    :param same_boot: whether the machine has not been rebooted since the launch.
    :param command: whether a process of the command has been seen alive.
    :param left: whether somebody of ours was ending the job, and processes of it have been seen alive.
    :param damaged: whether the record or the exit record is there and cannot be understood.
    """

    __slots__ = ("command", "damaged", "exited", "keeper", "left", "queued", "runner", "same_boot")

    def __init__(
        self,
        *,
        queued: bool,
        keeper: bool,
        same_boot: bool,
        runner: bool = False,
        exited: bool = False,
        command: bool = False,
        left: bool = False,
        damaged: bool = False,
    ) -> None:
        self.queued = queued
        self.keeper = keeper
        self.runner = runner
        self.exited = exited
        self.same_boot = same_boot
        self.command = command
        self.left = left
        self.damaged = damaged


def verdict(evidence: Evidence) -> tuple[str, str | None]:
    """Say what has become of a job whose record is not final: a state and a reason.

    The table is in docs/design/verdicts.md; the first row that fits decides. ``exited`` stands for "the exit record
    decides": the state is then what :func:`outcome` makes of it.
    """
    if evidence.keeper:
        # With an exit record too: a keeper is about to write the final record, or to try again.
        return (QUEUED if evidence.queued else RUNNING), None
    if evidence.left and evidence.same_boot and not evidence.queued:
        return RUNNING, UNSUPERVISED  # whoever ended it was killed before all of it was gone
    if evidence.exited and not evidence.queued:
        return "exited", None
    if not evidence.same_boot:
        return LOST, REBOOTED
    if (evidence.runner or evidence.command) and not evidence.queued:
        return RUNNING, UNSUPERVISED
    return LOST, DAMAGED if evidence.damaged else "killed"


START = "start"
ATTACH = "attach"
KEEP = "keep"
CONFLICT = "conflict"
REPLACE = "replace"


def decide(latest: Record | None, spec: Record, *, on_conflict: str, rerun: str) -> str:
    """Say what a launch under a name means, given the latest job of that name.

    :param latest: its record with a verdict, private part included; None if there is none.
    :param spec: what is asked for now, see ``differing``.
    :return: START a job; ATTACH to the live one; KEEP the recorded result; CONFLICT: refuse;
        REPLACE: stop the live one, then start.
    """
    if latest is None:
        return START
    if latest["finished"]:
        kept = rerun == "never" or (rerun == "on_failure" and latest["state"] == SUCCEEDED)
        return KEEP if kept else START
    if on_conflict == "attach" or not differing(latest, spec):
        return ATTACH
    return REPLACE if on_conflict == "replace" else CONFLICT


def differing(record: Record, spec: Record) -> list[str]:
    """Return the parameters in which a job differs from what is asked for now."""
    old = record.get(PRIVATE, {}).get("spec") or {}
    gone = [name for name in GIVEN_SPEC if name in old and name not in spec]
    return [name for name in spec if old.get(name) != spec[name]] + gone


def conflict_message(record: Record, spec: Record) -> str:
    """Tell why a launch is refused, and what can be done."""
    names = differing(record, spec)
    old = record.get(PRIVATE, {}).get("spec") or {}
    limits = set(names) <= {"timeout", "grace"}
    shown = ", ".join(
        "%s (%s, now %s)" % (name, old.get(name), spec.get(name)) if name in _TOLD_SPEC else name
        for name in names
    )
    text = "job %s (%s) is %s with another specification: %s. " % (
        record["name"],
        record["ansible_job_id"],
        record["state"],
        shown,
    )
    if limits:
        return text + (
            "A live job keeps the limits that it was launched with: "
            "on_conflict=attach accepts them, on_conflict=replace stops the job and starts it anew"
        )
    return text + "on_conflict=attach joins it as it is, on_conflict=replace stops it first"


def new_record(jid: str, request: Record, place: Record) -> Record:
    """Return the record of a job that has been accepted and waits for its turn.

    :param request: what the user asked for, as the launcher got it.
    :param place: where the job lies and who keeps it: user, boot id, clocks, paths, and if it is to start later when
        that is ``due`` (CLOCK_BOOTTIME), and how long it ``wait``s.
    """
    hidden = request["no_log"]
    module = {"module": request["module"]} if request.get("module") else {}
    keyword = {"keyword": request["keyword"]} if request.get("keyword") else {}
    policy, due = request.get("retry"), place.get("due")
    return {
        **module,
        "ansible_job_id": jid,
        "name": request["name"],
        "attempt": 1,
        "max_attempts": 1 + (policy["retries"] if policy else 0),
        "state": QUEUED,
        "started": False,
        "finished": False,
        "changed": False,
        "failed": False,  # without it ansible-core takes any rc but 0, also null, for a failure
        "rc": None,
        "signal": None,
        "reason": None if due is None else DELAYED,
        "cmd": HIDDEN if hidden else request["cmd"],
        "submitted": timestamp(place["epoch"]),
        "start_at": None if due is None else timestamp(place["epoch"] + place["wait"]),
        "start": None,
        "end": None,
        "delta": None,
        "elapsed": None,
        "timeout": request["timeout"],
        "timeout_total": request.get("timeout_total"),
        "deadline": None,
        "stdout": "",
        "stderr": "",
        "stdout_bytes": 0,
        "stderr_bytes": 0,
        "truncated": False,
        "stdout_file": place["stdout_file"],
        "stderr_file": place["stderr_file"],
        "results_file": place["results_file"],
        "containment": place["containment"],
        "user": place["user"],
        "progress": None,
        "attempts": [],
        PRIVATE: {
            **keyword,
            **({"notify": len(request["notify"])} if request.get("notify") else {}),
            "retry": policy,
            "due": due,
            "version": VERSION,
            CHECKSUM: 0,
            "no_log": hidden,
            "boot_id": place["boot_id"],
            "machine": place.get("machine") or {"id": "", "name": ""},
            "pid_namespace": place.get("pid_namespace", 0),
            "epoch": place["epoch"],
            "monotonic": place["monotonic"],
            "grace": request["grace"],
            "stop_signal": request["stop_signal"],
            "max_timeout": request["max_timeout"],
            "watchdog": request["watchdog"],
            "reports": place.get("reports", False),
            "output_limit": request["output_limit"],
            "spec": request["spec"],
            "rerun": request["rerun"],
            "unit": place.get("unit"),
            "keeper": place["keeper"],
            "runner": 0,
            "command": {"pid": 0, "started": 0},
            "ahead": [],
        },
    }


def unstarted(record: Record) -> Record:
    """Return the record of a job of which an attempt could not be started."""
    nothing = dict.fromkeys(("start", "end", "delta", "elapsed", "deadline"))
    return dict(record, **nothing, attempt=1 + len(record["attempts"]))


def begin(record: Record, start: Record) -> Record:
    """Return the record of a job of which an attempt is about to run.

    :param start: its moment on both clocks (``epoch``, ``monotonic``), the processes (``runner``, ``command``), and the
        jobs of the same batch that were still live (``ahead``).
    """
    epoch, private = start["epoch"], record[PRIVATE]
    first = private.get("first", start["monotonic"])
    left = [record["timeout"]] if record["timeout"] else []
    if record.get("timeout_total"):
        left.append(max(0.0, first + record["timeout_total"] - start["monotonic"]))
    return dict(
        record,
        attempt=1 + len(record.get("attempts", ())),
        state=RUNNING,
        reason=None,
        started=True,
        start_at=None,
        start=timestamp(epoch),
        end=None,
        delta=None,
        elapsed=0.0,
        deadline=timestamp(epoch + min(left)) if left else None,
        **{PRIVATE: dict(private, first=first, **start)},
    )


def pause(record: Record, attempts: list[Record], due: float, wait: float) -> Record:
    """Return the record of a job between two attempts; of one whose first attempt was never exec'ed, as if not begun.

    :param attempts: those that are over, see :func:`attempt_of`.
    :param due: when the next one is (CLOCK_BOOTTIME), which is in ``wait`` seconds.
    """
    return dict(
        record,
        attempt=max(1, len(attempts)),
        attempts=_with_room(attempts),
        state=QUEUED,
        reason=RETRY if attempts else None,
        started=bool(attempts),
        start_at=timestamp(time.time() + wait) if attempts else None,
        start=attempts[-1]["start"] if attempts else None,
        elapsed=None,
        deadline=None,
        progress=None,
        **{PRIVATE: dict(record[PRIVATE], due=due)},
    )


def _with_room(attempts: list[Record]) -> list[Record]:
    """Return attempts with their tails, as many as there is room for: those of the oldest go first."""
    found, room = [], TAILS_BYTES
    for one in reversed(attempts):
        room -= len(one["stdout"]) + len(one["stderr"])
        found.append(one if room >= 0 else dict(one, stdout="", stderr=""))
    return found[::-1]


def attempt_of(job: Record) -> Record:
    """Return what is kept of an attempt, given the dictionary of the job as if it were over with it."""
    keys = ("attempt", "state", "rc", "signal", "reason", "start", "end", "elapsed")
    found = {key: job.get(key) for key in keys}
    for name in STREAMS:
        text = str(job.get(name) or "")
        data = text.encode("utf-8", "replace")
        if len(data) > TAIL_BYTES:
            end = data[-TAIL_BYTES:].decode("utf-8", "ignore")
            text = end.partition("\n")[2] or end
        found[name] = text
    return found


def with_attempt(final: Record) -> Record:
    """Return a job's final record with its last attempt among those that are over, if it may have had more than one."""
    if (final.get("max_attempts") or 1) < 2:
        return final
    return dict(final, attempts=[*final["attempts"], attempt_of(final)])


def requester(by: object) -> Record | None:
    """Return who asked for something, as records keep it; None if that is not known.

    ``via`` is ``ansible`` or ``local``, ``user`` the user on the target as whom it was asked, ``login`` who had logged
    in before becoming that user, ``controller_user`` and ``controller`` who ran ansible, and where. Each may be null.
    """
    if not isinstance(by, dict):
        return None
    return {key: _plain(by[key]) if by.get(key) else None for key in REQUESTER}


def _plain(text: object) -> str:
    """Return a text that has room in a slot, whatever it was."""
    shown = str(text)[:REQUESTER_LIMIT]
    return "".join(one if one.isascii() and one.isprintable() else "?" for one in shown)


def describe_requester(by: Record) -> str:
    """Tell in a few words who asked for something."""
    who = by["user"] or "an unknown user"
    if by["login"] and by["login"] != by["user"]:
        who += " (logged in as %s)" % by["login"]
    if by["via"] == "ansible":
        who += " through ansible"
    if by["controller_user"]:
        who += ", run by %s" % by["controller_user"]
        who += " on %s" % by["controller"] if by["controller"] else ""
    return who


def with_reports(record: Record, reported: Record | None) -> Record:
    """Return a record with what its command has reported of itself.

    :param reported: the slot ``progress``: ``percent``, ``status``, and seconds from the job's start: when that was
        reported, ``at``, and what its limit has been ``extended`` to. None for nothing.
    """
    found = dict(record)
    if reported is not None:
        private = record[PRIVATE]
        if reported["at"] is not None:
            at = timestamp(private["epoch"] + reported["at"])
            percent, status = reported["percent"], reported["status"]
            found["progress"] = {"percent": percent, "status": status, "at": at}
        if reported["extended"] is not None:
            found["deadline"] = timestamp(private["epoch"] + reported["extended"])
            found[PRIVATE] = dict(private, extended=reported["extended"])
    return found


def progress_text(progress: object) -> str:
    """Write what a job has reported for people: ``40 %, copying files``; nothing if it has reported nothing."""
    if not isinstance(progress, dict):
        return ""
    percent, status = progress.get("percent"), progress.get("status")
    shown = ["" if percent is None else "%s %%" % percent, "" if status is None else str(status)]
    return ", ".join(part for part in shown if part)


def attempt_text(job: Record) -> str:
    """Write for people which attempt of a job it is about, and when that is, as far as the job dictionary tells.

    ``attempt 2 of 4 in 40 s``, ``in 40 s``, ``attempt 2 of 4``; nothing for a job that runs once and at once.
    """
    state, most = job.get("state"), job.get("max_attempts")
    shown = []
    if isinstance(most, int) and most > 1 and isinstance(job.get("attempt"), int):
        number = job["attempt"] + (state == QUEUED and job.get("reason") == RETRY)
        shown.append("attempt %d of %d" % (number, most))
    if state == QUEUED and isinstance(job.get("starts_in"), (int, float)):
        shown.append("in %d s" % round(job["starts_in"]))
    return " ".join(shown)


def not_started(why: str) -> Record:
    """Return the ending of a queued job whose command could not be started."""
    return {"state": FAILED, "reason": NOT_STARTED, "survivors": [], "why": why}


def shut_down(number: int) -> Record:
    """Return the ending of a job that the shutdown of its machine has ended, or kept from starting.

    :param number: the signal.
    """
    return {"state": LOST, "reason": REBOOTED, "signal": number, "survivors": []}


def finish(
    record: Record,
    *,
    state: str,
    reason: str | None,
    exited: Record | None,
    ending: Record | None,
) -> Record:
    """Return the final form of a record.

    :param state: a finished state, or ``exited`` for "as the exit record says".
    :param exited: the exit record (``status``, ``epoch``, ``monotonic``, ``oom``), if there is one.
    :param ending: why and how somebody of ours ended the job, if somebody did (``state``,
        ``reason``, ``signal``, ``survivors``, ``by``, and whether others may be ``unseen``), or why it never began, see
        :func:`not_started`, or :func:`shut_down`.
    """
    private = record[PRIVATE]
    final = dict(record, finished=True, changed=True, elapsed=None)
    if exited is not None:
        state, final["rc"], final["signal"] = exit_outcome(exited["status"])
        if state == FAILED and exited.get("oom"):
            reason = OOM
        elapsed = max(0.0, exited["monotonic"] - private["monotonic"])
        final.update(
            end=timestamp(private["epoch"] + elapsed),
            delta=duration(elapsed),
            elapsed=round(elapsed, 6),
        )
    if ending is not None:
        state, reason = ending["state"], ending.get("reason")
        final["survivors"] = ending.get("survivors") or []
        final["stopped_by"] = requester(ending.get("by"))
        if state == LOST:  # how it answered the shutdown says nothing about what it was to do
            final.update(rc=None, signal=None)
        elif final["rc"] == 0:
            # A command may answer the stop signal with exit 0. It was ended all the same, and whoever
            # decides by `rc != 0` must not take it for done: the signal that ended it is its rc.
            final.update(rc=-ending["signal"], signal=signal_name(ending["signal"]))
    final.update(state=state, reason=reason, failed=state != SUCCEEDED)
    final["msg"] = message(final)
    if state == STOPPED and record["state"] == QUEUED and record.get("attempts"):
        final["msg"] += " before attempt %d of %d" % (1 + record["attempt"], record["max_attempts"])
    if ending is not None and "why" in ending:
        final["msg"] += ": " + printable(ending["why"])
    if ending is not None and ending.get("unseen"):
        final["msg"] += "; " + UNSEEN
    return final


def damaged(jid: str, where: Record, exited: Record | None, ending: Record | None) -> Record:
    """Return what can be said of a finished job that has no record any more.

    :param where: what else is known: results_file, and where its output lies.
    :param exited: the exit record, if there is one; see :func:`finish`.
    :param ending: why somebody of ours ended the job, if somebody did.
    """
    found = unknown(jid)
    found.update(where, started=True, changed=exited is not None, state=LOST)
    if exited is not None:
        found["state"], found["rc"], found["signal"] = exit_outcome(exited["status"])
        found["end"] = timestamp(exited["epoch"])
    if ending is not None:
        found["state"] = ending["state"]
        found["survivors"] = ending["survivors"]
        found["stopped_by"] = requester(ending.get("by"))
        if found["state"] == LOST:
            found.update(rc=None, signal=None)
        elif found["rc"] == 0:
            found.update(rc=-ending["signal"], signal=signal_name(ending["signal"]))
    found.update(reason=DAMAGED, failed=found["state"] != SUCCEEDED)
    found["msg"] = message(found)
    return found


def message(job: Record) -> str:
    """Tell in one sentence what became of a finished job."""
    state, rc = job["state"], job["rc"]
    who = "job %s" % (job.get("name") or job["ansible_job_id"])
    failure = "%s failed: rc %s" % (who, rc)
    if job["signal"] is not None:
        failure = "%s was killed by %s (rc %s)" % (who, job["signal"], rc)
    elif job["reason"] == NOT_STARTED:
        failure = "%s could not be started" % who
    if job["reason"] == OOM:
        failure += "; the kernel has killed a process of it for lack of memory"
        limits = (job.get(PRIVATE, {}).get("unit") or {}).get("limits") or {}
        if "memory_max" in limits:
            failure += ", of which it may have memory_max=%s bytes" % limits["memory_max"]
    why = {
        SUCCEEDED: "%s succeeded" % who,
        FAILED: failure,
        TIMED_OUT: "%s timed out: %s" % (who, _limit(job)),
        STOPPED: "%s was stopped on request" % who
        + (" of %s" % describe_requester(job["stopped_by"]) if job.get("stopped_by") else ""),
        LOST: "%s is lost (%s): it is gone and its exit status is unknown" % (who, job["reason"]),
    }[state]
    if state in (FAILED, TIMED_OUT) and (job.get("max_attempts") or 1) > 1:
        why += " (attempt %s of %s)" % (job["attempt"], job["max_attempts"])
    if job.get("survivors"):
        why += "; still alive: " + ", ".join(
            "%s (pid %s)" % (one["name"], one["pid"]) for one in job["survivors"]
        )
    private = job.get(PRIVATE, {})
    if private.get(FLAW):
        why += "; its record %s was damaged: %s" % (job["results_file"], private[FLAW])
    shown = state != SUCCEEDED and not private.get("no_log")
    last = (job.get("stderr") or "") if shown else ""
    last = last.rstrip().rpartition("\n")[2].strip()
    return printable("%s; last line of stderr: %s" % (why, last[:300]) if last else why)


def _limit(job: Record) -> str:
    """Tell which limit a job has reached."""
    private = job.get(PRIVATE, {})
    if job["reason"] == WATCHDOG:
        allowed = private.get("watchdog")
        silence = "" if allowed is None else " for %s s" % allowed
        return "it was ended because it gave no sign of life (WATCHDOG=1)" + silence
    text = "it was ended after its limit"
    if job["reason"] == TOTAL:
        return text + " of %s s for all attempts (timeout_total)" % job["timeout_total"]
    if job["timeout"] is not None:
        text += " of %s s" % job["timeout"]
    if private.get("extended") is not None:
        text += ", which it had extended to %.1f s" % private["extended"]
    return text


def needs_attention(job: Record) -> int:
    """Return by what jobs are sorted if those that need attention are to come first: the lower, the sooner.

    First come the jobs that went wrong and those of which nothing can be said, then running jobs that have lost
    their keeper or are near their limit, then the other live ones, then those that somebody has stopped.
    """
    state = job["state"]
    if state == RUNNING:
        return 1 if job["reason"] == UNSUPERVISED or is_near_limit(job) else 2
    if state in (FAILED, TIMED_OUT, LOST, None):
        return 0
    return {QUEUED: 3, SUCCEEDED: NO_ATTENTION}.get(state, 4)


def is_near_limit(job: Record) -> bool:
    """Tell whether a running job has used most of the time that it may take."""
    elapsed, timeout = job["elapsed"], job["timeout"]
    # A job of the builtin may say anything, also a number that is too large for a float.
    if not all(isinstance(one, (int, float)) for one in (elapsed, timeout)):
        return False
    return 0 < timeout < FOR_EVER and elapsed >= NEAR_LIMIT * timeout


def unknown(jid: str | None) -> Record:
    """Return the job dictionary of which nothing is known but the id."""
    keys = (
        "name state rc signal reason cmd submitted start end delta elapsed timeout deadline stdout_bytes stderr_bytes "
        "stdout_file stderr_file results_file containment user progress attempt max_attempts start_at timeout_total"
    )
    found: Record = dict.fromkeys(keys.split())
    found.update(
        ansible_job_id=jid, started=False, finished=True, stdout="", stderr="", truncated=False
    )
    found["attempts"] = []
    return found


def present(record: Record, show: str = "full") -> Record:
    """Return what a result shows of a record: no private part, as much output as asked for, and its lines."""
    shown = {key: value for key, value in record.items() if key != PRIVATE}
    make_printable(shown)
    shown.setdefault("changed", False)
    # ansible-core takes an rc that is not 0, also null, for a failure unless it is told.
    shown.setdefault("failed", False)
    shown.setdefault("output_error", None)
    shown.setdefault("stopped_by", None)
    shown.setdefault("notifications", None)
    shown["erased"] = None
    _show_attempts(shown, show)
    for name in STREAMS:
        text = str(shown.get(name) or "")
        shown[name] = {"full": text, "tail": tail_text(text), "none": ""}[show]
        shown[name + "_lines"] = shown[name].splitlines()
    return shown


def _show_attempts(shown: Record, show: str) -> None:
    """Let a job dictionary tell of its attempts, also one of an earlier release, which knew only one."""
    for key, value in (("attempt", 1), ("max_attempts", 1), ("start_at", None)):
        shown.setdefault(key, value)
    shown.setdefault("timeout_total", None)
    attempts = list(shown.get("attempts") or [])
    is_only = shown["max_attempts"] == 1 and shown["finished"] and shown["started"]
    if is_only and not attempts:  # what is known of it is kept only once
        attempts = [attempt_of(shown)]
    if show == "none":
        attempts = [dict(one, stdout="", stderr="") for one in attempts]
    shown["attempts"] = attempts


def shorten(shown: Record, limit: int) -> None:
    """Let a job dictionary hold only the end of each stream if that is longer than so many characters."""
    for name in STREAMS:
        if len(shown[name]) > limit:
            shown[name] = tail_text(shown[name], limit)
            shown[name + "_lines"] = shown[name].splitlines()
            shown["truncated"] = True


def tail_text(text: str, limit: int = TAIL_BYTES) -> str:
    """Return the end of a text, from the beginning of a line where there is one."""
    if len(text) <= limit:
        return text
    end = text[-limit:]
    return end.partition("\n")[2] or end


def invocation(params: dict[str, Any], unshown: Iterable[str]) -> Record:
    """Return the echo of a module's parameters that every result carries.

    :param unshown: the names of those that are secret, here and in the entries of ``jobs``.
    """

    def without_secrets(values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        hidden = [name for name in unshown if values.get(name) is not None]
        return dict(values, **dict.fromkeys(hidden, UNSHOWN_PARAMETER))

    shown = without_secrets(params)
    if isinstance(shown.get("jobs"), list):
        shown["jobs"] = [without_secrets(entry) for entry in shown["jobs"]]
    return {"module_args": shown}
