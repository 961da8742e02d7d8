# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The power goes during a protocol: every state that a disk may hold then is judged by the real code."""

from __future__ import annotations

import pytest

from ansible_collections.durable.jobs.tests.crash import protocols


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_every_state_of_the_disk(page, protocol, record_property):
    page.trace(protocol)
    found = page.judge()
    what = protocols.PROTOCOLS[protocol].__doc__
    record_property("counts", {"what": "states of the disk", "protocol": what, **found})
    assert not found["wrong"], "\n\n".join([f"{found['wrong']} are wrong", *found["shown"]])
