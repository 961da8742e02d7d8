# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes that undo themselves: the role job_guard, and the playbooks of its guide.

The host is a network namespace with an sshd of its own; the controller is another one, and a cable joins both.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils import _job
from ansible_collections.durable.jobs.plugins.module_utils._job import store
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._job.names import latest_job
from ansible_collections.durable.jobs.tests.bench import sshd
from ansible_collections.durable.jobs.tests.faults.conftest import SEED
from ansible_collections.durable.jobs.tests.faults.test_controller_death import kill
from ansible_collections.durable.jobs.tests.unit.support import until

ROOT = Path(_job.__file__).parents[3]
EXAMPLES = ROOT / "docs" / "examples"
MOMENTS = int(os.environ.get("DURABLE_JOBS_GUARDS", "8"))
PATIENCE = 300  # seconds after which a play that does not end is a failure
# They wait for real times on a real network: too long, and too dependent on a quiet machine, for every run.
pytestmark = pytest.mark.skipif(
    "DURABLE_JOBS_GUARDS" not in os.environ, reason="DURABLE_JOBS_GUARDS (moments) is not set"
)
LATE = 0.1  # seconds after its time by which an undo may start on a quiet machine
VERY_LATE = 3.0  # the same, where others use the machine, too
LOGIN = "Accepted publickey"
HOST, GATEWAY, GATEWAY_2, NOBODY, CONTROLLER = (
    *("10.9.9.2", "10.9.9.1", "10.9.9.3", "10.9.9.77", "10.1.1.1"),
)
MEND = f"ip link set eth0 up; ip route replace default via {GATEWAY}"
CONFIG = """\
Port 2222
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/user_key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
MaxStartups 100
MaxSessions 100
SetEnv PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
Subsystem sftp internal-sftp
Include {folder}/conf.d/*.conf
"""
PLAY = """\
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: durable.jobs.job_guard
      vars:
        job_guard_undo: {name: "{{ use }}", shell: "{{ undo }}"}
        job_guard_within: "{{ within }}"
        job_guard_tasks: change.yml
"""
CHANGE = "- ansible.builtin.shell: '{{ change }}'\n"


class Site:
    """A controller and a host.

    :param folder: for all that both have.
    """

    def __init__(self, folder, stack):
        self.folder = folder
        self.jobs = folder / "jobs"
        self.log = folder / "sshd.log"
        self.controller, self.host = (f"durable{os.getpid()}{end}" for end in "ch")
        for name in (self.controller, self.host):
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "delete", name)
        self._lay_cable()
        self._write_files()
        self.duration = 0.0  # seconds that a play takes which nobody disturbs
        program = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        command = [program, "-D", "-e", "-f", str(folder / "sshd_config")]
        with open(self.log, "ab") as log:
            server = subprocess.Popen([*inside(self.host), *command], stderr=log)
        stack.callback(server.wait)
        stack.callback(server.kill)  # one that reads its configuration again may lose a SIGTERM
        until(lambda: "listening" in self.log.read_text(), "the sshd")

    def _lay_cable(self):
        on_host, on_controller = ("ip", "-n", self.host), ("ip", "-n", self.controller)
        cable = ("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.host)
        run(*on_controller, *cable)
        for address in (f"{GATEWAY}/24", f"{GATEWAY_2}/24"):
            run(*on_controller, "address", "add", address, "dev", "eth0")
        run(*on_controller, "address", "add", CONTROLLER, "dev", "lo")
        run(*on_host, "address", "add", f"{HOST}/24", "dev", "eth0")
        for side in (on_host, on_controller):
            for device in ("lo", "eth0"):
                run(*side, "link", "set", device, "up")
        # The controller is beyond the gateway, which it is, too.
        run(*on_controller, "route", "replace", HOST, "dev", "eth0", "src", CONTROLLER)
        self.mend()

    def mend(self):
        """Let the host be as it was."""
        self.on_host(f"ip route flush exact default; {MEND}; nft flush ruleset")
        for path in (self.folder / "conf.d").glob("*"):
            path.unlink()
            self.reload()

    def reload(self):
        """Let the sshd read its configuration again, and return when it listens again."""
        before = self.log.read_text().count("SIGHUP")
        self.on_host(str(self.folder / "reload"))

        def listens():
            text = self.log.read_text()
            return text.count("SIGHUP") > before and "listening" in text.rpartition("SIGHUP")[2]

        until(listens, "the sshd")

    def _write_files(self):
        folder = self.folder
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        (folder / "conf.d").mkdir()
        for key in ("host_key", "user_key"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key))
        key = (folder / "host_key.pub").read_text()
        (folder / "known_hosts").write_text(f"[{HOST}]:2222 {key}")
        (folder / "sshd_config").write_text(CONFIG.format(folder=folder))
        (folder / "reload").write_text(f"#!/bin/sh\nkill -HUP $(cat {folder}/sshd.pid)\n")
        (folder / "reload").chmod(0o755)
        (folder / "play.yml").write_text(PLAY)
        (folder / "change.yml").write_text(CHANGE)
        options = {"UserKnownHostsFile": f"{folder}/known_hosts", "GlobalKnownHostsFile": "none"}
        options.update(IdentitiesOnly="yes", StrictHostKeyChecking="yes")
        self.variables = {
            "ansible_host": HOST,
            "ansible_port": 2222,
            "ansible_user": "root",
            "ansible_become": False,
            "ansible_ssh_private_key_file": f"{folder}/user_key",
            "ansible_ssh_common_args": "-F /dev/null "
            + " ".join(f"-o {name}={value}" for name, value in options.items()),
            "ansible_python_interpreter": os.path.realpath(sys.executable),
            "ansible_async_dir": str(self.jobs),
        }
        inventory = {"all": {"hosts": {"target": self.variables}}}
        (folder / "inventory.yml").write_text(json.dumps(inventory))

    def on_host(self, line):
        """Run a line of shell in the host's network, and return what it prints."""
        return run(*inside(self.host), "/bin/sh", "-c", line)

    def logins(self):
        """Return how many connections have been opened to the host so far."""
        return self.log.read_text().count(LOGIN)

    @contextlib.contextmanager
    def running(self, playbook, use, program="ansible-playbook", **values):
        """Run a playbook, with connections that no other one shares."""
        sockets = Path(tempfile.mkdtemp(dir=self.folder, prefix="cp"))
        command = [
            *inside(self.controller),
            *(str(Path(sys.executable).with_name(program)), "-i", self.folder / "inventory.yml"),
            *("-e", json.dumps({"use": use, **values}), *playbook),
        ]
        play = subprocess.Popen(
            command,
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT.parents[2]),
                "ANSIBLE_CONFIG": str(ROOT / "tests" / "tools" / "ansible.cfg"),
                "ANSIBLE_HOME": str(self.folder / "home"),
                "ANSIBLE_REMOTE_TEMP": str(self.folder / "remote"),
                "ANSIBLE_SSH_CONTROL_PATH_DIR": str(sockets),
                "ANSIBLE_NOCOLOR": "true",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield play
        finally:
            if play.poll() is None:
                kill(play)
            play.stdout.close()
            sshd.hang_up(sockets)

    def run(self, *playbook, use="", **values):
        """Run a playbook to its end; return its exit status and what it has printed."""
        with self.running(playbook, use, **values) as play:
            out, _none = play.communicate(timeout=PATIENCE)
            return play.returncode, out

    def undo(self, name):
        """Wait until the undo of a guard is over and return its record; None if it was never launched."""
        try:
            job = latest_job(store.Store.open(str(self.jobs), create=False), name)
        except (JobError, FileNotFoundError):
            return None
        if job is None:
            return None
        return until(
            lambda: next((one for one in [job.read_record()] if one["finished"]), None),
            "the end of the undo",
            PATIENCE,
        )


def inside(namespace):
    """Return what to put before a command, so that it has the network of a namespace."""
    return ["nsenter", f"--net=/run/netns/{namespace}", "--"]


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def site():
    needs = ("ip", "nft", "nsenter", "ssh", "ssh-keygen", "sshd")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [name for name in needs if shutil.which(name, path=path) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and {', '.join(missing or needs)}")
    if subprocess.run(["unshare", "--net", "nft", "list", "ruleset"], check=False).returncode:
        pytest.skip("needs network namespaces with nftables")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="durable_guard."))
        made = Site(Path(folder), stack)
        begin = time.monotonic()
        status, out = made.run(made.folder / "play.yml", use="first", **play_values(made, 0))
        assert status == 0, out
        made.duration = time.monotonic() - begin
        yield made


@pytest.fixture(autouse=True)
def mended(request):
    yield
    if "site" in request.fixturenames:
        request.getfixturevalue("site").mend()


def play_values(site, number, *, within="10m", change="true"):
    """Return the variables of the play: change and undo leave a line per execution."""
    marks = site.folder / f"marks.{number}"
    return {
        "within": within,
        "undo": f"echo undone >> {marks}; {MEND}",
        "change": f"echo changed >> {marks}; {change}",
    }


def moment(number):
    """Return what goes wrong in a play, and when, as a share of the time that it takes."""
    rng = random.Random(f"{SEED} {number}")
    return ("cut", "killed", "failed", "cut later")[number % 4], rng.uniform(0.2, 1.2)


@pytest.mark.parametrize("number", range(1, MOMENTS + 1))
def test_a_guard_at_a_random_moment(site, number, record_property):
    """
    a guarded change cuts the host off, at once or a moment later; or a task of it fails; or ansible-playbook is killed
    | the change stays only if a new connection has stopped the undo; otherwise the undo runs, once and in time
    """
    what, share = moment(number)
    within = round(site.duration * 1.5) + 3
    after = share * site.duration
    changes = {
        "cut": "ip link set eth0 down",
        "killed": "true",
        "failed": "false",
        "cut later": f'setsid -f sh -c "sleep {after}; ip link set eth0 down" < /dev/null > /dev/null 2>&1',
    }
    logins = site.logins()
    values = play_values(site, number, within=within, change=changes[what])
    with site.running([site.folder / "play.yml"], f"use {number}", **values) as play:
        if what == "killed":
            with contextlib.suppress(subprocess.TimeoutExpired):
                play.wait(after)
            if play.poll() is None:
                kill(play)
        out, _none = play.communicate(timeout=PATIENCE)
        found = site.undo(f"use {number}")
    marks = site.folder / f"marks.{number}"
    done = marks.read_text(encoding="utf-8").split() if marks.exists() else []
    if found is None:
        assert what == "killed" and done == []
        record_property(what, "before the undo was launched")
        return
    kept = check(found, done, within)
    if kept:
        assert what in ("killed", "cut later"), out
        assert site.logins() - logins >= 3, "the first connection, the trial, and that of the stop"
        assert what == "cut later" or play.returncode in (0, -signal.SIGKILL), out
    else:
        assert play.returncode != 0, out
    if what in ("cut", "failed"):
        assert f"use {number} ({found['ansible_job_id']})" in out
    record_property(what, "kept" if kept else "undone")


def check(found, done, within):
    """Ensure that an undo ran once and in time, or never; tell whether the change was kept."""
    if found["state"] == "stopped":
        assert found["started"] is False and "undone" not in done
        return True
    assert found["state"] == "succeeded", found
    assert done.count("undone") == 1
    submitted, start = (
        datetime.datetime.fromisoformat(found[key]) for key in ("submitted", "start")
    )
    late = (start - submitted).total_seconds() - within
    assert -LATE < late < VERY_LATE
    return False


GOOD_RULES = """
flush ruleset
table inet filter {
  chain input {
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    iif lo accept
    tcp dport 2222 accept
  }
}
"""
CASES = {
    "firewall": ({"rules": GOOD_RULES}, {"rules": GOOD_RULES.replace("2222", "22")}),
    "sshd": ({"who": "AllowUsers root"}, {"who": "AllowUsers nobody"}),
    "route": ({"gateway": GATEWAY_2}, {"gateway": NOBODY}),
}
# What a host may have before, and is to have again.
OLDER = {
    "firewall": "nft add table inet older",
    "sshd": "echo AllowUsers root > conf.d/who.conf",
    "route": f"ip route flush exact default; ip route add default via {GATEWAY} metric 100",
}


def example_values(site, name, **values):
    paths = {"firewall": site.folder / "rules", "sshd": site.folder / "conf.d" / "who.conf"}
    reload = str(site.folder / "reload")
    return {"file": str(paths.get(name, "")), "reload": reload, **values}


def state(site, name):
    """Return what an example changes."""
    if name == "firewall":
        return site.on_host("nft list ruleset")
    if name == "route":
        return site.on_host("ip -4 route show default")
    path = site.folder / "conf.d" / "who.conf"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_good_change_of_the_guide_stays(site, name):
    before = state(site, name)
    values = example_values(site, name, within="10m", **CASES[name][0])
    status, out = site.run(EXAMPLES / f"guard_{name}.yml", **values)
    assert status == 0, out
    found = site.undo(f"undo of guard_{name}_tasks")
    assert (found["state"], found["started"]) == ("stopped", False)
    assert state(site, name) != before


@pytest.mark.parametrize("name", [*sorted(CASES), "sshd, sockets named"])
def test_a_change_of_the_guide_that_locks_out_is_undone(site, name):
    """
    a firewall or an SSH configuration lets nobody in, but leaves open connections alone; or a route leads nowhere
    | `job_guard` fails, and the host is as it was before
    """
    name, _comma, named = name.partition(",")
    site.on_host(f"cd {site.folder}; {OLDER[name]}")
    before = state(site, name)
    within = round(site.duration * 1.5) + 3
    values = example_values(site, name, within=within, **CASES[name][1])
    if named:  # as some people have it in ansible.cfg
        path = f"{site.folder}/named-%C"
        values["ansible_ssh_args"] = (
            f"-o ControlMaster=auto -o ControlPersist=9 -o ControlPath={path}"
        )
    status, out = site.run(EXAMPLES / f"guard_{name}.yml", **values)
    found = site.undo(f"undo of guard_{name}_tasks")
    assert status == 2, out
    assert found["state"] == "succeeded", (found, out)
    assert found["ansible_job_id"] in out
    assert state(site, name) == before
    logins = site.logins()
    status, out = site.run("target", "-m", "ping", program="ansible")
    assert status == 0 and site.logins() > logins, out


def test_the_rescue_of_the_guide_goes_on_with_the_host_as_it_was(site):
    within = round(site.duration * 1.5) + 3
    values = {"gateway": NOBODY, "old_gateway": GATEWAY, "within": within}
    status, out = site.run(EXAMPLES / "guard_rescue.yml", **values)
    assert status == 0 and "TASK [Wait for the undo]" in out, out
    assert site.undo("undo of guard_route_tasks")["state"] == "succeeded"
    assert GATEWAY in state(site, "route")


def test_a_change_that_failed_can_be_kept_as_the_guide_says(site):
    values = example_values(site, "sshd", within="10m", who="AllowUsers root", reload="/bin/false")
    status, out = site.run(EXAMPLES / "guard_sshd.yml", **values)
    assert status == 2 and "'Reload the SSH server' failed, so the change is not kept" in out
    stop = "jobs='undo of guard_sshd_tasks' only_unstarted=true"
    module = ("target", "-m", "durable.jobs.job_stop", "-a", stop)
    status, out = site.run(*module, program="ansible")
    assert status == 0, out
    assert site.undo("undo of guard_sshd_tasks")["state"] == "stopped"
    assert state(site, "sshd") == "AllowUsers root\n"
