#!/usr/bin/python
# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module that ends in the way that it is told."""

from __future__ import annotations

import os
import signal
import time

from ansible.module_utils.basic import AnsibleModule

TAKEN = {"state": "absent", "name": "nginx", "started": False, "finished": False}


def main() -> None:
    """Run the module."""
    how = {"type": "str", "default": "plain"}
    secret = {"type": "str", "no_log": True}
    module = AnsibleModule(argument_spec={"how": how, "secret": secret, "folder": {"type": "str"}})
    way = module.params["how"]
    if way == "wait":
        while not os.path.exists(os.path.join(module.params["folder"], "go")):
            time.sleep(0.05)
    if way == "taken":
        module.exit_json(changed=True, **TAKEN)
    if way == "junk":
        os.write(1, b"hello from a library\n")
    if way == "traceback":
        os.write(2, b"Traceback (most recent call last):\nRuntimeError: the disk is on fire\n")
        os._exit(1)
    if way == "killed":
        os.write(1, b"half a result")
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "fails":
        module.fail_json(msg="there is no such thing")
    module.warn("a warning of its own")
    said = "the secret is %s" % module.params["secret"]
    module.exit_json(
        changed=False,
        said=said,
        tmpdir=module.tmpdir,
        environment=os.environ.get("JM_TEST"),
        diff={"before": "a\n", "after": "b\n"},
    )


if __name__ == "__main__":
    main()
