# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks again and shows what comes: only the controller can follow a job live, and knows ansible_async_dir."""

from __future__ import annotations

import typing as t

from ansible.module_utils.parsing.convert_bool import boolean

from ..module_utils._argspec import OUTPUT
from ..module_utils._job.schema import PIECE_BYTES
from ..plugin_utils._display import Lines
from ..plugin_utils._forward import ForwardingAction

LINE_LIMIT = 4096  # characters of a line that are shown at once


class ActionModule(ForwardingAction):
    """Runs the module of the same name; with ``follow`` again and again, until all is shown."""

    arguments = OUTPUT
    instead = "a look is short. Drop both, and write follow: true to read until the job has ended"

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Read, and return the module's answer; when following, the last of it with as much as one answer may hold."""
        answer = super().run(tmp, task_vars)
        follows = boolean(self._task.args.get("follow") or False, strict=False)
        if not follows or self._task.check_mode or "eof" not in answer:
            return answer
        host = (task_vars or {}).get("inventory_hostname", self._play_context.remote_addr)
        shown = Lines(self, task_vars)
        lines = _Splitter(lambda line: shown.show("%s | %s" % (host, line)))
        pieces = _Pieces(int(self._task.args.get("max_bytes") or PIECE_BYTES))
        args = dict(self.forwarded(), jid=answer["ansible_job_id"])
        is_one = args.get("attempt") is not None
        for other in ("name", "tail_lines"):  # a name may mean another job the next time
            args.pop(other, None)
        while True:
            pieces.take(answer)
            if answer["size"] is not None or answer["eof"]:  # else it is hidden
                lines.take(answer["content"])
            is_over = answer["eof"] and not (answer["shrunk"] and answer["size"])
            if is_over:
                lines.end()
            if is_over and (is_one or answer["finished"]):
                return dict(answer, **pieces.result())
            # A job that is tried again is followed until its last attempt has ended.
            args["attempt"] = answer["attempt"] + is_over
            args["offset"] = 0 if is_over or answer["shrunk"] else answer["next_offset"]
            pieces = _Pieces(pieces.limit) if is_over else pieces
            answer = self.ask(args, task_vars or {})
            if "eof" not in answer:
                return answer


class _Splitter:
    """Shows text line by line, as it comes.

    :param tell: shows a line.
    """

    def __init__(self, tell: t.Callable[[str], None]) -> None:
        self._tell = tell
        self._begun = ""

    def take(self, text: str) -> None:
        """Show what has become whole lines; of a very long one also what is there of it."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._show(line)
        while len(self._begun) > LINE_LIMIT:
            self._show(self._begun[:LINE_LIMIT])
            self._begun = self._begun[LINE_LIMIT:]

    def end(self) -> None:
        """Show what has no newline."""
        if self._begun:
            self._show(self._begun)
            self._begun = ""

    def _show(self, line: str) -> None:
        self._tell(line.rstrip("\r").rpartition("\r")[2])  # as a terminal would show it


class _Pieces:
    """Keeps the last pieces that were read.

    :param limit: bytes that all of them may have.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: list[tuple[int, int, str]] = []  # of each: begin, end, text
        self._lost = 0

    def take(self, answer: dict[str, t.Any]) -> None:
        """Keep another piece."""
        self._lost += answer["lost_bytes"]
        if answer["next_offset"] == answer["offset"]:
            self._kept = self._kept or [(answer["offset"], answer["offset"], answer["content"])]
            return
        self._kept.append((answer["offset"], answer["next_offset"], answer["content"]))
        while len(self._kept) > 1 and answer["next_offset"] - self._kept[0][0] > self.limit:
            del self._kept[0]

    def result(self) -> dict[str, t.Any]:
        """Return them as keys of a result."""
        text = "".join(piece[2] for piece in self._kept)
        begin = {"offset": self._kept[0][0], "lost_bytes": self._lost}
        return dict(begin, content=text, content_lines=text.splitlines())
