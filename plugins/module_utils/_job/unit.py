# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A transient unit for the jobs of one launch: a scope that neither a logout nor a limit of the session reaches.

The launcher puts itself into it before it forks a keeper, so all that comes from it is born there. systemd hands the
unit's control group over to us (``Delegate``), and each job makes its own in it::

    <slice>/durable-<launcher>.scope/
        keepers          launcher, keepers, runners
        work/<jid>       the command, all that it starts, and its limits

One call to systemd serves any number of jobs. The unit ends with the last process in it and leaves nothing behind,
whatever became of the jobs.
"""

from __future__ import annotations

import json
import os

from . import cgroup
from .errors import JobError
from .schema import LIMITS, PROCESS, SYSTEMD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .schema import Record

MARGIN = 5.0  # seconds between the last grace and systemd's own SIGKILL at a shutdown
MAX_TITLES = 5  # names of jobs in a unit's description


class Unit:
    """What encloses the jobs of a launch.

    :param found: what ``systemd.enclose`` has returned; None if there is no unit.
    :param why_not: why there is none; empty if nobody asked for one.
    """

    def __init__(self, found: Record | None, why_not: str) -> None:
        self._found = found
        self.why_not = why_not

    def place(self, request: Record, jid: str) -> Record | None:
        """Return what a job's record says of its place in the unit; None if it has none.

        :raises JobError: it must have one, or a limit, and cannot.
        """
        asked = request.get("containment", PROCESS)
        limits = {name: request[name] for name in LIMITS if request.get(name) is not None}
        if asked == PROCESS:
            return None
        if self._found is None:
            if asked == SYSTEMD or limits:
                what = "containment=systemd" if asked == SYSTEMD else ", ".join(sorted(limits))
                raise JobError("%s cannot be had: %s" % (what, self.why_not))
            return None
        for name in sorted(limits):
            controller = cgroup.CONTROLS[name][0]
            if controller not in self._found["controllers"]:
                raise JobError(
                    "%s cannot be enforced: the unit %s, which systemd gave us, lacks the controller %s of cgroups(7). "
                    "The kernel must have it and, for a user's systemd, Delegate of user@.service must name it"
                    % (name, self._found["name"], controller)
                )
        groups = ["%s/%s" % (group, jid) for group in self._found["groups"]]
        return {"name": self._found["name"], "groups": groups, "limits": limits}


def enclose(request: Record) -> Unit:
    """Put this process, the launcher, into a unit of its own, if a job of the launcher's request wants one."""
    jobs = [one for one in request["jobs"] if one.get("containment", PROCESS) != PROCESS]
    if not request.get("manager") or not (jobs or request.get("adopt")):
        return Unit(None, "")
    names = [one["name"] for one in jobs if one["name"] is not None]
    title = ", ".join(names[:MAX_TITLES]) + (", ..." if len(names) > MAX_TITLES else "")
    limited = {name for one in jobs for name in LIMITS if one.get(name) is not None}
    asked = {
        "address": request["manager"],
        "title": "durable.jobs" + (": " + title if title else ""),
        "patience": max((one["grace"] for one in jobs), default=0.0) + MARGIN,
        # That of memory tells of kills for lack of it, whether there is a limit or not.
        "controllers": ["memory"] + [cgroup.CONTROLS[name][0] for name in limited - {"memory_max"}],
    }
    answer = _ask(os.getpid(), asked)
    return Unit(answer.get("unit"), answer.get("why", ""))


def _ask(pid: int, asked: Record) -> Record:
    """Let a short-lived child talk to systemd: what that takes in memory goes with it."""
    answer_out, answer_in = os.pipe()
    child = os.fork()
    if child == 0:
        answer: Record = {"why": "the process that asked systemd for a unit failed"}
        try:
            from . import systemd

            answer = {"unit": systemd.enclose(pid, **asked)}
        except JobError as error:
            answer = {"why": error.msg}
        finally:
            os.write(answer_in, json.dumps(answer).encode())
            os._exit(0)
    os.close(answer_in)
    with open(answer_out, "rb") as source:
        data = source.read()
    os.waitpid(child, 0)
    found: Record = json.loads(data) if data else {"why": "the process that asked systemd died"}
    return found


def enter(request: Record) -> None:
    """Let this process, the job's command before its exec, be in the job's control groups if it has any.

    :raises cgroup.Refused: the kernel says no.
    """
    if request.get("unit"):
        cgroup.enter(request["unit"]["groups"], request["unit"]["limits"])


def groups(private: Record) -> list[str]:
    """Return the control groups of a job, given its private part or its request; none if it has no unit."""
    unit = private.get("unit")
    return list(unit["groups"]) if unit else []
