# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception that carries a sentence for the user."""

from __future__ import annotations

import errno

from .printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class JobError(Exception):
    """Something the user must be told: what was wrong, where, and what to do.

    :param msg: one or more whole sentences. Text of somebody else in it, say of a path, becomes printable here.
    :param details: further keys for the module's result.
    """

    def __init__(self, msg: str, **details: Any) -> None:
        self.msg = printable(msg)
        super().__init__(self.msg)
        self.details = details


# Errors that say nothing of what was asked: what there is too little of now, there may be enough of later.
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS, errno.EINTR)
# What a machine may refuse for a while: descriptors, processes, memory, room, its disk. Keeper and runner try again.
MISHAPS = (OSError, MemoryError, JobError)
