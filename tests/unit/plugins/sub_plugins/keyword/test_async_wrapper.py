# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ansible-core's words on the command line mean, and where a job goes."""

from __future__ import annotations

import os
import pwd

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._keyword import Order
from ansible_collections.durable.jobs.plugins.sub_plugins.keyword import async_wrapper

TMP = "/home/me/.ansible/tmp/ansible-tmp-17956-11284-1207"
MODULE = TMP + "/AnsiballZ_command.py"
ARGS = TMP + "/args"


@pytest.mark.parametrize(
    ("words", "args", "keeps"),
    [
        ((MODULE, "_"), None, False),
        ((MODULE, ARGS), ARGS, False),
        ((MODULE, ARGS, "-preserve_tmp"), ARGS, True),
        (("false", MODULE, "/usr/bin/python3", MODULE), None, False),
        (("true", MODULE, "/usr/bin/python3", MODULE), None, True),
        (("false", MODULE, "/bin/sh", MODULE, ARGS), ARGS, False),
        (("false", MODULE, MODULE, ARGS), ARGS, False),
    ],
)
def test_the_words_of_every_core_are_understood(words, args, keeps):
    order = Order(["j123", "45", *words])
    assert order.limit == 45
    assert (order.path, order.args, order.keeps_tmpdir) == (MODULE, args, keeps)
    assert (order.module, order.tmpdir) == ("command", TMP)


def test_a_folder_that_is_not_a_temporary_one_of_ansible_is_left_alone():
    assert Order(["j123", "45", "/srv/modules/mine", "_"]).keeps_tmpdir


def test_nobody_else_runs_it():
    with pytest.raises(JobError, match="by nobody else"):
        Order(["j123", "45"])


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"_ansible_no_log": true}', True),
        (b"_raw_params=x _ansible_no_log=True ", True),
        (b'{"_ansible_no_log": false}', False),
        (b'{"text": "\\"_ansible_no_log\\": true"}', False),
    ],
)
def test_what_the_module_is_told_is_found_in_its_arguments(tmp_path, content, found):
    module, args = tmp_path / "module", tmp_path / "args"
    module.write_bytes(b"#!/bin/sh\n")
    args.write_bytes(content)
    order = Order(["j123", "45", str(module), str(args)])
    assert order.has_flag("no_log") is found
    assert not order.has_flag("check_mode")


def test_the_home_is_that_of_the_user_database(monkeypatch):
    home = pwd.getpwuid(os.geteuid()).pw_dir
    monkeypatch.setenv("HOME", "/somewhere/else")
    monkeypatch.delenv("ANSIBLE_ASYNC_DIR", raising=False)
    assert async_wrapper.async_dir() == home + "/.ansible_async"
    monkeypatch.setenv("ANSIBLE_ASYNC_DIR", "~/jobs")
    assert async_wrapper.async_dir() == home + "/jobs"
    monkeypatch.setenv("ANSIBLE_ASYNC_DIR", "/var/lib/jobs")
    assert async_wrapper.async_dir() == "/var/lib/jobs"
