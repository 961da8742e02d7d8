# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the target is: its boot, its pid namespace, its init, its users."""

from __future__ import annotations

import os
import pwd

from .errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .schema import Record

BOOTED = "/run/systemd/system"  # is there if, and only if, systemd is PID 1 (sd_booted(3))
INITS = ("systemd", "init")  # names of processes that make a pid namespace a machine by itself
FIRST_NAMESPACE = (
    0xEFFFFFFC  # the pid namespace in which the kernel has started (include/linux/proc_ns.h)
)


def boot_id() -> str:
    """Return the id of the machine's current boot (random(4)). :raises JobError: /proc does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as source:
            return source.read().strip()
    except OSError:
        require_proc()
        raise JobError(
            "cannot see which boot of the machine this is: /proc must be mounted without the option subset=pid"
        ) from None


def pid_namespace() -> int:
    """Return the number of the pid namespace that we are in (namespaces(7)); 0 if /proc does not tell."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def require_proc() -> None:
    """Refuse to judge or to end processes by a /proc that does not show them. :raises JobError: saying what to do."""
    try:
        own = os.readlink("/proc/self")
        if own == str(os.getpid()):
            return
    except OSError:
        own = ""
    try:
        is_mounted = bool(own) or any(name.isdigit() for name in os.listdir("/proc"))
    except OSError:
        is_mounted = False
    why = "/proc is not mounted here, and without it no process can be seen"
    if is_mounted:
        why = "/proc shows the processes of another pid namespace, not those of the one that this task runs in"
    raise JobError("%s: mount it (mount -t proc proc /proc; unshare has --mount-proc)" % why)


def machine() -> Record:
    """Return what tells this machine from others: its id (machine-id(5)), empty where there is none, and its name."""
    try:
        with open("/etc/machine-id", encoding="ascii", errors="replace") as source:
            known = source.read(64).strip()
    except OSError:
        known = ""
    return {"id": known, "name": os.uname().nodename}


def runs_systemd() -> bool:
    """Tell whether systemd is PID 1 of this machine."""
    return os.path.isdir(BOOTED)


def user_name(uid: int) -> str:
    """Return the name of a user, or its number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
