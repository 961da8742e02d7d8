# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of all unit tests."""

from __future__ import annotations

import pytest

from ansible_collections.durable.jobs.tests.unit.support import Launcher


@pytest.fixture
def launcher(tmp_path):
    made = Launcher(tmp_path / "async")
    yield made
    made.close()
