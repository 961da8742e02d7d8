#!/usr/bin/python
# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Launch many jobs in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: job_batch
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 0.1.0
short_description: Launch many durable background jobs in one call
description:
  - Launches any number of jobs on the target in one round trip, and returns when each of them has
    been started, is queued, or could not be launched.
  - With O(slots), no more than so many of them run at once. The others are queued on the target and
    start in their order as soon as there is room. Neither a daemon nor the controller is needed
    for that.
  - Wait for all of them with M(durable.jobs.job_wait).
options:
  jobs:
    description:
      - The jobs, each a dictionary of the parameters of M(durable.jobs.job_start), without
        C(async_dir) and C(retention).
      - A job with C(module), and C(args), is one of M(durable.jobs.job_module). Each of them is built and sent by
        itself, some 150 kB, so a loop over hundreds of files is better one module with a list.
      - What a job does not say is taken from the options below. The variables of C(env) are joined, and
        the job's own win.
      - If one of these dictionaries is wrong, nothing is launched. If one of the jobs cannot be
        launched, because its program does not exist for example, all others are.
      - An empty list launches nothing.
    type: list
    elements: dict
    required: true
  slots:
    description:
      - How many jobs of this call may run at once. V(0) sets no limit.
      - The time limit of a job counts from its start, not from the moment at which it was queued.
      - Jobs that were not started by this call, because a job of their name is live, do not count.
    type: int
    default: 0
  executable:
    description:
      - The shell that runs C(shell). See O(durable.jobs.job_start#module:executable).
    type: path
    default: /bin/sh
  timeout:
    description:
      - Seconds that each command may run; V(0) sets no limit. See O(durable.jobs.job_start#module:timeout).
    type: raw
    default: 3600
  max_timeout:
    description:
      - Seconds that each command may run at the most if it asks for more time. See O(durable.jobs.job_start#module:max_timeout).
    type: raw
  watchdog:
    description:
      - Seconds that may pass without a sign of life of a command. See O(durable.jobs.job_start#module:watchdog).
    type: raw
  grace:
    description:
      - Seconds between O(stop_signal) and SIGKILL when a job is ended. See O(durable.jobs.job_start#module:grace).
    type: raw
    default: 10
  stop_signal:
    description:
      - The signal that asks a job to end, by name or number. See O(durable.jobs.job_start#module:stop_signal).
    type: str
    default: TERM
  chdir:
    description:
      - Directory in which to run the commands. See O(durable.jobs.job_start#module:chdir).
    type: path
  env:
    description:
      - Environment variables for the commands. They are stored nowhere. See O(durable.jobs.job_start#module:env).
    type: dict
  stdin_add_newline:
    description:
      - Whether to end C(stdin) with a newline. See O(durable.jobs.job_start#module:stdin_add_newline).
    type: bool
    default: true
  umask:
    description:
      - The commands' umask as an octal number, for example V('0022'). See O(durable.jobs.job_start#module:umask).
    type: raw
  nice:
    description:
      - By how much to raise the commands' nice value. Only root can lower it. See O(durable.jobs.job_start#module:nice).
    type: int
  output_limit:
    description:
      - Bytes of each output stream of each job that are kept on disk. V(0) keeps all. See O(durable.jobs.job_start#module:output_limit).
    type: int
    default: 67108864
  containment:
    description:
      - What holds a job's processes together and protects them. See O(durable.jobs.job_start#module:containment).
      - All jobs of a call share one unit of systemd, in which each has a control group of its own.
    type: str
    default: auto
    choices:
      - auto
      - systemd
      - process
  memory_max:
    description:
      - How much memory each job may use, in bytes or with a unit such as V(512M). See O(durable.jobs.job_start#module:memory_max).
    type: str
  cpu_quota:
    description:
      - How much processor time each job may use, in percent of one processor. See O(durable.jobs.job_start#module:cpu_quota).
    type: str
  tasks_max:
    description:
      - How many processes and threads each job may have at once. See O(durable.jobs.job_start#module:tasks_max).
    type: int
  on_conflict:
    description:
      - What to do if a job of that name is live with another specification. See O(durable.jobs.job_start#module:on_conflict).
    type: str
    default: fail
    choices:
      - fail
      - attach
      - replace
  rerun:
    description:
      - What to do if the latest job of that name has finished. See O(durable.jobs.job_start#module:rerun).
    type: str
    default: always
    choices:
      - always
      - on_failure
      - never
  retention:
    description:
      - Seconds for which finished jobs are kept. V(0) keeps all. See O(durable.jobs.job_start#module:retention).
    type: raw
    default: 1209600
  _parts:
    description:
      - Not for playbooks. What the action plugin tells the module about the modules among O(jobs).
    type: list
    elements: raw
extends_documentation_fragment:
  - durable.jobs.async_dir
  - durable.jobs.attributes
  - durable.jobs.durations
attributes:
  check_mode:
    details:
      - Nothing is started or written. Each job says what M(durable.jobs.job_start) would have
        predicted for it. What jobs of the same call would mean for each other is not predicted.
  diff_mode:
    support: full
    details:
      - The specification of the latest job of each name and the one asked for now, secrets masked.
notes:
  - A name may be given more than once. The second launch of it then finds the first one's job.
seealso:
  - module: durable.jobs.job_wait
  - module: durable.jobs.job_start
"""

EXAMPLES = r"""
- name: Start a check of every disk, four at a time
  durable.jobs.job_batch:
    jobs:
      - name: check of sda
        cmd: /usr/local/bin/check /dev/sda
      - name: check of sdb
        cmd: /usr/local/bin/check /dev/sdb
        timeout: 2h
    slots: 4
    timeout: 1h
  register: checks

- name: Wait for all of them
  durable.jobs.job_wait:
    jobs: "{{ checks }}"
"""

RETURN = r"""
jobs:
  description:
    - What M(durable.jobs.job_start) would have returned for each job, in the order given.
    - A job that could not be launched has C(failed), a C(msg) that says why, the state V(failed), the
      reason V(not started), and no id.
  returned: always
  type: list
  elements: dict
counts:
  description: How many jobs there are of each state. What was not launched, and not meant to be, is not counted.
  returned: always
  type: dict
  sample: {failed: 0, lost: 0, queued: 96, running: 4, stopped: 0, succeeded: 0, timed_out: 0}
failed_jobs:
  description: The jobs that could not be launched, by name, or else by their place as in V(jobs[3]).
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.errors import UnsupportedError

from ..module_utils._argspec import (
    ASYNC_DIR_SPEC,
    letting_go,
    open_store,
    unshown_invocation,
    usable,
)
from ..module_utils._job import quantities, schema
from ..module_utils._job.errors import JobError
from ..module_utils._job.folder import MissingRecord
from ..module_utils._launch import (
    JOB_SPEC,
    ONE_COMMAND,
    always,
    build_request,
    launch,
    not_needed,
    outcome,
    prune_in_passing,
    unneeded,
    warn_of_shell,
)
from ..module_utils._module_jobs import MODULE_SPEC, module_request, stage_part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..module_utils._job.schema import Record
    from ..module_utils._job.store import Store
    from ..module_utils._staging import Staged

# A job's own, never shared.
OWN = ("cmd", "argv", "shell", "module", "args", "name", "stdin", "creates", "removes")
OF_THE_CALL = ("async_dir", "retention")  # never a job's own
MODULE = {"module": {"type": "str"}, "args": MODULE_SPEC["args"]}
REFUSED = "jobs[%d] cannot be launched, so nothing is: %s"
ONE_WORK = [*ONE_COMMAND, "module"]
SHARED_SPEC = {
    name: option for name, option in JOB_SPEC.items() if name not in OWN and name != "async_dir"
}


@letting_go
def run(module: AnsibleModule) -> Record:
    """Launch what the parameters ask for and return the result."""
    module.params.update(usable(module.params, module.argument_spec))
    entries = _entries(module)
    parts = module.params["_parts"] or [None] * len(entries)
    requests = [
        _request(number, entry, parts[number], module) for number, entry in enumerate(entries)
    ]
    warn_of_shell(
        module, [("jobs[%d]: " % number, one["cmd"]) for number, one in enumerate(entries)]
    )
    needed = []
    results: list[Record] = []
    for entry, request, part in zip(entries, requests, parts):
        skip = unneeded(entry) or (part or {}).get("unneeded")
        results.append({} if skip is None else not_needed(request, skip))
        if skip is None:
            needed.append(len(results) - 1)
    try:
        where = open_store(module, create=bool(needed) and not module.check_mode)
    except FileNotFoundError:  # nothing is to be launched, or a real run would make it
        where = None
    difference = _differences(module, where, [requests[number] for number in needed])
    if needed:
        launched = _launched(module, where, [requests[number] for number in needed])
        for number, result in zip(needed, launched):
            results[number] = result
        if where is not None and not module.check_mode:
            prune_in_passing(module, where)
    return dict(_summary(results), **difference)


def _entries(module: AnsibleModule) -> list[dict[str, Any]]:
    """Return the parameters of each job, complete. :raises JobError: naming the place of one that is wrong."""
    shared = {name: module.params[name] for name in SHARED_SPEC}
    known = {**JOB_SPEC, **MODULE}
    spec = {name: dict(option) for name, option in known.items() if name not in OF_THE_CALL}
    for option in spec.values():
        option.pop("default", None)
    validator = ArgumentSpecValidator(
        spec,
        mutually_exclusive=[ONE_WORK],
        required_one_of=[ONE_WORK],
        required_by={"args": "module"},
    )
    entries = []
    for number, entry in enumerate(module.params["jobs"]):
        try:
            # First, for its words about a wrong number are better than those of the validator.
            checked = validator.validate(quantities.checked(entry))
        except JobError as error:
            raise JobError(REFUSED % (number, error)) from None
        if checked.error_messages:
            texts = [
                ("unsupported parameters: %s" if isinstance(error, UnsupportedError) else "%s")
                % error
                for error in checked.errors
            ]
            raise JobError(REFUSED % (number, "; ".join(texts)))
        own = {
            key: value for key, value in checked.validated_parameters.items() if value is not None
        }
        own["env"] = dict(shared["env"] or {}, **own.get("env", {}))
        entries.append({**dict.fromkeys(OWN), **shared, **own})
    return entries


def _request(
    number: int, entry: dict[str, Any], part: Record | None, module: AnsibleModule
) -> Record:
    try:
        if entry["module"] is None:
            return build_request(entry, no_log=module.no_log)
        if part is None:
            raise JobError("a module needs the action plugin of job_batch, which builds it")
        return dict(module_request(entry, part, no_log=module.no_log), part=part)
    except JobError as error:
        raise JobError(REFUSED % (number, error)) from None


def _differences(module: AnsibleModule, where: Store | None, requests: list[Record]) -> Record:
    named = [request for request in requests if request["name"] is not None]
    if not module._diff or where is None or not named:
        return {}
    # Imported here, and not by every launch: what a module imports is compiled in every run.
    from ..module_utils import _naming

    create = not module.check_mode
    return {"diff": [_naming.diff(where, request, create=create) for request in named]}


def _launched(module: AnsibleModule, where: Store | None, requests: list[Record]) -> list[Record]:
    """Return the result of each launch, or of its prediction."""
    results = []
    answers: list[Record] = [{}] * len(requests)
    if where is not None and not module.check_mode:
        answers = _launch(module, where, requests)
    for request, answer in zip(requests, answers):
        try:
            if where is None or module.check_mode:
                from ..module_utils import _naming

                results.append(dict(always(request), **_naming.predicted(where, request)))
            else:
                results.append(_outcome(module, where, request, answer))
        except JobError as error:
            results.append(_not_launched(request, error))
    return results


def _outcome(module: AnsibleModule, where: Store, request: Record, answer: Record) -> Record:
    try:
        return outcome(where, request, answer)
    except MissingRecord:  # what was found has been removed since; the others of this call go on
        return _launched(module, where, [request])[0]


def _launch(module: AnsibleModule, where: Store, requests: list[Record]) -> list[Record]:
    """Stage the modules among the jobs, launch all that can be, and return the answers."""
    answers: list[Record] = [{}] * len(requests)
    staged: dict[int, Staged] = {}
    ready = []
    try:
        for number, request in enumerate(requests):
            try:
                if "part" in request:
                    staged[number] = stage_part(where, request["part"])
                    request.update(staged[number].keys, argv=staged[number].argv)
                ready.append(number)
            except JobError as error:
                answers[number] = {"error": dict(error.details, msg=error.msg)}
        asked = [
            {key: value for key, value in requests[number].items() if key != "part"}
            for number in ready
        ]
        found = launch(module, where, asked, slots=module.params["slots"]) if asked else []
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
    return dict(always(request), **dict(schema.present(nothing), msg=error.msg))


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
            ", ".join(failed[:20]) + (", ..." if len(failed) > 20 else ""),
            first,
        )
    return summary


def main() -> None:
    """Run the module: parameters in, one JSON result out."""
    module = AnsibleModule(
        argument_spec=dict(
            SHARED_SPEC,
            # Kept out of syslog as a whole: there is env and stdin in it.
            jobs={"type": "list", "elements": "dict", "required": True, "no_log": True},
            slots={"type": "int", "default": 0},
            _parts={"type": "list", "elements": "raw", "no_log": True},
            **ASYNC_DIR_SPEC,
        ),
        supports_check_mode=True,
    )
    invocation = unshown_invocation(module)
    try:
        result = run(module)
    except JobError as error:
        result = dict(error.details, msg=error.msg, failed=True)
    if result.get("failed"):
        module.fail_json(invocation=invocation, **result)
    module.exit_json(invocation=invocation, **result)


if __name__ == "__main__":
    main()
