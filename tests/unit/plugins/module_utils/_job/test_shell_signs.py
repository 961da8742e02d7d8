# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import shlex

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ansible_collections.durable.jobs.plugins.module_utils._job import shell_signs


@pytest.mark.parametrize(
    ("cmd", "words"),
    [
        ("ls | wc -l", ["|"]),
        ("ls|wc", ["ls|wc"]),
        ("make && make install || exit 1", ["&&", "||"]),
        ("echo a > /tmp/x 2>&1", [">", "2>&1"]),
        ("cat < /tmp/x", ["<"]),
        ("cd /tmp; ls", ["/tmp;"]),
        ("sleep 5 &", ["&"]),
        ("rm /tmp/*.log /tmp/?", ["/tmp/*.log", "/tmp/?"]),
        ("ls /tmp/[ab]", ["/tmp/[ab]"]),
        (
            'echo $HOME "$USER" ${X} $(date) $? "a`date`"',
            ["$HOME", '"$USER"', "${X}", "$(date)", "$?", '"a`date`"'],
        ),
        ("echo `date`", ["`date`"]),
        ("ls ~ ~/x ~root", ["~", "~/x", "~root"]),
        ("LANG=C sort x", ["LANG=C"]),
        ("sleep 5 # a nap", ["#"]),
        ("curl http://x/y?a=1&b=2 | sh", ["|"]),
    ],
)
def test_what_a_shell_would_not_take_as_it_is(cmd, words):
    assert shell_signs.meant_for_shell(cmd) == words


@pytest.mark.parametrize(
    "cmd",
    [
        *(
            "sleep 15",
            "sh -c 'a | b && c > d; echo $X *'",
            "grep 'a*' /etc/passwd",
            'grep "a*|b" /x',
        ),
        *(
            "find / -name \\*.log \\( -size 0 \\) -exec ls {} \\;",
            "curl http://x/y?a=1&b=2",
            "awk '{print $1}' x",
        ),
        *(
            "echo 5$ \\$HOME '$HOME' \"\\$HOME\"",
            "tar czf x.tgz a~ --exclude=b",
            "dd if=/dev/zero of=/tmp/x",
        ),
        *("", "  ", "test a = b", "[ -e /x ]", "echo a#b user@host 50% a,b {a} (x"),
    ],
)
def test_what_any_program_may_be_given(cmd):
    assert shell_signs.meant_for_shell(cmd) == []
    assert shell_signs.hint(cmd) is None


@given(st.lists(st.text()))
def test_quoted_words_need_no_shell(words):
    assume("=" not in "".join(words[:1]))  # A=b in front is the shell's, quoted or not
    assert shell_signs.meant_for_shell(" ".join(map(shlex.quote, words))) == []


@given(st.text())
def test_whatever_is_given(cmd):
    shell_signs.hint(cmd)


def test_what_is_said():
    text = shell_signs.hint("ls | wc > \x1b[31m")
    assert text.startswith("cmd is run without a shell") and ": | > ?[31m" not in text
    assert "as it is: | >. Use shell: instead of cmd:" in text
    assert "|" not in shell_signs.hint("ls | wc", hidden=True)
    assert shell_signs.hint(None) is None
    assert len(shell_signs.hint(" ".join("$a%d" % number for number in range(1000)))) < 400
