# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The recordings of this folder, for tests. See README.md."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

from ansible_collections.durable.jobs.plugins.module_utils._job import host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HERE = Path(__file__).parent
RELEASES = sorted(path.parent.name for path in HERE.glob("*/expected.json"))
MACHINE = b"901de0901de0901de0901de0901de090"  # the /etc/machine-id of all recordings


class Recording:
    """What a release has left, and what is to be read there.

    :param release: its version.
    """

    def __init__(self, release: str) -> None:
        self._folder = HERE / release
        expected = json.loads((self._folder / "expected.json").read_bytes())
        self.jobs: dict[str, dict[str, Any]] = expected["jobs"]  # by label
        self.names: dict[str, str] = expected["names"]  # the jid that each name means

    def unpack(self, folder: Path) -> Path:
        """Unpack the recording as it is, for the current user, and return the path of its async dir."""
        folder.mkdir(mode=0o700, exist_ok=True)
        with tarfile.open(str(self._folder / "async_dir.tgz")) as archive:
            # Without it, Python 3.14 refuses FIFOs. The archive is ours.
            archive.extraction_filter = lambda member, _path: member
            for member in archive.getmembers():
                member.uid, member.gid = os.getuid(), os.getgid()
                member.uname = member.gname = ""
            archive.extractall(str(folder))
        return folder / "async"

    def unpack_here(self, folder: Path) -> Path:
        """Unpack the recording, let it be of this machine, and return the path of its async dir.

        Jobs stay on the machine on which an older release has launched them. The machine of a recording is an invented
        one. A look at an unfinished job of another machine says only that, because that machine may still run the job.
        So the records get the id of this machine. Nothing else is changed: the boot of a recording is over everywhere.
        """
        async_dir = self.unpack(folder)
        here = host.machine()["id"].encode()
        for record in async_dir.glob("j*"):
            content = record.read_bytes()
            if MACHINE in content:
                times = record.stat()
                record.write_bytes(content.replace(MACHINE, here))
                os.utime(str(record), ns=(times.st_atime_ns, times.st_mtime_ns))
        return async_dir

    def program(self, folder: Path) -> str:
        """Unpack the recording and return the path of the release's launcher, a program of its own.

        Its request and its answer are JSON, see ``launcher``.
        """
        self.unpack(folder)
        (program,) = folder.glob("**/_job/program.py")
        return str(program)

    def expected(self, label: str) -> dict[str, Any]:
        """Return what is to be read of a job on this machine: all keys of the release, except ``msg`` of a lost job."""
        job = self.jobs[label]
        found: dict[str, Any] = {**job["said"], **job.get("moved", {})}
        if "moved" in job:
            found.pop("msg", None)
        return found


def differences(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a recording that a result lacks or has otherwise. Results may have more keys."""
    return {
        key: (found.get(key, "is missing"), value)
        for key, value in expected.items()
        if key not in found or not is_same(found[key], value)
    }


def is_same(found: Any, expected: Any) -> bool:
    """Compare a value with a recorded one; of a long text, the recording has only the length and both ends."""
    if isinstance(expected, dict) and set(expected) == {"length", "begins", "ends"}:
        ends = found[: len(expected["begins"])], found[-len(expected["ends"]) :]
        return (len(found), *ends) == (expected["length"], expected["begins"], expected["ends"])
    return bool(found == expected)
