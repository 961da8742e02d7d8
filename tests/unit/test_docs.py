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


OURS = re.compile(
    r"https://(?:github|raw\.githubusercontent)\.com/durable-jobs/durable\.jobs/(?:(?:blob|tree)/)?main/"
)


def links(page):
    """Return what a page links to; files of this repository by their path."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"\]\(([^)#]+)", text)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_what_is_linked_is_there(page):
    for link in links(page):
        path = OURS.sub("", link)
        assert path.startswith("https://") or (ROOT / path).exists(), link


def test_the_readme_has_absolute_links_only():
    """Galaxy and Automation Hub show it without the repository."""
    assert [link for link in links("README.md") if not link.startswith("https://")] == []


def test_the_readme_has_the_sections_that_certification_asks_for():
    wanted = ["Description", "Requirements", "Installation", "Use cases", "Testing", "Contributing"]
    wanted += [
        "Support",
        "Communication",
        "Code of Conduct",
        "Release notes",
        "Related information",
        "License",
    ]
    found = re.findall(r"^## (.+)$", README, re.MULTILINE)
    assert [title for title in found if title in wanted] == wanted


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


def messages():
    """Return the messages that the page on troubleshooting explains; "…" stands for what differs."""
    page = (ROOT / "docs/docsite/rst/guide_troubleshooting.rst").read_text(encoding="utf-8")
    return re.findall(r"^``(.+)``$", page, re.MULTILINE)


@pytest.mark.parametrize("message", messages())
def test_every_message_that_is_explained_is_one_of_ours(message):
    if message == "No such file or directory":  # the kernel's
        return
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "plugins").rglob("*.py"))
    code = re.sub(r'"\n +(?:% \w+\n +)?\+? *"', "", code)  # a text of several literals
    for part in re.split("…|[0-9]+", message):
        assert part.strip(" :(),;") in code, part


def test_every_guide_is_on_the_site():
    extra = (ROOT / "docs/docsite/extra-docs.yml").read_text(encoding="utf-8")
    guides = [path.stem for path in (ROOT / "docs/docsite/rst").glob("*.rst")]
    assert sorted(re.findall(r"- (guide_\w+)", extra)) == sorted(guides)
