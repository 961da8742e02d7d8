# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""D-Bus as it is written, and peers that are none. Real ones: extensions/molecule."""

from __future__ import annotations

import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.durable.jobs.plugins.module_utils._job import dbus

TEXTS = st.text().map(lambda text: text.replace("\0", ""))


@pytest.mark.parametrize(
    ("signature", "kinds"),
    [
        ("", []),
        ("u", ["u"]),
        ("ssa(sv)a(sa(sv))", ["s", "s", "a(sv)", "a(sa(sv))"]),
        ("aaya{sv}v", ["aay", "a{sv}", "v"]),
    ],
)
def test_a_signature_is_split_into_complete_types(signature, kinds):
    assert dbus.split(signature) == kinds


def test_what_the_specification_gives_as_an_example():
    # "foo", "+" and "bar", and an array of one 64-bit integer: chapters "Marshalling" of the specification
    strings = dbus.marshal("sss", ["foo", "+", "bar"])
    assert strings == b"\x03\0\0\0foo\0\x01\0\0\0+\0\0\0\x03\0\0\0bar\0"
    assert dbus.marshal("ax", [[5]]) == b"\x08\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0"


@given(TEXTS, st.integers(0, 2**32 - 1), st.lists(st.tuples(TEXTS, st.integers(0, 2**64 - 1))))
def test_what_is_written_is_read(text, number, pairs):
    signature = "sua(sv)b"
    written = dbus.marshal(
        signature, [text, number, [(name, ("t", value)) for name, value in pairs], True]
    )
    assert dbus.unmarshal(signature, written) == [text, number, pairs, True]


@given(st.binary(), st.sampled_from(["s", "a(sv)", "v", "u", "ao", "yyyyuua(yv)"]))
def test_nonsense_is_an_error_and_nothing_else(data, signature):
    try:
        dbus.unmarshal(signature, data)
    except OSError:
        pass


@pytest.fixture
def answering(tmp_path):
    """Let somebody answer at a socket with certain bytes, and return the socket's path."""
    path = str(tmp_path / "socket")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    threads = []

    def answer(*parts):
        def serve():
            there, _name = server.accept()
            with there:
                for part in parts:
                    there.recv(65536)
                    there.sendall(part)
                there.shutdown(socket.SHUT_WR)
                while there.recv(65536):
                    pass

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return path

    yield answer
    for thread in threads:
        thread.join()
    server.close()


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([b""], "it has hung up"),
        ([b"REJECTED EXTERNAL\r\n"], "it does not let user id [0-9]+ in"),
        ([b"OK 0123456789abcdef\r\n", b"HTTP/1.1 400 Bad Request\r\n"], "it does not speak D-Bus"),
        ([b"OK 0123456789abcdef\r\n", b"l\2\1\1" + b"\xff" * 12], "its answer is too long"),
        ([b"OK 0123456789abcdef\r\n", b"l\2\1\1"], "it has hung up"),
    ],
)
def test_a_peer_that_does_not_answer_as_it_should(answering, parts, says):
    with pytest.raises(dbus.DBusError, match=says):
        dbus.Peer(answering(*parts), is_bus=True)


def test_nobody_at_the_socket(tmp_path):
    with pytest.raises(dbus.DBusError, match="No such file or directory"):
        dbus.Peer(str(tmp_path / "none"), is_bus=False)
