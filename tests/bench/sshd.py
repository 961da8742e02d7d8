# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An sshd of our own on a free port of loopback addresses, for the user who runs the bench."""

from __future__ import annotations

import contextlib
import getpass
import os
import pathlib
import shutil
import socket
import subprocess
import time
import typing as t

from ansible_collections.durable.jobs.tests.bench.family import Family

ADDRESSES = 16  # on which one sshd can listen: MAX_LISTEN_SOCKS in its source
PATIENCE = 20.0  # seconds until an sshd that does not answer is given up

_CONFIG = """\
Port {port}
{listen}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/user_key.pub
AllowUsers {user}
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
# The folder lies below a world-writable one.
StrictModes no
MaxStartups 100
MaxSessions 100
SetEnv {environment}
Subsystem sftp internal-sftp
"""


class NoSshd(Exception):
    """This machine cannot have the SSH measurements; the text says why."""


class Sshd(t.NamedTuple):
    """An sshd that is running.

    :param hosts: inventory variables of the host at each of its addresses.
    :param root: of the family of sshd's processes and of all that it starts, see family.py.
    """

    hosts: list[dict[str, t.Any]]
    root: int


@contextlib.contextmanager
def running(
    folder: pathlib.Path,
    *,
    addresses: t.Sequence[str] = ("127.0.0.1",),
    environment: str = "BENCH=1",
) -> t.Iterator[Sshd]:
    """Run an sshd and yield the hosts that are reached through it.

    :param folder: for its keys, configuration and log; it must exist, and its path must be short.
    :param addresses: of loopback; sshd itself allows no more than :data:`ADDRESSES`.
    :param environment: a variable that its sessions have, ``NAME=value``.
    :raises NoSshd: there is none, or it lets nobody in.
    """
    program = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not program or not shutil.which("ssh") or not shutil.which("ssh-keygen"):
        raise NoSshd("sshd, ssh or ssh-keygen is not installed")
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # sshd insists on it
    port = _free_port()
    user = getpass.getuser()
    for key in ("host_key", "user_key"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key))
    host_key = (folder / "host_key.pub").read_text(encoding="ascii")
    known = "".join(f"[{address}]:{port} {host_key}" for address in addresses)
    (folder / "known_hosts").write_text(known, encoding="ascii")
    config = folder / "sshd_config"
    text = _CONFIG.format(
        port=port,
        listen="\n".join(f"ListenAddress {address}" for address in addresses),
        folder=folder,
        user=user,
        environment=environment,
    )
    config.write_text(text, encoding="utf-8")
    with open(folder / "sshd.log", "wb") as log:
        # By its full path, as it insists on.
        sshd = Family([program, "-D", "-e", "-f", str(config)], stderr=log)
    options = [
        *("-F", "/dev/null", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes"),
        *("-o", f"UserKnownHostsFile={folder}/known_hosts", "-o", "GlobalKnownHostsFile=/dev/null"),
    ]
    key = str(folder / "user_key")
    try:
        _wait_for(["ssh", *options, "-i", key, "-p", str(port), f"{user}@{addresses[0]}", "true"])
        common = {
            "ansible_connection": "ssh",
            "ansible_port": port,
            "ansible_user": user,
            "ansible_ssh_private_key_file": key,
            "ansible_ssh_common_args": " ".join(options),
        }
        hosts = [dict(common, ansible_host=address) for address in addresses]
        yield Sshd(hosts, sshd.root)
    finally:
        sshd.close()


def hang_up(sockets: pathlib.Path) -> None:
    """End the connections that ansible keeps open for later tasks."""
    for path in sockets.glob("*"):
        command = ["ssh", "-F", "/dev/null", "-o", f"ControlPath={path}", "-O", "exit", "127.0.0.1"]
        subprocess.run(command, capture_output=True, check=False)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(command: t.Sequence[str]) -> None:
    limit = time.monotonic() + PATIENCE
    while True:
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if run.returncode == 0:
            return
        if time.monotonic() > limit:
            said = run.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise NoSshd(f"the sshd on loopback does not let us in: {said}")
        time.sleep(0.1)
