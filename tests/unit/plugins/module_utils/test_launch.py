# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import io
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils import _job, _launch
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError


def params(**given):
    """Return what AnsibleModule makes of these parameters."""
    defaults = {name: spec.get("default") for name, spec in _launch.JOB_SPEC.items()}
    return {**defaults, **given}


def build(**given):
    return _launch.build_request(params(**given), no_log=False)


def test_the_engine_is_the_whole_package():
    files = Path(_job.__file__).parent.glob("*.py")
    assert sorted(_launch.ENGINE) == sorted(path.stem for path in files)


class ResourcesOnly:
    """An importer that has no get_data, as mitogen's."""

    def __init__(self, has_resources):
        if has_resources:
            self.get_resource_reader = lambda _package: self

    def open_resource(self, name):
        return io.BytesIO(b"the source of %s" % name.encode())


def test_the_source_where_the_importer_has_resources_only(monkeypatch):
    spec = ModuleSpec(_job.__name__, ResourcesOnly(has_resources=True))
    monkeypatch.setattr(_job, "__spec__", spec)
    assert _launch._source("keeper") == b"the source of keeper.py"


def test_the_source_where_the_importer_cannot_tell_it(monkeypatch):
    spec = ModuleSpec(_job.__name__, ResourcesOnly(has_resources=False))
    monkeypatch.setattr(_job, "__spec__", spec)
    with pytest.raises(JobError, match=r"cannot tell the source of keeper\.py"):
        _launch._source("keeper")


@pytest.mark.parametrize(
    ("given", "argv", "cmd"),
    [
        ({"cmd": "/bin/sleep 15"}, ["/bin/sleep", "15"], ["/bin/sleep", "15"]),
        (
            {"cmd": "echo 'a b' $HOME; ls"},
            ["echo", "a b", "$HOME;", "ls"],
            ["echo", "a b", "$HOME;", "ls"],
        ),
        ({"argv": ["echo", "a b", ""]}, ["echo", "a b", ""], ["echo", "a b", ""]),
        ({"shell": "a | b"}, ["/bin/sh", "-c", "a | b"], "a | b"),
        ({"shell": "a", "executable": "/bin/bash"}, ["/bin/bash", "-c", "a"], "a"),
    ],
)
def test_what_is_run_and_what_is_shown(given, argv, cmd):
    built = build(**given)
    assert (built["argv"], built["cmd"]) == (argv, cmd)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"cmd": "echo 'open"}, "cmd cannot be split into words"),
        ({"cmd": "  "}, "cmd is empty"),
        ({"argv": []}, "argv is empty"),
        ({"argv": [""]}, "argv is empty"),
        ({"shell": " "}, "shell is empty"),
        ({"argv": ["a\0b"]}, "argv holds a null"),
        ({"cmd": "true", "chdir": "/a\0"}, "chdir holds a null"),
        ({"cmd": "true", "stop_signal": "NOPE"}, "stop_signal.*unknown signal 'NOPE'"),
        ({"cmd": "true", "umask": "9"}, "umask must be an octal number"),
        ({"cmd": "true", "umask": 0o1000}, "umask must be an octal number"),
        ({"cmd": "true", "env": {"A=B": "1"}}, "env has a variable with the impossible name 'A=B'"),
        ({"cmd": "true", "env": {"A": ["1"]}}, "env has no usable value for A"),
        ({"cmd": "true", "env": {"A": None}}, "env has no usable value for A"),
    ],
)
def test_what_cannot_be_launched_is_refused_by_name(given, says):
    with pytest.raises(JobError, match=says):
        build(**given)


def test_numbers_are_passed_on_as_they_were_meant():
    built = build(cmd="true", timeout=60.0, grace=0.5, umask="022", env={"N": 1}, stdin="a")
    assert (built["timeout"], built["grace"], built["umask"]) == (60, 0.5, 0o22)
    assert (built["env"], built["stdin"], built["stop_signal"]) == ({"N": "1"}, "a\n", 15)
    assert build(cmd="true", stdin="a", stdin_add_newline=False)["stdin"] == "a"


def test_creates_and_removes_are_looked_for_below_chdir(tmp_path):
    (tmp_path / "done.1").touch()

    def why(**given):
        return _launch.unneeded(params(cmd="true", chdir=str(tmp_path), **given))

    assert why(creates="done.*") == f"not started: creates {tmp_path}/done.1 exists"
    assert why(creates="other") is None
    assert why(removes="other") == "not started: removes other does not exist"
    assert why(removes="done.1") is None
    assert why() is None
