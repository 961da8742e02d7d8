# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was done to files, one operation after the other, and the tree of files that a choice of them makes.

Files and folders have numbers, as inodes do: an operation means the file, whatever its name was at that moment. So a
tree can also be made when an earlier operation, such as the one that gave the file its name, is left out.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = 1  # the folder in which everything lies
# What changes names, and what changes a file's own metadata. A write does the latter, too: size and time.
NAMING = frozenset(("create", "rename", "unlink"))
METADATA = NAMING | frozenset(("truncate", "allocate", "utime", "chmod"))


@dataclass(frozen=True)
class Operation:
    """One operation.

    ``kind``: one of METADATA, ``write``, ``sync``, ``failed sync``, or ``mark`` for what is to be known of the
    moment and changes no file.
    ``begun``: of a flush: how many operations were over when it began. It need not cover later ones.
    ``old_folder``, ``old_name``: of a rename.
    """

    kind: str
    file: int = 0
    folder: int = 0
    name: str = ""
    old_folder: int = 0
    old_name: str = ""
    offset: int = 0
    data: bytes = b""
    size: int = 0
    time: int = 0
    mode: int = 0
    begun: int = 0
    data_only: bool = False
    text: str = ""
    path: str = ""

    def described(self) -> str:
        """Return it for people to read."""
        what = {
            "write": f"write {len(self.data)} bytes at {self.offset} of",
            "truncate": f"truncate to {self.size} bytes",
            "allocate": f"allocate {self.size} bytes of",
            "sync": "fdatasync" if self.data_only else "fsync",
            "utime": f"set the time to {self.time / 1e9:.6f} of",
        }.get(self.kind, self.kind)
        return f"{what} {self.path or self.text}"

    def part(self, start: int, stop: int) -> Operation:
        """Return a write of only some of its bytes."""
        return replace(self, offset=self.offset + start, data=self.data[start:stop])


class Node:
    """A file or a folder. Trees share them, so it is never changed: :meth:`changed` returns another one."""

    __slots__ = ("_digest", "data", "entries", "mode", "time")

    def __init__(self, mode: int, time: int = 0, data: bytes = b"", entries=None) -> None:
        self.mode = mode
        self.time = time
        self.data = data
        self.entries: dict[str, int] = entries or {}
        self._digest = b""

    def changed(self, **changes) -> Node:
        """Return one that differs in this."""
        now = {"mode": self.mode, "time": self.time, "data": self.data, "entries": self.entries}
        return Node(**{**now, **changes})

    def digest(self) -> bytes:
        """Return what tells files apart that a reader can tell apart; of times only whether they are 0."""
        if not self._digest:
            told = f"{self.mode}\0{self.time == 0}\0".encode()
            self._digest = hashlib.sha256(told + self.data).digest()
        return self._digest


class Tree:
    """Files and folders, below ROOT."""

    def __init__(self, nodes: dict[int, Node] | None = None) -> None:
        self.nodes = {ROOT: Node(stat.S_IFDIR | 0o700)} if nodes is None else nodes

    def copy(self) -> Tree:
        """Return another one with the same content."""
        return Tree(dict(self.nodes))

    def find(self, path: str) -> int:
        """Return the number of what lies at a path, given relative to the root; 0 for nothing."""
        number = ROOT
        for name in filter(None, path.split("/")):
            number = self.nodes[number].entries.get(name, 0)
            if not number:
                return 0
        return number

    def do(self, operation: Operation, *, data: bool = True, metadata: bool = True) -> None:
        """Do an operation, or a part of it.

        :param data: what of it lies in the blocks of a file.
        :param metadata: what of it lies elsewhere.
        """
        if operation.kind == "write":
            self._write(operation, data, metadata)
        elif metadata and operation.kind in METADATA:
            getattr(self, f"_{operation.kind}")(operation)

    def link(self, folder: int, name: str, file: int) -> None:
        """Give a file a name, if both are there."""
        if folder in self.nodes and file in self.nodes:
            self._change(folder, entries={**self.nodes[folder].entries, name: file})

    def unlink(self, folder: int, name: str, file: int) -> None:
        """Take a name from a file, if it has it."""
        if folder in self.nodes and self.nodes[folder].entries.get(name) == file:
            entries = dict(self.nodes[folder].entries)
            del entries[name]
            self._change(folder, entries=entries)

    def add(self, file: int, mode: int, time: int) -> None:
        """Let there be a file without a name and without content, unless it is there."""
        if file not in self.nodes:
            self.nodes[file] = Node(mode, time)

    def _change(self, file: int, **changes) -> None:
        if file in self.nodes:
            self.nodes[file] = self.nodes[file].changed(**changes)

    def _create(self, one: Operation) -> None:
        self.add(one.file, one.mode, one.time)
        self.link(one.folder, one.name, one.file)

    def _rename(self, one: Operation) -> None:
        self.unlink(one.old_folder, one.old_name, one.file)
        self.link(one.folder, one.name, one.file)

    def _unlink(self, one: Operation) -> None:
        self.unlink(one.folder, one.name, one.file)

    def _write(self, one: Operation, data: bool, metadata: bool) -> None:
        node = self.nodes.get(one.file)
        if node is not None and data:
            before = node.data[: one.offset].ljust(one.offset, b"\0")
            rest = node.data[one.offset + len(one.data) :]
            self._change(one.file, data=before + one.data + rest)
        if metadata:
            self._change(one.file, time=one.time)

    def _truncate(self, one: Operation) -> None:
        node = self.nodes.get(one.file)
        if node is not None:
            cut = node.data[: one.size].ljust(one.size, b"\0")
            self._change(one.file, data=cut, time=one.time)

    def _allocate(self, one: Operation) -> None:
        node = self.nodes.get(one.file)
        if node is not None:
            self._change(one.file, data=node.data.ljust(one.size, b"\0"))

    def _utime(self, one: Operation) -> None:
        self._change(one.file, time=one.time)

    def _chmod(self, one: Operation) -> None:
        node = self.nodes.get(one.file)
        if node is not None:
            self._change(one.file, mode=stat.S_IFMT(node.mode) | one.mode)

    def walk(self, number: int = ROOT, path: str = ""):
        """Yield all that can be reached: path and node."""
        for name, one in sorted(self.nodes[number].entries.items()):
            node = self.nodes[one]
            yield f"{path}/{name}", node
            if stat.S_ISDIR(node.mode):
                yield from self.walk(one, f"{path}/{name}")

    def digest(self) -> bytes:
        """Return what tells trees apart that a reader can tell apart."""
        found = hashlib.sha256()
        for path, node in self.walk():
            found.update(path.encode() + node.digest())
        return found.digest()

    def build(self, folder: Path) -> None:
        """Make the tree in an empty folder."""
        for path, node in self.walk():
            target = f"{folder}{path}"
            if stat.S_ISDIR(node.mode):
                os.mkdir(target)
            elif stat.S_ISFIFO(node.mode):
                os.mkfifo(target)
            elif not os.path.lexists(target):
                with open(target, "wb") as sink:
                    sink.write(node.data)
            os.chmod(target, stat.S_IMODE(node.mode))
            if stat.S_ISREG(node.mode):
                os.utime(target, ns=(node.time, node.time))

    def differences(self, folder: Path) -> list[str]:
        """Return in which paths a folder differs from the tree; of sockets nothing is known here."""
        ours = dict(self.walk())
        theirs = {}
        for where, folders, names in os.walk(folder):
            for name in folders + names:
                path = os.path.join(where, name)
                found = os.lstat(path)
                if not stat.S_ISSOCK(found.st_mode):
                    theirs[path[len(str(folder)) :]] = found
        wrong = sorted(ours.keys() ^ theirs.keys())
        for path in ours.keys() & theirs.keys():
            mode = theirs[path].st_mode
            if stat.S_IFMT(mode) != stat.S_IFMT(ours[path].mode):
                wrong.append(f"{path}: kind")
            elif stat.S_ISREG(mode) and Path(f"{folder}{path}").read_bytes() != ours[path].data:
                wrong.append(f"{path}: content")
        return wrong
