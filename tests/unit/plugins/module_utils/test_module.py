# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module reads of the engine's answer."""

from __future__ import annotations

import subprocess
import sys

from ansible_collections.durable.jobs.plugins.module_utils import _module


def test_output_is_whole_however_large_it_is():
    line = "import sys; sys.stdout.write('\\u00e9' * 3000000)"
    output = _module._Output()
    argv = [sys.executable, "-X", "utf8", "-c", line]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        output.take(process)
        pieces = list(iter(lambda: process.stdout.read(32768), b""))
    assert output.text() == "\u00e9" * 3000000
    assert {len(piece) for piece in pieces} == {1}
