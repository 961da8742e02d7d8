# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Launch a module as a durable job, in place of the module of that name with which ansible-core carries out ``async``.

It is found where ``DEFAULT_MODULE_PATH`` names this folder. Beside this, nothing of ansible-core is replaced: it makes
its temporary folder, transfers the module and this one there, and runs this one with words on the command line::

    async_wrapper JID LIMIT MODULE ARGS|_ [-preserve_tmp]                  ansible-core before 2.21
    async_wrapper JID LIMIT PRESERVE_TMP MODULE [INTERPRETER] MODULE [ARGS]    since 2.21; PRESERVE_TMP is true or false

The jid is our own, as it must be unique in the async dir.
"""

from __future__ import annotations

import os
import shutil
import sys

from ansible import __version__ as core_version
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.warnings import get_warning_messages

from ansible_collections.durable.jobs.plugins.module_utils._argspec import JOB
from ansible_collections.durable.jobs.plugins.module_utils._job import host
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._keyword import (
    Order,
    keyword_request,
    respond,
)
from ansible_collections.durable.jobs.plugins.module_utils._module import run_engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ansible_collections.durable.jobs.plugins.module_utils._job.schema import Record

GRACE = 2


def async_dir() -> str:
    """Return the path of the async dir.

    ``~`` is the home in the user database, whatever HOME says: ansible-core's async_status looks there.
    """
    path = os.path.expandvars(os.environ.get("ANSIBLE_ASYNC_DIR") or "~/.ansible_async")
    if path == "~" or path.startswith("~/"):
        known = os.path.expanduser("~" + host.user_name(os.geteuid()))
        path = path if known.startswith("~") else known + path[1:]
    return os.path.expanduser(path)


def run(module: AnsibleModule, order: Order) -> Record:
    """Launch the module and return the job. :raises JobError: it could not be launched."""
    params: dict[str, Any] = {name: option.get("default") for name, option in JOB.items()}
    params.update(timeout=order.limit, grace=GRACE, output_limit=0)
    try:
        no_log, check_mode = order.has_flag("no_log"), order.has_flag("check_mode")
    except OSError as error:
        raise JobError("cannot stage the module: %s: %s" % (order.path, error.strerror)) from None
    params["order"] = dict(order.files(), check_mode=check_mode)
    return run_engine(module, keyword_request("job_keyword", params, no_log=no_log), async_dir())


def main() -> None:
    """Run the module: words in, one JSON result out."""
    module = AnsibleModule(argument_spec={})
    told: Record
    try:
        order = Order(sys.argv[1:])
        try:
            job = run(module, order)
            if job.get("failed"):
                raise JobError(job.pop("msg"), **job)
        finally:
            if not order.keeps_tmpdir:
                shutil.rmtree(order.tmpdir, ignore_errors=True)
        told = {name: job[name] for name in ("failed", "ansible_job_id", "results_file")}
        told.update(started=True, finished=False)
        warnings = [*job.get("warnings", []), *get_warning_messages()]
        if warnings:
            told["warnings"] = warnings
        # The controller forgets the folder in any case: it belongs to us.
        told["_ansible_suppress_tmpdir_delete"] = not order.keeps_tmpdir
    except JobError as error:
        told = dict(error.details, failed=True, msg=error.msg)
    respond(told, core_version)
    raise SystemExit(1 if told["failed"] else 0)


if __name__ == "__main__":
    main()
