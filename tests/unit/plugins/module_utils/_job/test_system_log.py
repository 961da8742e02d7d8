# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import syslog

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import system_log
from ansible_collections.durable.jobs.plugins.module_utils._job.call import Call
from ansible_collections.durable.jobs.tests.unit.support import question


@pytest.fixture
def said(monkeypatch):
    """Collect what the C library is given, instead of the machine's own log."""
    found = []
    monkeypatch.setattr(syslog, "openlog", lambda *given: found.append(given))
    monkeypatch.setattr(syslog, "syslog", lambda *given: found.append(given))
    return found


def write(tmp_path, values, params=None, **log):
    entry = {"name": "durable.jobs.job_info", "facility": "LOG_USER", "prefix": ""}
    entry.update(log, values=values)
    asked = question(None, params=params or {}, paths=["chdir"], log=entry).request
    system_log.write(Call(dict(asked, async_dir=str(tmp_path)), None))


def test_who_asked_for_what(tmp_path, said):
    write(tmp_path, {"limit": "3", "env": "NOT_LOGGING_PARAMETER"})
    assert said == [
        ("ansible-durable.jobs.job_info", 0, syslog.LOG_USER),
        (syslog.LOG_INFO, "Invoked with limit=3 env=NOT_LOGGING_PARAMETER"),
    ]


def test_without_parameters(tmp_path, said):
    write(tmp_path, {})
    assert said[1] == (syslog.LOG_INFO, "Invoked")


def test_the_prefix_and_the_facility_that_are_configured(tmp_path, said):
    write(tmp_path, {"limit": "3"}, prefix="host one", facility="LOG_LOCAL3")
    assert said[0][2] == syslog.LOG_LOCAL3
    assert said[1][1] == "host one Invoked with limit=3"


def test_a_facility_that_this_system_does_not_have(tmp_path, said):
    write(tmp_path, {}, facility="LOG_NO_SUCH")
    assert said[0][2] == syslog.LOG_USER


def test_a_path_as_the_target_understands_it(tmp_path, said, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    write(tmp_path, {"chdir": "~/work"}, params={"chdir": "~/work"})
    assert said[1][1] == "Invoked with chdir=/home/me/work"


def test_a_path_that_is_not_given(tmp_path, said):
    write(tmp_path, {"chdir": "None"}, params={"chdir": None})
    assert said[1][1] == "Invoked with chdir=None"


@pytest.mark.parametrize(("text", "shown"), [("a\0b", "a\\0b"), ("a\ud800b", "a?b")])
def test_what_no_syslog_takes(tmp_path, said, text, shown):
    write(tmp_path, {"names": text})
    assert said[1][1] == f"Invoked with names={shown}"
