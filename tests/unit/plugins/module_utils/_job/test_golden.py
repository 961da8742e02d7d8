# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What earlier releases have left is read as their own jobs are, on every Python of targets. See tests/golden.

What modules make of it is in ``test_golden_modules.py``: the parameters of modules need ansible-core.
"""

from __future__ import annotations

import os

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import host, status
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._job.names import latest_job
from ansible_collections.durable.jobs.plugins.module_utils._job.reading import Reader
from ansible_collections.durable.jobs.plugins.module_utils._job.store import Store
from ansible_collections.durable.jobs.tests.golden.recordings import (
    RELEASES,
    Recording,
    differences,
)

RECORDINGS = {release: Recording(release) for release in RELEASES}
EVERY_JOB = [(release, label) for release in RELEASES for label in sorted(RECORDINGS[release].jobs)]
ALL = 2**24  # bytes; no stream of a recording has more

pytestmark = pytest.mark.usefixtures("utc")


@pytest.fixture
def opened():
    """Open an async dir, and close it after the test."""
    stores = []

    def open_store(path):
        stores.append(Store.open(str(path), create=False))
        stores[-1].open_jobs = set()
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.mark.parametrize(("release", "label"), EVERY_JOB)
def test_a_job_is_read_as_its_own_release_reads_it(release, label, tmp_path, opened):
    recording = RECORDINGS[release]
    job = opened(recording.unpack_here(tmp_path)).job(recording.jobs[label]["jid"])
    expected = recording.expected(label)
    if expected["stdout_file"] is None:
        # A job of the builtin lies where it lies, and is whose it is.
        expected.update(results_file=job.results_file, user=host.user_name(os.geteuid()))
    found = status.look(job)
    assert differences(found, expected) == {}
    if found["state"] == "lost":
        assert (found["name"] or job.jid) in found["msg"] and found["reason"] in found["msg"]
    assert differences(status.look(job), expected) == {}, "what has been written down says the same"


@pytest.mark.parametrize(("release", "label"), EVERY_JOB)
def test_its_output_is_read(release, label, tmp_path, opened):
    recording = RECORDINGS[release]
    job = recording.jobs[label]
    if "output" not in job:
        pytest.skip("a job of the builtin has its output in its record")
    store = opened(recording.unpack_here(tmp_path))
    for stream, expected in job["output"].items():
        reader = Reader(store.job(job["jid"]), stream, reveal=True, settle=True)
        found = reader.piece(0, ALL)
        assert differences(found, expected) == {}
        while not found["eof"]:  # behind the hole of the output limit
            found = reader.piece(found["next_offset"], ALL)
        assert reader.record["finished"] and found["next_offset"] == expected["size"]
        tail = reader.piece(reader.tail(1, ALL), ALL)
        assert tail["content_lines"] == found["content"].splitlines()[-1:]
        reader.close()


@pytest.mark.parametrize("release", RELEASES)
def test_an_unfinished_job_of_another_machine_is_left_to_that(release, tmp_path, opened):
    if not host.machine()["id"]:
        pytest.skip("this machine has no /etc/machine-id")
    recording = RECORDINGS[release]
    async_dir = recording.unpack(tmp_path)
    store = opened(async_dir)
    for label, job in recording.jobs.items():
        record = async_dir / job["jid"]
        before = record.read_bytes()
        if "moved" in job:
            with pytest.raises(JobError, match="was launched on the machine golden"):
                status.look(store.job(job["jid"]))
            assert record.read_bytes() == before, label
        else:
            found = status.look(store.job(job["jid"]))
            assert found["state"] == recording.expected(label)["state"], label


@pytest.mark.parametrize("release", RELEASES)
def test_a_name_means_the_job_that_it_meant(release, tmp_path, opened):
    recording = RECORDINGS[release]
    store = opened(recording.unpack_here(tmp_path))
    assert recording.names
    for name, jid in recording.names.items():
        assert latest_job(store, name).jid == jid
