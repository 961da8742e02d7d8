# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._job.references import references

LAUNCHED = {"ansible_job_id": "j1.1", "name": "a", "changed": True}
REFUSED = {"failed": True, "msg": "cannot launch the job", "errno": 2}


def meant(jobs):
    """Return the references as jid, name or the message of a failed launch."""
    return [one.jid or one.name or one.failure["msg"] for one in references(jobs)]


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([], []),
        ("j1.1", ["j1.1"]),
        ("nightly backup", ["nightly backup"]),
        (
            ["j1.1", "nightly", {"ansible_job_id": "j2.2"}, ["j3.3"]],
            ["j1.1", "nightly", "j2.2", "j3.3"],
        ),
        (LAUNCHED, ["j1.1"]),
        ({"name": "nightly"}, ["nightly"]),
        ({"results": [LAUNCHED, {"ansible_job_id": "j2.2"}], "changed": True}, ["j1.1", "j2.2"]),
        ({"jobs": [LAUNCHED, "j2.2"], "counts": {}}, ["j1.1", "j2.2"]),
        ({"results": [{"skipped": True, "item": 1}, LAUNCHED]}, ["j1.1"]),
        ({"skipped": True, "skip_reason": "Conditional result was False"}, []),
        ({"ansible_job_id": "j0.0", "skipped": True}, []),
        ({"ansible_job_id": "j0.0", "finished": False, "name": "predicted"}, []),
        ({"results": [LAUNCHED, REFUSED]}, ["j1.1", "cannot launch the job"]),
        ({"unreachable": True, "msg": "no route"}, ["no route"]),
        ({"failed": False, "failed_when_result": False, "msg": "tolerated"}, ["tolerated"]),
        (["j1.1", "j1.1", LAUNCHED, "n", {"name": "n"}], ["j1.1", "n"]),
        ([REFUSED, dict(REFUSED)], ["cannot launch the job"] * 2),
    ],
)
def test_what_is_meant(jobs, expected):
    assert meant(jobs) == expected
    assert meant([one.plain() for one in references(jobs)]) == expected, "the same once more"


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        (None, "jobs is no job but None"),
        ([5], r"jobs\[0\] is no job but 5"),
        (["j1.1", ""], r"jobs\[1\] is neither a jid nor a name: name '' cannot be"),
        (["../x"], r"jobs\[0\] is neither a jid nor a name"),
        ([{"rc": 0}], r"jobs\[0\] is no job: it has neither ansible_job_id nor name"),
        ({"results": [LAUNCHED, {"stdout": ""}]}, r"jobs\.results\[1\] is no job"),
    ],
)
def test_what_is_no_job_is_refused_with_its_place(jobs, message):
    with pytest.raises(JobError, match="^" + message):
        references(jobs)


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ("j1.1", None),
        (LAUNCHED, True),
        (dict(LAUNCHED, finished=False), True),
        (dict(LAUNCHED, finished=True), None),  # a look, not a launch
        (dict(LAUNCHED, changed=False), False),
        ([LAUNCHED, dict(LAUNCHED, changed=False)], True),
        ([dict(LAUNCHED, changed=False), LAUNCHED], True),
        (["j1.1", LAUNCHED], True),
        ([dict(LAUNCHED, changed=False), "j1.1"], False),
        (dict(LAUNCHED, changed="yes"), None),
    ],
)
def test_whether_the_play_has_launched_a_job(jobs, expected):
    one = references(jobs)[0]
    assert one.is_ours is expected
    assert references([one.plain()])[0].is_ours is expected, "the same once more"


def test_where_and_as_whom_a_job_was_launched_is_passed_on():
    told = {"user": "root", "results_file": "/x/j1.1"}
    one = references([dict(LAUNCHED, **told, stdout="x" * 1000)])[0]
    assert one.launched == told
    assert one.plain() == dict(told, ansible_job_id="j1.1", changed=True)
    assert references([dict(LAUNCHED, user=5, results_file=None)])[0].launched == {}


def test_of_a_failed_launch_no_more_is_passed_on_than_is_needed():
    launch = dict(REFUSED, stdout="x" * 100000, invocation={"module_args": {"env": "secret"}})
    assert references(launch)[0].plain() == REFUSED
