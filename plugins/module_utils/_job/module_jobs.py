# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Launching what an action plugin has prepared: a module of Ansible. Private to the collection.

What the action plugin sends, for each module (see plugins/plugin_utils/_action_capture.py)::

    {"module": "ansible.builtin.copy",          what the user calls it
     "unneeded": null,                          why there is nothing to launch
     "files": ["9f86d0..."],                    digests of what goes along, which a name compares too
     "payload": {"name": "AnsiballZ_copy.py", "content": "...", "base64": false, "style": "new",
                 "shebang": "#!/usr/bin/python3", "args": null},    see _staging; null in check mode
     "cmd": "x.sh -a",                          what to show of a script, which is no module
     "tmpdir": "/durable.jobs/0a1b/tmp",        what stands for paths in the arguments
     "extra": {"/durable.jobs/0a1b/0": "/root/.ansible/tmp/ansible-tmp-1/.source"}}
"""

from __future__ import annotations

from binascii import a2b_base64

from .launch import build_request
from .staging import SHELL, Payload, Staged, stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .schema import Record
    from .store import Store

COMMANDS_ONLY = ("cmd", "argv", "shell", "executable")


def module_request(params: dict[str, Any], part: dict[str, Any], *, no_log: bool) -> Record:
    """Return the launcher's request for a module that has not been staged yet.

    :raises JobError: naming the parameter that is wrong.
    """
    name = str(part["module"])
    command = {**dict.fromkeys(COMMANDS_ONLY), "argv": [name]}
    request = build_request({**params, **command}, no_log=no_log)
    compared = {"module": name, "args": params["args"] or {}, "files": part["files"]}
    request.update(module=name, cmd=name, args=compared)
    return request


def stage_part(store: Store, part: dict[str, Any]) -> Staged:
    """Put the module into the folder of a job to come. :raises JobError: it cannot be staged."""
    payload, args = part["payload"], part["payload"]["args"]
    content = payload["content"].encode("utf-8", "surrogateescape")
    if payload["base64"]:
        content = a2b_base64(content)
    made = Payload(
        part["module"],
        name=payload["name"],
        content=content,
        style=payload["style"],
        shebang=payload["shebang"],
        args=None if args is None else args.encode("utf-8", "surrogateescape"),
    )
    staged = stage(store, made, tmpdir=part["tmpdir"], extra=part["extra"])
    if payload["style"] == SHELL:  # its output is not a module's result
        staged.keys.update(module=None, cmd=part["cmd"])
    return staged
