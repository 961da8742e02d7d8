# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the README shows is what the tests run."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.plugins.module_utils import _job
from ansible_collections.durable.jobs.tests.faults import report

ROOT = Path(_job.__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))
def test_every_playbook_of_the_readme_is_part_of_an_example_that_the_tests_run(block):
    examples = [path.read_text(encoding="utf-8") for path in (ROOT / "docs/examples").glob("*.yml")]
    assert any(block in text for text in examples), block


def blocks(guide):
    """Return the playbooks, and the settings, that a guide shows."""
    text = (ROOT / "docs" / "docsite" / "rst" / guide).read_text(encoding="utf-8")
    found = re.findall(r"\.\. code-block:: (?:yaml\+jinja|text)\n\n((?:    .*\n|\n)+)", text)
    return [textwrap.dedent(block).strip() for block in found]


@pytest.mark.parametrize("block", blocks("guide_from_async.rst"))
def test_what_the_guide_for_those_who_come_from_async_shows_is_what_the_tests_run(block):
    folder = ROOT / "docs" / "examples" / "from_async"
    assert any(block in path.read_text(encoding="utf-8") for path in folder.iterdir()), block


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_what_is_linked_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / link).exists(), link


def test_the_readme_lists_every_module_role_and_filter():
    made = [
        *ROOT.glob("plugins/modules/*.py"),
        *ROOT.glob("roles/*/"),
        *ROOT.glob("plugins/filter/*.py"),
    ]
    for path in made:
        assert f"durable.jobs.{path.stem}" in README, path


def test_the_page_on_reliability_shows_every_scenario_and_no_other():
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    written = [row[:2] for row in report.rows(page)]
    assert written == [one[1:] for tests in report.scenarios().values() for one in tests], (
        "run the scenarios with --reliability docs/reliability.md"
    )
