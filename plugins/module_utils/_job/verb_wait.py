# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait for any number of jobs. The verb of the module job_wait."""

from __future__ import annotations

from . import schema, waiting
from .summary import some, who

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .call import Call
    from .schema import Record

OUTPUT_TOTAL = 16 * 1024 * 1024  # bytes of output of all jobs in one result


def run(call: Call) -> Record:
    """Wait for the jobs and return the result.

    With ``look`` in the request this is one part of a wait that plugins/action/job_wait.py does in parts.
    """
    params = call.params
    waiter = waiting.waiter(call)
    lost_keeper = [] if call.check_mode else waiter.unsupervised()
    if lost_keeper and waiter.store is not None:
        # Imported here: few waits need it.
        from .launch import adopt

        adopt(waiter.store, lost_keeper)
    is_reached = waiting.goal(params["until"])
    # How long this run may last, what has been seen before, how long to collect what is new, and whether the time is
    # over when it has lasted so long. Without an action plugin it is.
    limit = float("inf") if params["timeout"] is None else params["timeout"]
    part = call.request["look"] or {"wait": limit, "seen": None, "gather": limit, "last": True}
    is_over = False
    if not call.check_mode:
        waited = waiter.wait(is_reached, part["wait"], seen=part["seen"], gather=part["gather"])
        is_over = waited and part["last"]  # else it has returned only to tell what is new
    if is_over and not is_reached(waiter.found):
        waiter.look_at_live()  # what has ended within the time counts
    done = is_reached(waiter.found)
    if not (done or is_over or call.check_mode):
        answer = {"done": False, "changed": False, "news": waiter.news(part["seen"])}
        return dict(answer, meant=waiter.meant()) if part["seen"] is None else answer
    result = _summary(waiter.shown(params["output"], OUTPUT_TOTAL))
    result["changed"] = waiter.has_changed()
    result.update(done=True, news=waiter.news(part["seen"]))
    if call.check_mode:
        _predict(result)
    elif not done:
        going = some(result["unfinished_jobs"])
        result.update(failed=True, msg="still going after %g s: %s" % (params["timeout"], going))
    return result


def _predict(result: Record) -> None:
    """Let a look of check mode say of jobs that are not there that they may be when it counts."""
    result["failed"] = bool(result["failed_jobs"]) and result["counts"][waiting.MISSING] == 0
    for job in result["jobs"]:
        if job["state"] is None:  # with that id the tasks that follow know of it, too
            job["ansible_job_id"] = job["ansible_job_id"] or schema.PREDICTED_JID


def _summary(jobs: list[Record]) -> Record:
    failed = [job for job in jobs if job["finished"] and job["failed"]]
    finished = [job for job in jobs if job["finished"]]
    names = [who(job) for job in failed]
    text = "%d of %d jobs succeeded" % (len(finished) - len(failed), len(jobs))
    if len(jobs) == len(failed) == 1:
        text = failed[0]["msg"]
    elif failed:
        text = "%d of %d jobs did not succeed: %s" % (len(failed), len(jobs), some(names))
        text += "; the first: %s" % failed[0]["msg"]
    return {
        "jobs": jobs,
        "counts": waiting.counts(jobs),
        "failed_jobs": names,
        "unfinished_jobs": [who(job) for job in jobs if not job["finished"]],
        "failed": bool(failed),
        "msg": text,
    }
