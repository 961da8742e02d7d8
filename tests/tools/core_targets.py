# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run ansible-core's own integration tests of the keyword `async`, on durable jobs.

They come with ansible-core's source distribution, which pip fetches; nothing of them is kept here. They are run as they
are, but for one path: a folder below the home directory that they make and remove, which would be that of all cores.
They leave their commands as little as a second to spare, so one that fails is run once more. ::

    core_targets.py fetch TARGETS                  take them from the source distribution of this Python's ansible-core
    core_targets.py run TARGETS TREE [LIBRARY]     TREE: where collections are. LIBRARY: the folder that the setting
                                                   names; without it they run on ansible-core's own async
"""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import pwd
import shutil
import subprocess
import sys
import tarfile
import tempfile

# Run with their own script where they have one, else as a role.
NAMES = ("async", "async_fail", "async_extra_data")
NEEDED = (*NAMES, "prepare_tests")
VERSION = importlib.metadata.version("ansible-core")
ATTEMPTS = 2

INVENTORY = "[testgroup]\ntesthost ansible_connection=local ansible_python_interpreter=%s\n"
PLAY = "- hosts: testhost\n  gather_facts: true\n  roles: [%s]\n"


def fetch(targets: pathlib.Path) -> None:
    """Let pip fetch the source distribution, and take the targets out of it."""
    if (targets / VERSION).is_dir():
        return
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", scratch]
        options = ["--no-deps", "--no-build-isolation", "--no-binary", "ansible-core"]
        subprocess.run([*pip, *options, f"ansible-core=={VERSION}"], check=True)
        archive = next(pathlib.Path(scratch).glob("ansible_core-*.tar.gz"))
        with tarfile.open(archive) as source:
            source.extractall(scratch, filter="data")
        found = pathlib.Path(scratch, archive.name[:-7], "test", "integration", "targets")
        made = pathlib.Path(scratch, "targets")
        for name in NEEDED:
            shutil.copytree(found / name, made / name)
        shutil.copytree(made, targets / VERSION)


def run(targets: pathlib.Path, tree: str, library: str | None) -> bool:
    """Run all targets, print the output of those that fail, and tell whether none did."""
    failed = []
    with tempfile.TemporaryDirectory(prefix="durable_test.") as scratch:
        folder = pathlib.Path(scratch)
        _action_capture(targets / VERSION, folder)
        env = _environment(folder, tree, library)
        for name in NAMES:
            said = _run_often(folder, name, env)
            if said is not None:
                failed.append(name)
                print(said, flush=True)
    print(f"{len(NAMES) - len(failed)} passed, {len(failed)} failed", flush=True)
    return not failed


def _run_often(folder: pathlib.Path, name: str, env: dict[str, str]) -> str | None:
    """Run a target until it passes, or has failed often enough; then return its output."""
    said = ""
    for _attempt in range(ATTEMPTS):
        rc, said = _run_one(folder, name, env)
        outcome = "failed" if rc else "passed"
        print(f"ansible-core {VERSION}: {name}: {outcome}", flush=True)
        if rc == 0:
            return None
    return said


def _action_capture(targets: pathlib.Path, folder: pathlib.Path) -> None:
    """Lay the targets out as ansible-core's own tool does."""
    shutil.copytree(targets, folder / "targets")
    main = folder / "targets" / "async" / "tasks" / "main.yml"
    text = main.read_text(encoding="utf-8")
    own = f".ansible_async_test_{VERSION}"
    main.write_text(text.replace(".ansible_async_test", own), encoding="utf-8")
    python = pathlib.Path(sys.executable).resolve()
    (folder / "inventory").write_text(INVENTORY % python, encoding="utf-8")
    for name in NAMES:
        (folder / f"{name}.yml").write_text(PLAY % name, encoding="utf-8")


def _environment(folder: pathlib.Path, tree: str, library: str | None) -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    env.update(
        ANSIBLE_CONFIG=str(pathlib.Path(__file__).parent / "ansible.cfg"),
        ANSIBLE_ROLES_PATH=str(folder / "targets"),
        ANSIBLE_COLLECTIONS_PATH=tree,
        # Where it is another one, ours puts records where async_status looks, and these tests look elsewhere.
        HOME=pwd.getpwuid(os.geteuid()).pw_dir,
        PATH=f"{pathlib.Path(sys.prefix, 'bin')}{os.pathsep}{os.environ['PATH']}",
    )
    if library is not None:
        env["ANSIBLE_LIBRARY"] = library
    return env


def _run_one(folder: pathlib.Path, name: str, env: dict[str, str]) -> tuple[int, str]:
    target = folder / "targets" / name
    command = ["bash", "runme.sh"]
    if not (target / "runme.sh").exists():
        play = str(folder / f"{name}.yml")
        command = ["ansible-playbook", "-i", str(folder / "inventory"), play]
        command += ["-e", f"output_dir={folder / 'output'}"]
    ended = subprocess.run(
        command,
        check=False,
        cwd=target,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return ended.returncode, ended.stdout


def main() -> int:
    """Do what the first argument says; see above."""
    if sys.argv[1] == "fetch":
        fetch(pathlib.Path(sys.argv[2]))
        return 0
    library = sys.argv[4] if len(sys.argv) > 4 else None
    return 0 if run(pathlib.Path(sys.argv[2]), sys.argv[3], library) else 1


if __name__ == "__main__":
    sys.exit(main())
