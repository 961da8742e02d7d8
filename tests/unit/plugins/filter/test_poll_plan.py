# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.durable.jobs.plugins.filter.poll_plan import FilterModule

poll_plan = FilterModule().filters()["poll_plan"]


@pytest.mark.parametrize("timeout", [360, "360", 360.0, "6m", "5m60s", "0.1h"])
def test_numbers_and_their_texts_give_the_same_plan(timeout):
    assert poll_plan(timeout, delay="10", grace=10) == {"retries": 37, "delay": 1, "wait": 9}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("soon",), "timeout must be a number of seconds or a duration such as 90s, .* not 'soon'"),
        ((10, 0), "delay must be"),
        ((10, 1, None), "grace must be"),
        ((10, 1, 1, True), "max_timeout must be"),
    ],
)
def test_what_is_no_number_is_refused_by_name(arguments, says):
    with pytest.raises(AnsibleFilterError, match=f"poll_plan: {says}"):
        poll_plan(*arguments)
