# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a job starts that comes after others."""

from __future__ import annotations


class ModuleDocFragment:
    """Documents module_utils/_job/after.py: TABLE."""

    DOCUMENTATION = r"""
options:
  after:
    description:
      - Jobs of the same async dir after which this one starts, without the controller. Each is a name or a jid. In
        M(durable.jobs.job_batch) they can also be names of the same call, in any order.
      - Until then the job is V(queued), its reason is V(waiting), and C(waits_for) lists the jobs that have not ended. A job that is
        tried again has not ended before its last attempt.
      - If one of them ends in another way than O(after_state) says, the job ends as V(skipped), and its C(msg) names that one. It has not been started, and
        its reason is V(dependency). A skipped job is no failure - M(durable.jobs.job_wait) fails because of the job that failed.
      - A name means the latest job of that name at the launch. If that job is replaced later, it was stopped. If it is removed
        later, it counts by its last state.
      - An unknown job, the job's own name, or jobs that wait for each other are refused, and nothing of the call is launched. There may be up to 1000 names.
        A job of C(async) cannot be waited for.
      - A job of the same call that C(creates) or C(removes) made unnecessary counts as succeeded. One that could not be started
        counts as failed.
      - With C(slots), a job that waits has no slot. When it need not wait any more, it gets a free slot in the order of the batch.
      - With O(start_in), both are waited for. Its seconds count from the launch.
      - A job that waits when the machine reboots is V(lost), reason V(rebooted). Run the play again; with O(rerun=on_failure) it
        starts what has not succeeded, and a job that has succeeded counts.
      - In check mode, jobs that are not there are assumed to be launched before.
    type: list
    elements: str
    version_added: 1.0.0
  after_state:
    description:
      - How all the jobs of O(after) must end. Without it, they must have V(succeeded).
      - V(finished) is any end, also V(skipped).
      - V(failed) is any end but V(succeeded) and V(skipped). This is for work such as cleaning up after a failure.
    type: str
    choices:
      - succeeded
      - finished
      - failed
    version_added: 1.0.0
"""
