# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One look at one job. The verb of the module job_status."""

from __future__ import annotations

import os

from . import host, removing, schema
from .call import why_absent
from .errors import JobError
from .record_io import MissingRecord
from .status import look, wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .call import Call
    from .schema import Record
    from .store import Job


def run(call: Call) -> Record:
    """Look at the job, or clean up after it, and return the result, which has all keys whatever comes of it."""
    try:
        return _answer(call)
    except JobError as error:
        nothing = schema.present(schema.unknown(call.params["jid"]))
        return dict(nothing, **dict(error.details, msg=error.msg, failed=True))


def _answer(call: Call) -> Record:
    params = call.params
    if params["jid"] == schema.PREDICTED_JID:
        text = "there is no job to look at: it was not launched (check mode, creates or removes)"
        return dict(schema.present(schema.unknown(params["jid"])), skipped=True, msg=text)
    cleanup = params["mode"] == "cleanup"
    settle = not call.check_mode
    try:
        job = call.given_job()
        if settle and look(job, show="none")["reason"] == schema.UNSUPERVISED:
            # Imported here: few looks need it.
            from .launch import adopt

            adopt(job.store, [job.jid])
        if not cleanup:
            shown = {"show": params["output"], "reveal": params["reveal"]}
            return wait(job, params["wait"], settle=settle, **shown)
        found = look(job, settle=settle)
    except (FileNotFoundError, MissingRecord):
        why = call.left_out()
        # With that id the tasks that follow know of it, too.
        jid = schema.PREDICTED_JID if why else params["jid"]
        nothing = schema.present(schema.unknown(jid))
        if cleanup:
            return nothing
        if why:
            return dict(nothing, skipped=True, msg=why)
        raise JobError(why_absent(call.async_dir, params["jid"], params["name"])) from None
    except OSError as error:
        why = "cannot look at the job in %s as user %s: %s"
        raise JobError(why % (call.async_dir, host.user_name(os.geteuid()), error)) from None
    return _clean_up(call, job, found)


def _clean_up(call: Call, job: Job, found: Record) -> Record:
    if not found["finished"]:
        why = "cannot clean up after job %s: it is %s; stop it, or wait for its end"
        return dict(found, failed=True, msg=why % (job.jid, found["state"]))
    if not call.check_mode:
        removing.remove(job)
        removing.sweep(job.store)
    return dict(schema.present(schema.unknown(job.jid)), changed=True, erased=job.results_file)
