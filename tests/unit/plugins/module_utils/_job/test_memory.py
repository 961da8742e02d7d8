# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What live jobs take of the machine's memory."""

from __future__ import annotations

import os
import signal

import pytest

from ansible_collections.durable.jobs.tests.bench import processes
from ansible_collections.durable.jobs.tests.unit.support import request, until

JOBS = 100


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="a kernel before 4.14")
@pytest.mark.parametrize(
    ("line", "written", "promise"),
    # The bench measures the promise of 1.5 MB. Where objects happen to lie makes some per cent.
    [("exec sleep 61", 0, 1_600_000), ("echo hi; exec sleep 61", 3, 1_700_000)],
)
def test_each_job_of_a_batch_takes_little(launcher, line, written, promise):
    launcher.finished(launcher("/bin/true"))  # the engine has been compiled, as a module does it
    answers = launcher.raw(*[request("/bin/sh", "-c", line, output_limit=2**26)] * JOBS)
    jobs = launcher.jobs[-JOBS:]
    for job in jobs:
        until(lambda job=job: os.stat(job.path("stdout")).st_size == written, "what it writes")
    pids = [pid for job in jobs for pid in launcher.keeper(job)]
    used = processes.pss(pids) / JOBS
    for answer in answers:
        os.kill(answer["record"]["durable_jobs"]["command"]["pid"], signal.SIGKILL)
    for job in jobs:
        launcher.finished(job)
    assert used <= promise
