# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of containment and limits, on machines without systemd as PID 1. Others: extensions/molecule."""

from __future__ import annotations

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import containment, host
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError

NO_SYSTEMD = pytest.mark.skipif(host.runs_systemd(), reason="systemd is PID 1 of this machine")


NO_LIMITS = dict.fromkeys(("memory_max", "cpu_quota", "tasks_max"))


def checked(**given):
    return containment.checked({"containment": "auto", **NO_LIMITS, **given})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"memory_max": "lots"}, "memory_max must be a number of bytes, .* not 'lots'"),
        ({"memory_max": "0"}, "memory_max must be at least 1, but is 0"),
        ({"memory_max": "-1"}, "memory_max must be a number of bytes, .* not '-1'"),
        ({"memory_max": "50%"}, "memory_max must be a number of bytes, .* not '50%'"),
        ({"cpu_quota": "0.5"}, r"cpu_quota must be at least 1, but is 0\.5"),
        ({"cpu_quota": "nan"}, "cpu_quota must be a number of percent .* not 'nan'"),
        ({"cpu_quota": "2 CPUs"}, "cpu_quota must be a number of percent"),
        ({"tasks_max": -1}, "tasks_max must be at least 1, but is -1"),
        (
            {"containment": "process", "memory_max": "1G", "tasks_max": 7},
            "memory_max, tasks_max cannot be enforced with containment=process",
        ),
    ],
)
def test_what_cannot_be_asked_for(given, says):
    with pytest.raises(JobError, match=says):
        checked(**given)


@NO_SYSTEMD
@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"containment": "systemd"}, "containment=systemd"),
        ({"containment": "systemd", "memory_max": "1G"}, "containment=systemd"),
        ({"memory_max": "1G", "cpu_quota": "50"}, "cpu_quota, memory_max"),
    ],
)
def test_what_a_machine_without_systemd_refuses(given, what):
    with pytest.raises(JobError, match="%s cannot be had as user .*: systemd is not PID 1" % what):
        checked(**given)


@pytest.mark.parametrize(
    ("parameter", "given", "meant"),
    [
        ("memory_max", "1048576", 2**20),
        ("memory_max", "512M", 2**29),
        ("memory_max", "512 MiB", 2**29),
        ("memory_max", "1.5g", 3 * 2**29),
        ("memory_max", "2kb", 2048),
        ("memory_max", "7B", 7),
        ("cpu_quota", "50", 50),
        ("cpu_quota", " 200% ", 200),
        ("tasks_max", 7, 7),
    ],
)
def test_what_a_limit_means(parameter, given, meant):
    assert containment.limits({**NO_LIMITS, parameter: given}) == dict(
        NO_LIMITS, **{parameter: meant}
    )


@NO_SYSTEMD
def test_auto_without_systemd_is_process_and_nothing_is_doomed():
    assert checked() == {"containment": "process", **NO_LIMITS}
    assert containment.manager()[0] == ""
    assert containment.logout_warning() is None
