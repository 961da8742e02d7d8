#!/usr/bin/python
# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Return the keys that a job has, too."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: durable_test_collide
short_description: Return the keys that a job has, too
description: For the tests of durable.jobs.
author: The durable.jobs authors (@durable-jobs)
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={})
    own = {"started": False, "finished": 0, "state": "present", "name": "theirs", "timeout": 7}
    module.exit_json(changed=True, results_file="/theirs", rc=0, **own)


if __name__ == "__main__":
    main()
