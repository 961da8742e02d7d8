# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import io
import json
import signal
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ansible_collections.durable.jobs.plugins.module_utils import _argspec, _engine, _job
from ansible_collections.durable.jobs.plugins.module_utils._job import launch, schema, validation
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError


def params(**given):
    """Return what AnsibleModule makes of these parameters."""
    defaults = {name: spec.get("default") for name, spec in _argspec.JOB.items()}
    return {**defaults, **given}


def build(**given):
    return launch.build_request(_argspec.usable(params(**given), _argspec.JOB), no_log=False)


def test_the_engine_is_the_whole_package():
    files = Path(_job.__file__).parent.glob("*.py")
    assert sorted([*_engine.PARTS, "boot"]) == sorted(path.stem for path in files)


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
    assert _engine._source("keeper") == b"the source of keeper.py"


def test_the_source_where_the_importer_cannot_tell_it(monkeypatch):
    spec = ModuleSpec(_job.__name__, ResourcesOnly(has_resources=False))
    monkeypatch.setattr(_job, "__spec__", spec)
    with pytest.raises(JobError, match=r"cannot tell the source of keeper\.py"):
        _engine._source("keeper")


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
        (
            {"cmd": "true", "umask": True},
            "umask must be an octal number .* such as '0022', not True",
        ),
        ({"cmd": "true", "umask": "٢٢"}, "umask must be an octal number"),
        ({"cmd": "true", "umask": "7" * 99}, "umask must be an octal number"),
        ({"cmd": "true", "stop_signal": "٩"}, "stop_signal.*unknown signal"),
        ({"cmd": "true", "stop_signal": "9" * 5000}, "stop_signal.*unknown signal '9{40}'"),
        ({"cmd": "true", "timeout": 300000000000}, "timeout must be at most ten years"),
        ({"cmd": "true", "timeout": 1e300}, "timeout must be at most ten years"),
        ({"cmd": "true", "grace": "1e12"}, "grace must be at most ten years"),
        ({"cmd": "true", "watchdog": "soon"}, "watchdog must be a number of seconds or .* 90s"),
        ({"cmd": "true", "retention": True}, "retention must be .* not True"),
        ({"cmd": "true", "nice": 10**20 - 1}, "nice must be at most 40, but is 9{20}"),
        ({"cmd": "true", "output_limit": 2**63}, "output_limit must be at most"),
        ({"cmd": "true", "tasks_max": 10**9}, "tasks_max must be at most 4194304"),
        ({"cmd": "true", "memory_max": "9" * 18 + "T"}, "memory_max must be at most .* 512M"),
        ({"cmd": "true", "cpu_quota": "999999999"}, "cpu_quota must be at most"),
        (
            {"argv": ["x" * (launch.WORD_LIMIT + 1)]},
            "argv has a word of [0-9]+ bytes, .* given [0-9]+",
        ),
        ({"cmd": "x " * 700000}, "cmd and env have [0-9]+ bytes"),
        ({"cmd": "true", "env": {"A": "€" * launch.WORD_LIMIT}}, "env has a word of [0-9]+ bytes"),
        ({"cmd": "true", "chdir": "/" * 4096}, "chdir is longer than the 4095 bytes"),
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


def test_what_is_null_is_as_good_as_not_given():
    given = dict.fromkeys((*_argspec.JOB, "other"))
    usable = _argspec.usable(dict(given, cmd="true"), _argspec.JOB)
    assert launch.build_request(usable, no_log=False) == build(cmd="true")


ANY_NUMBER = st.one_of(
    st.integers(),
    st.integers(0, 2 * 10**8),
    st.floats(),
    st.floats(0, 4e8),
    st.sampled_from([10**12, 3 * 10**11, 1e12, 1e300, "1h30m", "0.5", "3653d", "1e-300", 2**60]),
)
ANY_WORDS = st.lists(st.text(), min_size=1)
PLACE = {
    "epoch": 1.8e9,
    "monotonic": 1e6,
    "boot_id": "b",
    "machine": {"id": "m", "name": "n"},
    "user": "u",
    "containment": "process",
    "unit": None,
    "keeper": 2,
    "reports": True,
    **dict.fromkeys(("results_file", "stdout_file", "stderr_file"), "/x"),
}
JID = "j1795301990843259553.10311"


def records(asked):
    """Return the records that a job has in the course of its life, the private part included."""
    queued = schema.new_record(JID, asked, PLACE)
    process = {"epoch": 1.8e9, "monotonic": 1e6, "runner": 3, "command": {"pid": 4, "started": 5}}
    running = schema.begin(queued, dict(process, ahead=[]))
    hundred_years = 100 * 365 * 86400.0  # more than a command can extend its limit to, see reports
    told = {"percent": 1, "status": "s", "at": 1.0, "extended": hundred_years}
    yield from (queued, running, schema.with_reports(running, told))
    for status in (0, 0x100, 9):
        end = {"status": status, "epoch": 1.9e9, "monotonic": 1e6 + schema.LONGEST}
        how = {"state": "exited", "reason": None, "exited": end}
        yield schema.finish(running, ending=None, **how)
        ending = {"state": "timed_out", "reason": None, "survivors": []}
        yield schema.finish(running, ending=dict(ending, signal=asked["stop_signal"]), **how)
    lost = {"state": "lost", "reason": "killed", "exited": None, "ending": None}
    yield from (schema.finish(one, **lost) for one in (queued, running))


@given(
    words=ANY_WORDS,
    numbers=st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            (
                *("timeout", "max_timeout", "watchdog", "grace", "retention"),
                *("nice", "output_limit", "umask"),
            ),
            ANY_NUMBER,
        ),
    ),
    texts=st.fixed_dictionaries(
        {},
        optional={
            "name": st.text(),
            "chdir": st.text(),
            "stdin": st.text(),
            "stop_signal": st.sampled_from([one.name for one in signal.Signals]),
            "env": st.dictionaries(st.text(), st.text() | ANY_NUMBER),
        },
    ),
    no_log=st.booleans(),
)
@example(words=["true"], numbers={"output_limit": 10**12}, texts={}, no_log=False)
@example(words=["true"], numbers={"timeout": 3 * 10**11}, texts={}, no_log=False)
@example(words=["true"], numbers={"grace": 1e12}, texts={}, no_log=False)
def test_what_is_accepted_gives_records_that_readers_accept(words, numbers, texts, no_log):
    try:
        asked = launch.build_request(params(argv=words, **numbers, **texts), no_log=no_log)
    except JobError:
        return
    for record in records(asked):
        written = json.loads(json.dumps(record))
        assert validation.record_flaw(JID, written) is None, written


def test_creates_and_removes_are_looked_for_below_chdir(tmp_path):
    (tmp_path / "done.1").touch()

    def why(**given):
        return launch.unneeded(params(cmd="true", chdir=str(tmp_path), **given))

    assert why(creates="done.*") == f"not started: creates {tmp_path}/done.1 exists"
    assert why(creates="other") is None
    assert why(removes="other") == "not started: removes other does not exist"
    assert why(removes="done.1") is None
    assert why() is None
