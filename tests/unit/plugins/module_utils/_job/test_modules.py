# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs that are modules: staged, run by the real launcher, and their results read."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    modules,
    schema,
    staging,
    status,
    stopping,
    validation,
)
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.tests.unit.support import Launcher, request, until


class Modules:
    """Stages modules written as lines of Python and launches them."""

    def __init__(self, launcher):
        self.launcher = launcher

    def stage(self, *lines, name="acme.test.thing", places=None, **how):
        content = "\n".join(("import json, os, sys, time", *lines)).encode()
        how.setdefault("shebang", "#!" + sys.executable)
        payload = staging.Payload(name, name="AnsiballZ_thing.py", content=content, **how)
        return staging.stage(self.launcher.store, payload, **(places or {}))

    def launch(self, staged, **changes):
        answer = self.launcher.raw(request(*staged.argv, **dict(staged.keys, **changes)))[0]
        staged.settle(answer)
        return answer

    def __call__(self, *lines, name="acme.test.thing", **changes):
        """Launch a module and return its job."""
        assert "record" in self.launch(self.stage(*lines, name=name), **changes)
        return self.launcher.jobs[-1]

    def result(self, value, *before, after=(), **changes):
        """Run a module that returns a value and return the job's final record."""
        text = json.dumps(value)
        return self.launcher.finished(self(*before, f"print({text!r})", *after, **changes))


@pytest.fixture(name="module")
def _module(launcher):
    return Modules(launcher)


# -- the result -------------------------------------------------------------------------------------------------------


def test_the_result_stands_beside_the_job(module):
    own = {
        "changed": False,
        "path": "/etc/x",
        "diff": {"before": "a", "after": "b"},
        "_ansible_x": 1,
    }
    record = module.result(own, timeout=30)
    assert (record["module"], record["cmd"]) == ("acme.test.thing", "acme.test.thing")
    assert (record["state"], record["rc"], record["failed"]) == ("succeeded", 0, False)
    assert (record["changed"], record["path"], record["timeout"]) == (False, "/etc/x", 30)
    assert record["diff"] == own["diff"]
    assert "_ansible_x" not in record
    assert record["module_result"] == {key: own[key] for key in ("changed", "path", "diff")}
    assert (record["stdout"], record["stderr"], record["truncated"]) == ("", "", False)
    assert "succeeded" in record["msg"]
    assert record["elapsed"] is not None


def test_what_a_command_returns(module):
    own = {
        "rc": 0,
        "cmd": ["ls", "/"],
        "stdout": "a\nb",
        "stderr": "e",
        "changed": True,
        "msg": "",
        "start": "then",
        "delta": "long",
    }
    record = module.result(own)
    assert (record["cmd"], record["stdout"], record["stderr"]) == (["ls", "/"], "a\nb", "e")
    assert record["start"] != "then"
    assert (record["module_result"]["start"], record["module_result"]["delta"]) == ("then", "long")
    assert "stdout" not in record["module_result"]


@pytest.mark.parametrize(
    ("own", "rc"),
    [
        ({"failed": True, "msg": "no such user"}, 1),
        ({"failed": True, "rc": 5, "msg": "no such user"}, 5),
        ({"rc": 5, "msg": "no such user"}, 5),
        ({"failed": True, "rc": 0, "msg": "no such user"}, 1),
        ({"failed": True, "rc": "many", "msg": "no such user"}, 1),
    ],
)
def test_a_module_that_fails(module, own, rc):
    record = module.result(own, after=["sys.exit(1)"])
    assert (record["state"], record["failed"], record["rc"]) == ("failed", True, rc)
    assert (record["msg"], record["module_result"]) == ("no such user", own)


def test_a_failure_that_ends_with_exit_0_has_no_rc(module):
    record = module.result({"failed": True, "msg": "no"})
    assert (record["state"], record["failed"], record["rc"]) == ("failed", True, None)


def test_a_failure_without_words_names_the_module(module):
    record = module.result({"failed": True}, after=["sys.exit(1)"])
    assert "job" in record["msg"]
    assert "acme.test.thing" in record["msg"]


def test_an_rc_that_the_module_does_not_take_for_a_failure(module):
    record = module.result({"failed": False, "rc": 3})
    assert (record["state"], record["rc"]) == ("succeeded", 0)
    assert record["module_result"]["rc"] == 3


def test_colliding_keys_are_neither_misread_nor_lost(module):
    own = dict.fromkeys(schema.unknown("j1.1"), "mine")
    own.update(
        started=False,
        finished=False,
        state="absent",
        name="nginx",
        ansible_job_id="j2.2",
        durable_jobs={"version": 7},
        module="m",
        module_result=1,
        erased="e",
        survivors="s",
        attached=True,
        poll=9,
        output_error="o",
        failed=False,
        rc=0,
        msg=["a", 1],
        cmd=5,
        changed=1,
    )
    record = module.result(own, name="acme.web.site")
    for key in ("stdout", "stderr"):
        own.pop(key)
    assert record["module_result"] == own
    job = module.launcher.jobs[-1]
    seen = status.look(job)
    assert (seen["ansible_job_id"], seen["state"], seen["name"]) == (job.jid, "succeeded", None)
    assert (seen["started"], seen["finished"], seen["changed"]) == (True, True, True)
    assert (seen["erased"], seen["output_error"], seen["module"]) == (None, None, "acme.web.site")
    assert (seen["msg"], seen["cmd"]) == ('["a", 1]', "acme.web.site")
    assert "survivors" not in seen
    assert validation.record_flaw(job.jid, record) is None


def test_the_record_is_what_the_builtin_reads(module):
    record = module.result({"changed": True, "gid": 7})
    with open(record["results_file"], encoding="utf-8") as source:
        read = json.load(source)
    assert (read["started"], read["finished"], read["gid"], read["changed"]) == (
        True,
        True,
        7,
        True,
    )


def test_what_only_a_new_ansible_core_understands_is_kept_as_text(module):
    event = {"msg": "careful", "formatted_traceback": "Traceback", "__ansible_type": "Event"}
    own = {
        "warnings": [{"event": event, "__ansible_type": "WarningSummary"}, "plain", 7],
        "deprecations": [{"event": event, "version": "9.0", "date": None}, {"msg": "old"}, "older"],
        "exception": {"event": event, "__ansible_type": "ErrorSummary"},
    }
    record = module.result(own)
    assert record["warnings"] == ["careful", "plain", "7"]
    assert record["deprecations"] == [
        {"msg": "careful", "version": "9.0"},
        {"msg": "old"},
        {"msg": "older"},
    ]
    assert record["exception"] == "Traceback"
    assert record["module_result"]["warnings"] == record["warnings"]


@pytest.mark.parametrize(("before", "after"), [(1, 0), (0, 1), (1, 1)])
def test_junk_gives_warnings(module, before, after):
    record = module.result(
        {"warnings": ["own"]}, *["print('hello')"] * before, after=["print('bye')"] * after
    )
    warned = ["own"]
    if before:
        warned.append("Module invocation had junk before the JSON data: hello")
    if after:
        warned.append("Module invocation had junk after the JSON data: bye")
    assert (record["warnings"], record["state"]) == (warned, "succeeded")


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["print('no')", "sys.exit(3)"], "there is no JSON in its output"),
        (["sys.exit(3)"], "there is no JSON in its output"),
        (["print('{ no }')", "sys.exit(3)"], "its output is not JSON"),
        (["print('{}'); print('{}')", "sys.exit(3)"], "its output is not JSON"),
        (
            ["print('{\"a\": ' * 200 + '1' + '}' * 200)", "sys.exit(3)"],
            "its result is nested too deeply",
        ),
        (
            ["print('{\"a\": ' * 99999 + '1' + '}' * 99999)", "sys.exit(3)"],
            "its output is not JSON",
        ),
        (["print('{\"a\": ' + '9' * 9999 + '}')", "sys.exit(3)"], "its output is not JSON"),
    ],
)
def test_no_result(module, lines, problem):
    record = module.launcher.finished(module(*lines, "print('end of stderr', file=sys.stderr)"))
    assert (record["state"], record["rc"], record["module_result"]) == ("failed", 3, None)
    assert f"module acme.test.thing gave no result: {problem} (rc 3)" in record["msg"]
    assert validation.record_flaw(record["ansible_job_id"], record) is None


def test_no_result_and_exit_0_is_a_failure(module):
    record = module.launcher.finished(module("print('hello')"))
    assert (record["state"], record["failed"], record["rc"]) == ("failed", True, None)
    assert (record["module_stdout"], record["module_stderr"]) == ("hello", "")
    assert record["msg"].endswith("the end of its output: hello")


def test_a_traceback_is_shown_by_its_end(module):
    record = module.launcher.finished(module("raise RuntimeError('x' * 5000 + 'the end')"))
    assert (record["state"], record["rc"]) == ("failed", 1)
    assert record["msg"].startswith(
        f"job {record['ansible_job_id']} failed: module acme.test.thing"
    )
    assert record["msg"].endswith("the end")
    assert len(record["msg"]) < 1500
    assert record["module_stderr"].startswith("Traceback")


def test_a_signal(module):
    record = module.launcher.finished(
        module("print('before', flush=True)", "os.kill(os.getpid(), 9)", name="acme.test.dies")
    )
    assert (record["state"], record["rc"], record["signal"]) == ("failed", -9, "SIGKILL")
    assert "it ran module acme.test.dies; the end of its output: before" in record["msg"]
    assert record["module_result"] is None


def test_a_deadline(module):
    job = module("print('{}', flush=True)", "time.sleep(60)", timeout=1, grace=1)
    record = module.launcher.finished(job)
    assert (record["state"], record["module_result"]) == ("timed_out", None)
    assert "it ran module acme.test.thing" in record["msg"]


def test_a_stop(module):
    job = module("print('{\"changed\": true}', flush=True)", "time.sleep(60)")
    until(lambda: os.stat(job.path("stdout")).st_size, "the first output")
    found = stopping.stop(job, number=signal.SIGTERM, grace=5, reason="asked")
    assert (found["state"], found["module_result"], found["rc"]) == ("stopped", None, -15)


def test_output_that_a_result_cannot_hold(module):
    record = module.result({"stdout": "x" * (schema.EMBED_LIMIT + 5), "msg": "done"})
    assert (record["truncated"], record["state"]) == (True, "succeeded")
    assert len(record["stdout"]) <= schema.EMBED_LIMIT
    assert "bytes are not shown here" in record["stdout"]


def test_a_result_that_the_output_limit_has_cut(module):
    line = "sys.stdout.write(chr(123) + '\"a\": \"' + 'x' * 4000000 + '\"' + chr(125)); sys.stdout.flush()"
    record = module.launcher.finished(module(line, "time.sleep(2)", output_limit=65536))
    assert (record["state"], record["rc"]) == ("failed", None)
    assert "output_limit has cut its output, of 4000009 bytes" in record["msg"]


def test_the_standard_error_of_a_module_that_returns_none(module):
    record = module.result({"changed": True}, "print('careful', file=sys.stderr)")
    assert (record["stderr"], record["state"]) == ("careful", "succeeded")


def test_a_hidden_job_tells_nothing_but_its_end(module):
    record = module.result({"changed": True, "secret": "hush", "msg": "hush", "rc": 4}, no_log=True)
    assert (record["state"], record["failed"], record["rc"]) == ("failed", True, 4)
    assert (record["changed"], record["module_result"]) == (True, None)
    assert "hush" not in json.dumps(record)
    job = module.launcher.jobs[-1]
    shown = status.look(job, reveal=True)
    assert (shown["secret"], shown["msg"], shown["state"]) == ("hush", "hush", "failed")


def test_a_record_without_room_is_completed_by_its_reader(module):
    own = {"stdout": "x" * 5000, "facts": "y" * 5000, "changed": True}
    record = module.result(own)
    job = module.launcher.jobs[-1]
    bare = {
        key: value for key, value in record.items() if key not in record["durable_jobs"]["merged"]
    }
    bare["stdout"] = ""
    bare["durable_jobs"] = dict(record["durable_jobs"], bare=True)
    with open(job.results_file, "w", encoding="utf-8") as sink:
        json.dump(bare, sink)
    seen = status.look(job)
    assert (seen["stdout"], seen["facts"], seen["changed"]) == (own["stdout"], own["facts"], True)
    assert seen["module_result"]["facts"] == own["facts"]


@pytest.mark.parametrize(
    "result",
    [
        '{"facts": "LONG", "changed": true}',
        '{"msg": "LONG", "changed": true}',
        '{"cmd": ["LONG"], "changed": true}',
        '{"LONG": 1, "changed": true}',
    ],
    ids=["a key of its own", "msg", "cmd", "its name"],
)
def test_a_result_that_no_record_can_hold_is_read_anew_from_the_output(module, result):
    """JSON in ASCII has six bytes for each of these letters, and some of it is in a record twice."""
    own = json.loads(result.replace("LONG", "é" * 12_000_000))
    job = module(
        "sys.stdout.reconfigure(encoding='utf-8')",
        f"print({result!r}.replace('LONG', 'é' * 12_000_000))",
    )
    record = module.launcher.finished(job)
    assert (record["state"], record["changed"], record["rc"]) == ("succeeded", True, 0)
    assert os.stat(job.results_file).st_size < 20_000_000
    assert (
        "its result is too large for this record, and whole in %s" % job.path("stdout")
        in record["msg"]
    )
    seen = status.look(job)
    assert (seen["state"], seen["module_result"]) == ("succeeded", own)
    assert status.judged(job)["state"] == "succeeded"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
KEYS = st.sampled_from(
    (
        *(
            "rc",
            "failed",
            "changed",
            "msg",
            "cmd",
            "state",
            "started",
            "finished",
            "elapsed",
            "timeout",
        ),
        *(
            "warnings",
            "deprecations",
            "exception",
            "stdout",
            "stderr",
            "progress",
            "durable_jobs",
            "jid",
        ),
    )
)


@pytest.fixture(name="ended", scope="module")
def _ended(tmp_path_factory):
    """Return a job that has been a module, and its record before its result was merged in."""
    launcher = Launcher(tmp_path_factory.mktemp("ended") / "async")
    made = Modules(launcher)
    record = made.result({"only": 1})
    job = launcher.jobs[-1]
    final = {key: record[key] for key in record if key not in record["durable_jobs"]["merged"]}
    yield job, dict(final, stdout="", stderr="")
    launcher.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(own=st.dictionaries(KEYS | st.text(), JSON_VALUES))
def test_whatever_a_module_returns_its_record_is_one(ended, own):
    job, final = ended
    with open(job.path("stdout"), "w", encoding="utf-8") as sink:
        json.dump(own, sink)
    merged = modules.merge(job, final, job.slot("exit"))
    written = json.loads(json.dumps(merged))
    assert validation.record_flaw(job.jid, written) is None, written


# -- the keyword async ------------------------------------------------------------------------------------------------


def test_what_it_returned_is_read_anew_whatever_the_record_hides(module):
    own = {"changed": True, "secret": "hush", "started": False, "finished": 0}
    record = module.result(own, r"sys.stderr.write('to stderr\n')", no_log=True)
    assert "hush" not in json.dumps(record)
    job = module.launcher.jobs[-1]
    assert modules.result(job) == (own, [])
    assert modules.errors(job) == "to stderr\n"


def test_a_job_of_the_keyword_is_known_by_its_record(module):
    record = module.result({}, keyword={"check_mode": True})
    assert record["durable_jobs"]["keyword"] == {"check_mode": True}
    for wrong in (None, True, {}, {"check_mode": "no"}):
        record["durable_jobs"]["keyword"] = wrong
        flaw = validation.record_flaw(record["ansible_job_id"], record)
        assert flaw == "it has an impossible keyword"


# -- its files --------------------------------------------------------------------------------------------------------


def test_its_files_are_private_and_go_with_its_end(module):
    staged = module.stage(
        "print(json.dumps({'seen': os.listdir(os.path.dirname(sys.argv[0]))}))",
        "open(os.path.join(os.path.dirname(sys.argv[0]), 'tmp', 'left'), 'w').close()",
    )
    folder = os.path.dirname(staged.argv[-1])
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(staged.argv[-1]).st_mode) == 0o600
    module.launch(staged)
    record = module.launcher.finished(module.launcher.jobs[-1])
    assert sorted(record["seen"]) == ["AnsiballZ_thing.py", "tmp"]
    assert not os.path.exists(folder)
    assert os.path.exists(os.path.join(os.path.dirname(folder), "stdout"))


def test_its_files_go_when_it_is_killed_with_its_keeper(module):
    job = module("print('ready', flush=True); time.sleep(60)")
    until(lambda: os.stat(job.path("stdout")).st_size, "the first output")
    keeper, runner = module.launcher.keeper(job)
    assert os.path.exists(job.path("module"))
    os.kill(runner, signal.SIGSTOP)  # so that it gives the job no new keeper
    os.kill(keeper, signal.SIGKILL)
    os.kill(runner, signal.SIGKILL)
    for one in module.launcher.processes(job):
        os.kill(one.pid, signal.SIGKILL)
    found = until(
        lambda: next((one for one in [status.look(job)] if one["finished"]), None), "its loss"
    )
    assert (found["state"], found["module"]) == ("lost", "acme.test.thing")
    assert "it ran module acme.test.thing" in found["msg"]
    assert not os.path.exists(job.path("module"))


def test_an_adopted_module_has_its_result(module):
    job = module(
        "print('ready', file=sys.stderr, flush=True)",
        f"exec('while not os.path.exists(\"{module.launcher.store.path}/go\"): time.sleep(0.02)')",
        "print(json.dumps({'changed': False, 'answer': 42}))",
    )
    until(lambda: os.stat(job.path("stderr")).st_size, "the first output")
    before = module.launcher.keeper(job)[0]
    os.kill(before, signal.SIGKILL)
    module.launcher.release()
    record = module.launcher.finished(job)
    assert (record["state"], record["answer"], record["changed"]) == ("succeeded", 42, False)
    assert not os.path.exists(job.path("module"))


def test_what_cannot_be_executed_leaves_nothing(module):
    answer = module.launch(module.stage(shebang="#!/nonexistent/python"))
    assert "module /nonexistent/python: No such file or directory" in answer["error"]["msg"]
    assert os.listdir(module.launcher.store.private_path("jobs")) == []


def test_an_attached_launch_leaves_nothing(module):
    named = {"name": "once", "spec": {"chdir": None}}
    module.launch(module.stage("time.sleep(60)"), **named)
    before = os.listdir(module.launcher.store.private_path("jobs"))
    answer = module.launch(module.stage("time.sleep(60)"), **named)
    assert answer["decision"] == "attach"
    assert os.listdir(module.launcher.store.private_path("jobs")) == before


@pytest.mark.parametrize("folder", ["async", 'it\'s a "quoted" \\ päth'])
def test_places_in_arguments(launcher, tmp_path, folder):
    """The way into a payload of ansible-core: JSON in a literal of Python."""
    where = type(launcher)(tmp_path / folder)
    params = json.dumps(
        {"ANSIBLE_MODULE_ARGS": {"_ansible_tmpdir": "/stands/x", "q": "it's", "src": "/stands/y"}}
    )
    source = tmp_path / "data"
    source.write_text("content")
    staged = Modules(where).stage(
        "ANSIBALLZ_PARAMS = %r" % params,
        "args = json.loads(ANSIBALLZ_PARAMS)['ANSIBLE_MODULE_ARGS']",
        "print(json.dumps(dict(args, found=os.path.isdir(args['_ansible_tmpdir']), text=open(args['src']).read())))",
        places={"tmpdir": "/stands/x", "extra": {"/stands/y": str(source)}},
    )
    source.unlink()
    Modules(where).launch(staged)
    record = where.finished(where.jobs[-1])
    assert (record["found"], record["text"], record["q"]) == (True, "content", "it's")
    where.close()


@pytest.mark.parametrize("args", [b'{"a": "/s/1"}', b"a=/s/1 b='c d'"])
def test_arguments_in_a_file(module, tmp_path, args):
    script = tmp_path / "thing.py"
    script.write_text(
        "#!%s\nimport sys, json\nprint(json.dumps({'read': open(sys.argv[1]).read()}))"
        % sys.executable
    )
    (tmp_path / "args").write_bytes(args)
    staged = staging.stage_files(
        module.launcher.store,
        module="thing",
        path=str(script),
        args=str(tmp_path / "args"),
        tmpdir="/s/1",
    )
    module.launch(staged)
    record = module.launcher.finished(module.launcher.jobs[-1])
    scratch = os.path.join(os.path.dirname(staged.argv[1]), "tmp")
    assert record["read"] == args.decode().replace("/s/1", scratch)


def test_old_arguments_cannot_hold_every_path(launcher, tmp_path):
    where = type(launcher)(tmp_path / "a b")
    with pytest.raises(
        JobError, match="has characters that cannot be put into the words of a shell"
    ):
        Modules(where).stage("pass", style="old", args=b"a=/s", places={"tmpdir": "/s"})
    assert os.listdir(where.store.private_path("jobs")) == []


def test_a_binary(module):
    with open("/bin/true", "rb") as source:
        content = source.read()
    payload = staging.Payload("bin", name="true", content=content, style="binary", args=b"{}")
    staged = staging.stage(module.launcher.store, payload)
    assert len(staged.argv) == 2
    module.launch(staged)
    record = module.launcher.finished(module.launcher.jobs[-1])
    assert "module bin gave no result: there is no JSON in its output" in record["msg"]


def test_files_that_are_not_there(module, tmp_path):
    with pytest.raises(
        JobError, match="cannot stage the module: .*/gone: No such file or directory"
    ):
        staging.stage_files(
            module.launcher.store, module="m", path=str(tmp_path / "gone"), args=None, tmpdir=""
        )
