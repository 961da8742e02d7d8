# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way into the engine. A face sends this file, a line of JSON, the engine's sources where needed, and a request::

    python3 -I -S -c 'import sys; exec(sys.stdin.buffer.read(<size of this file>))' < this file, line, sources, request

It is run from memory, so it needs no file on the target. It finds the installed engine, proves that nobody else can
have written it, and runs what it has read: nothing can change between the proof and the run.

The line::

    {"nonce": "0a1b", "engine": "3f2c...",    the name of the engine, see installed_name
     "sources": 0,                            how many bytes they have, see :func:`compiled`; 0 if they are not sent
     "configured": "/var/jobs",               the async dir, as it was configured; null for the target's own choice
     "environment": {"LANG": "C"},            variables for the job
     "launches": true}                        whether the request may launch something

The request is described in ``call``.

Answer, a line of standard output each: ``<nonce> missing``, if there is no engine and none came along; else
``<nonce> begun``, and then ``<nonce> <JSON>``, see ``main``.
"""

from __future__ import annotations

import json
import marshal
import os
import stat
import sys
from _frozen_importlib import ModuleSpec  # importlib would load what nobody here needs
from _frozen_importlib_external import MAGIC_NUMBER, _LoaderBasics

try:
    from _sha2 import sha256  # type: ignore[import-not-found]  # hashlib would load OpenSSL
except ImportError:
    from _sha256 import sha256  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any, BinaryIO

MARK = b"durable.jobs engine\n" + MAGIC_NUMBER  # bytecode of another Python would crash ours
PRIVATE_DIR, ENGINES = ".durable", "engine"
SUM_BYTES = 32


class Engine(_LoaderBasics):
    """Imports the engine from memory.

    :param content: a file of the engine, see :func:`sealed`.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._places: dict[str, tuple[int, int]] = marshal.loads(content[len(MARK) + SUM_BYTES :])

    def find_spec(self, name: str, *_where: Any) -> ModuleSpec | None:
        """Find the package ``_job`` and its modules (importlib's protocol)."""
        package, _dot, part = name.partition(".")
        if package != "_job" or (part or "__init__") not in self._places:
            return None
        loader: Any = self
        return ModuleSpec(name, loader, is_package=not part)

    def get_code(self, name: str) -> CodeType:
        """Return a module's code (importlib's protocol)."""
        start, size = self._places[name.partition(".")[2] or "__init__"]
        start += len(self._content)
        code: CodeType = marshal.loads(memoryview(self._content)[start : start + size])
        return code


def compiled(name: str, sources: bytes) -> bytes:
    """Return the file of an engine for this Python: code without docstrings, which keepers would carry for nothing.

    :param sources: compressed JSON, the source of each part by its name.
    """
    from zlib import decompress

    codes = {}
    for part, source in json.loads(decompress(sources)).items():
        path = "durable.jobs/_job/%s.py" % part
        code = compile(source, path, "exec", dont_inherit=True, optimize=2)
        codes[part] = marshal.dumps(code)
    return sealed(name, codes)


def sealed(name: str, codes: dict[str, bytes]) -> bytes:
    """Return a file of the engine: what it is, a checksum, where each part is, and the parts.

    :param name: of the file, which the checksum covers: a file that was renamed is no engine.
    :param codes: marshalled code by the name of its part.
    """
    places, start = {}, 0
    # Places count from the end, for nobody knows yet how long the beginning will be.
    for part in reversed(list(codes)):  # the list: a dictionary can be reversed since Python 3.8
        start -= len(codes[part])
        places[part] = (start, len(codes[part]))
    body = b"".join((marshal.dumps(places), *codes.values()))
    return MARK + _checksum(name, body) + body


def _checksum(name: str, body: bytes) -> bytes:
    found: bytes = sha256(name.encode() + body).digest()
    return found


def is_whole(name: str, content: bytes) -> bool:
    """Tell whether a file of the engine is what was written under its name."""
    checksum, body = content[len(MARK) :][:SUM_BYTES], content[len(MARK) + SUM_BYTES :]
    return content.startswith(MARK) and checksum == _checksum(name, body)


def installed_name(digest: str) -> str:
    """Return the name of an engine's file: which sources, and for which bytecode."""
    return "%s.%s" % (digest, MAGIC_NUMBER[:2].hex())


def async_dir(configured: str | None) -> str:
    """Return the path of the async dir: as configured, else the environment's, else ansible-core's default."""
    path = configured or os.environ.get("ANSIBLE_ASYNC_DIR") or "~/.ansible_async"
    return os.path.expanduser(os.path.expandvars(path))


def installed(path: str, name: str) -> bytes | None:
    """Return the content of the installed engine; None if there is none that only we can have written.

    Each step is relative to a folder that has been proved to be ours alone.
    """
    fds: list[int] = []
    try:
        fds.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for step, kind in (
            (PRIVATE_DIR, stat.S_IFDIR),
            (ENGINES, stat.S_IFDIR),
            (name, stat.S_IFREG),
        ):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fds.append(os.open(step, flags, dir_fd=fds[-1]))
            found = os.fstat(fds[-1])
            if stat.S_IFMT(found.st_mode) != kind or found.st_uid != os.geteuid():
                return None
            if found.st_mode & 0o077 or (kind == stat.S_IFREG and found.st_nlink != 1):
                return None
        with open(fds.pop(), "rb") as source:
            content = source.read()
    except OSError:
        return None
    finally:
        for fd in fds:
            os.close(fd)
    return content if is_whole(name, content) else None


def say(nonce: str, text: str) -> None:
    """Write a line of the answer."""
    data = memoryview(("%s %s\n" % (nonce, text)).encode())
    while data:
        data = data[os.write(1, data) :]


def run(line: dict[str, Any], rest: BinaryIO) -> None:
    """Answer a request."""
    os.environ.update(line["environment"])
    path, name = async_dir(line["configured"]), installed_name(line["engine"])
    sources = rest.read(line["sources"])
    content = installed(path, name)
    new = None
    if content is None:
        if not sources:
            rest.read()  # nobody is to fail because he cannot send it
            say(line["nonce"], "missing")
            return
        content = compiled(name, sources)
        new = (name, content)
    say(line["nonce"], "begun")
    sys.meta_path.insert(0, Engine(content))
    del content, sources  # what is not needed any more, keepers are not to carry
    main = __import__("_job.main", fromlist=["main"])
    say(line["nonce"], json.dumps(main.respond(path, rest, new, launches=line["launches"])))


if __name__ == "__main__":
    run(json.loads(sys.stdin.buffer.readline()), sys.stdin.buffer)
    os._exit(0)  # nobody would gain from an orderly shutdown
