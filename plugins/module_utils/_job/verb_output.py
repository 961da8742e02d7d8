# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read a stream of a job. The verb of the module job_output."""

from __future__ import annotations

import os

from . import host, schema
from .call import why_absent
from .errors import JobError
from .reading import Reader
from .record_io import MissingRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .call import Call
    from .schema import Record

MAX_BYTES = 16 * 1024 * 1024  # of one piece
FOLLOWING = (
    20.0  # seconds that one look lasts if nothing comes; the action plugin then takes the next one
)


def run(call: Call) -> Record:
    """Read a piece and return the result."""
    params = call.params
    if not 1 <= params["max_bytes"] <= MAX_BYTES:
        text = "max_bytes must be 1 to %d, such as %d, but is %s"
        raise JobError(text % (MAX_BYTES, schema.PIECE_BYTES, params["max_bytes"]))
    if params["jid"] == schema.PREDICTED_JID:
        return _skipped(
            params,
            "there is no job to read from: it was not launched (check mode, creates or removes)",
        )
    try:
        return _read(call)
    except (FileNotFoundError, MissingRecord):
        why = call.left_out()
        if why:  # with that id the tasks that follow are skipped, too
            return _skipped(dict(params, jid=schema.PREDICTED_JID), why)
        raise JobError(why_absent(call.async_dir, params["jid"], params["name"])) from None
    except OSError as error:
        why = "cannot read the output in %s as user %s: %s"
        raise JobError(why % (call.async_dir, host.user_name(os.geteuid()), error)) from None


def _read(call: Call) -> Record:
    params = call.params
    job = call.given_job()
    shown = {"reveal": params["reveal"], "attempt": params["attempt"]}
    reader = Reader(job, params["stream"], settle=not call.check_mode, **shown)
    begin = params["offset"] or 0
    limit = params["max_bytes"]
    if params["tail_lines"] is not None:
        begin = reader.tail(params["tail_lines"], limit)
    if not (params["follow"] and call.check_mode):
        reader.wait(begin, max(params["wait"], FOLLOWING if params["follow"] else 0))
    result = reader.piece(begin, limit)
    result.update((key, reader.record[key]) for key in ("name", "state", "reason", "finished"))
    reader.close()
    result["attempt"] = reader.attempt
    return dict(result, ansible_job_id=job.jid, stream=params["stream"], changed=False)


def _skipped(params: Record, why: str) -> Record:
    """Return the result of a look at a job that check mode has left out: whoever reads on until eof is done."""
    nothing: Record = dict.fromkeys(("cut_from", "cut_to", "state", "reason", "size", "attempt"))
    nothing.update(content="", content_lines=[], offset=0, next_offset=0, lost_bytes=0, eof=True)
    nothing.update(ansible_job_id=params["jid"], name=params["name"], stream=params["stream"])
    return dict(nothing, finished=True, changed=False, shrunk=False, skipped=True, msg=why)
