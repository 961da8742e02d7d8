# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way into the engine: what is run, and what is not."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from ansible_collections.durable.jobs.plugins.module_utils import _engine
from ansible_collections.durable.jobs.plugins.module_utils._job import boot, installation, store
from ansible_collections.durable.jobs.plugins.module_utils._job.errors import JobError
from ansible_collections.durable.jobs.tests.unit.support import ask, question

NAME = boot.installed_name("0" * 32)


@pytest.fixture
def place(tmp_path):
    found = store.Store.open(str(tmp_path / "async"), create=True)
    yield found
    found.close()


@pytest.fixture
def engine(place):
    """Install an engine, and return the path of its file."""
    installation.install(place, NAME, boot.sealed(NAME, {"main": b"code"}), needed=True)
    return place.private_path("engine", NAME)


def test_an_engine_that_is_installed_is_whole_and_for_its_owner_only(place, engine):
    assert boot.installed(place.path, NAME) == boot.sealed(NAME, {"main": b"code"})
    assert stat.S_IMODE(os.stat(engine).st_mode) == 0o600
    assert os.listdir(os.path.dirname(engine)) == [NAME]


def spoil_content(path):
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"X")


def tear(path):
    os.truncate(path, os.stat(path).st_size - 1)


def link(path):
    os.rename(path, path + ".real")
    os.symlink(path + ".real", path)


def give_a_second_name(path):
    os.link(path, path + ".second")


def let_others_write(path):
    os.chmod(path, 0o622)


def let_others_read(path):
    os.chmod(path, 0o644)


def let_others_into_the_folder(path):
    os.chmod(os.path.dirname(path), 0o755)


def let_others_into_the_private_folder(path):
    os.chmod(os.path.dirname(os.path.dirname(path)), 0o711)


def make_a_fifo_of_it(path):
    os.unlink(path)
    os.mkfifo(path, 0o600)


def make_a_folder_of_it(path):
    os.unlink(path)
    os.mkdir(path, 0o700)


def link_the_folder(path):
    folder = os.path.dirname(path)
    os.rename(folder, folder + ".real")
    os.symlink(folder + ".real", folder)


def remove(path):
    os.unlink(path)


@pytest.mark.parametrize(
    "spoil",
    [
        *(spoil_content, tear, link, give_a_second_name, let_others_write, let_others_read),
        *(let_others_into_the_folder, let_others_into_the_private_folder, make_a_fifo_of_it),
        *(make_a_folder_of_it, link_the_folder, remove),
    ],
)
def test_an_engine_that_somebody_else_could_have_written_is_none(place, engine, spoil):
    spoil(engine)
    assert boot.installed(place.path, NAME) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["file", "folder", "private folder"])
def test_an_engine_of_another_user_is_none(place, engine, what):
    steps = {"file": 0, "folder": 1, "private folder": 2}
    path = engine
    for _step in range(steps[what]):
        path = os.path.dirname(path)
    os.chown(path, 12345, 12345)
    assert boot.installed(place.path, NAME) is None


def test_an_engine_under_the_name_of_another_is_none(place, engine):
    other = boot.installed_name("1" * 32)
    os.rename(engine, place.private_path("engine", other))
    assert boot.installed(place.path, other) is None


def test_bytecode_of_another_python_is_none(place, engine):
    with open(engine, "rb") as file:
        content = file.read()
    magic = boot.MAGIC_NUMBER
    other = content.replace(magic, bytes([magic[0] ^ 1]) + magic[1:], 1)
    with open(engine, "wb") as file:
        file.write(other)
    assert boot.installed(place.path, NAME) is None


def test_without_an_engine_nothing_is_done_and_it_is_said(place):
    assert ask(place.path) == (False, None)
    assert os.listdir(place.path) == []


def test_without_an_engine_the_whole_question_is_read(place):
    asked, engine = question(place.path, names=["x" * 1_000_000]), _engine.Engine()
    with subprocess.Popen(
        [sys.executable, *engine.words()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdin.write(engine.data(asked))  # a broken pipe would be an error
        process.stdin.close()
        assert asked.finds_none(process.stdout.read().decode())


def test_an_engine_that_comes_along_answers_and_is_there_the_next_time(place):
    begun, answer = ask(place.path, whole=True)
    assert begun and answer["total"] == 0
    again, same = ask(place.path)
    assert again and same == answer


def test_in_check_mode_nothing_is_installed(place):
    begun, answer = ask(place.path, whole=True, check_mode=True)
    assert begun and answer["total"] == 0
    assert os.listdir(place.path) == []


def test_an_engine_that_is_damaged_is_replaced(place):
    ask(place.path, whole=True)
    (name,) = os.listdir(place.private_path("engine"))
    spoil_content(place.private_path("engine", name))
    assert ask(place.path) == (False, None)
    assert ask(place.path, whole=True)[0]
    assert ask(place.path)[0]


def test_what_is_not_ours_in_the_place_of_an_engine_is_refused(place, engine):
    link(engine)
    with pytest.raises(JobError, match="is a symlink, not a file"):
        installation.install(place, NAME, boot.sealed(NAME, {"main": b"code"}), needed=True)


def test_only_the_latest_engines_stay_and_those_that_old_modules_use(place):
    engines = place.private_path("engine")
    for number in range(4):
        content = boot.sealed(NAME, {"main": b"code"})
        installation.install(place, boot.installed_name("%032d" % number), content, needed=True)
        os.utime(os.path.join(engines, boot.installed_name("%032d" % number)), (number, number))
    os.makedirs(os.path.join(engines, "a" * 32, "_job"), mode=0o700)  # as release 0.1 installed it
    os.utime(os.path.join(engines, "a" * 32), (0, 0))
    installation.install(place, NAME, boot.sealed(NAME, {"main": b"code"}), needed=True)
    left = sorted(os.listdir(engines))
    assert left == sorted([NAME, *(boot.installed_name("%032d" % number) for number in (2, 3))])


def test_a_verb_that_fails_says_why_and_what_it_was_asked(place):
    ask(place.path, whole=True)
    request = {"params": {"jids": ["../x"], "names": None, "states": None, "limit": 0}}
    request["params"].update(order="newest", output="none")
    _begun, answer = ask(place.path, **request)
    assert answer["failed"] and "../x" in answer["msg"]
    assert answer["invocation"] == {"module_args": request["params"]}
