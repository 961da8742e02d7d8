# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking the engine: which it is, how it comes to a target, how it is called. Private to the collection.

Modules and action plugins both ask; what they send is described in ``boot``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import pkgutil
import secrets
import zlib

from . import _job
from ._job.errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    # ansible-core sends along what it sees here, and all that this imports.
    from ._job import boot, main  # noqa: F401
    from ._job.schema import Record

PARTS = (
    "__init__",
    "adoption",
    "attempts",
    "async_jobs",
    "builtin",
    "call",
    "cgroup",
    "containment",
    "course",
    "dbus",
    "delivery",
    "errors",
    "files",
    "validation",
    "host",
    "installation",
    "job",
    "keeper",
    "kernel",
    "launch",
    "launcher",
    "listing",
    "status",
    "prewarm",
    "main",
    "module_jobs",
    "modules",
    "names",
    "naming",
    "notifying",
    "outbox",
    "output",
    "poll_plan",
    "printable",
    "pruning",
    "quantities",
    "reading",
    "record_io",
    "references",
    "removing",
    "notify_socket",
    "retrying",
    "runner",
    "schema",
    "shell_signs",
    "shutdown",
    "sinks",
    "staging",
    "spawn",
    "standby",
    "stopping",
    "stopping_many",
    "store",
    "summary",
    "system_log",
    "systemd",
    "processes",
    "queueing",
    "unit",
    "verb_adopt",
    "verb_batch",
    "verb_info",
    "verb_keyword",
    "verb_module",
    "verb_notify",
    "verb_output",
    "verb_prune",
    "verb_start",
    "verb_status",
    "verb_stop",
    "verb_wait",
    "waiting",
    "trust",
)
LAUNCHING = ("job_start", "job_module", "job_batch", "job_keyword")
TITLE = "durable.jobs"  # what people see of it in a list of processes


class Engine:
    """The engine's sources, as this collection has them. :raises JobError: they cannot be read."""

    def __init__(self) -> None:
        sources = {part: _source(part).decode() for part in PARTS}
        self.boot = _source("boot")
        self._sources = json.dumps(sources).encode()
        self._digest = hashlib.sha256(self._sources).hexdigest()[:32]

    def words(self) -> list[str]:
        """Return the words of the command line, after the target's Python."""
        program = "import sys;exec(sys.stdin.buffer.read(%d))" % len(self.boot)
        return ["-I", "-S", "-c", program, TITLE]

    def data(self, question: Question, *, whole: bool = False) -> bytes:
        """Return what that program reads.

        :param whole: send the engine along.
        """
        sources = zlib.compress(self._sources) if whole else b""
        line = dict(question.line, engine=self._digest, sources=len(sources))
        request = json.dumps(question.request).encode()
        return b"".join((self.boot, json.dumps(line).encode(), b"\n", sources, request))


class Question:
    """A request on its way to the engine and back.

    :param request: see ``call``.
    :param configured: the async dir; None for the target's own choice.
    :param environment: variables to be set on the target.
    """

    def __init__(
        self, request: Record, configured: str | None, environment: dict[str, str]
    ) -> None:
        self._nonce = secrets.token_hex(8)
        self.request = request
        launches = request["verb"] in LAUNCHING and not request["check_mode"]
        self.line: Record = {"nonce": self._nonce, "launches": launches}
        self.line.update(configured=configured, environment=environment)

    def has_begun(self, out: str) -> bool:
        """Tell whether an engine has begun to answer. If not, nothing at all has been done."""
        return "%s begun" % self._nonce in out

    def finds_none(self, out: str) -> bool:
        """Tell whether the target has no engine: the question may be asked again, with the engine sent along."""
        return "%s missing" % self._nonce in out

    def result(self, out: str) -> Record | None:
        """Return the answer in what a target has written; None if there is none, or none that is whole."""
        for line in reversed(out.split("\n")):
            nonce, _blank, text = line.strip().partition(" ")
            if nonce == self._nonce and text.startswith("{"):
                try:
                    found: Record = json.loads(text)
                except ValueError:
                    return None
                return found
        return None


def _source(part: str) -> bytes:
    """Return the source of a part of the engine, however this module came here.

    :raises JobError: nobody here can tell it.
    """
    data = pkgutil.get_data(_job.__name__, part + ".py")
    if data is None:  # an importer of another kind: mitogen's
        spec = importlib.util.find_spec(_job.__name__)
        get_reader = getattr(spec and spec.loader, "get_resource_reader", None)
        reader = get_reader and get_reader(_job.__name__)
        if reader is None:
            raise JobError(
                "cannot run the engine: what imports this module cannot tell the source of %s.py"
                % part
            )
        data = reader.open_resource(part + ".py").read()
    return bytes(data)
