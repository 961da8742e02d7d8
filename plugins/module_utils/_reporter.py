# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Returning a job as a result: it may hold what any module has returned. Private to the collection."""

from __future__ import annotations

import json

from ansible.module_utils.basic import AnsibleModule

from ._job.printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._job.schema import Record


class Reporter(AnsibleModule):
    """A module that returns what it is given: a job that is a module, ours or the builtin's, may have any keys."""

    def add_path_info(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Leave the result alone: ``path`` in it is not ours, and ``state`` is the job's, not that of a file."""
        return kwargs

    def report(self, result: Record) -> None:
        """Return the result, in a form for which exit_json and fail_json have no special meaning or traceback."""
        result.pop("self", None)
        found = result.pop("warnings", None) or []
        for one in found if isinstance(found, list) else [found]:
            self.warn(printable(one) if isinstance(one, str) else json.dumps(one))
        if "deprecations" in result and not _are_deprecations(result["deprecations"]):
            del result["deprecations"]
        if not result.get("failed"):
            self.exit_json(**result)
        if "exception" in result:
            result["exception"] = str(result["exception"])
        result.setdefault("msg", "job %s failed" % result.get("ansible_job_id"))
        self.fail_json(**result)


def _are_deprecations(found: object) -> bool:
    return isinstance(found, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("msg"), str)
        and all(isinstance(value, str) or value is None for value in one.values())
        for one in found
    )
