# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stop jobs. The verb of the module job_stop."""

from __future__ import annotations

from . import schema, stopping_many, waiting
from .call import requester
from .errors import JobError
from .summary import some, who

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .call import Call
    from .schema import Record
    from .store import Store

OUTPUT_TOTAL = 4 * 1024 * 1024  # bytes of output of all jobs in one result


def run(call: Call) -> Record:
    """Stop the jobs that the parameters mean and return the result."""
    params = call.params
    number = None if params["signal"] is None else schema.signal_number(params["signal"])
    waiter = waiting.waiter(call)
    live = list(waiter.chosen(stopping_many.is_live))
    failures: dict[int, str] = {}
    if waiter.store is not None and not call.check_mode:
        failures = _stop(call, waiter.store, waiter, number)
    jobs = waiter.shown("tail", OUTPUT_TOTAL)
    for index, job in enumerate(jobs):
        if job["state"] is None and not call.check_mode and params["missing"] == "fail":
            failures[index] = job["msg"]
        if index in failures:
            job["msg"] = failures[index]
    return _summary(jobs, live, failures, call.check_mode)


def _stop(call: Call, store: Store, waiter: waiting.Waiter, number: int | None) -> dict[int, str]:
    """Stop all that is live; return by place what to say of the jobs that could not be stopped."""
    lost_keeper = waiter.unsupervised()
    if lost_keeper:
        # Imported here: few stops need it.
        from .launch import adopt

        try:
            adopt(store, lost_keeper)
        except JobError:
            pass  # no room for a launcher, say: then we are their keeper ourselves, one after the other
    by = requester(call.request)
    stopping = stopping_many.Stopping(waiter, number=number, grace=call.params["grace"], by=by)
    stopping.run()
    return {index: error.msg for index, error in stopping.refusals.items()}


def _summary(
    jobs: list[Record], live: list[int], failures: dict[int, str], predicted: bool
) -> Record:
    names = [who(job) for job in jobs]
    stopped = [
        names[index]
        for index in live
        if predicted or (jobs[index]["finished"] and jobs[index]["state"] != schema.SUCCEEDED)
    ]
    failed = [names[index] for index in sorted(failures)]
    result = {
        "jobs": jobs,
        "counts": waiting.counts(jobs),
        "stopped_jobs": stopped,
        "failed_jobs": failed,
        "changed": bool(stopped),
        "failed": bool(failures),
    }
    text = "nothing to stop"
    if stopped:
        text = "%s %s" % ("would stop" if predicted else "stopped", some(stopped))
    if failures:
        text = "could not stop %d of %d jobs: %s; the first: %s" % (
            len(failures),
            len(jobs),
            some(failed),
            failures[min(failures)],
        )
    return dict(result, msg=text)
