# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of a job that is not there."""

from __future__ import annotations

import os

import pytest

from ansible_collections.durable.jobs.plugins.module_utils._job import call, host, trust

ME = host.user_name(os.geteuid())


class Entry:
    """A user of this machine, as far as hints are concerned."""

    def __init__(self, name, home):
        self.pw_name, self.pw_dir = name, str(home)


@pytest.fixture
def homes(tmp_path, monkeypatch):
    """The homes of ourselves and of another user, each with a job that has a name."""
    folders = {}
    for user in (ME, "deploy"):
        folders[user] = tmp_path / user / ".ansible_async"
        names = folders[user] / ".durable" / "names"
        names.mkdir(parents=True)
        jid = "j%d.%d" % (1, len(folders))
        (folders[user] / jid).write_text("{}")
        (names / f"of {user}.jid").write_text(f"{jid} \n")
        (names / f"forgotten {user}.jid").write_text("j9.9 \n")
    monkeypatch.setattr(
        trust.pwd, "getpwall", lambda: [Entry(user, tmp_path / user) for user in folders]
    )
    monkeypatch.setenv("HOME", str(tmp_path / ME))
    monkeypatch.delenv("ANSIBLE_ASYNC_DIR", raising=False)
    return folders


@pytest.mark.parametrize("inside", ["/elsewhere", "~/jobs"])
@pytest.mark.parametrize("by", ["jid", "name"])
def test_a_hint_names_the_user_and_the_folder_that_has_a_job(homes, inside, by):
    path = os.path.expanduser(inside)
    asked = {"jid": ("j1.2", None), "name": (None, "of deploy")}[by]
    text = call.why_absent(path, *asked)
    assert text.startswith(f"could not find job {asked[0] or 'named ' + repr(asked[1])} in {path}")
    assert f"; it belongs to user deploy in {homes['deploy']}: look as that user" in text
    assert "become_user: deploy" in text and text.count("belongs to") == 1


@pytest.mark.parametrize("by", ["jid", "name"])
def test_a_hint_sends_nobody_to_himself(homes, by):
    asked = {"jid": ("j1.1", None), "name": (None, f"of {ME}")}[by]
    text = call.why_absent("/elsewhere", *asked)
    assert text.endswith(f"; there is one in {homes[ME]}: set async_dir to that")
    assert "become_user" not in text
    assert list(trust.whose("/elsewhere")) == [f"user deploy in {homes['deploy']}"]


@pytest.mark.usefixtures("homes")
def test_a_hint_says_as_whom_and_where_a_job_was_launched():
    asked = ("j9.9", None)
    told = {"user": "robot", "results_file": "/robot/j9.9"}
    text = call.why_absent("/elsewhere", *asked, told)
    assert text.endswith("; it was launched as robot in /robot: use the same become")
    text = call.why_absent("/elsewhere", *asked, {"user": "robot"})
    assert text.endswith("; it was launched as robot: use the same become")
    text = call.why_absent("/elsewhere", *asked, {"results_file": "/robot/j9.9"})
    assert "; it was launched in /robot: set async_dir to that" in text
    assert ";" not in call.why_absent("/robot/", *asked, {"results_file": "/robot/j9.9"})


@pytest.mark.parametrize(
    "asked", [("j9.9", None), (None, "forgotten deploy"), ("j../x", None), (None, "../x")]
)
@pytest.mark.usefixtures("homes")
def test_there_is_no_hint_where_nobody_has_the_job(asked):
    assert ";" not in call.why_absent("/elsewhere", *asked)


def test_a_hint_follows_no_link_and_waits_for_no_fifo(homes):
    names = homes["deploy"] / ".durable" / "names"
    os.mkfifo(names / "fifo.jid")
    (names / "link.jid").symlink_to(names / "of deploy.jid")
    (names / "folder.jid").mkdir()
    (names / "path.jid").write_text("../../../etc/passwd\n")
    for name in ("fifo", "link", "folder", "path"):
        assert ";" not in call.why_absent("/elsewhere", None, name)


def test_the_configured_async_dir_is_ours(homes, monkeypatch):
    monkeypatch.setenv("ANSIBLE_ASYNC_DIR", "$HOME/../deploy/.ansible_async")
    text = call.why_absent("/elsewhere", "j1.2", None)
    assert f"there is one in {homes['deploy']}: set async_dir" in text
