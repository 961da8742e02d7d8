# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes a page as the playbook does: with its template, files and filter, through ansible-core."""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t
from pathlib import Path

from ansible_collections.durable.jobs.tests.browser.invented import AT

PLAYBOOKS = Path(__file__).parents[2] / "playbooks"


def write(folder: Path, answers: dict[str, dict[str, t.Any]]) -> Path:
    """Write the page of these answers and return its path."""
    page = folder / "jobs.html"
    given = folder / "answers.json"
    given.write_text(json.dumps(answers), encoding="utf-8")
    # Read as text, so that it is no more a template than what a module returns.
    read = "{{ lookup('ansible.builtin.file', test_answers) | from_json }}"
    known = {"jobs_answers": read, "test_answers": str(given), "jobs_at": AT}
    known.update(jobs_tails_of={}, jobs_zones={})
    known["ansible_python_interpreter"] = sys.executable
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ansible", "adhoc", "localhost"),
            *("--inventory", "localhost,", "--connection", "local"),
            *("--playbook-dir", str(PLAYBOOKS), "--extra-vars", json.dumps(known)),
            *("-m", "ansible.builtin.template"),
            *("-a", f"src={PLAYBOOKS}/templates/report.html.j2 dest={page} mode=0600"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return page
