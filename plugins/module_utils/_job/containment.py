# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can hold a job together and protect it on this machine: systemd or nothing. Private to the collection."""

from __future__ import annotations

import os
import pwd
import re

from . import host, quantities, schema
from .errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .schema import Record

_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]+)?)\s*([KMGT])?(?:i?B)?", re.ASCII | re.IGNORECASE)
_PERCENT = re.compile(r"([0-9]{1,9}(?:\.[0-9]+)?)\s*()%?", re.ASCII)
CPU_MOST = 1000000  # percent of one processor: ten thousand processors
_LOGIND = "org.freedesktop.login1"
# Where logind and systemd put what belongs to a login, in a path of /proc/<pid>/cgroup.
_LOGIN = re.compile(r"/user-(\d+)\.slice/(session-[^/]+\.scope|user@\d+\.service)(/|$)", re.M)


def checked(params: dict[str, Any]) -> Record:
    """Return what a request says of containment and limits, see launcher.

    :raises JobError: a limit is wrong, or what is asked for cannot be had on this machine.
    """
    found = limits(params)
    given = ", ".join(name for name, value in found.items() if value is not None)
    asked = params["containment"]
    if asked == schema.PROCESS and given:
        raise JobError(
            "%s cannot be enforced with containment=process: leave containment out or give systemd"
            % given
        )
    if asked != schema.PROCESS:
        _socket, why = manager()
        if why and (asked == schema.SYSTEMD or given):
            what = "containment=systemd" if asked == schema.SYSTEMD else given
            raise JobError("%s cannot be had as user %s: %s" % (what, _me(), why))
        if why:
            asked = schema.PROCESS
    return dict(found, containment=asked)


def limits(params: dict[str, Any]) -> Record:
    """Return the limits that are asked for, as numbers; null for none. :raises JobError: one is wrong."""
    found = quantities.checked({name: params[name] for name in schema.LIMITS})
    for name, rule, what in (
        ("memory_max", _SIZE, "bytes, or one with a unit such as 512M or 2G"),
        ("cpu_quota", _PERCENT, "percent of one processor, such as 50 or 200%"),
    ):
        if found[name] is not None:
            match = rule.fullmatch(str(found[name]).strip())
            if match is None:
                raise JobError("%s must be a number of %s, not %r" % (name, what, found[name]))
            letter = (match.group(2) or " ").upper()
            found[name] = int(float(match.group(1)) * 1024 ** " KMGT".index(letter))
    for name, most, example in (
        ("memory_max", schema.LARGEST, "512M"),
        ("cpu_quota", CPU_MOST, "50"),
    ):
        if found[name] is not None and not 1 <= found[name] <= most:
            bound = "at least 1" if found[name] < 1 else "at most %d" % most
            told = (name, bound, params[name], example)
            raise JobError("%s must be %s, but is %s; give for example %s" % told)
    return found


def manager() -> tuple[str, str]:
    """Return the socket of the systemd that can give this user a unit; or, if there is none, why and what to do.

    A user's own systemd ends at his last logout, and with it his units, unless he lingers.
    """
    if not host.runs_systemd():
        return "", "systemd is not PID 1 of this machine (there is no %s)" % host.BOOTED
    if os.geteuid() == 0:
        address = "/run/systemd/private"
        if os.path.exists(address):
            return address, ""
        return "", "systemd cannot be reached (there is no %s)" % address
    user = _me()
    if not os.path.exists("/var/lib/systemd/linger/" + user):
        why = "the systemd of this user ends when the user logs out; let root run: loginctl enable-linger %s"
        return "", why % user
    address = "/run/user/%d/systemd/private" % os.geteuid()
    if os.path.exists(address):
        return address, ""
    why = "the user lingers, but the user's systemd does not run (there is no %s); see systemctl status user@%d"
    return "", why % (address, os.geteuid())


def logout_warning() -> str | None:
    """Say what will end a job that has no unit, and what to do; None if nothing will."""
    if not host.runs_systemd():
        return None
    with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as source:
        login = _LOGIN.search(source.read())
    if login is None:
        return None
    try:
        owner = pwd.getpwuid(int(login.group(1))).pw_name
    except KeyError:  # the user has been removed while logged in
        return None
    setting = None
    if login.group(2).startswith("session-"):
        setting = _killing_setting(owner)
    elif not os.path.exists("/var/lib/systemd/linger/" + owner):
        setting = "user %s does not linger" % owner
    if setting is None:
        return None
    _socket, why = manager()
    remedy = why or "launch it with containment=auto"
    text = "this job will be killed when user %s logs out (%s), for it has no unit of systemd: %s"
    return text % (owner, setting, remedy)


def _killing_setting(user: str) -> str | None:
    """Return the setting by which logind kills what a user leaves at the logout; None if it does not.

    logind is asked, and not its files: what they say need not be what it has read, and where they say nothing the
    distribution decides.
    """
    from .dbus import SYSTEM_BUS, DBusError, Peer

    values = {}
    try:
        bus = Peer(SYSTEM_BUS, is_bus=True)
        try:
            for name in ("KillUserProcesses", "KillOnlyUsers", "KillExcludeUsers"):
                where = (_LOGIND, "/org/freedesktop/login1", "org.freedesktop.DBus.Properties")
                asked = [_LOGIND + ".Manager", name]
                values[name] = bus.call(*where, "Get", "ss", asked)[0]
        finally:
            bus.close()
    except DBusError:  # there is no logind to kill anything
        return None
    # As manager_shall_kill() of logind decides, see logind.conf(5).
    if user in values["KillExcludeUsers"] or (user == "root" and not values["KillExcludeUsers"]):
        return None
    if values["KillOnlyUsers"]:
        named = "KillOnlyUsers=%s in logind.conf" % " ".join(values["KillOnlyUsers"])
        return named if user in values["KillOnlyUsers"] else None
    return "KillUserProcesses=yes in logind.conf" if values["KillUserProcesses"] else None


def _me() -> str:
    return host.user_name(os.geteuid())
