# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the table and the report have in common: the jobs of many hosts. Private to the collection."""

from __future__ import annotations

import ast
import re
import shlex
import typing as t

from ..module_utils._job import notifying, schema
from ..module_utils._job.errors import JobError

Job = t.Dict[str, t.Any]

UNKNOWN = "unknown"  # the state of a job of which nothing can be said here
NO_ID = "?"  # the id of what is no job
UNUSABLE = "unusable"  # key of a job: the names of those of its values that are of a wrong kind, or out of range
TEXT_LIMIT = 2000  # characters of a text that are shown, output apart
WORDS_LIMIT = 200  # words of a command that are shown
START_COLUMNS = 19  # of a time, without fractions of a second
LONGEST = 100 * 366 * 86400  # seconds; nothing of ours has run for longer
LARGEST = 2**53  # beyond, neither Python nor JavaScript counts exactly
LIVE = (schema.RUNNING, schema.QUEUED)
SHOWN_STATES = (*LIVE, *(one for one in schema.STATES if one not in LIVE), UNKNOWN)


class Host(t.NamedTuple):
    """What one host has answered."""

    name: str
    jobs: list[Job]
    problem: str | None  # why there is no answer
    note: str  # where it has looked, as whom, and what else there is
    more: int  # so many jobs are asked for and not shown


def hosts(answers: object) -> list[Host]:
    """Return what each host has answered, in a natural order of their names.

    An answer may be anything: what is of no use is named, and hides nothing else.

    :param answers: a dictionary: for each host what ``job_info`` returned there, or why it did not.
    :raises JobError: it is something else.
    """
    if isinstance(answers, str) and answers.lstrip().startswith("{"):
        answers = _untemplated(answers)
    if not isinstance(answers, t.Mapping):
        raise JobError(
            "the input must be a dictionary of hosts and results of job_info, not %s"
            % type(answers).__name__
        )
    return [_host(str(name), answers[name]) for name in sorted(answers, key=_natural)]


def _untemplated(answers: str) -> object:
    """Return the dictionary of which ansible-core before 2.19 has made a text, as it holds a number that is none.

    It reads other dictionaries back itself, but not ``nan`` and ``inf``, which here become null.
    """
    try:
        tree = ast.parse(answers.strip(), mode="eval")
        for node in ast.walk(tree):
            for part in ("values", "elts"):  # of a dictionary, and of a list
                if hasattr(node, part):
                    setattr(node, part, [_without_name(one) for one in getattr(node, part)])
        return ast.literal_eval(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return answers


def _without_name(node: ast.AST) -> ast.AST:
    """Return null for ``nan``, ``inf`` and ``-inf``, and anything else as it is."""
    return ast.Constant(None) if isinstance(getattr(node, "operand", node), ast.Name) else node


def _host(name: str, answer: object) -> Host:
    found = answer if isinstance(answer, t.Mapping) else {}
    jobs = found.get("jobs")
    if not isinstance(jobs, (list, tuple)):
        why = (text(found.get("msg")) or "it said nothing").strip()
        if jobs is not None or found is not answer:
            why = "its answer is not one of job_info"
        return Host(name, [], "unreachable: " + why if found.get("unreachable") else why, "", 0)
    more = int(number(found.get("total")) or 0) - len(jobs)
    return Host(name, [_job(job) for job in jobs], None, text(found.get("msg")) or "", max(0, more))


def _natural(name: object) -> list[tuple[int, str]]:
    """Return a key that sorts web10 behind web9."""
    parts = re.split("([0-9]+)", str(name))
    # Of two numbers without leading zeros the longer one is the greater one.
    return [
        (len(part.lstrip("0")), part.lstrip("0")) if i % 2 else (-1, part)
        for i, part in enumerate(parts)
    ]


def _job(found: object) -> Job:
    """Return a job dictionary in which each value is of the kind that it should be, or null.

    A job of the builtin may say anything, and so may a host.
    """
    if not isinstance(found, t.Mapping):
        found = {"msg": "this is no job dictionary"}
    job: dict[str, t.Any] = {key: kind(found.get(key)) for key, kind in _KINDS.items()}
    jid = found.get("ansible_job_id")
    is_valid = isinstance(jid, str) and schema.valid_jid(jid)
    job["ansible_job_id"] = str(jid) if is_valid else NO_ID
    job[UNUSABLE] = [
        key for key in _KINDS if job[key] is None and found.get(key) not in (None, "", {}, [])
    ]
    if not is_valid:
        job[UNUSABLE].append("ansible_job_id")
    return job


def text(value: object, limit: int = TEXT_LIMIT) -> str | None:
    """Return a text, or the beginning of a long one; None for what is none."""
    if not isinstance(value, str):
        return None
    return value if len(value) <= limit else value[:limit] + "..."


def number(value: object, largest: float = LARGEST) -> float | None:
    """Return a number as such, and None for what is none, or cannot be true."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # Compared before it is converted: Python has whole numbers that are too large for a float. NaN fits nowhere.
    return float(value) if -largest <= value <= largest else None


def _seconds(value: object) -> float | None:
    found = number(value, LONGEST)
    return None if found is None or found < 0 else found


def _whole(value: object) -> int | None:
    found = number(value)
    return None if found is None or found != int(found) else int(found)


def _state(value: object) -> str | None:
    return value if isinstance(value, str) and value in schema.STATES else None


def _output(value: object) -> str | None:
    return value[-schema.EMBED_LIMIT :] if isinstance(value, str) else None


def _command(value: object) -> str | None:
    """Return a command as one takes it to a shell."""
    if isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value):
        more = " ..." if len(value) > WORDS_LIMIT else ""
        return text(shlex.join(value[:WORDS_LIMIT]) + more)
    return text(value)


def _progress(value: object) -> dict[str, t.Any] | None:
    if not isinstance(value, t.Mapping):
        return None
    percent = number(value.get("percent"), 100)
    return {
        "percent": value["percent"] if percent is not None and percent >= 0 else None,
        "status": text(value.get("status")),
    }


def _notifications(value: object) -> dict[str, t.Any] | None:
    """Return how many notifications have not been taken, and why, as far as that is told."""
    if not isinstance(value, t.Mapping):
        return None
    found = {name: _whole(value.get(name)) or 0 for name in (notifying.PENDING, notifying.GIVEN_UP)}
    sinks = value.get("sinks")
    sinks = [one for one in sinks if isinstance(one, t.Mapping)] if isinstance(sinks, list) else []
    waiting = [one for one in sinks if one.get("state") in found and one.get("reason")]
    parts = [text(waiting[0].get(name), 200) for name in ("to", "reason")] if waiting else []
    return dict(found, why=": ".join(part for part in parts if part))


_KINDS: dict[str, t.Callable[[object], t.Any]] = {
    "name": text,
    "state": _state,
    "reason": text,
    "msg": text,
    "rc": _whole,
    "signal": text,
    "cmd": _command,
    "elapsed": _seconds,
    "timeout": _seconds,
    "progress": _progress,
    "notifications": _notifications,
    **dict.fromkeys(("submitted", "start", "end", "deadline", "start_at"), text),
    "max_attempts": _whole,
    **dict.fromkeys(("user", "containment", "results_file"), text),
    **dict.fromkeys(("stdout_bytes", "stderr_bytes", "attempt"), _whole),
    **dict.fromkeys(schema.STREAMS, _output),
    "truncated": lambda value: value if isinstance(value, bool) else None,
}


def state(job: Job) -> str:
    """Return the state of a job as people are shown it."""
    return str(job["state"] or UNKNOWN)


def reason(job: Job) -> str | None:
    """Return why a job is in its state, as far as it says so."""
    found = job["msg"] if state(job) == UNKNOWN else job["reason"]
    return None if found is None else str(found)


def untold(job: Job) -> str | None:
    """Tell which notifications of a job have not been taken; None if all have, or if it has none."""
    found = job["notifications"] or {}
    parts = [
        "%d %s" % (found[name], shown)
        for name, shown in ((notifying.PENDING, "pending"), (notifying.GIVEN_UP, "given up"))
        if found.get(name)
    ]
    why = " (%s)" % found["why"] if parts and found["why"] else ""
    return "notifications: " + ", ".join(parts) + why if parts else None


def attempts(job: Job) -> str | None:
    """Tell which attempt of a job it is about, and when that starts: ``attempt 2 of 4 at 2026-11-21 23:00:02``."""
    at = job["start_at"] if job["state"] == schema.QUEUED else None
    parts = (schema.attempt_text(job), f"at {at[:START_COLUMNS]}" if at else "")
    return " ".join(part for part in parts if part) or None


def flaws(job: Job) -> str | None:
    """Tell which values of a job are of no use."""
    return "unusable: " + ", ".join(job[UNUSABLE]) if job[UNUSABLE] else None


def counts(found: list[Host]) -> dict[str, int]:
    """Return how many jobs there are in each state that occurs."""
    states = [state(job) for host in found for job in host.jobs]
    return {one: states.count(one) for one in SHOWN_STATES if one in states}


def summary(found: list[Host]) -> str:
    """Tell in one line what there is."""
    by_state = counts(found)
    jobs = sum(by_state.values())
    text = "%s, %s" % (_many(len(found), "host"), _many(jobs, "job"))
    if by_state:
        text += ": " + ", ".join("%d %s" % (n, one) for one, n in by_state.items())
    more = sum(host.more for host in found)
    text += "; %d more not shown" % more if more else ""
    silent = [host.name for host in found if host.problem is not None]
    return text + ("; no answer from " + ", ".join(silent) if silent else "")


def _many(n: int, what: str) -> str:
    return "%d %s%s" % (n, what, "" if n == 1 else "s")
