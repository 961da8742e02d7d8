# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which jobs a parameter ``jobs`` means: registered results, jids, names and job dictionaries, mixed.

Private to the collection.
"""

from __future__ import annotations

from . import schema
from .errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator


class Reference:
    """One job that somebody means: a jid, or a name, or a launch that failed and left no job.

    :param failure: the result of such a launch; None if there should be a job.
    :param is_ours: whether the play that hands it over has launched it: its launch is changed, or not because there was
        a job already. None if only the job itself is named.
    :param launched: what the result of the launch tells of it: ``user`` and ``results_file``, as far as it does.
    """

    __slots__ = ("failure", "is_ours", "jid", "launched", "name")

    def __init__(
        self,
        *,
        jid: str | None = None,
        name: str | None = None,
        failure: dict[str, Any] | None = None,
        is_ours: bool | None = None,
        launched: dict[str, str] | None = None,
    ) -> None:
        self.jid = jid
        self.name = name
        self.failure = failure
        self.is_ours = is_ours
        self.launched = launched or {}

    def learn(self, other: Reference) -> None:
        """Add what another reference to the same job tells of it."""
        # A job may be launched and, by another item of the loop, attached to.
        if other.is_ours is not None:
            self.is_ours = bool(self.is_ours or other.is_ours)
        self.launched = self.launched or other.launched

    def plain(self) -> object:
        """Return what :func:`references` reads as the same reference, and no more."""
        if self.jid is None:
            return self.failure or {"name": self.name}
        if self.is_ours is None and not self.launched:
            return self.jid
        flag = {} if self.is_ours is None else {"changed": self.is_ours}
        return dict(self.launched, ansible_job_id=self.jid, **flag)


def references(jobs: object) -> list[Reference]:
    """Return the jobs that are meant, in the order given, each one once.

    Left out is what has launched nothing and was not meant to: skipped tasks and loop items, launches that ``creates``
    made unnecessary, and those that check mode has predicted.

    :raises JobError: something in it is no job; the text says where.
    """
    found: dict[object, Reference] = {}
    for one in _flat(jobs, "jobs"):
        key = (one.jid, one.name, id(one.failure) if one.failure else None)
        found.setdefault(key, one).learn(one)
    return list(found.values())


def _flat(value: object, where: str) -> Iterator[Reference]:
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _flat(item, "%s[%d]" % (where, number))
    elif isinstance(value, dict):
        yield from _of_result(value, where)
    elif isinstance(value, str) and schema.valid_jid(value):
        yield from _of_jid(value, {})
    elif isinstance(value, str):
        try:
            yield Reference(name=schema.check_name(value))
        except JobError as error:
            raise JobError("%s is neither a jid nor a name: %s" % (where, error.msg)) from None
    else:
        raise JobError(
            "%s is no job but %r; give a registered result, jids, names or job dictionaries"
            % (where, value)
        )


def _of_result(result: dict[str, Any], where: str) -> Iterator[Reference]:
    jid = result.get("ansible_job_id")
    # First, for a job that is a module may have returned a key of its own called `results`.
    if isinstance(jid, str) and schema.valid_jid(jid):
        yield from _of_jid(jid, result)
        return
    for several in ("results", "jobs"):
        if isinstance(result.get(several), (list, tuple)):
            yield from _flat(result[several], "%s.%s" % (where, several))
            return
    if result.get("skipped"):
        return
    if _has_failed(result):
        shown = {key: result[key] for key in ("name", "cmd", "msg", "errno") if result.get(key)}
        yield Reference(failure=dict(shown, failed=True))
    elif isinstance(result.get("name"), str):
        yield from _flat(result["name"], where + ".name")
    else:
        raise JobError(
            "%s is no job: it has neither ansible_job_id nor name, and is no failed or skipped launch"
            % where
        )


def _has_failed(result: dict[str, Any]) -> bool:
    # A task whose failed_when says that it has not failed has launched nothing all the same.
    return bool(result.get("failed") or result.get("unreachable") or "failed_when_result" in result)


def _of_jid(jid: str, result: dict[str, Any]) -> Iterator[Reference]:
    if jid == schema.PREDICTED_JID:
        return
    is_ours = result.get("changed")
    # A launch that has changed something returns a job that has not finished. Of a look it is the other way round.
    if not isinstance(is_ours, bool) or (is_ours and result.get("finished")):
        is_ours = None
    told = {key: result.get(key) for key in ("user", "results_file")}
    launched = {key: value for key, value in told.items() if value and isinstance(value, str)}
    yield Reference(jid=jid, is_ours=is_ours, launched=launched)
