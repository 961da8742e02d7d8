# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The direct way to the engine and the module give the same result, key by key."""

from __future__ import annotations

import difflib
import json
import os
import pathlib
import re
import subprocess
import sys
import typing as t

import pytest

BIN = pathlib.Path(sys.executable).parent
LIMIT = 300.0  # seconds for one run
# Of each task: the module, and its parameters. They run one after the other on one async dir.
CASES: list[tuple[str, dict[str, t.Any]]] = [
    ("job_start", {"cmd": "sh -c 'echo hi; echo err >&2; exit 3'", "name": "w"}),
    ("job_wait", {"jobs": ["w"]}),
    ("job_status", {"name": "w"}),
    ("job_start", {"cmd": "sh -c 'echo hi; echo err >&2; exit 3'", "name": "w", "rerun": "never"}),
    ("job_start", {"cmd": "/no/such"}),
    ("job_start", {"cmd": "true", "argv": ["x"]}),
    ("job_start", {"cmd": "true", "nonsense": 1}),
    ("job_start", {"cmd": "true", "timeout": -1}),
    ("job_start", {"cmd": "true | cat", "timeout": "1h30m", "name": "shell"}),
    (
        "job_start",
        {
            "argv": ["sh", "-c", "echo $A; cat"],
            "env": {"A": "hidden"},
            "stdin": "secret",
            "name": "e",
            "chdir": "~",
            "umask": "022",
        },
    ),
    ("job_wait", {"jobs": ["e", "shell"], "output": "tail"}),
    ("job_output", {"name": "e"}),
    ("job_output", {"name": "w", "tail_lines": 1, "stream": "stderr"}),
    ("job_output", {"name": "nobody"}),
    ("job_status", {"jid": "j1.1"}),
    ("job_status", {"jid": "../x"}),
    ("job_status", {"jid": "j1.1", "mode": "cleanup"}),
    ("job_status", {"name": "e", "mode": "cleanup"}),
    ("job_info", {"output": "full", "names": ["w*"]}),
    ("job_info", {"states": ["nonsense"]}),
    (
        "job_batch",
        {
            "jobs": [
                {"cmd": "sleep 60", "name": "s1"},
                {"cmd": "sleep 60", "name": "s2"},
                {"cmd": "/no/such"},
            ],
            "slots": 1,
        },
    ),
    ("job_batch", {"jobs": [{"cmd": "sleep 60", "nonsense": 2}]}),
    ("job_module", {"module": "ansible.builtin.command", "args": {"cmd": "echo x"}, "name": "m"}),
    ("job_wait", {"jobs": ["m"]}),
    ("job_status", {"name": "m"}),
    ("job_wait", {"jobs": ["s1", "s2"], "timeout": 0}),
    ("job_stop", {"jobs": ["s1", "s2"]}),
    ("job_stop", {"jobs": ["nobody"]}),
    ("job_prune", {"keep_last": 1}),
    ("job_prune", {"states": ["running"]}),
]
# What no two runs have in common.
CHANGING = (
    (r"j\d{10,}\.\d+", "JID"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+", "MOMENT"),
    (r'"(elapsed|delta|bytes|bytes_freed)": [^,\n]+', r'"\1": X'),
    (r"0:00:\d\d\.\d+", "TIME"),
    (r"of \d+ bytes", "of X bytes"),
)


def comparable(text: str) -> str:
    """Return a result without what no two runs have in common."""
    for pattern, stands in CHANGING:
        text = re.sub(pattern, stands, text)
    return text


def results(folder: pathlib.Path, way: str, options: list[str]) -> dict[str, str]:
    """Run the cases one way, and return the result of each, less what differs from run to run."""
    seen = folder / way
    seen.mkdir()
    tasks: list[dict[str, t.Any]] = []
    for number, (module, params) in enumerate(CASES):
        tasks.append(
            {f"durable.jobs.{module}": params, "register": "result", "ignore_errors": True}
        )
        content = {
            "content": "{{ result | to_nice_json }}",
            "dest": f"{seen}/{number:02}-{module}",
            "mode": "0600",
        }
        tasks.append({"ansible.builtin.copy": content, "check_mode": False, "diff": False})
    play = folder / f"{way}.yml"
    play.write_text(
        json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]), encoding="utf-8"
    )
    variables = {
        "ansible_python_interpreter": os.path.realpath(sys.executable),
        "ansible_async_dir": str(folder / "jobs"),
    }
    command = [str(BIN / "ansible-playbook"), "-i", "here,", "-c", "local", "-vvv"]
    done = subprocess.run(
        [*command, "-e", json.dumps(variables), *options, str(play)],
        env={**os.environ, "DURABLE_JOBS_FORCE_MODULE": str(int(way == "module"))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    direct = len(re.findall(r"EXEC .*sys\.stdin\.buffer", done.stdout))
    assert (direct == 0) == (way == "module"), "it goes the way that it is to go"
    subprocess.run(["rm", "-rf", str(folder / "jobs")], check=True)
    return {file.name: comparable(file.read_text(encoding="utf-8")) for file in seen.iterdir()}


@pytest.mark.parametrize("options", [[], ["--check", "--diff"]], ids=["real", "check"])
def test_both_ways_give_the_same(tmp_path: pathlib.Path, options: list[str]) -> None:
    """Every module, with parameters right and wrong, really and in check mode with diff."""
    direct = results(tmp_path, "direct", options)
    module = results(tmp_path, "module", options)
    assert len(direct) == len(CASES)
    for name, text in sorted(direct.items()):
        other = module[name]
        changes = difflib.unified_diff(text.splitlines(), other.splitlines(), "direct", "module")
        assert text == other, name + "\n" + "\n".join(changes)
