# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Launch many jobs in one call. The verb of the module job_batch."""

from __future__ import annotations

from . import launch, naming, schema
from .errors import JobError
from .module_jobs import module_request, stage_part
from .record_io import MissingRecord
from .summary import some

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .call import Call
    from .schema import Record
    from .staging import Staged
    from .store import Store


def run(call: Call) -> Record:
    """Launch what the parameters ask for and return the result."""
    entries = call.entries()
    parts = call.request["parts"] or [None] * len(entries)
    requests = [
        _request(number, entry, parts[number], call) for number, entry in enumerate(entries)
    ]
    launch.warn_of_shell(
        call, [("jobs[%d]: " % number, one["cmd"]) for number, one in enumerate(entries)]
    )
    needed = []
    results: list[Record] = []
    for entry, request, part in zip(entries, requests, parts):
        skip = launch.unneeded(entry) or (part or {}).get("unneeded")
        results.append({} if skip is None else launch.not_needed(request, skip))
        if skip is None:
            needed.append(len(results) - 1)
    launches = bool(needed) and not call.check_mode
    store = call.open_store(create=True) if launches else call.find_store()
    difference = launch.differences(call, store, [requests[number] for number in needed])
    if needed:
        launched = _launched(call, store, [requests[number] for number in needed])
        for number, result in zip(needed, launched):
            results[number] = result
    if launches and store is not None:
        launch.prune_in_passing(call, store)
    return dict(_summary(results), **({"diff": difference} if difference else {}))


def _request(number: int, entry: dict[str, Any], part: Record | None, call: Call) -> Record:
    try:
        if entry["module"] is None:
            return launch.build_request(entry, no_log=call.no_log)
        if part is None:
            raise JobError("a module needs the action plugin of job_batch, which builds it")
        return dict(module_request(entry, part, no_log=call.no_log), part=part)
    except JobError as error:
        raise JobError(schema.NOTHING_LAUNCHED % (number, error)) from None


def _launched(call: Call, store: Store | None, requests: list[Record]) -> list[Record]:
    """Return the result of each launch, or of its prediction."""
    results = []
    answers: list[Record] = [{}] * len(requests)
    if store is not None and not call.check_mode:
        answers = _launch(call, store, requests)
    for request, answer in zip(requests, answers):
        try:
            if store is None or call.check_mode:
                results.append(dict(launch.always(request), **naming.predicted(store, request)))
            else:
                results.append(_outcome(call, store, request, answer))
        except JobError as error:
            results.append(_not_launched(request, error))
    return results


def _outcome(call: Call, store: Store, request: Record, answer: Record) -> Record:
    try:
        return launch.outcome(store, request, answer)
    except MissingRecord:  # what was found has been removed since; the others of this call go on
        return _launched(call, store, [request])[0]


def _launch(call: Call, store: Store, requests: list[Record]) -> list[Record]:
    """Stage the modules among the jobs, launch all that can be, and return the answers."""
    answers: list[Record] = [{}] * len(requests)
    staged: dict[int, Staged] = {}
    ready = []
    try:
        for number, request in enumerate(requests):
            try:
                if "part" in request:
                    staged[number] = stage_part(store, request["part"])
                    request.update(staged[number].keys, argv=staged[number].argv)
                ready.append(number)
            except JobError as error:
                answers[number] = {"error": dict(error.details, msg=error.msg)}
        asked = [
            {key: value for key, value in requests[number].items() if key != "part"}
            for number in ready
        ]
        found = launch.launch_all(call, store, asked, slots=call.params["slots"]) if asked else []
    except BaseException:
        for one in staged.values():
            one.discard()
        raise
    for number, answer in zip(ready, found):
        answers[number] = answer
        if number in staged:
            staged[number].settle(answer)
    return answers


def _not_launched(request: Record, error: JobError) -> Record:
    nothing = dict(schema.unknown(""), ansible_job_id=None, state=schema.FAILED)
    nothing.update({name: request[name] for name in ("name", "timeout")})
    nothing.update(cmd=schema.HIDDEN if request["no_log"] else request["cmd"])
    nothing.update(reason=schema.NOT_STARTED, failed=True, **error.details)
    return dict(launch.always(request), **dict(schema.present(nothing), msg=error.msg))


def _summary(results: list[Record]) -> Record:
    counts = dict.fromkeys(schema.STATES, 0)
    failed = []
    for number, result in enumerate(results):
        if result["state"] in counts:
            counts[result["state"]] += 1
        if result["ansible_job_id"] is None:
            failed.append(result["name"] or "jobs[%d]" % number)
    warnings = {text for result in results for text in result.pop("warnings", [])}
    summary: Record = {
        "jobs": results,
        "counts": counts,
        "failed_jobs": failed,
        "changed": any(result["changed"] for result in results),
        "failed": bool(failed),
    }
    if warnings:
        summary["warnings"] = sorted(warnings)
    if failed:
        first = next(result["msg"] for result in results if result["ansible_job_id"] is None)
        summary["msg"] = "could not launch %d of %d jobs: %s; the first: %s" % (
            len(failed),
            len(results),
            some(failed),
            first,
        )
    return summary
