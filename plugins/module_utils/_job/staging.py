# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting a module of Ansible where a job runs it: into the job's private folder. Private to the collection.

It needs a process on the target, and nothing of the controller. ::

    staged = stage_files(where, module="file", path="/tmp/x/AnsiballZ_file.py", args=None, tmpdir="/tmp/x")
    request = build_request(dict(params, argv=staged.argv), no_log=...)     of _launch; argv in place of a command
    request.update(staged.keys, args=...)                                   args: what a launch under a name compares
    answer = launch(module, where, [request])[0]
    staged.settle(answer)                                                   removes the files if no job of ours runs

The files are removed by whoever writes the job's final record, see ``Job.conclude``. What becomes of the module's
output, see ``_job/modules.py``.
"""

from __future__ import annotations

import json
import os
import shlex

from . import removing
from .errors import JobError
from .job import open_module_file
from .record_io import MODULE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .schema import Record
    from .store import Job, Store

# What ansible-core calls the kinds of modules: those that hold their arguments, and those that find them in a file, as
# words or (all others) as JSON.
NEW, OLD = "new", "old"
SHELL = "shell"  # ours: no module, but a line for a shell
SCRATCH = "tmp"  # the module's own folder for scratch files, beside it
# What ansible-core's wrapper is known by, in its releases: arguments in it are literals of Python.
PIECE = 1 << 16  # bytes of a file that are copied at once
_WRAPPED = (b"_ansiballz_main(", b"ANSIBALLZ_PARAMS")


class Payload:
    """What is to be exec'ed, as ansible-core has built it.

    :param module: the module's name, for people.
    :param name: of its file.
    :param content: of its file; for ``SHELL`` the line.
    :param style: as ansible-core calls the kind of module.
    :param shebang: the line that names the interpreter; the content's own if it is empty.
    :param args: what its file of arguments holds; None if it has none.
    """

    def __init__(
        self,
        module: str,
        *,
        name: str,
        content: bytes,
        style: str = NEW,
        shebang: str = "",
        args: bytes | None = None,
    ) -> None:
        self.module = module
        self.name = name
        self.content = content
        self.style = style
        self.args = args
        self.interpreter = shlex.split((shebang or _first_line(content)).lstrip("#!"))

    def put(self, stands: str, path: str) -> None:
        """Put a path where another stands for it."""
        if self.args is not None:
            self.args = _replaced(self.args, stands, path, self.style)
        elif self.style in (NEW, SHELL):
            self.content = _replaced(self.content, stands, path, self.style)


class Staged:
    """A module in the private folder of a job that has not been launched yet.

    ``argv`` is what to exec, ``keys`` what the launcher's request needs beside it.
    """

    def __init__(self, job: Job, module: str) -> None:
        self.argv: list[str] = []
        self.keys: Record = {"jid": job.jid, "module": module, "cmd": module, "parameter": "module"}
        self._job = job

    def settle(self, answer: Record) -> None:
        """Remove the files unless the launcher's answer is the job for which they are."""
        if answer.get("record", {}).get("ansible_job_id") != self._job.jid:
            self.discard()

    def discard(self) -> None:
        """Remove the files, and the folder: there will be no such job."""
        removing.remove(self._job)


def stage(
    store: Store, payload: Payload, *, tmpdir: str = "", extra: dict[str, str] | None = None
) -> Staged:
    """Reserve a job and put a module into its folder.

    :param tmpdir: a path, in the payload's arguments, that stands for the folder of its scratch files.
    :param extra: files on the target that go along, by the paths in the arguments that stand for them.
    :raises JobError: it cannot be staged; nothing is left behind.
    """
    try:
        job = store.create_job()
        staged = Staged(job, payload.module)
        try:
            _fill(staged, job, payload, tmpdir, extra or {})
        except BaseException:
            staged.discard()
            raise
    except OSError as error:
        raise store.failure(error) from None
    return staged


def stage_files(store: Store, *, module: str, path: str, args: str | None, tmpdir: str) -> Staged:
    """Stage what ansible-core has transferred: the arguments of its ``async_wrapper``.

    :param path: of the module's file; its first line names the interpreter, if it has one.
    :param args: of the file of its arguments; None if it has none.
    :param tmpdir: where they lie, the module's folder for scratch files; it may be removed afterwards.
    :raises JobError: they cannot be read or staged; nothing is left behind.
    """
    words = None if args is None else read(args)
    style = NEW if words is None else OLD
    if words is not None and words.lstrip().startswith(b"{"):
        style = "non_native_want_json"
    name = os.path.basename(path)
    payload = Payload(module, name=name, content=read(path), style=style, args=words)
    return stage(store, payload, tmpdir=tmpdir)


def read(path: str) -> bytes:
    """Return what a file holds that has been transferred. :raises JobError: it cannot be read."""
    with open(_opened(path), "rb") as source:
        return source.read()


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise JobError("cannot stage the module: %s: %s" % (path, error.strerror)) from None


def _fill(staged: Staged, job: Job, payload: Payload, tmpdir: str, extra: dict[str, str]) -> None:
    """Write the files of a module, and work out what to exec."""
    os.close(open_module_file(job, [SCRATCH]))
    if tmpdir:
        payload.put(tmpdir, _own(job, SCRATCH))
    for number, (stands, path) in enumerate(sorted(extra.items())):
        # Each under its own name, which modules look at, so each in a folder of its own.
        name = os.path.basename(path)
        with open(_opened(path), "rb") as source, open(
            open_module_file(job, [str(number)], name, executable=True), "wb"
        ) as sink:
            piece = source.read(PIECE)
            while piece:
                sink.write(piece)
                piece = source.read(PIECE)
        payload.put(stands, _own(job, str(number), name))
    if payload.style == SHELL:
        staged.argv = [*payload.interpreter, payload.content.decode("utf-8", "surrogateescape")]
        return
    binary = not payload.interpreter
    _write(open_module_file(job, [], payload.name, executable=binary), payload.content)
    staged.argv = [*payload.interpreter, _own(job, payload.name)]
    if payload.args is not None:
        _write(open_module_file(job, [], "args"), payload.args)
        staged.argv.append(_own(job, "args"))


def _own(job: Job, *names: str) -> str:
    return job.path(os.path.join(MODULE, *names))


def _write(fd: int, data: bytes) -> None:
    with open(fd, "wb") as sink:
        sink.write(data)


def _first_line(content: bytes) -> str:
    return content.partition(b"\n")[0].decode("utf-8", "replace") if content[:2] == b"#!" else ""


def _replaced(data: bytes, stands: str, path: str, style: str) -> bytes:
    """Put a path into arguments, written as they are: as JSON, JSON in a literal of Python, or words of a shell."""
    if stands.encode() not in data:
        return data
    if style in (OLD, SHELL):
        if shlex.quote(os.path.dirname(path)) != os.path.dirname(path):
            why = "the path of async_dir, in %s, has characters that cannot be put into the words of a shell"
            raise JobError(why % path)
        return data.replace(stands.encode(), path.encode())
    text = json.dumps(path)[1:-1]
    if style == NEW and any(sign in data for sign in _WRAPPED):
        text = text.replace("\\", "\\\\").replace("'", "\\'")
    return data.replace(stands.encode(), text.encode())
