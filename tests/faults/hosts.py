# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""This machine as a host: reached locally, or through an sshd of its own."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import pytest

from ansible_collections.durable.jobs.tests.bench import sshd


@contextlib.contextmanager
def reached(connection):
    """Yield a folder, and the variables of a host that is reached so; skip where it cannot be."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="durable_fault.")))
        variables = {
            "ansible_python_interpreter": os.path.realpath(sys.executable),
            "ansible_async_dir": str(folder / "jobs"),
        }
        if connection == "ssh":
            try:
                variables.update(stack.enter_context(sshd.running(folder)).hosts[0])
                stack.callback(sshd.hang_up, folder / "cp")
            except sshd.NoSshd as error:
                pytest.skip(str(error))
        else:
            variables["ansible_connection"] = "local"
        yield folder, variables
