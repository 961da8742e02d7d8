# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.durable.jobs.plugins.module_utils._job import quantities
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError

TEN_YEARS = 3653 * 86400
UNITS = {"w": 7 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *((0, 0), (90, 90), (1.5, 1.5), ("90", 90), ("1.5", 1.5), ("0", 0), (" 90\n", 90)),
        *(("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2d", 172800), ("1w", 604800)),
        *(("1w2d3h4m5s", 788645), ("1.5h", 5400), ("0s", 0), ("90m", 5400), ("1e2", 100)),
        *((TEN_YEARS, TEN_YEARS), ("3653d", TEN_YEARS)),
    ],
)
def test_durations(value, seconds):
    assert quantities.seconds("timeout", value) == seconds


@given(st.dictionaries(st.sampled_from(sorted(UNITS)), st.integers(0, 99), min_size=1))
def test_what_is_written_by_units_is_their_sum(numbers):
    text = "".join(f"{numbers[unit]}{unit}" for unit in UNITS if unit in numbers)
    total = sum(number * UNITS[unit] for unit, number in numbers.items())
    assert quantities.seconds("wait", text) == total


@pytest.mark.parametrize(
    "value",
    [
        *(True, False, [], [90], {}, {"h": 1}, b"90", float("nan"), "nan", "", " ", "soon", "h"),
        *(
            "1h1h",
            "30m1h",
            "1 h",
            "1h 30m",
            "1H",
            "5x",
            "10y",
            "1h30",
            "٣",
            "1٣s",
            "1_0",
            "0x10",
            "--1",
            "1,5",
        ),
    ],
)
def test_what_is_no_duration_is_refused_with_an_example(value):
    with pytest.raises(
        JobError, match="^grace must be .* such as 90s, 30m, 1h30m, 2d or 1w, not "
    ) as failure:
        quantities.seconds("grace", value)
    assert failure.value.msg.endswith(repr(value) if isinstance(value, str) else str(value))


@pytest.mark.parametrize("value", [-1, -0.5, "-1", float("-inf"), -(10**400), "-1e300"])
def test_a_negative_duration(value):
    with pytest.raises(
        JobError, match="^grace must not be negative, but is .*; give .* such as 90s"
    ):
        quantities.seconds("grace", value)


@pytest.mark.parametrize(
    "value",
    [1e300, "1e300", float("inf"), 10**400, "9" * 5000, TEN_YEARS + 1, "3654d", "9" * 400 + "w"],
)
def test_more_than_ten_years(value):
    with pytest.raises(
        JobError, match="^retention must be at most ten years .* such as 90s"
    ) as failure:
        quantities.seconds("retention", value)
    assert len(failure.value.msg) < 300


@given(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())
)
def test_whatever_is_given_is_a_number_in_range_or_refused_by_name(value):
    for name in (*quantities.DURATIONS, *quantities.WHOLE):
        try:
            found = quantities.checked({name: value, "other": value})[name]
        except JobError as error:
            assert error.msg.startswith(f"{name} must ") and " such as " in error.msg
        else:
            if value is not None:
                least, most, _example = quantities.WHOLE.get(name, (0, TEN_YEARS, ""))
                assert least <= found <= most


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        *(("nice", -5, -5), ("nice", "10", 10), ("nice", 10.0, 10)),
        *(("output_limit", 10**12, 10**12), ("slots", " 4 ", 4), ("tasks_max", "+1", 1)),
    ],
)
def test_whole_numbers(name, value, found):
    assert quantities.whole(name, value) == found


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("nice", "a lot", "nice must be a whole number such as 10, not 'a lot'"),
        ("nice", True, "nice must be a whole number such as 10, not True"),
        ("nice", 0.5, "nice must be a whole number such as 10, not 0.5"),
        (
            "nice",
            10**20 - 1,
            f"nice must be at most 40, but is {10**20 - 1}; give a number such as 10",
        ),
        ("nice", -41, "nice must be at least -40, but is -41; give a number such as 10"),
        ("output_limit", "1G", "output_limit must be a whole number such as 1048576, not '1G'"),
        ("output_limit", -1, "output_limit must not be negative, but is -1; give"),
        ("offset", 2**63, "offset must be at most 1152921504606846976, but is 9223372036854775808"),
        ("limit", 10**400, "limit must be at most 1152921504606846976, but is a number of more"),
        ("limit", "9" * 5000, "limit must be a whole number such as 100, not '9999"),
        ("tasks_max", 0, "tasks_max must be at least 1, but is 0"),
        ("tasks_max", 2**22 + 1, "tasks_max must be at most 4194304, but is 4194305"),
    ],
)
def test_a_wrong_number_is_refused_by_name_with_an_example(name, value, says):
    with pytest.raises(JobError) as failure:
        quantities.whole(name, value)
    assert failure.value.msg.startswith(says)
    assert len(failure.value.msg) < 200
