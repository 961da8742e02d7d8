# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs that ansible-core's ``async`` launched: what their records mean, and whether their processes are gone.

async_wrapper.py of ansible-core 2.17 to 2.21 writes two records. The first one comes from the process that is about to
run the module. That process lives until it has replaced it by the last one, which is the module's result as it is, or
until it is killed. Its watcher writes a last record at the time limit. Both processes have the first part of the jid in
their command lines.
"""

from __future__ import annotations

import os
import time

from . import host, processes, schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .schema import Record
    from .store import Job

# Seconds for which a first record is believed: a launch, and a watcher that is about to write, are not disturbed.
SETTLING = 5.0
CACHED = 1.0  # seconds for which a look at all processes serves for many jobs
# Seconds by which a process may seem to be older than the record that was there before it: clocks are coarse.
SLACK = 60.0
NEARBY = 32768  # pids after the first wrapper's among which its successors are, with room to spare
FIRST_KEYS = frozenset(("started", "finished", "ansible_job_id"))  # of a first record
# File systems that no other machine can share with us, as /proc/self/mountinfo calls them.
LOCAL = frozenset(
    (
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "bcachefs", "f2fs", "jfs", "nilfs2", "reiserfs"),
        *("zfs", "overlay", "tmpfs", "ramfs", "rootfs"),
    )
)


def is_unfinished(jid: str, record: Record) -> bool:
    """Tell whether a record is a first one.

    ``started`` and ``finished`` may also be keys of the module's result, which then is no first record: that holds
    the jid, or nothing else.
    """
    if not record.get("started") or record.get("finished"):
        return False
    told = record.get("ansible_job_id")
    return told == jid or (told is None and FIRST_KEYS.issuperset(record))


def why_lost(job: Job) -> str | None:
    """Say for what reason a job is lost whose record is a first one; None if it may be running, as far as we can see.

    What has been read before must be read again: the job may have ended in between.

    :raises JobError: /proc is of no use here.
    """
    host.require_proc()
    try:
        written = os.stat(job.jid, dir_fd=job.store.fd, follow_symlinks=False).st_mtime
    except FileNotFoundError:  # removed at this moment
        return None
    if 0 <= time.time() - written < SETTLING or not _would_see(job):
        return None
    seen = _Processes.since(written)
    if os.fsencode(job.jid.rpartition(".")[0]) in seen.marks or seen.has_orphans(job, written):
        return None
    return schema.REBOOTED if written < _booted() else "killed"


def _booted() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _would_see(job: Job) -> bool:
    """Tell whether we would see the processes of a job.

    Not from within a container, whose files others may have, too, nor if another machine may have launched it.
    """
    is_first = host.pid_namespace() == host.FIRST_NAMESPACE
    point, kind = _mount(job.store.fd)
    # A machine of systemd-nspawn or LXC is one by itself, apart from what has been mounted into it.
    first = processes.process(1)
    is_machine = is_first or (point == "/" and first is not None and first.name in host.INITS)
    return is_machine and kind in LOCAL and not _may_be_hidden(int(job.jid.rpartition(".")[2]))


def _mount(fd: int) -> tuple[str, str]:
    """Return where the file system of a descriptor is mounted, and its kind; empty if that is unknown (proc(5))."""
    try:
        with open("/proc/self/fdinfo/%d" % fd, encoding="ascii") as source:
            number = next(line.split()[1] for line in source if line.startswith("mnt_id:"))
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as source:
            fields, kinds = next(
                (before.split(), after.split())
                for before, _dash, after in (line.partition(" - ") for line in source)
                if before.split()[0] == number
            )
        return fields[4], kinds[0]
    except (OSError, IndexError, StopIteration):
        return "", ""


def _may_be_hidden(wrapper: int) -> bool:
    """Tell whether /proc may hide the processes of a job from us, who have launched it.

    It shows us those of our user and group. Signal 0 reaches all those of our user.

    :param wrapper: the pid of the process that forked them.
    """
    if not processes.is_blind():
        return False
    with open("/proc/sys/kernel/pid_max", encoding="ascii") as source:
        limit = int(source.read())
    for pid in range(wrapper, wrapper + NEARBY):
        try:
            os.kill(pid % limit or 1, 0)
        except OSError:
            continue
        found = processes.process(pid % limit or 1)
        if found is None or found.started == processes.UNSEEN:
            return True
    return False


class _Processes:
    """One look at all processes that ``async`` may have started."""

    latest: _Processes | None = None

    def __init__(self) -> None:
        self.begun = time.time()
        self.marks: set[bytes] = set()  # the first parts of the jids of all wrappers
        self._sessions: set[int] = set()  # of the wrappers
        self._others: list[tuple[processes.Process, bytes]] = []  # and their async dirs
        table = processes.all_processes()
        self._leaders = {pid for pid, one in table.items() if pid == one.session and not one.zombie}
        for one in table.values():
            words = read_words(one.pid, "cmdline")
            marks = {
                mark for word, mark in zip(words, words[1:]) if is_wrapper(word) and not one.zombie
            }
            if marks:
                self._sessions.add(one.session)
            else:
                self._note(one)
            self.marks |= marks

    @classmethod
    def since(cls, moment: float) -> _Processes:
        """Return a look that has begun after a moment, and not long ago."""
        latest = cls.latest
        if latest is None or not moment + 0.1 < latest.begun <= time.time() < latest.begun + CACHED:
            latest = cls.latest = cls()
        return latest

    def _note(self, one: processes.Process) -> None:
        try:
            is_own = os.stat("/proc/%d" % one.pid).st_uid == os.geteuid() and not one.zombie
        except OSError:  # it has ended, or is hidden
            return
        for word in read_words(one.pid, "environ") if is_own else ():
            name, _equals, value = word.partition(b"=")
            if name == b"ANSIBLE_ASYNC_DIR":
                self._others.append((one, value))

    def has_orphans(self, job: Job, written: float) -> bool:
        """Tell whether a process is alive that may be of a job whose wrappers have been killed.

        It has the same async dir, is not older than the record, and is in a session that it has not founded, and whose
        founder is gone, as that of the wrappers is.
        """
        ticks = os.sysconf("SC_CLK_TCK")
        return any(
            one.session not in self._sessions | self._leaders
            and _booted() + one.started / ticks > written - SLACK
            and is_async_dir(value, job)
            for one, value in self._others
        )


def is_wrapper(word: bytes) -> bool:
    """Tell whether a word of a command line is the program async_wrapper."""
    return os.path.basename(word).startswith(b"async_wrapper")


def is_async_dir(value: bytes, job: Job) -> bool:
    """Tell whether the environment variable ANSIBLE_ASYNC_DIR of a process means the async dir of a job."""
    try:
        return os.path.samestat(os.stat(os.path.expanduser(value)), os.fstat(job.store.fd))
    except (OSError, ValueError):  # it is no more
        return False


def read_words(pid: int, file: str) -> list[bytes]:
    """Return the words of ``cmdline`` or ``environ`` of a process; none if they cannot be read."""
    try:
        with open("/proc/%d/%s" % (pid, file), "rb") as source:
            return source.read().split(b"\0")
    except OSError:
        return []
