# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import resource

from ansible_collections.durable.jobs.plugins.module_utils._job.call import Call
from ansible_collections.durable.jobs.plugins.module_utils._job.references import references
from ansible_collections.durable.jobs.plugins.module_utils._job.waiting import Waiter
from ansible_collections.durable.jobs.tests.unit.support import opened


def asked(path, **changes):
    """Return a request to the engine."""
    request = {"verb": "job_info", "params": {}, "paths": [], "unshown": [], "log": None}
    request.update(async_dir=path, check_mode=False, diff=False, no_log=False, ansible=True)
    return {**request, **changes}


def test_a_call_leaves_nothing_open(launcher):
    live, ended = launcher.gated("exit 0"), launcher.shell("exit 0")
    path = launcher.store.path
    before = opened(path), resource.getrlimit(resource.RLIMIT_NOFILE)
    call = Call(asked(path), None)
    where = call.open_store(create=False)
    assert where.job(live.jid).is_held("keeper")
    waiter = Waiter(where, references([live.jid, ended.jid]), lambda one: "", settle=True)
    call.at_end(waiter.close)
    during = opened(path)
    call.close()
    held = [name[len(path) :].rpartition("/")[2] for name in during]
    assert "keeper" in held and live.jid in held
    assert (opened(path), resource.getrlimit(resource.RLIMIT_NOFILE)) == before
    launcher.release()
