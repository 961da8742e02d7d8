# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Telling syslog who asked for what, as ansible-core has every module do."""

from __future__ import annotations

import syslog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .call import Call


def write(call: Call) -> None:
    """Write the line that the request's ``log`` describes.

    Of a module ansible-core does that itself (AnsibleModule.log). ::

        {"name": "durable.jobs.job_start", "facility": "LOG_USER", "prefix": "",
         "values": {"timeout": "60", ...}}        what may be shown of each parameter
    """
    log = call.request["log"]
    values = dict(log["values"])
    for name in call.request["paths"]:
        if name in values and call.params[name] is not None:
            values[name] = call.params[name]
    text = " ".join("%s=%s" % item for item in values.items())
    line = "Invoked with %s" % text if text else "Invoked"
    if log["prefix"]:
        line = "%s %s" % (log["prefix"], line)
    syslog.openlog("ansible-" + log["name"], 0, getattr(syslog, log["facility"], syslog.LOG_USER))
    # No syslog takes a null character, or half of a pair of surrogates.
    syslog.syslog(syslog.LOG_INFO, line.replace("\0", "\\0").encode("utf-8", "replace").decode())
