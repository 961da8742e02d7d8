# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks the engine, forwards ansible_async_dir, and takes free form: only the controller can do any of it."""

from __future__ import annotations

import typing as t

from ..module_utils._argspec import ONE_COMMAND, START, checked, with_on
from ..module_utils._job.errors import JobError
from ..plugin_utils._forward import IN_THE_BACKGROUND, ForwardingAction

RAW = "_raw_params"  # where ansible-core puts what is not written as name=value


class ActionModule(ForwardingAction):
    """Asks what the module of the same name asks."""

    arguments = START
    instead = IN_THE_BACKGROUND
    # Since ansible-core 2.19. Those before know the modules that take free form by name, and refuse all others.
    supports_raw_params = True

    def forwarded(self) -> dict[str, t.Any]:
        """Return the task's arguments; free form, as in ``-a "sleep 15"``, is ``cmd``."""
        args = super().forwarded()
        raw = args.pop(RAW, None)
        if isinstance(raw, dict):  # a template that is all of the arguments
            args = with_on({**args, **raw})
            checked(args, START.spec)
            return args
        if raw:
            wrong = [*(name for name in args if name not in START.spec), *_commands(args)]
            if wrong:
                text = (
                    "%s cannot be given beside %r, which stands alone and so is taken as cmd: "
                    "in free form every word with = is a parameter; give cmd and put the whole line in quotes, as in "
                    "cmd='dd if=/dev/zero of=/tmp/zeros count=1'"
                )
                raise JobError(text % (", ".join(wrong), str(raw)))
            args["cmd"] = raw
        return args


def _commands(args: dict[str, t.Any]) -> list[str]:
    return [name for name in ONE_COMMAND if args.get(name) is not None]
