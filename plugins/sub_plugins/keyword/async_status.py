# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at a job, in place of ansible-core's module async_status.

ansible-core's action plugin of that name, and the loop that ``poll`` makes, run this where ``DEFAULT_MODULE_PATH``
names this folder. Of a job that ``async`` launched they get what they always got: the result of its module. Only what
became of jobs that had no end of their own is told by our job dictionary.
"""

from __future__ import annotations

import os

from ansible import __version__ as core_version
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    async_jobs,
    modules,
    removing,
    schema,
    status,
)
from ansible_collections.durable.jobs.plugins.module_utils._job.call import why_absent
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._job.printable import printable
from ansible_collections.durable.jobs.plugins.module_utils._job.record_io import (
    DamagedRecord,
    MissingRecord,
)
from ansible_collections.durable.jobs.plugins.module_utils._job.store import Store
from ansible_collections.durable.jobs.plugins.module_utils._keyword import keyword_request, respond
from ansible_collections.durable.jobs.plugins.module_utils._module import run_engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ansible_collections.durable.jobs.plugins.module_utils._job.schema import Record
    from ansible_collections.durable.jobs.plugins.module_utils._job.store import Job

# Seconds that the end of a job may take: async_wrapper's grace, two for what SIGKILL does not end at once, and some.
ENDING = 10
# Keys that are the job's. Where a module returns one of them, its whole result is also in `module_result`.
OURS = ("started", "finished", "ansible_job_id", "results_file")
ABSENT = "could not find job"  # to the letter what playbooks may compare with


def run(module: AnsibleModule) -> Record:
    """Look at the job, or clean up after it, and return the result. :raises JobError: that cannot be done."""
    jid, path = module.params["jid"], module.params["_async_dir"]
    try:
        if not schema.valid_jid(jid):
            raise MissingRecord(jid)
        job = Store.open(path, create=False).job(jid)
        private = _private(job)
        found = _look(module, job, private)
    except (FileNotFoundError, MissingRecord):
        told = {"failed": True, "msg": ABSENT, "started": True, "finished": True}
        return dict(told, warnings=[why_absent(path, jid, None)])
    if module.params["mode"] == "cleanup":
        return _clean_up(module, job, found, private)
    return found


def _private(job: Job) -> Record | None:
    """Return the private part of the job's record; None if it has none. :raises MissingRecord: there is no such job."""
    try:
        return job.read_record().get(schema.PRIVATE)
    except DamagedRecord:
        return {}


def _look(module: AnsibleModule, job: Job, private: Record | None) -> Record:
    if private is None:
        return _of_the_builtin(job)
    settle = not module.check_mode
    found = status.look(job, settle=settle, reveal=True)
    if settle and found["reason"] == schema.UNSUPERVISED:
        adopt = keyword_request("job_adopt", {"jids": [job.jid]}, no_log=True)
        run_engine(module, adopt, job.store.path)
    if not found["finished"] and 0 < (found["timeout"] or 0) <= (found["elapsed"] or 0):
        # Its time is up, and it is being ended. The last look of `poll` comes now, and is to see what became of it.
        found = status.wait(job, ENDING, settle=settle, reveal=True)
    return _of_the_keyword(job, found) if "keyword" in private else found


def _of_the_builtin(job: Job) -> Record:
    """Return what ansible-core makes of the record of a job that it has launched, or that this job is lost."""
    record = job.read_record()
    if not async_jobs.is_unfinished(job.jid, record):
        return dict(record, finished=True)
    found = status.look(job)
    if found["state"] == schema.LOST:
        return found
    return dict(record, finished=False)


def _of_the_keyword(job: Job, found: Record) -> Record:
    if not found["finished"]:
        return {"started": True, "finished": False}
    if found["state"] in (schema.SUCCEEDED, schema.FAILED) and found["signal"] is None:
        try:
            return _own_result(job)
        except modules.NoResultError:  # the job dictionary says what there is instead
            pass
    told = dict(found, changed=False)  # nobody knows
    if found["state"] == schema.TIMED_OUT:
        # What ansible-core's async_wrapper says, and what its poll says.
        text = "Timeout exceeded: async task did not complete within the requested time - %ss; %s"
        told["msg"] = text % (found["timeout"], found["msg"])
    return told


def _own_result(job: Job) -> Record:
    """Return the result of the module, as ansible-core would. :raises modules.NoResultError: it has left none."""
    own, junk = modules.result(job)
    own = {name: value for name, value in own.items() if not name.startswith("_ansible_")}
    told = dict(own, started=True, finished=True)
    if set(own).intersection(OURS):
        told["module_result"] = own
    if junk:
        warnings = own.get("warnings") or []
        told["warnings"] = [*(warnings if isinstance(warnings, list) else [warnings]), *junk]
    errors = modules.errors(job)
    if errors:
        told["stderr"] = errors
    return told


def _clean_up(module: AnsibleModule, job: Job, found: Record, private: Record | None) -> Record:
    if not found["finished"]:
        why = "cannot clean up after job %s: it is running; wait for its end, or stop it with durable.jobs.job_stop"
        raise JobError(why % job.jid)
    # What check mode has launched it may remove, and nothing else.
    predicted = ((private or {}).get("keyword") or {}).get("check_mode")
    if predicted or not module.check_mode:
        removing.remove(job)
        removing.sweep(job.store)
    return {"erased": job.results_file}


def main() -> None:
    """Run the module: parameters in, one JSON result out."""
    module = AnsibleModule(
        argument_spec={
            "jid": {"type": "str", "required": True},
            "mode": {"type": "str", "choices": ["cleanup", "status"], "default": "status"},
            "_async_dir": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    jid, path = module.params["jid"], module.params["_async_dir"]
    try:
        result = run(module)
    except (JobError, OSError) as error:
        result = {"failed": True, "msg": printable(error), "started": True, "finished": True}
    result["ansible_job_id"] = jid
    if module.params["mode"] != "cleanup":
        result["results_file"] = os.path.join(path, jid)
    respond(result, core_version)
    raise SystemExit(0)


if __name__ == "__main__":
    main()
