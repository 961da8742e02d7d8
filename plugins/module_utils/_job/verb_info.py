# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List jobs. The verb of the module job_info."""

from __future__ import annotations

import os

from . import host, notifying, trust
from .call import why_absent
from .listing import Listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .call import Call
    from .schema import Record

OUTPUT_TOTAL = 16 * 1024 * 1024  # bytes of output of all jobs in one result


def _notifications(jobs: list[Record]) -> Record:
    found = [job["notifications"] for job in jobs if job["notifications"]]
    return {state: sum(one[state] for one in found) for state in notifying.COUNTED}


def run(call: Call) -> Record:
    """List the jobs and return the result."""
    params = call.params
    store = call.find_store()
    asked = {name: params[name] for name in ("jids", "names", "states")}
    listing = Listing(store, settle=not call.check_mode, **asked)
    jobs = listing.newest(params["limit"], params["order"])
    listing.show(jobs, params["output"], OUTPUT_TOTAL)
    total = sum(listing.counts.values())
    path, user = call.async_dir, host.user_name(os.geteuid())
    text = "%d job%s in %s as user %s" % (total, "" if total == 1 else "s", path, user)
    if listing.missing:
        text += "; " + why_absent(path, listing.missing[0], None)
    elif not total and not any(asked.values()):
        others = ", ".join(trust.whose(path))
        text += "; there are async dirs of %s: look as that user" % others if others else ""
        own = [folder for name, folder in trust.elsewhere(path) if name == user]
        text += "; there is an async dir of yours in %s" % ", ".join(own) if own else ""
    return {
        "jobs": jobs,
        "counts": listing.counts,
        "notifications": _notifications(jobs),
        "total": total,
        "missing": listing.missing,
        "async_dir": path,
        "user": user,
        "changed": False,
        "msg": text,
    }
