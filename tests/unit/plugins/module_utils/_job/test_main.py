# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every answer of the engine has, whatever the verb."""

from __future__ import annotations

import resource

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import boot, main
from ansible_collections.durable.jobs.tests.unit.support import opened, question

LIST = {"names": None, "states": None, "jids": None, "limit": 0, "order": "newest"}


def request(path, verb="job_info", **changes):
    """Return a request as boot passes it on."""
    return dict(question(None, verb, **changes).request, async_dir=str(path))


def test_secret_parameters_are_not_echoed(tmp_path):
    params = dict(LIST, output="none", secret="canary")
    found = main.answer(request(tmp_path, params=params, unshown=["secret"]), None)
    assert "canary" not in str(found)
    assert found["invocation"]["module_args"]["limit"] == 0


def test_an_error_of_a_verb_is_a_result_with_its_message_and_details(launcher):
    job = launcher.gated("exit 0")
    params = {"jid": job.jid, "name": None, "mode": "cleanup", "wait": 0, "output": "none"}
    found = main.answer(request(launcher.store.path, "job_status", params=params), None)
    assert found["failed"] is True
    assert job.jid in found["msg"] and "running" in found["msg"]
    assert found["invocation"]["module_args"]["mode"] == "cleanup"
    launcher.release()


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_leaves_nothing_open(launcher, fails):
    launcher.finished(launcher.shell("exit 0"))
    path = launcher.store.path
    before = opened(path), resource.getrlimit(resource.RLIMIT_NOFILE)
    params = dict(LIST, output="none", jids=["../x"] if fails else None)
    name = boot.installed_name("0" * 32)
    content = boot.sealed(name, {"main": b"code"})
    found = main.answer(request(path, params=params), (name, content))
    assert found.get("failed", False) is fails
    assert (opened(path), resource.getrlimit(resource.RLIMIT_NOFILE)) == before


def test_an_error_of_the_async_dir_is_told(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    found = main.answer(request(path), None)
    assert found["failed"] and str(path) in found["msg"]
