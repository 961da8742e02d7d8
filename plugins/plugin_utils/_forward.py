# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the action plugins share: asking the engine on the target, by the direct way or through the module.

The direct way is one command on the target, see ``boot``; a second one if the target has no engine yet. It takes a
tenth of the time of a module, which ansible-core sends as an archive that the target unpacks and compiles in every run.
The module is the way wherever a command with data on its standard input cannot be had.
"""

from __future__ import annotations

import os
import shlex
import typing as t

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.executor import module_common
from ansible.module_utils.basic import heuristic_log_sanitize
from ansible.plugins.action import ActionBase

from ..module_utils._argspec import Arguments, checked, with_on
from ..module_utils._engine import Engine, Question
from ..module_utils._job.errors import JobError

IN_THE_BACKGROUND = (
    "it launches into the background by itself. Drop both, write timeout: %(limit)d, "
    "and wait with durable.jobs.job_wait, or look with durable.jobs.job_status"
)
CORE_DEFAULT = "~/.ansible_async"  # ansible-core's own default of the shell option async_dir
FORCE_MODULE = "DURABLE_JOBS_FORCE_MODULE"  # in the controller's environment; the variable is the same in lower case
# Variables that a Python hears when it starts: too late for an interpreter that is told of them by its input.
AT_START = ("LANG", "LANGUAGE", "LC_", "PYTHON", "LD_")


class ForwardingAction(ActionBase):
    """Asks the engine what a module would ask it, and tells it what only the controller knows.

    ``ansible_async_dir`` is expanded on the target, once, by the engine. ansible-core's default is not forwarded, so
    that the target's environment (ANSIBLE_ASYNC_DIR) is heard when nobody said anything on the controller.
    """

    arguments: Arguments
    instead: str  # what to write in place of the keyword async; %(limit)d is its number of seconds
    # Let ansible-core refuse too, should a subclass forget to call begin().
    _supports_async = False

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = self.begin(tmp, task_vars)
        try:
            args = self.forwarded()
        except JobError as error:
            return refused(result, error)
        result.update(self.ask(args, task_vars or {}))
        return result

    def begin(self, tmp: t.Any, task_vars: dict[str, t.Any] | None) -> dict[str, t.Any]:
        """Return what the result of every action begins with.

        :raises AnsibleActionFail: the task has the keyword ``async``. ansible-core would launch the module in the
            background, and take the answer of the module, which speaks of another job, for that of its own job.
        """
        if self._task.async_val:
            text = "%s does not take async and poll (-B and -P on the command line), and has done nothing: %s"
            instead = self.instead % {"limit": self._task.async_val}
            raise AnsibleActionFail(text % (self.module, instead))
        return super().run(tmp, task_vars)

    @property
    def module(self) -> str:
        """The full name of the module."""
        return "durable.jobs." + self.arguments.verb

    def forwarded(self) -> dict[str, t.Any]:
        """Return the task's arguments with the async dir that the controller has been told of.

        :raises JobError: one of them is wrong. ansible-core would say so in the module, without an example.
        """
        if "_told" in self._task.args:
            raise JobError("_told is not for playbooks")
        # ansible-core takes null for a value in some places and not in others; to us it is as good as not given. Only
        # the jobs that somebody means to name must not be left out silently.
        given = self._task.args.items()
        args = {name: value for name, value in given if value is not None or name == "jobs"}
        if "notify" in self.arguments.spec:
            args = with_on(args)
        checked(args, self.arguments.spec)
        configured = self.get_shell_option("async_dir", default=CORE_DEFAULT)
        if not args.get("async_dir") and configured != CORE_DEFAULT:
            args["async_dir"] = configured
        return args

    def ask(
        self, args: dict[str, t.Any], task_vars: dict[str, t.Any], **told: t.Any
    ) -> dict[str, t.Any]:
        """Return the engine's answer.

        :param args: the module's parameters.
        :param told: what only the controller knows, see ``call``.
        :raises AnsibleConnectionFailure: the host cannot be reached.
        """
        if "notify" in self.arguments.spec:
            # Where the job runs, as the inventory calls it: the source of its events.
            told["source"] = self._task.delegate_to or task_vars.get("inventory_hostname")
        answer = _Direct(self, task_vars).ask(args, told)
        if answer is None:
            answer = self._execute_module(
                module_name=self.module,
                module_args=dict(args, _told=told) if told else args,
                task_vars=task_vars,
            )
        if self._task.until or self._task.retries:
            # In such a task ansible-core counts in `attempts` itself, and reads it back as a number.
            attempts = answer.pop("attempts", None)
            answer.update({} if attempts is None else {"attempt_list": attempts})
        return answer


class _Direct:
    """The direct way to the engine of one host.

    :param action: the action plugin that asks.
    """

    def __init__(self, action: ForwardingAction, task_vars: dict[str, t.Any]) -> None:
        self._action = action
        self._vars = task_vars
        self._facts: dict[
            str, t.Any
        ] = {}  # what ansible-core tells every module beside its parameters

    def ask(self, args: dict[str, t.Any], told: dict[str, t.Any]) -> dict[str, t.Any] | None:
        """Return the engine's answer; None if the module has to ask, because nothing has been done here."""
        interpreter = self._interpreter() if self._is_open() else None
        environment = self._environment()
        if interpreter is None or environment is None:
            return None
        question = self._question(_plain(args), _plain(told), environment)
        if question is None:
            return None
        engine = Engine()
        command = " ".join([interpreter, *map(shlex.quote, engine.words())])
        for whole in (False, True):
            data = engine.data(question, whole=whole)
            found = self._action._low_level_execute_command(command, in_data=data)
            if not question.finds_none(found["stdout"]):
                break
        if not question.has_begun(found["stdout"]):
            return None
        answer = question.result(found["stdout"])
        if answer is None:
            told_why = (found["rc"], found["stderr"].strip()[-2000:])
            text = "the engine gave no answer (rc %s): %s" % told_why
            streams = {"module_stdout": found["stdout"], "module_stderr": found["stderr"]}
            return dict(streams, failed=True, rc=found["rc"], msg=text)
        if not self._facts.get("_ansible_inject_invocation", True):  # a setting since 2.21
            answer.pop("invocation", None)
        return answer

    def _is_open(self) -> bool:
        """Tell whether a command may be given data on its standard input, and nobody asked for the module."""
        connection = self._action._connection
        become = connection.become
        forced = self._vars.get(FORCE_MODULE.lower(), os.environ.get(FORCE_MODULE, ""))
        return not (
            str(forced).lower() in ("1", "true", "yes", "on")
            or not connection.has_pipelining
            or (become is not None and not _takes_input(become))
            or getattr(connection._shell, "_IS_WINDOWS", False)
            or constants.config.get_config_value("DEFAULT_KEEP_REMOTE_FILES")
            or type(connection).__module__.startswith("ansible_mitogen")
            or constants.config.get_config_value(
                "PYTHON_MODULE_RLIMIT_NOFILE", variables=self._vars
            )
        )

    def _interpreter(self) -> str | None:
        """Return the Python that ansible-core would run a module with; None if it has yet to be found."""
        task, found = self._action._task, self._vars
        if task.delegate_to:
            found = self._vars.get("ansible_delegated_vars", {}).get(task.delegate_to, {})
        is_local = bool(getattr(self._action._connection, "_remote_is_local", False))
        try:
            shebang, interpreter = module_common._get_shebang(
                "/usr/bin/python", found, self._action._templar, remote_is_local=is_local
            )
        except module_common.InterpreterDiscoveryRequiredError:
            return None
        return str(interpreter) if shebang else None

    def _environment(self) -> dict[str, str] | None:
        """Return the task's environment; None if it cannot be set by the engine itself."""
        found: dict[str, t.Any] = {}
        self._action._compute_environment_string(found)
        if any(str(name).startswith(AT_START) for name in found):
            return None
        return {str(name): str(value) for name, value in found.items()}

    def _question(
        self, args: dict[str, t.Any], told: dict[str, t.Any], environment: dict[str, str]
    ) -> Question | None:
        """Return what to ask; None if the arguments are wrong, which the module says in ansible-core's words."""
        arguments = self._action.arguments
        found = arguments.for_controller().validate(args)
        if found.error_messages or found._deprecations or found._warnings:
            return None
        params = dict(found.validated_parameters, _told=told)
        facts = self._facts
        self._action._update_module_args(self._action.module, facts, self._vars)
        no_log = bool(facts["_ansible_no_log"])
        try:
            request = arguments.request(
                params,
                expanded=False,
                check_mode=bool(facts["_ansible_check_mode"]),
                diff=bool(facts["_ansible_diff"]),
                no_log=no_log,
                ansible=True,
                log=None if no_log else self._log(params),
            )
        except JobError:
            return None
        return Question(request, request["params"]["async_dir"], environment)

    def _log(self, params: dict[str, t.Any]) -> dict[str, t.Any]:
        """Return what syslog is to be told, as AnsibleModule tells it."""
        facts, values = self._facts, {}
        for name, value in params.items():
            if self._action.arguments.spec[name].get("no_log"):
                values[name] = "NOT_LOGGING_PARAMETER"
            elif isinstance(value, str):
                values[name] = heuristic_log_sanitize(value, set())
            else:
                values[name] = str(value)
        return {
            "name": facts["_ansible_module_name"],
            "facility": facts["_ansible_syslog_facility"],
            "prefix": facts["_ansible_target_log_info"] or "",
            "values": values,
        }


def _takes_input(become: t.Any) -> bool:
    """Tell whether a become plugin passes standard input on to the command: su wants a terminal there."""
    return bool(getattr(become, "pipelining", become.name != "su") and not become.require_tty)


def _plain(value: t.Any) -> t.Any:
    """Return a value of nothing but plain types: ansible-core's own carry tags, and template themselves when read."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return str(value)
    return value


def refused(result: dict[str, t.Any], error: JobError) -> dict[str, t.Any]:
    """Return the result of a task whose parameters are wrong."""
    return dict(result, failed=True, **dict(error.details, msg=error.msg))
