# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules do: check parameters, ask the engine, report. Private to the collection."""

from __future__ import annotations

import sys

from ansible.module_utils.basic import AnsibleModule

from ._argspec import UNSHOWN
from ._engine import Engine, Question
from ._job import schema
from ._job.errors import JobError
from ._reporter import Reporter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._argspec import Arguments
    from ._job.schema import Record


def ask(arguments: Arguments) -> None:
    """Be the module with these parameters: one JSON result out."""
    module = Reporter(
        argument_spec=arguments.spec, supports_check_mode=True, **arguments.constraints
    )
    # The spec marks what is secret `no_log`, which keeps it out of syslog; what ansible-core derives from that for
    # results, masking every equal text, is undone. The engine leaves secrets out by itself.
    module.no_log_values.clear()
    facts = {
        "check_mode": module.check_mode,
        "diff": module._diff,
        "no_log": module.no_log,
        # ansible-core tells every module its version; whoever runs a module by hand does not.
        "ansible": bool(getattr(module, "ansible_version", None)),
        "log": None,
    }
    try:
        request = arguments.request(module.params, expanded=True, **facts)
        result = run_engine(module, request, module.params["async_dir"])
    except JobError as error:
        params = {name: value for name, value in module.params.items() if name != "_told"}
        shown = schema.invocation(params, UNSHOWN)
        result = dict(error.details, msg=error.msg, failed=True, invocation=shown)
    module.report(result)


class _Output:
    """The standard output of a command. ``run_command`` copies all that it has with every piece that it reads.

    So it is given a byte of each piece: with a result of 70 MB it would read for a minute.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._pipe: Any = None

    def take(self, process: Any) -> None:
        """Stand between a process and whoever reads its output."""
        self._pipe, process.stdout = process.stdout, self

    def fileno(self) -> int:
        return int(self._pipe.fileno())

    def read(self, size: int) -> bytes | None:
        piece: bytes | None = self._pipe.read(size)
        if piece:
            self._pieces.append(piece)
        return piece and piece[:1]

    def close(self) -> None:
        self._pipe.close()

    def text(self) -> str:
        return b"".join(self._pieces).decode("utf-8", "replace")


def run_engine(module: AnsibleModule, request: Record, async_dir: str | None) -> Record:
    """Have the engine answer a request, from a module; install it first if it is not there.

    :raises JobError: it could not be run at all.
    """
    if not sys.executable:
        raise JobError(
            "cannot run the engine: this Python does not know the path of its own interpreter"
        )
    engine, question = Engine(), Question(request, async_dir, {})
    for whole in (False, True):
        command = [sys.executable, *engine.words()]
        data = engine.data(question, whole=whole)
        output = _Output()
        rc, _beginnings, err = module.run_command(
            command,
            data=data,
            binary_data=True,
            expand_user_and_vars=False,
            before_communicate_callback=output.take,
        )
        out = output.text()
        if not question.finds_none(out):
            break
    result = question.result(out)
    if result is None:
        told = (request["verb"], rc, err.strip()[-2000:])
        raise JobError("the engine gave no answer to %s (rc %s): %s" % told)
    return result
