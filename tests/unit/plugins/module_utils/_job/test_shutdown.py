# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked when something may be a shutdown. A real shutdown: the molecule scenario reboot."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import host, shutdown


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """Return a function that sets what systemctl does, on a machine that systemd has booted."""
    monkeypatch.setattr(host, "BOOTED", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def does(script):
        (tmp_path / "systemctl").write_text("#!/bin/sh\n" + script, encoding="ascii")
        (tmp_path / "systemctl").chmod(0o755)

    return does


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        ('[ "$*" = is-system-running ] && echo stopping; exit 1', True),
        ("echo running", False),
        ("echo degraded; exit 1", False),
        ("exit 1", False),
    ],
)
def test_the_service_manager_knows(systemctl, script, answer):
    systemctl(script)
    assert shutdown.is_under_way() is answer
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.usefixtures("systemctl")
def test_without_systemctl_nobody_knows(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutdown.is_under_way() is False


def test_without_systemd_nobody_is_asked(systemctl, tmp_path, monkeypatch):
    systemctl("echo stopping")
    monkeypatch.setattr(host, "BOOTED", str(tmp_path / "missing"))
    assert shutdown.is_under_way() is False


def test_who_gives_no_answer_is_not_waited_for(systemctl, monkeypatch):
    systemctl("exec sleep 60")
    monkeypatch.setattr(shutdown, "ANSWER", 0.2)
    begin = time.monotonic()
    assert shutdown.is_under_way() is False
    assert time.monotonic() - begin < 30
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_signal_that_is_ignored_is_heard():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    shutdown.listen()
    try:
        assert not shutdown.heard()
        # To this thread: another one, of whoever runs the tests, would ignore it.
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        assert shutdown.heard()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGTERM, before)
