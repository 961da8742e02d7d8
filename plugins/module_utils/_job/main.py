# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine answers: a request in, a result out."""

from __future__ import annotations

import importlib
import json

from .call import Call
from .errors import JobError
from .printable import make_printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    # ansible-core sends along what it sees imported: here all verbs, and through them all of the engine.
    from . import (  # noqa: F401
        verb_adopt,
        verb_batch,
        verb_info,
        verb_keyword,
        verb_module,
        verb_notify,
        verb_output,
        verb_prune,
        verb_start,
        verb_status,
        verb_stop,
        verb_wait,
    )
    from .schema import Record

PREFIX = "job_"


def respond(
    async_dir: str, rest: BinaryIO, engine: tuple[str, bytes] | None, *, launches: bool
) -> Record:
    """Return the result of a request that has yet to be read.

    :param engine: name and content of the engine, if it is to be installed.
    :param launches: whether the request may launch something.
    """
    if not launches:
        return answer(dict(json.loads(rest.read()), async_dir=async_dir), engine)
    from . import launcher

    launcher.get_ready()
    try:
        return answer(dict(json.loads(rest.read()), async_dir=async_dir), engine)
    finally:
        launcher.dismiss()


def answer(request: Record, engine: tuple[str, bytes] | None) -> Record:
    """Return the result of a request, see ``call``.

    :param engine: name and content of the engine, if it is to be installed.
    """
    call = Call(request, engine)
    if request["log"] is not None:
        from . import system_log

        system_log.write(call)
    verb = importlib.import_module(".verb_" + call.verb[len(PREFIX) :], __package__)
    try:
        result: Record = verb.run(call)
    except JobError as error:
        result = dict(error.details, msg=error.msg, failed=True)
    finally:
        call.close()
    make_printable(result)
    if call.warnings:
        found = result.get("warnings") or []  # a module that was a job may have returned anything
        result["warnings"] = [*(found if isinstance(found, list) else [found]), *call.warnings]
    if "invocation" in result and call.verb == "job_status":  # that of a module that was a job
        return result
    return dict(result, invocation=call.invocation())
