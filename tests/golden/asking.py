# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask this engine as modules do, for tests of recordings. Needs ansible-core.

The argument spec adds the defaults. So tests name only what they care for, and a new parameter breaks none of them.
"""

from __future__ import annotations

from pathlib import Path

from ansible_collections.durable.jobs.plugins.module_utils._argspec import Arguments
from ansible_collections.durable.jobs.plugins.module_utils._job import main
from ansible_collections.durable.jobs.tests.unit.support import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Result = dict[str, Any]


def here(async_dir: Path, arguments: Arguments, **params: Any) -> Result:
    """Have the engine answer in this process."""
    return main.answer(dict(_request(arguments, params), async_dir=str(async_dir)), None)


def elsewhere(
    async_dir: Path, arguments: Arguments, *, predict: bool = False, **params: Any
) -> Result:
    """Have the engine answer in a process of its own, and install it first if it is not there.

    :param predict: ask in check mode and diff mode.
    """
    request = _request(arguments, params, check_mode=predict, diff=predict)
    begun, answer = ask(str(async_dir), **request)
    if not begun:
        _begun, answer = ask(str(async_dir), whole=True, **request)
    return dict(answer)


def _request(arguments: Arguments, params: Result, **changes: bool) -> Result:
    facts = {"check_mode": False, "diff": False, "no_log": False, "ansible": True, "log": None}
    return arguments.request(params, expanded=True, **{**facts, **changes})
