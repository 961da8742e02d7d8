# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a program and all its children do to a folder, as operations: seen by strace, in the order of the calls' ends.

That nothing has been missed shows in the end: the operations, done one after the other, make what really lies there.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess

from ansible_collections.durable.jobs.tests.crash.operations import ROOT, Operation, Tree

CALLS = (
    *("open", "openat", "creat", "mkdir", "mkdirat", "mknod", "mknodat", "link", "linkat"),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "symlink", "symlinkat"),
    *("write", "pwrite64", "writev", "pwritev", "truncate", "ftruncate", "fallocate"),
    *("utimensat", "chmod", "fchmod", "fchmodat", "fsync", "fdatasync", "sync", "syncfs"),
)
# Nobody here does these. If somebody begins to, this has to learn them.
UNKNOWN = ("creat", "link", "linkat", "symlink", "symlinkat", "writev", "pwritev", "truncate")
LINE = re.compile(r"(\d+) +(\d+)\.(\d+) (.*)", re.DOTALL)
BEGUN = " <unfinished ...>"
RESUMED = re.compile(r"<\.\.\. \w+ resumed>")
CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)(?:<([^>]*)>)?", re.DOTALL)
DESCRIPTOR = re.compile(r"(?:\d+|AT_FDCWD)<([^>]*)>(\(deleted\))?")
SECONDS = re.compile(r"tv_sec=(-?\d+), tv_nsec=(\d+)")
ANSWER = b'{"record": '  # with this a keeper tells its launcher that the job is there


class TraceError(AssertionError):
    """The trace holds something that is not understood."""


def trace(argv, log, **options):
    """Run a program to the end of all its children under strace."""
    calls = ",".join(f"?{name}" for name in CALLS)
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-ttt", "-y", "-xx", "-s", str(2**24)]
    subprocess.run([*strace, "-o", str(log), "-e", f"trace={calls}", *argv], check=True, **options)


def read(log, root, notes):
    """Return the operations of a trace.

    :param root: the folder to which they have to belong.
    :param notes: the folder of files to which a line is written for each thing that is to be known.
    """
    reader = _Reader(str(root), str(notes))
    pending = {}
    with open(log, encoding="ascii") as lines:
        for line in lines:
            pid, seconds, fraction, text = LINE.match(line.rstrip("\n")).groups()
            begun = len(reader.operations)
            if text.endswith(BEGUN):
                pending[pid] = (text[: -len(BEGUN)], begun)
                continue
            resumed = RESUMED.match(text)
            if resumed:
                first, begun = pending.pop(pid)
                text = first + text[resumed.end() :]
            call = CALL.match(text)
            if call:
                reader.take(call, int(seconds) * 10**9 + int(fraction.ljust(9, "0")), begun)
    return reader.operations, reader.tree


def _plain(text):
    return bytes.fromhex(text.strip('"').replace("\\x", ""))


def _path(text):
    return os.fsdecode(_plain(text))


class _Reader:
    def __init__(self, root, notes):
        self.root = root
        self.notes = notes
        self.operations = []
        self.tree = Tree()
        self.last = ROOT

    def take(self, call, when, begun):
        name, text, result, opened = call.groups()
        if int(result) < 0:
            return
        args = text.split(", ")
        if name in UNKNOWN:
            if self.root in "".join(_path(one) for one in re.findall(r'"(\\x[^"]*)"', text)):
                raise TraceError(f"{name} is not understood: {text[:200]}")
            return
        if name.startswith("sync"):
            raise TraceError("somebody flushes everything")
        handler = getattr(self, "_" + name.replace("at2", "").removesuffix("at"))
        handler(args, when, begun=begun, opened=opened)

    def _inside(self, path):
        return path == self.root or path.startswith(self.root + "/")

    def _do(self, kind, path, **details):
        made = Operation(kind, path=path[len(self.root) :] or "/", **details)
        self.tree.do(made)
        self.operations.append(made)

    def _file(self, path):
        return self.tree.find(path[len(self.root) :])

    def _descriptor(self, text):
        """Return the path of an open file; None if it has none any more."""
        found = DESCRIPTOR.match(text)
        if found is None:
            raise TraceError(f"no descriptor: {text[:200]}")
        return None if found[2] else _path(found[1])

    def _named(self, args):
        """Take a path, or a descriptor and a path, from the beginning of some arguments."""
        if args[0].startswith('"'):
            return os.path.normpath(_path(args.pop(0)))
        folder = self._descriptor(args.pop(0))
        return os.path.normpath(os.path.join(folder or "/gone", _path(args.pop(0))))

    def _place(self, path):
        folder, name = os.path.split(path)
        return self._file(folder), name

    def _make(self, path, mode, when):
        folder, name = self._place(path)
        self.last += 1
        self._do("create", path, file=self.last, folder=folder, name=name, mode=mode, time=when)

    def _open(self, args, when, *, opened, **_more):
        path = self._named(args)
        flags = args[0].split("|")
        if not self._inside(path) or not opened:
            return
        if "O_CREAT" in flags and not self._file(path):
            self._make(path, stat.S_IFREG | int(args[1], 8), when)
        elif "O_TRUNC" in flags:
            self._do("truncate", path, file=self._file(path), size=0, time=when)

    def _mkdir(self, args, when, **_more):
        path = self._named(args)
        if self._inside(path):
            self._make(path, stat.S_IFDIR | int(args[0], 8), when)

    def _mknod(self, args, when, **_more):
        path = self._named(args)
        if self._inside(path):
            kind, _bar, mode = args[0].partition("|")
            if kind != "S_IFIFO":
                raise TraceError(f"a node of kind {kind}")
            self._make(path, stat.S_IFIFO | int(mode, 8), when)

    def _rename(self, args, _when, **_more):
        before, after = self._named(args), self._named(args)
        if not self._inside(before) and not self._inside(after):
            return
        file = self._file(before)
        if not file:
            raise TraceError(f"a rename of the unknown {before}")
        old_folder, old_name = self._place(before)
        folder, name = self._place(after)
        old = {"old_folder": old_folder, "old_name": old_name}
        self._do("rename", after, file=file, folder=folder, name=name, **old)

    def _unlink(self, args, _when, **_more):
        path = self._named(args)
        file = self._file(path) if self._inside(path) else 0
        if file:  # else a socket
            folder, name = self._place(path)
            self._do("unlink", path, file=file, folder=folder, name=name)

    _rmdir = _unlink

    def _data(self, args, when, offset):
        path = self._descriptor(args[0])
        if path is None:
            return
        if self._inside(path):
            file = self._file(path)
            size = len(self.tree.nodes[file].data)
            place = size if offset is None else offset
            self._do("write", path, file=file, data=_plain(args[1]), offset=place, time=when)
        elif path.startswith(self.notes + "/"):
            for line in _plain(args[1]).decode().splitlines():
                self._note(f"{os.path.basename(path)}: {line}")
        elif path.startswith("pipe:"):
            self._answered(_plain(args[1]))

    def _note(self, text):
        name, _blank, path = text.partition("flush failed: ")
        if path:  # see flushes.py: the call was never made
            file = self._file(path) if self._inside(path) else 0
            self._do("failed sync", path, file=file)
        else:
            self.operations.append(Operation("mark", text=name))

    def _answered(self, data):
        if data.startswith(ANSWER):
            jid = json.loads(data)["record"]["ansible_job_id"]
            self.operations.append(Operation("mark", text=f"launched: {jid}"))

    def _write(self, args, when, **_more):
        # What is written here without an offset is written at the end, or to a new file.
        self._data(args, when, None)

    def _pwrite64(self, args, when, **_more):
        self._data(args, when, int(args[3]))

    def _ftruncate(self, args, when, **_more):
        path = self._descriptor(args[0])
        if path and self._inside(path):
            file, size = self._file(path), int(args[1])
            if size != len(self.tree.nodes[file].data):
                self._do("truncate", path, file=file, size=size, time=when)

    def _fallocate(self, args, _when, **_more):
        path = self._descriptor(args[0])
        if path and self._inside(path):
            if args[1] != "0":
                raise TraceError(f"an allocation with {args[1]}")
            file, size = self._file(path), int(args[2]) + int(args[3])
            if size > len(self.tree.nodes[file].data):
                self._do("allocate", path, file=file, size=size)

    def _utimens(self, args, _when, **_more):
        if not args[0].startswith('"') and args[1] == "NULL":
            path = self._descriptor(args[0])
        else:
            path = self._named(args[:2])
        if path and self._inside(path):
            (_access, change) = SECONDS.findall(", ".join(args))
            time = int(change[0]) * 10**9 + int(change[1])
            self._do("utime", path, file=self._file(path), time=time)

    def _chmod(self, args, _when, **_more):
        path = self._named(args)
        if self._inside(path):
            self._do("chmod", path, file=self._file(path), mode=int(args[0], 8))

    def _fchmod(self, args, _when, **_more):
        if args[0].startswith("AT_FDCWD") or len(args) > 2:
            self._chmod(args, _when)
            return
        path = self._descriptor(args[0])
        if path and self._inside(path):
            self._do("chmod", path, file=self._file(path), mode=int(args[1], 8))

    def _fsync(self, args, _when, *, begun, data_only=False, **_more):
        path = self._descriptor(args[0])
        if path and self._inside(path):
            file = self._file(path)
            self._do("sync", path, file=file, begun=begun, data_only=data_only)

    def _fdatasync(self, args, when, *, begun, **_more):
        self._fsync(args, when, begun=begun, data_only=True)
