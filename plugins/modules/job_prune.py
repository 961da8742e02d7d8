#!/usr/bin/python
# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove what finished jobs have left."""

from __future__ import annotations

DOCUMENTATION = r"""
module: job_prune
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 0.1.0
short_description: Remove the records and the output of finished background jobs
description:
  - Removes jobs that have finished, each with its record, its output and, with the last job of it, its name. Jobs of
    the C(async) keyword of ansible-core, which lie in the same directory, are treated alike.
  - A job that is live or queued is never removed, whatever the options say. Neither is a job of which it cannot be seen here
    whether it is live, because another machine that shares the directory has launched it.
  - O(states) says which finished jobs the module looks at. The other options are limits, each by itself - a job goes
    if any of them says so. Without a limit all of them go.
  - Also removes what was left by launches and removals that were killed half-way.
options:
  states:
    description:
      - Look only at jobs of these states; the others stay and do not count. If it is not given, at all finished jobs.
    type: list
    elements: str
    choices:
      - succeeded
      - failed
      - timed_out
      - stopped
      - lost
  older_than:
    description:
      - Jobs go that finished at least so many seconds ago. V(0) is true of all.
      - The time counts from the moment at which the end was written down. Of a job that was lost, that is the first look after it.
        Neither a clock that has been set forward nor the time for which the machine was suspended makes a job older that
        was launched since it was booted.
    type: raw
  keep_last:
    description:
      - How many jobs may stay. Those that finished last stay, the others go.
    type: int
  max_bytes:
    description:
      - How many bytes of the disk the jobs that stay may take together, records and output. As many go as it takes, those that
        finished first before the others.
    type: int
extends_documentation_fragment:
  - durable.jobs.async_dir
  - durable.jobs.attributes
  - durable.jobs.durations
attributes:
  check_mode:
    details:
      - RV(pruned) lists exactly what would be removed. The same code decides, and nothing is written.
notes:
  - A job whose record is damaged has the state V(lost), unless its exit status is still known. It goes like any other job of that state.
    A damaged record that may be of a live job of C(async) stays.
  - Jobs may be launched, looked at and removed by others at the same time.
  - M(durable.jobs.job_start) removes old jobs in passing, see O(durable.jobs.job_start#module:retention).
seealso:
  - module: durable.jobs.job_start
  - module: durable.jobs.job_status
    description: With O(durable.jobs.job_status#module:mode=cleanup) it removes one job.
"""

EXAMPLES = r"""
- name: Remove jobs that finished a week ago, and whatever is beyond the last thousand jobs or a gigabyte
  durable.jobs.job_prune:
    older_than: 1w
    keep_last: 1000
    max_bytes: 1000000000

- name: Remove all jobs that succeeded
  durable.jobs.job_prune:
    states: [succeeded]

- name: See what would go if only the last three failures were kept
  durable.jobs.job_prune:
    states: [failed, timed_out, lost]
    keep_last: 3
  check_mode: true
  register: prediction
"""

RETURN = r"""
pruned:
  description:
    - The jobs that this task has removed, or in check mode would remove, the one that finished first before the others.
    - C(bytes) is what each took of the disk.
  returned: always
  type: list
  elements: dict
  sample:
    - ansible_job_id: j1795301990843259553.10311
      name: nightly backup
      state: succeeded
      bytes: 28672
bytes_freed:
  description: How many bytes of the disk they took together.
  returned: always
  type: int
  sample: 28672
kept:
  description: How many jobs are left, those that are live and those of other states included.
  returned: always
  type: int
  sample: 12
failed_jobs:
  description: The jobs that should have been removed and could not be, by name, or else by id. The message says why.
  returned: always
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._argspec import ASYNC_DIR_SPEC, async_dir, letting_go, open_store, usable
from ..module_utils._job import schema, store
from ..module_utils._job.errors import JobError
from ..module_utils._job.printable import printable
from ..module_utils._pruning import Pruning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..module_utils._job.schema import Record
    from ..module_utils._pruning import Finished

LIMITS = ("older_than", "keep_last", "max_bytes")
STATES = [state for state in schema.STATES if state in schema.FINISHED_STATES]
NAMED = 20  # jobs that a message names


@letting_go
def run(module: AnsibleModule) -> Record:
    """Remove what the parameters mean and return the result."""
    params = module.params
    params.update(usable(params, module.argument_spec))
    try:
        pruning = Pruning(open_store(module, create=False), settle=not module.check_mode)
        limits = {name: params[name] for name in LIMITS}
        chosen = pruning.choose(states=params["states"], **limits)
        refused: dict[str, JobError] = {}
        removed = chosen
        if not module.check_mode:
            removed, refused = pruning.remove(chosen)
    except FileNotFoundError:  # no async dir, so no job
        return _summary([], [], {}, kept=0, predicted=module.check_mode)
    kept = pruning.others + len(pruning.finished) - len(chosen) + len(refused)
    return _summary(removed, chosen, refused, kept=kept, predicted=module.check_mode)


def _summary(
    removed: list[Finished],
    chosen: list[Finished],
    refused: dict[str, JobError],
    *,
    kept: int,
    predicted: bool,
) -> Record:
    room = sum(one.room or 0 for one in removed)
    failed = [one.name or one.jid for one in chosen if one.jid in refused]
    text = "nothing to remove"
    if removed:
        verb = "would remove" if predicted else "removed"
        jobs = "1 job" if len(removed) == 1 else "%d jobs" % len(removed)
        text = "%s %s of %d bytes; %d left" % (verb, jobs, room, kept)
    if failed:
        names = ", ".join(failed[:NAMED]) + (", ..." if len(failed) > NAMED else "")
        told = (len(failed), len(chosen), names, next(iter(refused.values())).msg)
        text = "could not remove %d of %d jobs: %s; the first: %s" % told
    return {
        "pruned": [one.described() for one in removed],
        "bytes_freed": room,
        "kept": kept,
        "failed_jobs": failed,
        "changed": bool(removed),
        "failed": bool(failed),
        "msg": text,
    }


def main() -> None:
    """Run the module: parameters in, one JSON result out."""
    module = AnsibleModule(
        argument_spec=dict(
            ASYNC_DIR_SPEC,
            states={"type": "list", "elements": "str", "choices": STATES},
            older_than={"type": "raw"},
            keep_last={"type": "int"},
            max_bytes={"type": "int"},
        ),
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except JobError as error:
        result = dict(error.details, msg=error.msg, failed=True)
    except OSError as error:
        told = (async_dir(module), store.user_name(os.geteuid()), error)
        text = printable("cannot remove jobs in %s as user %s: %s" % told)
        result = {"msg": text, "failed": True}
    if result.get("failed"):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
