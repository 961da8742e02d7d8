# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How plugins/sub_plugins/keyword is called, asks the engine and answers ansible-core. Private to the collection."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys

from ._job import schema
from ._job.errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._job.schema import Record

MOVED = (
    "the folder plugins/keyword of the collection durable.jobs has moved to plugins/sub_plugins/keyword:"
    " write the new path into `library` in ansible.cfg, or into ANSIBLE_LIBRARY"
)
# What ansible-core has put into the module, or into the file of its arguments: as JSON, or as words.
_FLAG = rb'_ansible_%s(": true|=True)'


class Order:
    """What the words on the command line ask for.

    :param words: the words, without our own name.
    :raises JobError: these are not the words of an ansible-core that we know.
    """

    def __init__(self, words: list[str]) -> None:
        if len(words) < 4:
            raise JobError(
                "async_wrapper is run by ansible-core for the keyword async, and by nobody else"
            )
        # Longer than any machine runs; a record holds no more.
        self.limit = min(float(words[1]), float(schema.LONGEST))
        if words[2] in ("true", "false"):
            self.path, rest = words[3], words[4:]
            self.args = rest[-1] if rest and rest[-1] != self.path else None
            keeps = words[2] == "true"
        else:
            self.path = words[2]
            self.args = None if words[3] == "_" else words[3]
            keeps = words[4:5] == ["-preserve_tmp"] or "-tmp-" not in os.path.dirname(self.path)
        self.tmpdir = os.path.dirname(self.path)
        self.keeps_tmpdir = keeps
        name = os.path.splitext(os.path.basename(self.path))[0]
        self.module = name[10:] if name.startswith("AnsiballZ_") else name

    def files(self) -> dict[str, Any]:
        """Return what is to be staged, see ``staging.stage_files``."""
        return {
            "module": self.module,
            "path": self.path,
            "args": self.args,
            "tmpdir": self.tmpdir,
        }

    def has_flag(self, name: str) -> bool:
        """Tell whether ansible-core has told the module so: ``no_log``, ``check_mode``."""
        flag = re.compile(_FLAG % name.encode())
        for path in (self.path, self.args):
            if path is not None:
                with open(path, "rb") as source:
                    if flag.search(source.read()):
                        return True
        return False


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


def refuse_old_path() -> None:
    """Fail, in place of a module of the folder that has moved. ``async_wrapper`` gets words, ``async_status`` none."""
    if len(sys.argv) > 1:
        order = Order(sys.argv[1:])
        if not order.keeps_tmpdir:
            shutil.rmtree(order.tmpdir, ignore_errors=True)
    told = {"failed": True, "msg": MOVED, "started": True, "finished": True}
    sys.stdout.write("\n%s\n" % json.dumps(told))
    raise SystemExit(1)
