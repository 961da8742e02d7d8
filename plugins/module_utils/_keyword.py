# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the modules in plugins/keyword answer ansible-core. Private to the collection."""

from __future__ import annotations

import json
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._job.schema import Record


def respond(told: Record, core_version: str) -> None:
    """Write a result as it is: ``exit_json`` would add an invocation, and gives meaning to some keys.

    :param core_version: only modules can ask for it; up to 2.18 ``started`` and ``finished`` are 0 or 1.
    """
    if core_version.startswith(("2.17.", "2.18.")):
        told = dict(
            told, **{name: int(told[name]) for name in ("started", "finished") if name in told}
        )
    sys.stdout.write("\n%s\n" % json.dumps(told))
