# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.durable.jobs.plugins.filter.seconds import FilterModule

seconds = FilterModule().filters()["seconds"]


def test_a_duration_becomes_a_number():
    assert [seconds(value) for value in ("1h30m", "0.5s", 90)] == [5400, 0.5, 90]
    assert isinstance(seconds("1h30m"), int)


def test_what_is_no_duration_is_refused_by_the_name_that_is_given():
    with pytest.raises(
        AnsibleFilterError, match="^job_run_timeout must be .* 1h30m, .* not 'soon'"
    ):
        seconds("soon", name="job_run_timeout")
