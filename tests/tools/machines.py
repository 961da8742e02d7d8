# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real machines for the molecule scenarios: Debian with systemd, logind, sshd and sudo, in systemd-nspawn.

Each machine, and the ssh that reaches it, has a network namespace of its own; a cable (veth) joins the two. So nothing
of the network of whoever runs this is used. Needs root.

    machines.py create             make and boot what is not there yet; print how to reach it, or why it cannot be
    machines.py power NAME off|on  pull the plug of a machine, or switch it on
    machines.py destroy            switch off and remove all; the installed packages are kept for the next time
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import typing as t
from concurrent import futures

RELEASES = ("trixie", "bookworm")
PACKAGES = (
    "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,openssh-server,sudo,python3,acl,"
    "iproute2,procps"
)
PROGRAMS = ("debootstrap", "systemd-nspawn", "ip", "nsenter", "ssh", "ssh-keygen")
# An ordinary user who may become anybody, and one who may become nobody.
USERS = ("alice", "bob")
BOOT = 90.0  # seconds after which a machine that does not let us in is given up
SEARCH_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class NoMachines(Exception):
    """This computer cannot have them; the text says why."""


def base() -> pathlib.Path:
    """Return the folder of all machines. It is root's, as what is in it is."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    named = os.environ.get("DURABLE_JOBS_MACHINES") or f"{cache}/durable-jobs/machines"
    return pathlib.Path(named).absolute()


def run(*command: object, **options: t.Any) -> str:
    """Run a command and return what it says.

    :raises NoMachines: it fails.
    """
    words = [str(word) for word in command]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise NoMachines(f"{words[0]} failed: {said}")
    return done.stdout


def remove_tree(path: pathlib.Path) -> None:
    """Remove a folder and all in it, but nothing that is mounted there."""
    mounts = pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    for point in sorted((line.split()[4] for line in mounts), reverse=True):
        if point.startswith(f"{path}/"):
            run("umount", "--lazy", point)
    if path.exists():
        run("rm", "-rf", "--one-file-system", path)


class Lab:
    """All machines, the network between them and us, and the keys."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        # Several working copies may have machines at the same time.
        self.mark = "dj" + hashlib.sha256(str(folder).encode()).hexdigest()[:8]
        self.run = pathlib.Path("/run") / self.mark  # a short path, for the sockets of ssh
        self.machines = [Machine(self, name) for name in RELEASES]

    def machine(self, name: str) -> Machine:
        """Return the machine of that name."""
        return self.machines[RELEASES.index(name)]

    def create(self) -> dict[str, t.Any]:
        """Make and boot what is not there yet, and return an inventory."""
        if os.geteuid() != 0:
            raise NoMachines("only root can boot them")
        missing = [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]
        if missing:
            raise NoMachines(f"{', '.join(missing)} missing, and could not be installed")
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.run.mkdir(mode=0o700, exist_ok=True)
        self._make_keys()
        if self.mark not in _namespaces():
            run("ip", "netns", "add", self.mark)
        with futures.ThreadPoolExecutor(len(self.machines)) as together:
            list(together.map(Machine.create, self.machines))
        return self._inventory()

    def destroy(self) -> None:
        """Switch off and remove what create() has made, as far as it came."""
        for machine in self.machines:
            machine.destroy()
        if self.mark in _namespaces():
            run("ip", "netns", "delete", self.mark)
        for path in (self.run, self.folder / "bin"):
            remove_tree(path)
        for name in ("ssh_key", "ssh_key.pub"):
            with contextlib.suppress(FileNotFoundError):
                (self.folder / name).unlink()

    def _make_keys(self) -> None:
        if not (self.folder / "ssh_key").exists():
            words = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "durable.jobs test", "-f")
            run(*words, self.folder / "ssh_key")
        bin_folder = self.folder / "bin"
        bin_folder.mkdir(exist_ok=True)
        for name in ("ssh", "scp", "sftp"):
            program = bin_folder / name
            program.write_text(
                f'#!/bin/sh\nexec nsenter --net=/run/netns/{self.mark} {name} "$@"\n',
                encoding="utf-8",
            )
            program.chmod(0o755)

    def ssh_options(self, known: pathlib.Path) -> list[str]:
        """Return options with which ssh looks at nothing but our files."""
        return [
            *("-F", "/dev/null", "-o", f"UserKnownHostsFile={known}"),
            *("-o", "GlobalKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=yes"),
            *("-o", "IdentitiesOnly=yes"),
        ]

    def _inventory(self) -> dict[str, t.Any]:
        hosts = {machine.name: {"ansible_host": machine.address} for machine in self.machines}
        known = [
            f"{machine.address} {machine.host_key()}"
            for machine in self.machines  # as they were made, not as the network shows them
        ]
        known_hosts = self.run / "known_hosts"
        known_hosts.write_text("".join(known), encoding="utf-8")
        bin_folder = self.folder / "bin"
        variables = {
            "ansible_connection": "ssh",
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.folder / "ssh_key"),
            "ansible_ssh_executable": str(bin_folder / "ssh"),
            "ansible_scp_executable": str(bin_folder / "scp"),
            "ansible_sftp_executable": str(bin_folder / "sftp"),
            "ansible_ssh_common_args": " ".join(self.ssh_options(known_hosts)),
            "ansible_control_path_dir": str(self.run / "cp"),
            "ansible_python_interpreter": "/usr/bin/python3",
            "machines_command": [sys.executable, str(pathlib.Path(__file__).absolute())],
            "machines_known_hosts": str(known_hosts),
            "machines_network": self.mark,
        }
        # The same machines once more, on connections of their own: who acts on one while somebody else waits for it.
        operators = {
            f"{name}_operator": {
                **reached,
                "machine": name,
                "ansible_control_path_dir": str(self.run / "cp_operator"),
            }
            for name, reached in hosts.items()
        }
        groups = {"machines": {"hosts": hosts}, "operators": {"hosts": operators}}
        return {"all": {"vars": variables, "children": groups}}


class Machine:
    """One machine.

    :param lab: to which it belongs.
    :param name: of its release, and its own.
    """

    def __init__(self, lab: Lab, name: str) -> None:
        self._lab = lab
        self.name = name
        self.folder = lab.folder / name
        self.root = self.folder / "root"
        self._packages = lab.folder / "packages" / name
        self._id = f"{lab.mark}-{name}"  # of its network namespace, its control groups and itself
        self._end = f"to-{name}"  # our end of its cable
        net = 4 * RELEASES.index(name)  # 198.51.100.0/24 is for examples: it is nobody's
        self._ours, self.address = f"198.51.100.{net + 1}", f"198.51.100.{net + 2}"

    def create(self) -> None:
        """Make and boot it; nothing is done if it runs and lets us in."""
        if self.is_supervised() and not self._off().exists() and self._lets_us_in():
            return
        self.destroy()
        self._install()
        self.folder.mkdir()
        run("cp", "--archive", "--reflink=auto", self._packages, self.root)
        self._set_up()
        self._wire()
        command = [sys.executable, __file__, "supervise", self.name]
        with (self.folder / "log").open("ab") as log:
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + BOOT
        while not self._lets_us_in():
            boots = (self.folder / "boots").read_text() if (self.folder / "boots").exists() else ""
            if time.monotonic() > until or len(boots) > 2:
                log = (self.folder / "log").read_text(encoding="utf-8", errors="replace")
                last = (log.strip() or "nothing").splitlines()[-1]
                raise NoMachines(f"{self.name} does not boot here; its last words: {last}")
            time.sleep(0.2)

    def destroy(self) -> None:
        """Switch it off and remove it, as far as it is there."""
        if self.is_supervised():
            os.kill(int((self.folder / "supervisor").read_text()), signal.SIGTERM)
        while self.is_supervised():
            time.sleep(0.05)
        if self._id in _namespaces():
            run("ip", "netns", "delete", self._id)  # with the cable
        for group in self._groups():
            _remove_group(group)
        remove_tree(pathlib.Path("/run/systemd/nspawn/propagate") / self._id)
        remove_tree(self.folder)

    def power(self, state: str) -> None:
        """Pull its plug: all of it is gone at once, without a word to anybody. Or switch it on, and do not wait."""
        if state == "on":
            self._wire()
            self._off().unlink()
            return
        # First the network: the kernel lives on, and would tell the other end of each connection.
        run("ip", "-n", self._lab.mark, "link", "delete", self._end)
        self._off().touch()
        for pid in self._first_processes():
            os.kill(pid, signal.SIGKILL)
        while self._first_processes():
            time.sleep(0.02)
        run("ip", "netns", "delete", self._id)

    def host_key(self) -> str:
        """Return its public key."""
        return (self.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text(encoding="utf-8")

    def is_supervised(self) -> bool:
        """Return whether somebody sees to it that it runs, unless it is switched off."""
        try:
            fd = os.open(self.folder / "supervisor", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def supervise(self) -> None:
        """Boot it, and boot it again whenever it has gone down, until somebody sends SIGTERM.

        nspawn ends when its machine reboots, since it may not have a unit of its own here (--keep-unit).
        """
        lock = os.open(self.folder / "supervisor", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.write(lock, str(os.getpid()).encode())
        signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
        for group in self._groups(make=True):
            (group / "cgroup.procs").write_text(str(os.getpid()))
        try:
            while True:
                if self._off().exists():
                    time.sleep(0.05)
                    continue
                subprocess.run(
                    self._nspawn(),
                    stdin=subprocess.DEVNULL,
                    env=self._environment(),
                    check=False,  # whatever ends it, it is booted again
                )
                with (self.folder / "boots").open("a") as boots:
                    boots.write(".")
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            for pid in self._first_processes():
                os.kill(pid, signal.SIGKILL)
            # The control groups are removed by somebody who is not in them.

    def _nspawn(self) -> list[str]:
        return [
            *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"),
            *("--console=pipe", "--link-journal=no", "--resolv-conf=off", "--timezone=off"),
            *(f"--machine={self._id}", f"--hostname={self.name}", f"--directory={self.root}"),
            f"--network-namespace-path=/run/netns/{self._id}",
            "--capability=CAP_NET_ADMIN",  # its own network is its to take down
        ]

    def _environment(self) -> dict[str, str]:
        modern = {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"} if _hierarchies("cgroup2") else {}
        return {**os.environ, "PATH": SEARCH_PATH, **modern}

    def _first_processes(self) -> list[int]:
        """Return the pids, as we see them, of what is pid 1 in it."""
        found = []
        for group in self._groups()[:1]:
            for members in group.rglob("cgroup.procs"):
                found += [int(pid) for pid in members.read_text().split() if _is_first(pid)]
        return found

    def _groups(self, *, make: bool = False) -> list[pathlib.Path]:
        """Return its control groups, one in each hierarchy that systemd needs, as far as they are there."""
        points = _hierarchies("cgroup2") + _hierarchies("name=systemd")
        groups = [pathlib.Path(point) / self._id for point in points]
        if make:
            for group in groups:
                group.mkdir(exist_ok=True)
        return [group for group in groups if group.exists()]

    def _off(self) -> pathlib.Path:
        return self.folder / "off"

    def _lets_us_in(self) -> bool:
        known = self.folder / "known_hosts"
        known.write_text(f"{self.address} {self.host_key()}", encoding="utf-8")
        options = [*self._lab.ssh_options(known), "-o", "ConnectTimeout=2"]
        key = ("-i", self._lab.folder / "ssh_key")
        with contextlib.suppress(NoMachines, subprocess.TimeoutExpired):
            ssh = self._lab.folder / "bin/ssh"
            run(ssh, *options, *key, f"root@{self.address}", "true", timeout=10)
            return True
        return False

    def _install(self) -> None:
        """Install the packages, once for ever."""
        if self._packages.exists():
            return
        part = self._packages.with_suffix(".part")
        remove_tree(part)
        part.parent.mkdir(mode=0o700, exist_ok=True)
        words = ("debootstrap", "--variant=minbase", f"--include={PACKAGES}", self.name)
        run(*words, part, env={**os.environ, "PATH": SEARCH_PATH})
        shutil.rmtree(part / "var/cache/apt")
        part.rename(self._packages)

    def _set_up(self) -> None:
        """Give it a name and users, and let us in."""
        (self.root / "etc/hostname").write_text(f"{self.name}\n")
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost {self.name}\n")
        (self.root / "etc/machine-id").write_text("uninitialized\n")
        key = (self._lab.folder / "ssh_key.pub").read_text(encoding="utf-8")
        self._let_in("/root", 0, key)
        for user in USERS:
            run("chroot", self.root, "useradd", "--create-home", "--shell=/bin/bash", user)
            run("chroot", self.root, "usermod", "--password=*", user)
            uid = int(run("chroot", self.root, "id", "-u", user))
            self._let_in(f"/home/{user}", uid, key)
        rights = self.root / "etc/sudoers.d/durable"
        rights.write_text(f"{USERS[0]} ALL=(ALL:ALL) NOPASSWD: ALL\n")
        rights.chmod(0o440)

    def _let_in(self, home: str, uid: int, key: str) -> None:
        folder = self.root / home.lstrip("/") / ".ssh"
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "authorized_keys").write_text(key, encoding="utf-8")
        for path in (folder, folder / "authorized_keys"):
            os.chown(path, uid, uid)

    def _wire(self) -> None:
        ours, theirs = self._lab.mark, self._id
        run("ip", "netns", "add", theirs)
        cable = ("link", "add", self._end, "type", "veth", "peer", "name", "eth0", "netns", theirs)
        run("ip", "-n", ours, *cable)
        run("ip", "-n", ours, "address", "add", f"{self._ours}/30", "dev", self._end)
        run("ip", "-n", theirs, "address", "add", f"{self.address}/30", "dev", "eth0")
        run("ip", "-n", ours, "link", "set", self._end, "up")
        for device in ("lo", "eth0"):
            run("ip", "-n", theirs, "link", "set", device, "up")


def _namespaces() -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return os.listdir("/run/netns")
    return []


@functools.lru_cache(maxsize=None)
def _hierarchies(kind: str) -> list[str]:
    """Return where hierarchies of control groups are mounted, by type or option."""
    lines = pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    parted = [line.partition(" - ") for line in lines]
    return [
        head.split()[4]
        for head, _dash, tail in parted
        if tail.startswith("cgroup") and kind in tail.replace(",", " ").split()
    ][:1]


def _remove_group(group: pathlib.Path) -> None:
    """Remove a control group with all below it, when the last killed process in it has gone."""
    for members in group.rglob("cgroup.procs"):
        while members.read_text():
            time.sleep(0.02)
    for folder, _folders, _files in os.walk(group, topdown=False):
        os.rmdir(folder)


def _is_first(pid: str) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in pathlib.Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
            if line.startswith("NSpid:"):
                pids = line.split()[1:]
                return len(pids) > 1 and pids[-1] == "1"
    return False


def main(words: list[str]) -> None:
    """Do what the command line says."""
    lab = Lab(base())
    verb, *rest = words
    if verb == "create":
        try:
            print(json.dumps({"inventory": lab.create()}))
        except NoMachines as error:
            lab.destroy()
            print(json.dumps({"skipped": str(error)}))
    elif verb == "destroy":
        lab.destroy()
    elif verb == "supervise":
        lab.machine(rest[0]).supervise()
    elif verb == "power":
        lab.machine(rest[0]).power(rest[1])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
