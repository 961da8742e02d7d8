# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""As much of D-Bus as it takes to ask systemd and logind something (D-Bus Specification, 0.36 and later).

By hand, and not by running ``busctl`` or ``systemd-run``: those need the bus of the user, which minimal systems do not
have, while systemd's own socket is always there; and a launch must not become slow by it.
"""

from __future__ import annotations

# The whole of the module socket would take a launch as long as all the rest of its imports together.
import _socket
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SYSTEM_BUS = "/run/dbus/system_bus_socket"
PATIENCE = 30.0  # seconds for an answer; a machine that is starting up may keep systemd busy
_MAX_MESSAGE = 1024 * 1024
# Types of messages, and header fields (D-Bus Specification, "Message Format").
_CALL, _RETURN, _ERROR, _SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = (
    1,
    2,
    3,
    4,
    5,
    6,
    8,
)
_FIXED = {"y": (1, "B"), "b": (4, "I"), "u": (4, "I"), "i": (4, "i"), "t": (8, "Q"), "x": (8, "q")}
_ALIGNMENT = {"a": 4, "s": 4, "o": 4, "g": 1, "v": 1, "(": 8, "{": 8}


class DBusError(Exception):
    """The peer refused, or cannot be talked to. The text is for users.

    :param name: the error's name; empty if the peer has not given one.
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class Peer:
    """A connection to a bus, or to systemd itself.

    :param path: the socket.
    :raises DBusError: nobody answers there, or they do not let us in.
    """

    def __init__(self, path: str, *, is_bus: bool) -> None:
        self._serial = 0
        self._found = b""
        self._signals: list[tuple[str, list[Any]]] = []
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            self._socket.settimeout(PATIENCE)
            self._socket.connect(path)
            self._authenticate()
        except OSError as error:
            self._socket.close()
            raise DBusError("", "%s: %s" % (path, error.strerror or error)) from None
        if is_bus:
            bus = "org.freedesktop.DBus"
            self.call(bus, "/org/freedesktop/DBus", bus, "Hello", "", [])

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str,
        arguments: list[Any],
    ) -> list[Any]:
        """Call a method and return what it returns.

        :param destination: the service; of no meaning where the peer is systemd itself.
        :param signature: the types of the arguments. A variant is given as (signature, value).
        :raises DBusError: the peer refuses, or does not answer in time.
        """
        self._serial += 1
        serial = self._serial
        fields = [
            (_PATH, ("o", path)),
            (_INTERFACE, ("s", interface)),
            (_MEMBER, ("s", member)),
            (_DESTINATION, ("s", destination)),
        ]
        if signature:
            fields.append((_SIGNATURE, ("g", signature)))
        body = marshal(signature, arguments)
        head = marshal("yyyyuua(yv)", [ord("l"), _CALL, 0, 1, len(body), serial, fields])
        try:
            self._socket.sendall(head + bytes(-len(head) % 8) + body)
            while True:
                kind, known, values = self._receive()
                if kind == _SIGNAL:
                    self._signals.append((known.get(_MEMBER, ""), values))
                elif known.get(_REPLY_SERIAL) == serial:
                    break
        except OSError as error:
            raise DBusError("", "%s: %s" % (destination, error.strerror or error)) from None
        if kind == _ERROR:
            name = str(known.get(_ERROR_NAME))
            raise DBusError(name, str(values[0]) if values else name)
        return values

    def signal(self, member: str) -> list[Any]:
        """Wait for a signal and return what it carries. One that came while a call was answered has waited for us.

        :raises DBusError: none comes in time.
        """
        while True:
            while self._signals:
                name, values = self._signals.pop(0)
                if name == member:
                    return values
            try:
                kind, known, values = self._receive()
            except OSError as error:
                raise DBusError("", "no %s came: %s" % (member, error.strerror or error)) from None
            if kind == _SIGNAL:
                self._signals.append((known.get(_MEMBER, ""), values))

    def _authenticate(self) -> None:
        who = str(os.geteuid()).encode().hex()
        self._socket.sendall(b"\0AUTH EXTERNAL %s\r\n" % who.encode())
        answer = b""
        while not answer.endswith(b"\r\n"):
            byte = self._socket.recv(1)
            if not byte or len(answer) > 1000:
                raise OSError("it has hung up")
            answer += byte
        if not answer.startswith(b"OK "):
            raise OSError("it does not let user id %d in" % os.geteuid())
        self._socket.sendall(b"BEGIN\r\n")

    def _receive(self) -> tuple[int, dict[int, Any], list[Any]]:
        """Return a message's type, header fields and body."""
        head = self._read(16)
        order = {ord("l"): "<", ord("B"): ">"}.get(head[0])
        if order is None:
            raise OSError("it does not speak D-Bus")
        size, _serial, width = struct.unpack(order + "III", head[4:])
        if size + width > _MAX_MESSAGE:
            raise OSError("its answer is too long")
        head += self._read(width + -width % 8)
        body = self._read(size)
        fields = unmarshal("yyyyuua(yv)", head, order)[6]
        known = dict(fields)
        return head[1], known, unmarshal(known.get(_SIGNATURE, ""), body, order)

    def _read(self, size: int) -> bytes:
        while len(self._found) < size:
            data = self._socket.recv(65536)
            if not data:
                raise OSError("it has hung up")
            self._found += data
        found, self._found = self._found[:size], self._found[size:]
        return found


def marshal(signature: str, values: list[Any]) -> bytes:
    """Return values of some types as D-Bus writes them, little-endian."""
    out = bytearray()
    for kind, value in zip(split(signature), values):
        _put(out, kind, value)
    return bytes(out)


def _put(out: bytearray, kind: str, value: Any) -> None:
    out += bytes(-len(out) % _align(kind))
    if kind in _FIXED:
        out += struct.pack("<" + _FIXED[kind][1], value)
    elif kind in ("s", "o"):
        text = value.encode("utf-8", "replace")
        out += struct.pack("<I", len(text)) + text + b"\0"
    elif kind == "g":
        out += bytes([len(value)]) + value.encode() + b"\0"
    elif kind == "v":
        _put(out, "g", value[0])
        _put(out, value[0], value[1])
    elif kind[0] == "a":
        offset = len(out)
        out += bytes(4)
        out += bytes(-len(out) % _align(kind[1:]))
        start = len(out)
        for one in value:
            _put(out, kind[1:], one)
        out[offset : offset + 4] = struct.pack("<I", len(out) - start)
    else:  # a structure
        for part, one in zip(split(kind[1:-1]), value):
            _put(out, part, one)


def unmarshal(signature: str, data: bytes, order: str = "<") -> list[Any]:
    """Return the values that D-Bus has written.

    :raises OSError: that is not what the signature says.
    """
    values = []
    offset = 0
    try:
        for kind in split(signature):
            value, offset = _take(data, offset, kind, order)
            values.append(value)
    except (struct.error, IndexError, KeyError, UnicodeDecodeError, RecursionError):
        raise OSError("it does not speak D-Bus") from None
    return values


def _take(data: bytes, offset: int, kind: str, order: str) -> tuple[Any, int]:
    offset += -offset % _align(kind)
    if kind in _FIXED:
        size, code = _FIXED[kind]
        return struct.unpack_from(order + code, data, offset)[0], offset + size
    if kind in ("s", "o", "g"):
        width = 1 if kind == "g" else 4
        length = struct.unpack_from(order + ("B" if width == 1 else "I"), data, offset)[0]
        offset += width
        return data[offset : offset + length].decode(), offset + length + 1
    if kind == "v":
        inner, offset = _take(data, offset, "g", order)
        return _take(data, offset, inner, order)
    if kind[0] == "a":
        size, offset = _take(data, offset, "u", order)
        offset += -offset % _align(kind[1:])
        end = offset + size
        values = []
        while offset < end:
            value, after = _take(data, offset, kind[1:], order)
            if after == offset:
                raise IndexError("elements without content")
            values.append(value)
            offset = after
        return values, offset
    parts = []
    for part in split(kind[1:-1]):
        value, offset = _take(data, offset, part, order)
        parts.append(value)
    return tuple(parts), offset


def split(signature: str) -> list[str]:
    """Split a signature into complete types."""
    kinds = []
    start = depth = 0
    for offset, letter in enumerate(signature):
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(letter, 0)
        if depth == 0 and letter != "a":
            kinds.append(signature[start : offset + 1])
            start = offset + 1
    return kinds


def _align(kind: str) -> int:
    return _FIXED[kind][0] if kind in _FIXED else _ALIGNMENT[kind[0]]
