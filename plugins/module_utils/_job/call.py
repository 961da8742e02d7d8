# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One call to the engine: the request of a face (a module or its action plugin), and what verbs need of it.

A request, as JSON (``main`` adds ``async_dir``, resolved on the target)::

    {"verb": "job_start",
     "params": {...},              the module's parameters, checked; what is a path is not expanded yet where ...
     "paths": ["chdir"],           ... it is named here
     "unshown": ["env", "stdin"],  parameters that no result may echo
     "check_mode": false, "diff": false, "no_log": false,
     "entries": [...],             of job_batch: the parameters of each job, complete
     "part": {...}, "parts": [...],    of modules to be launched, see module_jobs
     "look": {...},                of job_wait: how long one run lasts, see verb_wait
     "controller": {"user": ..., "host": ...},    who runs ansible; null where nobody told
     "source": "web1",             the host's name in the inventory; null where nobody told
     "ansible": true,              whether ansible-core runs the module, and not a person by hand
     "log": {...}}                 what goes to syslog, see syslog_line; null for nothing
"""

from __future__ import annotations

import os

from . import host, installation, schema, trust
from .names import latest_job
from .printable import printable
from .record_io import MissingRecord
from .store import Store, has_outbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .job import Job
    from .schema import Record

NO_LOGIN = 2**32 - 1  # what /proc/self/loginuid says of a session that nobody has logged in to


class Call:
    """A request, its warnings, and what is to be closed at its end.

    :param engine: name and content of an engine that came along and is to be installed; None if it is.
    """

    def __init__(self, request: Record, engine: tuple[str, bytes] | None) -> None:
        self.request = request
        self._engine = engine
        self.verb: str = request["verb"]
        self.async_dir: str = request["async_dir"]
        self.check_mode: bool = request["check_mode"]
        self.diff: bool = request["diff"]
        self.no_log: bool = request["no_log"]
        self.params: dict[str, Any] = _expanded(request["params"], request["paths"])
        self.warnings: list[str] = []
        self._at_end: list[Callable[[], None]] = []

    def warn(self, text: str) -> None:
        """Add a warning to the answer."""
        text = printable(text)
        if text not in self.warnings:
            self.warnings.append(text)

    def at_end(self, close: Callable[[], None]) -> None:
        """Have something closed at the end of the call."""
        self._at_end.append(close)

    def close(self) -> None:
        """Close all that the call has opened."""
        while self._at_end:
            self._at_end.pop()()

    def open_store(self, *, create: bool) -> Store:
        """Open the async dir.

        :raises FileNotFoundError: it is not there, and ``create`` is false.
        :raises JobError: it cannot be used; the message says why and as whom.
        """
        store = Store.open(self.async_dir, create=create)
        store.open_jobs = set()
        self.at_end(store.close)
        if not self.check_mode and has_outbox(store):
            # Imported here: few async dirs have an outbox.
            from . import delivery

            self.at_end(lambda: delivery.wake(store))
        if self._engine is not None and not self.check_mode:
            installation.install(store, *self._engine, needed=create)
            self._engine = None
        return store

    def find_store(self) -> Store | None:
        """Open the async dir; None if it is not there. :raises JobError: it cannot be used."""
        try:
            return self.open_store(create=False)
        except FileNotFoundError:
            return None

    def entries(self) -> list[dict[str, Any]]:
        """Return the parameters of each job of job_batch."""
        return [_expanded(entry, self.request["paths"]) for entry in self.request["entries"]]

    def given_job(self) -> Job:
        """Return the job that the parameters ``jid`` or ``name`` mean.

        :raises MissingRecord: there is none of that name.
        :raises FileNotFoundError: there is no async dir.
        """
        if self.params["jid"] is not None:
            schema.check_jid(self.params["jid"])
            return self.open_store(create=False).job(self.params["jid"])
        name = schema.check_name(self.params["name"])
        job = latest_job(self.open_store(create=False), name)
        if job is None:
            raise MissingRecord(name)
        return job

    def left_out(self) -> str | None:
        """Return why there need not be a job of the parameter ``name``: check mode; None if there must be one."""
        if self.check_mode and self.params["name"] is not None:
            return "there is no job of that name; the launch before may be one that check mode left out"
        return None

    def invocation(self) -> Record:
        """Return the echo of the parameters that every result carries, without the secret ones."""
        return schema.invocation(self.params, self.request["unshown"])


def _expanded(params: dict[str, Any], paths: list[str]) -> dict[str, Any]:
    """Return parameters with ``~`` and variables of the target's environment in paths, as ansible-core expands them."""
    found = dict(params)
    for name in paths:
        if found.get(name) is not None:
            found[name] = expand(found[name])
    return found


def expand(path: str) -> str:
    """Expand ``~`` and environment variables in a path."""
    return os.path.expanduser(os.path.expandvars(path))


def why_absent(
    path: str, jid: str | None, name: str | None, launched: dict[str, str] | None = None
) -> str:
    """Say that a job is not in an async dir: where we looked, as whom, and where it is as far as we can see.

    :param launched: what the result of its launch tells, see ``references.Reference``.
    """
    me = host.user_name(os.geteuid())
    which = jid or "named %r" % name
    text = "could not find job %s in %s as user %s" % (which, path, me)
    if not (schema.valid_jid(jid) if jid else schema.valid_name(name or "")):
        return printable(text)
    launched = launched or {}
    user, folder = launched.get("user", me), os.path.dirname(launched.get("results_file", ""))
    if user != me:
        where = " in %s" % folder if folder else ""
        return printable("%s; it was launched as %s%s: use the same become" % (text, user, where))
    if folder not in ("", os.path.normpath(path)):
        hint = "; it was launched in %s: set async_dir to that, or use the same become" % folder
        return printable(text + hint)
    for user, folder in trust.elsewhere(path, jid or "", name or ""):
        if user == me:
            text += "; there is one in %s: set async_dir to that" % folder
        else:
            hint = "; it belongs to user %s in %s: look as that user (become_user: %s), with that async_dir"
            text += hint % (user, folder, user)
    return printable(text)


def requester(request: Record) -> dict[str, Any]:
    """Return who asks for something, see ``schema.requester``."""
    told = request.get("controller") or {}
    by = {
        "via": "ansible" if request["ansible"] else "local",
        "user": host.user_name(os.geteuid()),
        "login": os.environ.get("SUDO_USER") or os.environ.get("DOAS_USER") or _login_user(),
        "controller_user": told.get("user"),
        "controller": told.get("host"),
    }
    return schema.requester(by) or {}


def _login_user() -> str | None:
    """Return the user as whom this session was opened, whoever he has become since (pam_loginuid(8))."""
    try:
        with open("/proc/self/loginuid", encoding="ascii") as source:
            uid = int(source.read())
    except (OSError, ValueError):  # a kernel without auditing
        return None
    return host.user_name(uid) if uid < NO_LOGIN else None
