# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each module takes, for the module and for its action plugin. Private to the collection."""

from __future__ import annotations

import contextlib

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.validation import check_type_dict, check_type_list
from ansible.module_utils.errors import UnsupportedError

from ._job import notifying, quantities, schema
from ._job.errors import JobError
from ._job.poll_plan import DEFAULT_GRACE
from ._job.retrying import DEFAULTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator

    from ._job.schema import Record

# What only the controller knows, see ``call``: told by the action plugin. Kept out of syslog: it may hold secrets.
TOLD: dict[str, Any] = {"_told": {"type": "dict", "no_log": True}}
ASYNC_DIR: dict[str, Any] = {"async_dir": {"type": "path"}}
# Parameters that are secret, though their values are not looked for in results: a value such as "1" would mask every 1.
UNSHOWN = ("env", "stdin", "args", "notify")
ONE_COMMAND = ["cmd", "argv", "shell"]
# An entry of `notify`. YAML reads an unquoted `on` as true, see with_on().
SINK: dict[str, Any] = {
    # No choices: ansible-core would hide the value that is wrong, for all of `notify` is no_log.
    "on": {"type": "list", "elements": "str"},
    "url": {"type": "str"},
    "secret": {"type": "str", "no_log": True},
    "bearer": {"type": "str", "no_log": True},
    "ca_file": {"type": "path"},
    "client_cert": {"type": "path"},
    "client_key": {"type": "path"},
    "http_timeout": {"type": "raw", "default": notifying.DEFAULT_TIMEOUT},
    "argv": {"type": "list", "elements": "str"},
    "journald": {"type": "bool", "default": False},
    "include_output": {"type": "bool", "default": False},
}
NOTIFY: dict[str, Any] = {
    "notify": {"type": "list", "elements": "dict", "options": SINK, "no_log": True},
    "notify_for": {"type": "raw", "default": 86400},
}
JOB: dict[str, Any] = {
    "cmd": {"type": "str"},
    "argv": {"type": "list", "elements": "str"},
    "shell": {"type": "str"},
    "executable": {"type": "path", "default": "/bin/sh"},
    "timeout": {"type": "raw", "default": 3600},
    "max_timeout": {"type": "raw"},
    "watchdog": {"type": "raw"},
    "grace": {"type": "raw", "default": DEFAULT_GRACE},
    "stop_signal": {"type": "str", "default": "TERM"},
    "chdir": {"type": "path"},
    "env": {"type": "dict", "no_log": True},
    "stdin": {"type": "str", "no_log": True},
    "stdin_add_newline": {"type": "bool", "default": True},
    "creates": {"type": "path"},
    "removes": {"type": "path"},
    "umask": {"type": "raw"},
    "nice": {"type": "int"},
    # Later, and again, see retrying.
    **{name: {"type": "raw", "default": DEFAULTS[name]} for name in DEFAULTS if name != "retry_on"},
    "retry_on": {"type": "list", "elements": "raw", "default": DEFAULTS["retry_on"]},
    "output_limit": {"type": "int", "default": 64 * 1024 * 1024},
    "containment": {"type": "str", "default": "auto", "choices": ["auto", "systemd", "process"]},
    "memory_max": {"type": "str"},
    "cpu_quota": {"type": "str"},
    "tasks_max": {"type": "int"},
    "name": {"type": "str"},
    "on_conflict": {"type": "str", "default": "fail", "choices": ["fail", "attach", "replace"]},
    "rerun": {"type": "str", "default": "always", "choices": ["always", "on_failure", "never"]},
    "retention": {"type": "raw", "default": 14 * 86400},
    **NOTIFY,
    **ASYNC_DIR,
}

COMMANDS_ONLY = ("cmd", "argv", "shell", "executable")
MODULE: dict[str, Any] = {
    "module": {"type": "str", "required": True},
    # Kept out of syslog, for it may hold secrets; so do the arguments in what the action plugin has made of them.
    "args": {"type": "dict", "default": {}, "no_log": True},
    **{name: option for name, option in JOB.items() if name not in COMMANDS_ONLY},
}
# Of an entry of job_batch: what is a job's own and never shared, and what is never a job's own.
OWN = ("cmd", "argv", "shell", "module", "args", "name", "stdin", "creates", "removes")
OF_THE_CALL = ("async_dir", "retention")
SHARED: dict[str, Any] = {
    name: option for name, option in JOB.items() if name not in (*OWN, "async_dir")
}
ENTRY: dict[str, Any] = {
    name: {key: value for key, value in option.items() if key not in ("default", "required")}
    for name, option in {**JOB, **MODULE}.items()
    if name not in OF_THE_CALL
}
ONE_WORK = [*ONE_COMMAND, "module"]
ONE_JOB: dict[str, Any] = {"jid": {"type": "str"}, "name": {"type": "str"}}
SHOW: dict[str, Any] = {"type": "str", "choices": ["full", "tail", "none"]}
REVEAL: dict[str, Any] = {"reveal": {"type": "bool", "default": False}}
# What a list or a dictionary is like, for whoever gave something else: ansible-core's own words show no example.
SAMPLES = {
    "argv": "[rsync, -a, /data, /backup]",
    "env": "{LANG: C.UTF-8}",
    "args": "{src: /data, dest: /backup}",
    "jobs": "[{cmd: /opt/backup}, {cmd: /opt/report}]",
    "states": "[running, failed]",
    "names": "[backup, web-*]",
    "jids": "[j123456789012.3456]",
}


class Arguments:
    """The parameters of a module, and what must hold between them."""

    def __init__(self, verb: str, *specs: dict[str, Any], **constraints: Any) -> None:
        self.verb = verb
        self.spec = {
            name: option for spec in (*specs, ASYNC_DIR, TOLD) for name, option in spec.items()
        }
        self.constraints = constraints

    def for_controller(self) -> ArgumentSpecValidator:
        """Return a validator that leaves paths as they are: only the target can expand them."""
        return ArgumentSpecValidator(_unexpanded(self.spec), **self.constraints)

    def request(self, params: dict[str, Any], *, expanded: bool, **facts: Any) -> Record:
        """Return a request to the engine, see ``call``.

        :param params: the parameters, checked.
        :param expanded: whether paths have been expanded.
        :param facts: what else ``call`` wants to know.
        :raises JobError: a number, or an entry of job_batch, is wrong.
        """
        told = params.get("_told") or {}
        params = usable(params, self.spec)
        del params["_told"]
        request: Record = {"part": None, "parts": None, "look": None, "controller": None}
        request.update({"source": None, **told})
        if self.verb == "job_batch":
            request["entries"] = _entries(params, ENTRY if expanded else _unexpanded(ENTRY))
        paths = (
            []
            if expanded
            else [name for name in PATHS if name in params or self.verb == "job_batch"]
        )
        return dict(request, verb=self.verb, params=params, paths=paths, unshown=UNSHOWN, **facts)


def usable(params: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """Return parameters with durations in seconds; one that is null is as good as not given.

    :param spec: their argument spec.
    :raises JobError: naming the parameter that is wrong.
    """
    absent = {name: spec[name].get("default") for name in spec if params.get(name) is None}
    return quantities.checked({**params, **absent})


def checked(params: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """Return parameters with durations in seconds, and whole numbers, lists and dictionaries as such.

    :param spec: their argument spec.
    :raises JobError: naming the parameter whose value is wrong, the value unless it is secret, and an example.
    """
    found = quantities.checked(params)
    for name, value in params.items():
        option = spec.get(name, {})
        kind, secret = option.get("type"), option.get("no_log", False)
        if value is None or name not in SAMPLES or kind not in ("list", "dict"):
            continue
        with _said(name, kind, value, secret, SAMPLES[name]):
            found[name] = check_type_list(value) if kind == "list" else check_type_dict(value)
        for number, item in enumerate(found[name] if option.get("elements") == "dict" else ()):
            with _said("%s[%d]" % (name, number), "dict", item, secret, "{cmd: /opt/backup}"):
                check_type_dict(item)
    return found


@contextlib.contextmanager
def _said(name: str, kind: str, value: Any, secret: bool, example: str) -> Iterator[None]:
    """Say in words of our own what has another type than it must have."""
    try:
        yield
    except (TypeError, ValueError):
        what = "a list" if kind == "list" else "a dictionary"
        found = "a value of type %s" % _type_of(value) if secret else quantities.shown(value)
        text = "%s must be %s such as %s, not %s"
        raise JobError(text % (name, what, example, found)) from None


def _type_of(value: Any) -> str:
    """Return the name of a plain type; ansible-core has types of its own for what comes from a playbook."""
    return next(
        (plain.__name__ for plain in (str, list, dict, bool, int) if isinstance(value, plain)),
        type(value).__name__,
    )


def _unexpanded(spec: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, option in spec.items():
        found[name] = dict(option, type="str") if option["type"] == "path" else dict(option)
        if "options" in option:
            found[name]["options"] = _unexpanded(option["options"])
    return found


def with_on(args: dict[str, Any]) -> dict[str, Any]:
    """Return arguments in whose ``notify`` the key ``on`` is a text: in YAML 1.1 an unquoted ``on`` means true."""
    found = dict(args)
    if isinstance(args.get("notify"), list):
        found["notify"] = [_with_on(entry) for entry in args["notify"]]
    if isinstance(args.get("jobs"), list):
        found["jobs"] = [with_on(one) if isinstance(one, dict) else one for one in args["jobs"]]
    return found


def _with_on(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    return {"on" if str(key) == "True" else key: value for key, value in entry.items()}


def _entries(params: dict[str, Any], spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameters of each job, complete. :raises JobError: naming the place of one that is wrong."""
    shared = {name: params[name] for name in SHARED}
    validator = ArgumentSpecValidator(
        spec,
        mutually_exclusive=[ONE_WORK],
        required_one_of=[ONE_WORK],
        required_by={"args": "module"},
    )
    entries = []
    for number, entry in enumerate(params["jobs"]):
        try:
            # First, for its words about a wrong value are better than those of the validator.
            found = validator.validate(checked(entry, spec))
        except JobError as error:
            raise JobError(schema.NOTHING_LAUNCHED % (number, error)) from None
        if found.error_messages:
            texts = [
                ("unsupported parameters: %s" if isinstance(error, UnsupportedError) else "%s")
                % error
                for error in found.errors
            ]
            raise JobError(schema.NOTHING_LAUNCHED % (number, "; ".join(texts)))
        own = {key: value for key, value in found.validated_parameters.items() if value is not None}
        own["env"] = dict(shared["env"] or {}, **own.get("env", {}))
        entries.append({**dict.fromkeys(OWN), **shared, **own})
    return entries


PATHS = sorted(name for name, option in {**JOB, **ASYNC_DIR}.items() if option["type"] == "path")
GIVEN: dict[str, Any] = {"jobs": {"type": "raw", "required": True}}

START = Arguments("job_start", JOB, mutually_exclusive=[ONE_COMMAND], required_one_of=[ONE_COMMAND])
START_MODULE = Arguments("job_module", MODULE)
BATCH = Arguments(
    "job_batch",
    SHARED,
    {
        # Kept out of syslog as a whole: there is env and stdin in it.
        "jobs": {"type": "list", "elements": "dict", "required": True, "no_log": True},
        "slots": {"type": "int", "default": 0},
    },
)
STATUS = Arguments(
    "job_status",
    ONE_JOB,
    REVEAL,
    {
        "mode": {"type": "str", "choices": ["cleanup", "status"], "default": "status"},
        "wait": {"type": "raw", "default": 0},
        "output": dict(SHOW, default="full"),
    },
    mutually_exclusive=[["jid", "name"]],
    required_one_of=[["jid", "name"]],
)
WAIT = Arguments(
    "job_wait",
    GIVEN,
    {
        "until": {
            "type": "str",
            "choices": ["all_finished", "any_finished", "first_failed"],
            "default": "all_finished",
        },
        "timeout": {"type": "raw"},
        "reconnect_timeout": {"type": "raw", "default": 600},
        "output": dict(SHOW, default="full"),
    },
)
INFO = Arguments(
    "job_info",
    {
        "states": {"type": "list", "elements": "str", "choices": list(schema.STATES)},
        "names": {"type": "list", "elements": "str"},
        "jids": {"type": "list", "elements": "str"},
        "limit": {"type": "int", "default": 0},
        "order": {"type": "str", "choices": list(schema.ORDERS), "default": schema.NEWEST},
        "output": dict(SHOW, default="none"),
    },
)
OUTPUT = Arguments(
    "job_output",
    ONE_JOB,
    REVEAL,
    {
        "stream": {"type": "str", "choices": list(schema.STREAMS), "default": "stdout"},
        "offset": {"type": "int"},
        "attempt": {"type": "int"},
        "tail_lines": {"type": "int"},
        "max_bytes": {"type": "int", "default": schema.PIECE_BYTES},
        "wait": {"type": "raw", "default": 0},
        "follow": {"type": "bool", "default": False},
    },
    mutually_exclusive=[["jid", "name"], ["offset", "tail_lines"]],
    required_one_of=[["jid", "name"]],
)
STOP = Arguments(
    "job_stop",
    GIVEN,
    {
        "signal": {"type": "str"},
        "grace": {"type": "raw"},
        "missing": {"type": "str", "choices": ["fail", "ignore"], "default": "fail"},
    },
)
NOTIFY_NOW = Arguments(
    "job_notify",
    {
        "state": {"type": "str", "choices": ["delivered"], "default": "delivered"},
        "timeout": {"type": "raw", "default": 60},
    },
)
PRUNE = Arguments(
    "job_prune",
    {
        "states": {
            "type": "list",
            "elements": "str",
            "choices": [state for state in schema.STATES if state in schema.FINISHED_STATES],
        },
        "older_than": {"type": "raw"},
        "keep_last": {"type": "int"},
        "max_bytes": {"type": "int"},
    },
)
