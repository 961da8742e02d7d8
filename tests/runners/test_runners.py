# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs do under mitogen's strategy and under ansible-runner what they do under ansible-playbook."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import typing as t

import pytest

from ansible_collections.durable.jobs.tests.bench import mitogen_strategy

HERE = pathlib.Path(__file__).absolute().parent
INVENTORY = str(HERE / "inventory.yml")
BIN = pathlib.Path(sys.executable).parent
LIMIT = 300.0  # seconds for one run


def under_mitogen(play: str, _folder: pathlib.Path, variables: str) -> list[str]:
    """Return the command that runs a playbook; the environment has chosen the strategy."""
    return [str(BIN / "ansible-playbook"), "-i", INVENTORY, "-e", variables, play]


def under_ansible_runner(play: str, folder: pathlib.Path, variables: str) -> list[str]:
    """Return the command with which ansible-runner runs a playbook."""
    own = folder / "runner"
    own.mkdir(exist_ok=True)
    chosen = ["--playbook", play, "--inventory", INVENTORY, "--cmdline", f"-e '{variables}'"]
    return [str(BIN / "ansible-runner"), "run", str(own), *chosen]


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        pytest.param(under_mitogen, mitogen_strategy.ENVIRONMENT, id="mitogen"),
        pytest.param(under_ansible_runner, {}, id="ansible-runner"),
    ],
)
def test_jobs_work_and_outlive_a_run(
    command: t.Callable[[str, pathlib.Path, str], list[str]],
    environment: dict[str, str],
    tmp_path: pathlib.Path,
) -> None:
    """All that main.yml does; nothing stays in the interpreter; the next run finds a job again."""
    # The real interpreter: what belongs to a virtual environment is the controller's.
    python = os.path.realpath(sys.executable)
    for run in ("first", "second"):
        variables = f"run={run} work={tmp_path} ansible_python_interpreter={python}"
        done = subprocess.run(
            command(str(HERE / "main.yml"), tmp_path, variables),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "failed=0" in done.stdout
        assert re.search(r"(?m)^[^ ]+: [0-9]+ jobs: ", done.stdout), (
            "the lines of job_wait are not shown"
        )
