# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which jobs a parameter ``jobs`` means: registered results, jids, names and job dictionaries, mixed.

Private to the collection.
"""

from __future__ import annotations

from ._job import schema
from ._job.errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator


class Reference:
    """One job that somebody means: a jid, or a name, or a launch that failed and left no job.

    :param failure: the result of such a launch; None if there should be a job.
    """

    __slots__ = ("failure", "jid", "name")

    def __init__(
        self,
        *,
        jid: str | None = None,
        name: str | None = None,
        failure: dict[str, Any] | None = None,
    ) -> None:
        self.jid = jid
        self.name = name
        self.failure = failure

    def plain(self) -> object:
        """Return what :func:`references` reads as the same reference, and no more."""
        return self.failure or self.jid or {"name": self.name}


def references(jobs: object) -> list[Reference]:
    """Return the jobs that are meant, in the order given, each one once.

    Left out is what has launched nothing and was not meant to: skipped tasks and loop items, launches that ``creates``
    made unnecessary, and those that check mode has predicted.

    :raises JobError: something in it is no job; the text says where.
    """
    found: dict[object, Reference] = {}
    for one in _flat(jobs, "jobs"):
        found.setdefault((one.jid, one.name, id(one.failure) if one.failure else None), one)
    return list(found.values())


def _flat(value: object, where: str) -> Iterator[Reference]:
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _flat(item, "%s[%d]" % (where, number))
    elif isinstance(value, dict):
        yield from _of_result(value, where)
    elif isinstance(value, str) and schema.valid_jid(value):
        yield from _of_jid(value)
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
        yield from _of_jid(jid)
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


def _of_jid(jid: str) -> Iterator[Reference]:
    if jid != schema.PREDICTED_JID:
        yield Reference(jid=jid)
