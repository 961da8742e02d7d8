# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the modules in plugins/keyword ask the engine and answer ansible-core. Private to the collection."""

from __future__ import annotations

import json
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._job.schema import Record


def keyword_request(verb: str, params: dict[str, Any], *, no_log: bool) -> Record:
    """Return a request to the engine, see ``call``."""
    request: Record = {"verb": verb, "params": params, "no_log": no_log}
    request.update(paths=[], unshown=[], check_mode=False, diff=False, ansible=True, log=None)
    return request


def respond(told: Record, core_version: str) -> None:
    """Write a result as it is: ``exit_json`` would add an invocation, and gives meaning to some keys.

    :param core_version: only modules can ask for it; up to 2.18 ``started`` and ``finished`` are 0 or 1.
    """
    if core_version.startswith(("2.17.", "2.18.")):
        told = dict(
            told, **{name: int(told[name]) for name in ("started", "finished") if name in told}
        )
    sys.stdout.write("\n%s\n" % json.dumps(told))
