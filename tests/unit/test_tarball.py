# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tarball holds what users need and nothing else (galaxy.yml: build_ignore)."""

from __future__ import annotations

import json
import pathlib

import pytest

SHIPPED = {
    "changelogs",
    "docs",
    "extensions",
    "meta",
    "playbooks",
    "plugins",
    "roles",
    "tests/config.yml",
    "CHANGELOG.md",
    "CHANGELOG.rst",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "MAINTAINERS",
    "README.md",
    "SECURITY.md",
}
LEFT_OUT = (
    "changelogs/fragments",
    "docs/build",
    "docs/site",
    "docs/templates",
    "extensions/molecule",
)


def test_nothing_else_is_shipped() -> None:
    manifest = pathlib.Path(__file__).parents[2] / "FILES.json"
    if not manifest.exists():
        pytest.skip("these tests do not run beside an installed tarball")
    entries = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    files = [entry["name"] for entry in entries if entry["ftype"] == "file"]
    surplus = [
        name
        for name in files
        if not {name, name.split("/")[0]} & SHIPPED or name.startswith(LEFT_OUT)
    ]
    assert not surplus
    assert "meta/runtime.yml" in files
