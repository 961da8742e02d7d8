# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Argument specs that modules share, and what follows from them. Private to the collection."""

from __future__ import annotations

import functools
import os

from ansible.module_utils.basic import AnsibleModule

from ._job import quantities, schema, store, way
from ._job.folder import MissingRecord
from ._job.printable import make_printable, printable
from ._job.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from ._job.folder import Job
    from ._job.schema import Record

ASYNC_DIR_SPEC: dict[str, Any] = {
    "async_dir": {"type": "path"}
}  # documented by the fragment async_dir

NO_LOGIN = 2**32 - 1  # what /proc/self/loginuid says of a session that nobody has logged in to

# Parameters that are secret, though their values are not looked for in results: a value such as "1" would mask every 1.
UNSHOWN = ("env", "stdin", "args")

_at_end: list[Callable[[], None]] = []


def letting_go(run: Callable[[AnsibleModule], Record]) -> Callable[[AnsibleModule], Record]:
    """Have all that a run of a module opens closed at its end, and what it says made printable.

    Its process would end anyhow, but under mitogen's strategy one interpreter runs many modules.
    """

    @functools.wraps(run)
    def wrapped(module: AnsibleModule) -> Record:
        try:
            result = run(module)
            make_printable(result)
            return result
        finally:
            while _at_end:
                _at_end.pop()()

    return wrapped


def at_end(close: Callable[[], None]) -> None:
    """Have something closed at the end of a run, see :func:`letting_go`."""
    _at_end.append(close)


def open_store(module: AnsibleModule, *, create: bool) -> Store:
    """Resolve the async dir, here on the target and nowhere else, and open it.

    :raises FileNotFoundError: it is not there, and ``create`` is false.
    :raises JobError: it cannot be used; the message says why and as whom.
    """
    where = Store.open(async_dir(module), create=create)
    where.open_jobs = set()
    at_end(where.close)
    return where


def async_dir(module: AnsibleModule) -> str:
    """Return the path of the async dir: the parameter, else the environment's, else ansible-core's default."""
    configured = (
        module.params["async_dir"] or os.environ.get("ANSIBLE_ASYNC_DIR") or "~/.ansible_async"
    )
    return os.path.expanduser(os.path.expandvars(configured))


def given_job(module: AnsibleModule) -> Job:
    """Return the job that the parameters ``jid`` or ``name`` mean.

    :raises MissingRecord: there is none of that name.
    :raises FileNotFoundError: there is no async dir.
    """
    if module.params["jid"] is not None:
        schema.check_jid(module.params["jid"])
        return open_store(module, create=False).job(module.params["jid"])
    name = schema.check_name(module.params["name"])
    job = open_store(module, create=False).latest(name)
    if job is None:
        raise MissingRecord(name)
    return job


def why_absent(
    path: str, jid: str | None, name: str | None, launched: dict[str, str] | None = None
) -> str:
    """Say that a job is not in an async dir: where we looked, as whom, and where it is as far as we can see.

    :param launched: what the result of its launch tells, see ``_references.Reference``.
    """
    me = store.user_name(os.geteuid())
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
    for user, folder in way.elsewhere(path, jid or "", name or ""):
        if user == me:
            text += "; there is one in %s: set async_dir to that" % folder
        else:
            hint = "; it belongs to user %s in %s: look as that user (become_user: %s), with that async_dir"
            text += hint % (user, folder, user)
    return printable(text)


def requester(module: AnsibleModule, controller: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return who asks for something, see ``schema.requester``.

    :param controller: ``user`` and ``host`` of the controller, where an action plugin has told them.
    """
    told = controller or {}
    by = {
        # ansible-core tells every module its version; whoever runs a module by hand does not.
        "via": "ansible" if getattr(module, "ansible_version", None) else "local",
        "user": store.user_name(os.geteuid()),
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
    return store.user_name(uid) if uid < NO_LOGIN else None


def usable(params: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """Return parameters with durations in seconds; one that is null is as good as not given.

    :param spec: their argument spec.
    :raises JobError: naming the parameter that is wrong.
    """
    absent = {name: spec[name].get("default") for name in spec if params.get(name) is None}
    return quantities.checked({**params, **absent})


def unshown_invocation(module: AnsibleModule) -> dict[str, Any]:
    """Return the echo of the parameters that every result carries, without the secret ones.

    The spec marks them ``no_log``, which keeps them out of syslog; what ansible-core derives from
    that for results is undone.
    """
    module.no_log_values.clear()
    shown = _unshown(module.params)
    if isinstance(shown.get("jobs"), list):
        shown["jobs"] = [
            _unshown(entry) if isinstance(entry, dict) else entry for entry in shown["jobs"]
        ]
    return {"module_args": shown}


def _unshown(params: dict[str, Any]) -> dict[str, Any]:
    hidden = {name for name in UNSHOWN if params.get(name) is not None}
    shown = {name: value for name, value in params.items() if name not in ("_part", "_parts")}
    return dict(shown, **dict.fromkeys(hidden, "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"))
