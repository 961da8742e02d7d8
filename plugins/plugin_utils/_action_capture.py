# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller does for a module that is to be a job: builds it, as ansible-core would.

A module with an action plugin of its own is prepared by that very action plugin. Its calls that only look at the target
are done; the one call that does the work is taken note of, and becomes the job. Private to the collection.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import shlex
import typing as t

from ansible.errors import AnsibleActionSkip
from ansible.plugins.action import ActionBase

from ..module_utils._argspec import MODULE, checked
from ..module_utils._job.errors import JobError

Args = t.Dict[str, t.Any]

# Builtins whose action plugin prepares one module and is done when that is.
PREPARING = frozenset(
    (
        "assemble",
        "command",
        "copy",
        "dnf",
        "dnf5",
        "package",
        "script",
        "service",
        "shell",
        "template",
        "unarchive",
        "uri",
        "yum",
    )
)
# Modules by which such an action looks at the target, and changes nothing.
LOOKING = frozenset(("setup", "slurp", "stat"))
# Names in tasks that ansible-core itself carries out. Their module files hold documentation only.
STATEMENTS = frozenset(
    (
        "import_playbook",
        "import_role",
        "import_tasks",
        "include",
        "include_role",
        "include_tasks",
        "meta",
    )
)
CORE = ("ansible.builtin.", "ansible.legacy.")
# Helpers of an action that run commands on the target to prepare it. What an action runs itself is its work.
HELPERS = (
    "_configure_module",
    "_execute_remote_stat",
    "_fixup_perms2",
    "_get_diff_data",
    "_make_tmp_path",
    "_remote_expand_user",
    "_remote_file_exists",
    "_transfer_data",
)
STANDS = "/durable.jobs"  # begins the paths in arguments that are known on the target only


def part_of(action: ActionBase, params: Args, task_vars: dict[str, t.Any]) -> Args:
    """Return what the module that launches is told about the module in its parameters ``module`` and ``args``.

    :param action: the action plugin of the task.
    :raises JobError: there is no such module, or it cannot be a job.
    """
    name, own = params.get("module"), checked({"args": params.get("args")}, MODULE)["args"]
    if not isinstance(name, str) or not name:
        raise JobError("module is missing: give the fully qualified name of the module to run")
    made = Preparation(action, name, own or {}, task_vars)
    return made.check() if action._task.check_mode else made.prepare()


class Call:
    """The one thing that an action plugin wants to be done on the target."""

    def __init__(self, module: str | None, args: Args, line: str = "", shell: str = "") -> None:
        self.module = module  # None for a line of shell
        self.args = args
        self.line = line
        self.shell = shell


class Preparation:
    """Prepares one module.

    :param action: the action plugin of the task that launches the job.
    :param module: what the user calls the module.
    :param args: the user's arguments for it.
    """

    def __init__(
        self, action: ActionBase, module: str, args: Args, task_vars: dict[str, t.Any]
    ) -> None:
        self._action = action
        self._args = args
        self._task_vars = task_vars
        self._stands = "%s/%s" % (STANDS, secrets.token_hex(8))
        self._files: list[str] = []  # the digests of what goes along
        self._extra: dict[str, str] = {}  # where it lies on the target, by what stands for it
        self._sent: dict[str, str] = {}  # the other way round
        self._call: Call | None = None
        self._depth = 0  # of helpers that are running
        self._looked = False
        self._module, self._plugin = self._resolve(module)

    def check(self) -> Args:
        """Return what the module is told in check mode: nothing is looked at or transferred."""
        return {"module": self._module, "files": [], "unneeded": None, "payload": None}

    def prepare(self) -> Args:
        """Return what the module is told, see ``_module_jobs``. :raises JobError: it cannot be a job."""
        part = dict(self.check(), tmpdir=self._stands + "/tmp", extra=self._extra)
        if self._plugin is None:
            self._call = Call(self._module, dict(self._args))
        else:
            part["unneeded"] = self._run_plugin(self._plugin)
            if part["unneeded"]:
                return part
        part["files"] = self._files
        call = t.cast(Call, self._call)
        part["payload"] = self._line(call) if call.module is None else self._built(call)
        if call.module is None:
            part["cmd"] = self._args.get("cmd") or self._args.get("_raw_params")
        return part

    # -- which module -------------------------------------------------------------------------------------------------

    def _resolve(self, name: str) -> tuple[str, str | None]:
        """Return the full name of a module, and of its action plugin if it has one.

        :raises JobError: it cannot be a job.
        """
        if getattr(self._action._connection._shell, "_IS_WINDOWS", False):
            raise JobError("module %s cannot be a job: jobs need Linux on the target" % name)
        loaders = self._action._shared_loader_obj
        found = loaders.module_loader.find_plugin_with_context(
            name, collection_list=self._action._task.collections
        )
        plugin = _action_of(loaders.action_loader, found, name, self._action._task.collections)
        full = (found.resolved_fqcn or name) if found.resolved else None
        if (full or name).startswith("durable.jobs."):
            raise JobError("module %s cannot be a job: it is one of those that handle jobs" % name)
        short = _short(plugin or full or name)
        if short in STATEMENTS:
            why = (
                "ansible carries it out on the controller, and no program of it runs on the target"
            )
            raise JobError("module %s cannot be a job: %s" % (name, why))
        if short is not None and plugin is not None and short not in PREPARING:
            why = "its action plugin works on the controller, or goes on after the module, and a job is on the target"
            raise JobError("module %s cannot be a job: %s" % (name, why))
        if plugin is not None and short is None:
            why = "it has an action plugin of its own, %s, and what that does before and after the module is not known"
            raise JobError("module %s cannot be a job: %s" % (name, why % plugin))
        if full is None:
            raise JobError("module %s was not found: give its fully qualified name" % name)
        return full, plugin

    # -- its action plugin --------------------------------------------------------------------------------------------

    def _run_plugin(self, name: str) -> str | None:
        """Let an action plugin prepare its module; return why there is nothing to run, if there is nothing.

        :raises JobError: it has failed, or wants more than one thing done.
        """
        task = self._action._task.copy()
        task.args, task.action, task.async_val = dict(self._args), name, 0
        if (
            _short(name) in ("command", "script", "shell") and "cmd" in task.args
        ):  # as whoever reads a playbook does
            task.args["_raw_params"] = task.args.pop("cmd")
        plugin = self._make(name, task=task)
        try:
            result = plugin.run(task_vars=self._task_vars)
        except AnsibleActionSkip as skip:
            return "not started: %s" % skip
        except _SecondCallError as second:
            why = "its action plugin runs more than one module with these parameters, %s after %s"
            first = t.cast(Call, self._call).module
            raise JobError(
                "module %s cannot be a job: %s" % (self._module, why % (second, first))
            ) from None
        if result.get("failed") and self._call is None:
            raise JobError(**{"msg": "module %s failed" % self._module, **_plain(result)})
        if result.get("skipped") and self._call is None:
            return "not started: %s" % result.get("msg", "skipped")
        if self._call is None:
            return "not started: module %s has nothing to do" % self._module
        return None

    def _make(self, name: str, **given: t.Any) -> ActionBase:
        """Return an action plugin whose calls come to us."""
        action = self._action
        loaders = action._shared_loader_obj
        parts = {
            "task": action._task,
            "connection": action._connection,
            "play_context": action._play_context,
            "loader": action._loader,
            "templar": action._templar,
            "shared_loader_obj": loaders,
        }
        plugin = loaders.action_loader.get(name, **{**parts, **given})
        plugin._shared_loader_obj = _Loaders(loaders, self)
        for helper in HELPERS:
            setattr(plugin, helper, self._counted(getattr(plugin, helper)))
        plugin._execute_module = self._module_call(plugin, plugin._execute_module)
        plugin._low_level_execute_command = self._command_call(plugin._low_level_execute_command)
        plugin._transfer_file = self._transfer(plugin._transfer_file)
        plugin._remove_tmp_path = (
            _nothing  # what lies there goes along; it is removed with the task
        )
        return plugin

    def _counted(self, helper: t.Callable[..., t.Any]) -> t.Callable[..., t.Any]:
        def counted(*args: t.Any, **kwargs: t.Any) -> t.Any:
            self._depth += 1
            try:
                return helper(*args, **kwargs)
            finally:
                self._depth -= 1

        return counted

    def _module_call(
        self, plugin: ActionBase, execute: t.Callable[..., Args]
    ) -> t.Callable[..., Args]:
        def run(
            module_name: str | None = None, module_args: Args | None = None, **kwargs: t.Any
        ) -> Args:
            name = module_name or plugin._task.action
            args = plugin._task.args if module_args is None else module_args
            if _short(name) in LOOKING or args.get("_diff_peek"):
                return t.cast(Args, self._counted(execute)(name, args, **kwargs))
            self._note(Call(name, dict(args)))
            return {"changed": False}

        return run

    def _command_call(self, execute: t.Callable[..., Args]) -> t.Callable[..., Args]:
        def run(cmd: str, *args: t.Any, **kwargs: t.Any) -> Args:
            if self._depth:
                return execute(cmd, *args, **kwargs)
            line = cmd
            if kwargs.get("chdir"):
                line = "cd %s && %s" % (shlex.quote(kwargs["chdir"]), cmd)
            shell = kwargs.get("executable") or self._action._play_context.executable or "/bin/sh"
            self._note(Call(None, {}, line, shell))
            return {"rc": 0, "stdout": "", "stdout_lines": [], "stderr": "", "stderr_lines": []}

        return run

    def _transfer(self, transfer: t.Callable[..., str]) -> t.Callable[..., str]:
        def run(local_path: str, remote_path: str) -> str:
            # To where others may read it: the target's part of us, perhaps as another user, takes it from there.
            sent = self._counted(transfer)(local_path, remote_path)
            digest = hashlib.sha256()
            with open(local_path, "rb") as source:
                for block in iter(lambda: source.read(1024 * 1024), b""):
                    digest.update(block)
            self._files.append(digest.hexdigest())
            stands = "%s/%d" % (self._stands, len(self._sent))
            self._sent[remote_path], self._extra[stands] = stands, remote_path
            return t.cast(str, sent)

        return run

    def _note(self, call: Call) -> None:
        if self._call is not None:
            raise _SecondCallError(call.module or "a command")
        self._call = call

    # -- what it is to run --------------------------------------------------------------------------------------------

    def _built(self, call: Call) -> Args:
        """Return the module as ansible-core builds it."""
        action, name = self._action, t.cast(str, call.module)
        args: Args = t.cast(Args, self._with_places(call.args))
        action._update_module_args(name, args, self._task_vars)
        args["_ansible_tmpdir"] = self._stands + "/tmp"
        built = action._configure_module(
            module_name=name, module_args=args, task_vars=self._task_vars
        )
        style, shebang, data, path = _unpacked(built)
        if not shebang and style != "binary":
            why = "its file has no interpreter line, as one that only holds documentation"
            raise JobError("module %s cannot be a job: %s" % (name, why))
        words = None
        if style == "old":
            words = "".join("%s=%s " % (key, shlex.quote(str(args[key]))) for key in args)
        elif style in ("non_native_want_json", "binary"):
            words = _as_json(args)
        if style == "binary":
            with open(path, "rb") as source:
                data = source.read()
        name = action._connection._shell.get_remote_filename(path)
        return _payload(
            name="AnsiballZ_" + name, data=data, style=style, shebang=shebang or "", args=words
        )

    def _line(self, call: Call) -> Args:
        """Return a line of shell. Paths in it are part of words, as the action plugin has put them there."""
        line = call.line
        for remote, stands in self._sent.items():
            line = line.replace(remote, stands)
        return _payload(
            name="",
            data=line.encode(),
            style="shell",
            shebang="%s -c" % shlex.quote(call.shell),
            args=None,
        )

    def _with_places(self, value: object) -> object:
        """Return arguments in which paths of what has been transferred are replaced by what stands for them."""
        if isinstance(value, t.Mapping):
            return {key: self._with_places(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._with_places(one) for one in value]
        return self._sent.get(value, value) if isinstance(value, str) else value


class _SecondCallError(BaseException):
    """An action plugin wants a second thing done. No Exception: it must not take it for a failure of the first."""


class _Loaders:
    """ansible-core's loaders, for an action plugin that runs another one: that one's calls come to us, too."""

    def __init__(self, loaders: t.Any, preparation: Preparation) -> None:
        self._loaders = loaders
        self.action_loader = _ActionLoader(loaders.action_loader, preparation)

    def __getattr__(self, name: str) -> t.Any:
        return getattr(self._loaders, name)


class _ActionLoader:
    def __init__(self, loader: t.Any, preparation: Preparation) -> None:
        self._loader = loader
        self._preparation = preparation

    def get(self, name: str, **given: t.Any) -> ActionBase:
        """Return an action plugin, as ansible-core's loader does."""
        given.pop("shared_loader_obj", None)
        return self._preparation._make(name, **given)

    def __getattr__(self, name: str) -> t.Any:
        return getattr(self._loader, name)


def _nothing(*_args: t.Any, **_kwargs: t.Any) -> None:
    pass


def _action_of(loader: t.Any, found: t.Any, name: str, collections: list[str]) -> str | None:
    """Return the action plugin that ansible-core would run for a module; None for the one of all that have none."""
    if found.resolved and getattr(found, "action_plugin", None):
        return str(found.action_plugin)
    for one in dict.fromkeys((name, found.resolved_fqcn if found.resolved else name)):
        context = loader.find_plugin_with_context(one, collection_list=collections)
        if context.resolved:
            return str(context.resolved_fqcn)
    return None


def _short(name: str) -> str | None:
    """Return the short name of what belongs to ansible-core; None for what does not."""
    for prefix in CORE:
        if name.startswith(prefix):
            return name[len(prefix) :]
    return None if "." in name else name


def _unpacked(built: t.Any) -> tuple[str, str | None, bytes, str]:
    """Return style, interpreter's line, content and path of a module, whichever ansible-core has built it."""
    if len(built) == 4:  # before 2.19
        return t.cast("tuple[str, str | None, bytes, str]", built)
    bits, path = built
    return bits.module_style, bits.shebang, bits.b_module_data, path


def _as_json(args: Args) -> str:
    return json.dumps(args, default=str)


def _payload(*, data: bytes, **rest: t.Any) -> Args:
    try:
        return dict(rest, content=data.decode("utf-8"), base64=False)
    except UnicodeDecodeError:
        return dict(rest, content=base64.b64encode(data).decode("ascii"), base64=True)


def _plain(result: Args) -> Args:
    """Return what a failed preparation tells, without what is ansible-core's own."""
    return {key: result[key] for key in ("msg", "rc", "stderr") if result.get(key)}
