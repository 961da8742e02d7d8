# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import resource
import types

import pytest

from ansible_collections.durable.jobs.plugins.module_utils import _argspec, _waiting
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.plugins.module_utils._references import references


def opened(path):
    """Return what this process has open below a path."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # the listing's own
            continue
    return sorted(name for name in found if name.startswith(path))


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_of_a_module_leaves_nothing_open(launcher, fails):
    live, ended = launcher.gated("exit 0"), launcher.shell("exit 0")
    path = launcher.store.path
    before = opened(path), resource.getrlimit(resource.RLIMIT_NOFILE)
    during = []

    @_argspec.letting_go
    def run(module):
        where = _argspec.open_store(module, create=False)
        assert where.job(live.jid).is_held("keeper")
        where.install_engine("0" * 32, {"empty.py": b""})
        meant = references([live.jid, ended.jid])
        waiter = _waiting.Waiter(where, meant, lambda jid, name: "", settle=True)
        _argspec.at_end(waiter.close)
        during.extend(opened(path))
        if fails:
            raise JobError("no")
        return {}

    module = types.SimpleNamespace(params={"async_dir": path})
    if fails:
        with pytest.raises(JobError):
            run(module)
    else:
        assert run(module) == {}
    held = [name[len(path) :].rpartition("/")[2] for name in during]
    assert "keeper" in held and "_job" in held and live.jid in held
    assert (opened(path), resource.getrlimit(resource.RLIMIT_NOFILE)) == before
    launcher.release()
