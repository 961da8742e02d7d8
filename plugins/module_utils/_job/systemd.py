# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking systemd for a transient unit. Used by short-lived processes only, see unit."""

from __future__ import annotations

import os
import time

from . import cgroup
from .dbus import DBusError, Peer
from .errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .schema import Record

SYSTEMD = "org.freedesktop.systemd1"
HALVES = ("keepers", "work")  # of a unit: our own processes, and the groups of the jobs
TRIES = 32
# What systemd may not know yet, with the version that does. One by one they are left out until it agrees.
_SINCE_236 = ("CollectMode", ("s", "inactive-or-failed"))  # a failed unit would stay
_UNKNOWN = ("org.freedesktop.DBus.Error.PropertyReadOnly", "org.freedesktop.DBus.Error.InvalidArgs")


def enclose(
    pid: int, *, address: str, title: str, patience: float, controllers: list[str]
) -> Record:
    """Put a process into a unit of its own.

    :param address: of systemd's socket.
    :param title: what the unit is called for people.
    :param patience: seconds that the jobs may need to end at a shutdown.
    :param controllers: which are wanted.
    :return: ``name``, ``groups``: in which each job can make its own, and ``controllers``: what can be limited there.
    :raises JobError: there is no unit, or none that can be used.
    """
    name = "durable-%d-%d.scope" % (time.time_ns() // 1000, pid)
    properties = [
        ("Description", ("s", title)),
        ("PIDs", ("au", [pid])),
        ("Delegate", ("b", True)),
        ("TimeoutStopUSec", ("t", int(patience * 1000000))),
    ]
    try:
        _start(address, name, properties)
        found = _groups(pid, name)
        if not found:
            raise JobError("systemd has started %s, but we are not in it" % name)
        usable = _delegate(pid, found, controllers)
        return {"name": name, "groups": list(found.values()), "controllers": usable}
    except DBusError as error:
        raise JobError("systemd does not give a unit: %s" % error) from None
    except OSError as error:
        where = " (%s)" % error.filename if error.filename else ""
        raise JobError(
            "the unit's control group cannot be used: %s%s" % (error.strerror, where)
        ) from None


def _start(address: str, name: str, properties: list[tuple[str, tuple[str, object]]]) -> None:
    systemd = Peer(address, is_bus=False)
    try:
        try:
            _start_unit(systemd, name, [*properties, _SINCE_236])
        except DBusError as error:
            if error.name not in _UNKNOWN:
                raise
            _start_unit(systemd, name, properties)
    finally:
        systemd.close()


def _start_unit(systemd: Peer, name: str, properties: list[tuple[str, tuple[str, object]]]) -> None:
    signature, arguments = "ssa(sv)a(sa(sv))", [name, "fail", properties, []]
    where, manager = "/org/freedesktop/systemd1", SYSTEMD + ".Manager"
    (job,) = systemd.call(SYSTEMD, where, manager, "StartTransientUnit", signature, arguments)
    while True:
        # What it tells everybody who is connected to it directly: id, path, unit and result of a job of its own.
        _number, path, _unit, result = systemd.signal("JobRemoved")
        if path == job:
            break
    if result != "done":
        raise DBusError("", "the start of %s: %s" % (name, result))


def _groups(pid: int, unit: str) -> dict[str, str]:
    """Return the folders of a process's control groups that belong to a unit, by hierarchy; ours to use is the first.

    The hierarchy of version 2 has no name; those of version 1 have their controllers', or ``name=systemd``.
    """
    found = {}
    with open("/proc/%d/cgroup" % pid, encoding="utf-8", errors="surrogateescape") as source:
        for line in source:
            _number, hierarchy, path = line.rstrip("\n").split(":", 2)
            if path.endswith("/" + unit):
                for root, point in _mounted(hierarchy):
                    inside = root.rstrip("/") + "/"
                    if path.startswith(inside):
                        found[hierarchy] = os.path.join(point, path[len(inside) :])
                        break
    # Version 1 hands hierarchies with controllers over to root only.
    usable = {name: path for name, path in found.items() if os.access(path, os.W_OK)}
    first = next((name for name in ("", "name=systemd") if name in usable), None)
    return dict(sorted(usable.items(), key=lambda item: item[0] != first))


def _mounted(hierarchy: str) -> list[tuple[str, str]]:
    """Return where a hierarchy is mounted: which group, and at which path (proc(5), mountinfo)."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as source:
        for line in source:
            left, _dash, right = line.partition(" - ")
            root, point = left.split()[3:5]
            kind, _source, options = right.split()[:3]
            wanted = set(hierarchy.split(","))
            if kind == ("cgroup" if hierarchy else "cgroup2") and (
                not hierarchy or wanted <= set(options.split(","))
            ):
                found.append((root, point))
    return found


def _delegate(pid: int, groups: dict[str, str], wanted: list[str]) -> list[str]:
    """Let jobs have groups below ours, and return the controllers that can limit them.

    A group of version 2 whose groups have limits may not have processes itself.

    :param groups: is changed where the jobs' groups must lie deeper.
    """
    usable = [name for hierarchy in groups for name in hierarchy.split(",") if name]
    if "" in groups:
        above = groups[""]
        keepers, groups[""] = halves(above)
        cgroup.write(keepers + "/cgroup.procs", str(pid))
        for name in wanted:
            try:
                for group in (above, groups[""]):
                    cgroup.write(group + "/cgroup.subtree_control", "+" + name)
                usable.append(name)
            except OSError:  # not there, or not ours to use
                pass
    return usable


def halves(unit: str) -> tuple[str, str]:
    """Make the two groups in a unit's, see HALVES, so that the kernel lists that of the keepers first.

    systemd signals what is in a unit in that order. At a shutdown a keeper must have its SIGTERM before the command has
    its own: a command that answers it with exit 0 must not pass for one that has done its work. The kernel orders names
    by a hash of them, so some are tried.
    """
    made: list[str] = []
    for number in range(TRIES):
        for path in made:
            os.rmdir(path)
        made = ["%s/%s%s" % (unit, half, number or "") for half in HALVES]
        for path in made:
            os.mkdir(path, 0o755)
        order = os.listdir(unit)
        if order.index(os.path.basename(made[0])) < order.index(os.path.basename(made[1])):
            break
    return made[0], made[1]
