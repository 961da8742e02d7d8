# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk that stands still on request: ext4 on a loop device, and fsfreeze(8).

Whoever writes to it while it is frozen sleeps, uninterruptibly, until it thaws; not even SIGKILL ends that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess

import pytest

NEEDS = ("mkfs.ext4", "mount", "umount", "fsfreeze")
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
SIZE = 32 * 1024 * 1024


class Disk:
    """A mounted disk.

    :param folder: where it is mounted.
    """

    def __init__(self, folder):
        self.folder = folder
        self._frozen = False

    def freeze(self):
        """Let every write wait from now on."""
        _run("fsfreeze", "--freeze", self.folder)
        self._frozen = True

    def thaw(self):
        """Let the writes go on."""
        if self._frozen:
            _run("fsfreeze", "--unfreeze", self.folder)
            self._frozen = False


@contextlib.contextmanager
def mounted(scratch):
    """Yield a disk; skip the test where there can be none.

    :param scratch: a folder, for the image and the mount point.
    """
    missing = [name for name in NEEDS if shutil.which(name, path=PATH) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip("missing: " + (", ".join(missing) or "root"))
    image, folder = scratch / "image", scratch / "disk"
    with open(image, "wb") as made:
        made.truncate(SIZE)
    folder.mkdir(mode=0o700)
    _run("mkfs.ext4", "-q", image)
    try:
        _run("mount", "-o", "loop", image, folder)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no loop device: {error.stderr.decode().strip()}")
    disk = Disk(folder)
    try:
        yield disk
    finally:
        disk.thaw()
        # Not at once: processes that the test has killed may still be about to let go of it.
        _run("umount", "--lazy", folder)


def _run(*command):
    subprocess.run(command, check=True, capture_output=True, env=dict(os.environ, PATH=PATH))
