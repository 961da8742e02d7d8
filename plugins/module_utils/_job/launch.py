# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Launching jobs: what the user asked for, the launcher's request and its answer."""

from __future__ import annotations

import os
import re
import shlex
import time

from . import containment, host, launcher, naming, notifying, quantities, retrying, schema
from .call import requester
from .errors import JobError
from .poll_plan import plain, poll_plan
from .printable import printable
from .record_io import MissingRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .call import Call
    from .schema import Record
    from .store import Store

NO_SOCKET = (
    "the file system of async_dir %s takes no sockets, so the command cannot report its progress"
)
ONE_COMMAND = ["cmd", "argv", "shell"]
# Bytes: the kernel takes no longer words, and no more of words and environment together (execve(2), PATH_MAX).
WORD_LIMIT = 32 * os.sysconf("SC_PAGE_SIZE") - 1
EXEC_LIMIT = 6 * 1024 * 1024
PATH_LIMIT = 4095
SHELL_WARNINGS = 3  # a batch may have hundreds
_OCTAL = re.compile(r"(0[oO])?[0-7]{1,6}", re.ASCII)


def build_request(params: dict[str, Any], *, no_log: bool) -> Record:
    """Turn parameters into a request for the launcher (see there).

    :raises JobError: naming the parameter that is wrong.
    """
    host.require_proc()
    params = quantities.checked(params)
    max_timeout, timeout = params["max_timeout"], params["timeout"]
    if max_timeout and not 0 < timeout <= max_timeout:
        raise JobError(
            "max_timeout is %s, which must not be less than timeout, %s; a job without a limit needs none"
            % (plain(max_timeout), plain(timeout))
        )
    argv = _argv(params)
    try:
        stop_signal = schema.signal_number(params["stop_signal"])
    except JobError as error:
        raise JobError("stop_signal cannot be used: %s" % error.msg) from None
    stdin = params["stdin"]
    if stdin is not None and params["stdin_add_newline"] and not stdin.endswith("\n"):
        stdin += "\n"
    request = {
        "argv": argv,
        "parameter": next(name for name in ONE_COMMAND if params[name] is not None),
        "cmd": params["shell"] if params["shell"] is not None else argv,
        "chdir": params["chdir"],
        "env": _environment(params["env"] or {}),
        "stdin": stdin,
        "umask": _umask(params["umask"]),
        "nice": params["nice"],
        "timeout": plain(timeout),
        "max_timeout": plain(max_timeout) if max_timeout else None,
        "watchdog": plain(params["watchdog"]) if params["watchdog"] else None,
        "grace": plain(params["grace"]),
        "stop_signal": stop_signal,
        "output_limit": params["output_limit"],
        "no_log": no_log,
        "name": None if params["name"] is None else schema.check_name(params["name"]),
        "spec": None,
        "on_conflict": params["on_conflict"],
        "rerun": params["rerun"],
        **retrying.checked(params),
        **_contained(params),
        **notifying.asked(params),
    }
    for name in ("cmd", "argv", "shell", "chdir"):
        if params[name] is not None and "\0" in "".join(params[name]):
            raise JobError("%s holds a null character, which no program can be given" % name)
    _check_size(request)
    return request


def _check_size(request: Record) -> None:
    """Refuse what no program can be given. A queued job would say so at its turn, and its record might be too large.

    :raises JobError: naming the parameter.
    """
    total = 0
    words = [(request["parameter"], word) for word in request["argv"]]
    words += [("env", "%s=%s" % one) for one in request["env"].items()]
    for name, word in words:
        size = len(word.encode("utf-8", "surrogatepass"))
        total += size + 9  # its end, and a pointer to it
        if size > WORD_LIMIT:
            told = (name, size, WORD_LIMIT)
            raise JobError("%s has a word of %d bytes, and a program can be given %d" % told)
    if total > EXEC_LIMIT:
        told = (request["parameter"], total, EXEC_LIMIT)
        raise JobError("%s and env have %d bytes, and a program can be given %d" % told)
    if len((request["chdir"] or "").encode("utf-8", "surrogatepass")) > PATH_LIMIT:
        raise JobError("chdir is longer than the %d bytes of a path" % PATH_LIMIT)


def _contained(params: dict[str, Any]) -> Record:
    """Return what a request says of containment and limits, see launcher. :raises JobError: it cannot be had."""
    found = {name: params[name] for name in schema.LIMITS}
    simple = params["containment"] != schema.SYSTEMD and not host.runs_systemd()
    if simple and set(found.values()) == {None}:
        return dict(found, containment=schema.PROCESS)
    return containment.checked(params)


def warn_of_shell(call: Call, cmds: list[tuple[str, str | None]]) -> None:
    """Warn of parameters ``cmd`` that seem to be meant for a shell.

    :param cmds: of each, what tells it from the others, and its value.
    """
    if all(cmd is None for _which, cmd in cmds):
        return
    # Imported here: few launches of many need it.
    from . import shell_signs

    hints = [(which, shell_signs.hint(cmd, hidden=call.no_log)) for which, cmd in cmds]
    found = [which + text for which, text in hints if text is not None]
    for text in found[:SHELL_WARNINGS]:
        call.warn(text)
    if len(found) > SHELL_WARNINGS:
        call.warn("%d more of jobs have a cmd of that kind" % (len(found) - SHELL_WARNINGS))


def unneeded(params: dict[str, Any]) -> str | None:
    """Say why there is nothing to launch, by ``creates`` and ``removes``; None if there is."""
    for name, unwanted, says in (("creates", True, "exists"), ("removes", False, "does not exist")):
        path = params[name]
        if path is not None:
            import glob  # which loads much; few launches ask this

            found = glob.glob(os.path.join(params["chdir"] or "", path))
            if bool(found) == unwanted:
                return "not started: %s %s %s" % (name, found[0] if found else path, says)
    return None


def always(request: Record) -> Record:
    """Return what the result of every launch has, whatever comes of it."""
    limit = retrying.longest(request)
    return {"attached": False, "poll": poll_plan(limit, grace=request["grace"])}


def not_needed(request: Record, why: str) -> Record:
    """Return the result of a launch that ``creates`` or ``removes`` made unnecessary."""
    nothing = schema.present(schema.unknown(schema.PREDICTED_JID))
    return dict(nothing, **always(request), changed=False, skipped=True, msg=why)


def launch_all(call: Call, store: Store, requests: list[Record], *, slots: int = 0) -> list[Record]:
    """Launch jobs and return the launcher's answers (see there), in order.

    It returns when every command has been exec'ed, has failed to, or is queued.

    :param slots: how many of them may run at once; 0 for no limit.
    :raises JobError: the launcher could not be run at all.
    """
    named = [request for request in requests if request["name"] is not None]
    if named:
        key = store.secret()
        for request in named:
            request["spec"] = naming.specification(request, key)
            request["by"] = requester(call.request)  # of a stop, where a live job is replaced
    for request in requests:
        if request.get("notify"):
            request["source"] = call.request.get("source")
    # What has been compared is not for keepers to carry.
    lean = [{key: one[key] for key in one if key != "args"} for one in requests]
    reply = launcher.launch(_order(store, {"jobs": lean, "slots": slots}))
    answers: list[Record] = reply["jobs"]
    _warn(call, requests, answers, reply["no_unit"])
    return answers


def _warn(call: Call, requests: list[Record], answers: list[Record], no_unit: str) -> None:
    """Tell the user what jobs that have no unit are not protected from."""
    found = zip(requests, answers)
    bare = [one for one, answer in found if _reached(answer) == schema.PROCESS]
    if no_unit and any(one["containment"] == schema.AUTO for one in bare):
        call.warn("containment=auto could only reach containment=process: %s" % no_unit)
    if bare and host.runs_systemd():
        logout_warning = containment.logout_warning()
        if logout_warning:
            call.warn(logout_warning)


def _reached(answer: Record) -> object:
    """Return the containment of a job that has been launched; None if none has."""
    return answer.get("record", {}).get("containment")


def launch_one(call: Call, request: Record, ask: Callable[[Store], Record]) -> Record:
    """Launch one job, or in check mode predict it, and return its result.

    :param ask: has the launcher launch it and returns its answer.
    :raises JobError: it failed.
    """
    store = call.find_store() if call.check_mode else call.open_store(create=True)
    difference: Record = {}
    for one in differences(call, store, [request]):
        difference["diff"] = one
    if call.check_mode or store is None:
        return dict(always(request), **naming.predicted(store, request), **difference)
    while True:
        try:
            result = outcome(store, request, ask(store))
            break
        except MissingRecord:  # the job that was found has been removed since: decide again
            continue
    prune_in_passing(call, store)
    return dict(result, **difference)


def differences(call: Call, store: Store | None, requests: list[Record]) -> list[Record]:
    """Return old and new specification of each job that has a name, if the user wants to see them (``--diff``)."""
    if not call.diff or store is None:
        return []
    named = [request for request in requests if request["name"] is not None]
    return [naming.diff(store, request, create=not call.check_mode) for request in named]


def prune_in_passing(call: Call, store: Store) -> None:
    """Remove jobs that finished longer ago than ``retention``, if it is time to look for them.

    Jobs have been launched before, so nothing that goes wrong here is a failure.
    """
    begun, seconds = time.monotonic(), call.params["retention"]
    try:
        if seconds and store.is_prune_due():
            # Imported here: few launches need it.
            from . import pruning

            pruning.in_passing(store, seconds, begun)
    except (JobError, OSError) as error:
        call.warn("old jobs could not be removed in passing, see retention: %s" % error)


def outcome(store: Store, request: Record, answer: Record) -> Record:
    """Return the result of a launch.

    :raises JobError: it failed.
    :raises MissingRecord: the job that was found, and for which nothing was started, has been removed since.
    """
    if "error" in answer:
        raise JobError(**answer["error"])
    if "decision" in answer:
        found = naming.found(store.job(answer["jid"]), answer["decision"], settle=True)
        return dict(always(request), **found)
    result = dict(schema.present(answer["record"]), changed=True)
    if not answer["record"][schema.PRIVATE]["reports"]:
        result["warnings"] = [printable(NO_SOCKET % store.path)]
    return dict(always(request), **result)


def adopt(store: Store, jids: list[str]) -> None:
    """Give jobs that have lost keeper and runner a new keeper, so that deadline, stop and output limit hold again.

    :raises JobError: the launcher could not be run at all.
    """
    launcher.launch(_order(store, {"jobs": [], "adopt": jids}))


def _order(store: Store, request: Record) -> Record:
    """Return a request for the launcher, with what it must know of this machine."""
    wanted = any(job["containment"] != schema.PROCESS for job in request["jobs"])
    needs_unit = host.runs_systemd() and bool(wanted or request.get("adopt"))
    manager = containment.manager()[0] if needs_unit else ""
    return dict(request, async_dir=store.path, manager=manager)


def _argv(params: dict[str, Any]) -> list[str]:
    if params["shell"] is not None:
        if not params["shell"].strip():
            raise JobError("shell is empty: give the line to run")
        return [params["executable"], "-c", params["shell"]]
    argv: list[str] | None = params["argv"]
    if argv is None:
        try:
            argv = shlex.split(params["cmd"])
        except ValueError as error:
            raise JobError(
                "cmd cannot be split into words (%s): %s" % (error, params["cmd"])
            ) from None
    if not argv or not argv[0]:
        raise JobError(
            "%s is empty: give the program to run and its arguments"
            % ("cmd" if params["argv"] is None else "argv")
        )
    return argv


def _environment(env: dict[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in env.items():
        if not name or "=" in name or "\0" in name:
            raise JobError("env has a variable with the impossible name %r" % name)
        if not isinstance(value, (str, int, float)) or "\0" in str(value):
            raise JobError("env has no usable value for %s: give a string" % name)
        found[name] = str(value)
    return found


def _umask(value: object) -> int | None:
    if value is None:
        return None
    mask = -1
    if isinstance(value, int) and not isinstance(value, bool):
        mask = value
    elif isinstance(value, str) and _OCTAL.fullmatch(value):
        mask = int(value, 8)
    if not 0 <= mask <= 0o777:
        text = "umask must be an octal number between 0 and 0777, such as '0022', not %s"
        raise JobError(text % quantities.shown(value))
    return mask
