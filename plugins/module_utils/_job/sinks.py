# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Handing one event to one sink: an HTTP receiver, a program, or the journal. Only a deliverer imports this."""

from __future__ import annotations

import errno
import hmac
import json
import os
import select
import signal
import socket
import time
from urllib.parse import urlsplit

from . import notify_socket, schema
from .printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from types import FrameType
    from typing import Callable, NoReturn

    from .schema import Record

JOURNAL = (
    "/run/systemd/journal/socket"  # systemd's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)
)
JOURNAL_PATIENCE = 10.0  # seconds
LONGEST_PROGRAM = 300.0  # seconds that a program may take, whatever its job may
_TICK = 0.02  # seconds between two looks at a program
_BODY_LIMIT = 64 * 1024  # bytes of an answer that are read
_PRIORITIES = {
    schema.SUCCEEDED: 6,
    schema.STOPPED: 5,
}  # as syslog(3) numbers them; of other states it is 3


class Refused(Exception):
    """A sink has not taken the event. The text says why, and shows nothing that may be secret."""


def send(sink: Record, body: bytes, event: Record, asked: Record) -> None:
    """Hand over an event.

    :param sink: an entry of ``notify``, checked.
    :param body: the event for this sink, JSON.
    :param asked: what else the outbox holds: the job's ``timeout`` and ``grace``.
    :raises Refused: it has not been taken.
    """
    try:
        if "url" in sink:
            _within(sink["http_timeout"], lambda: _post(sink, body))
        elif "argv" in sink:
            _run(sink["argv"], body, asked)
        else:
            _within(JOURNAL_PATIENCE, lambda: _journal(event))
    except Refused:
        raise
    except OSError as error:
        raise Refused(printable(error.strerror or error)) from None
    except Exception as error:  # pylint: disable=broad-exception-caught  # its text might show what is secret
        raise Refused("it could not be sent: %s" % type(error).__name__) from None


def _within(seconds: float, work: Callable[[], None]) -> None:
    """Do some work within a time, all steps of it together. A receiver that sends a byte now and then gains none."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise Refused("no whole answer within %g s" % seconds)

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- HTTP -------------------------------------------------------------------------------------------------------------


def _post(sink: Record, body: bytes) -> None:
    """Send one POST request. Only an answer of 2xx that is whole counts; redirects are not followed."""
    # Imported here, and not by those who have another sink: it is large.
    import http.client

    parts = urlsplit(sink["url"])
    host, limit = parts.hostname or "", sink["http_timeout"]
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = _context(sink)
        connection = http.client.HTTPSConnection(host, parts.port, timeout=limit, context=context)
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=limit)
    path = (parts.path or "/") + ("?" + parts.query if parts.query else "")
    try:
        connection.request("POST", path, body, _headers(sink, body))
        response = connection.getresponse()
        size = 0
        while size < _BODY_LIMIT:
            piece = response.read(8192)
            if not piece:
                break
            size += len(piece)
        if response.length and size < _BODY_LIMIT:
            raise Refused("the answer broke off in the middle")
    except http.client.HTTPException as error:
        raise Refused("no whole answer: %s" % type(error).__name__) from None
    except OSError as error:
        raise Refused(_tls_failure(error) or printable(error.strerror or error)) from None
    finally:
        connection.close()
    if not 200 <= response.status < 300:
        told = "it answered %d" % response.status
        raise Refused(
            told + (": redirects are not followed" if 300 <= response.status < 400 else "")
        )


def _headers(sink: Record, body: bytes) -> dict[str, str]:
    found = {
        "Content-Type": "application/cloudevents+json; charset=utf-8",
        "User-Agent": "durable.jobs",
        "Connection": "close",
    }
    if "secret" in sink:
        key = sink["secret"].encode("utf-8", "surrogatepass")
        found["X-Hub-Signature-256"] = "sha256=" + hmac.new(key, body, "sha256").hexdigest()
    if "bearer" in sink:
        found["Authorization"] = "Bearer " + sink["bearer"]
    return found


def _context(sink: Record) -> ssl.SSLContext:
    """Return how a receiver must prove who it is. :raises Refused: a file cannot be used, or there is no ssl here."""
    try:
        import ssl
    except ImportError:
        raise Refused("the Python of this host has no ssl, which https needs") from None
    try:
        context = ssl.create_default_context(cafile=sink.get("ca_file"))
    except (OSError, ValueError) as error:
        raise Refused("ca_file cannot be used: %s" % _why(error)) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if "client_cert" in sink:
        try:
            # Without a password, OpenSSL would ask for one on a terminal.
            context.load_cert_chain(
                sink["client_cert"], sink.get("client_key"), password=lambda: b""
            )
        except (OSError, ValueError) as error:
            raise Refused("client_cert or client_key cannot be used: %s" % _why(error)) from None
    return context


def _why(error: Exception) -> str:
    """Say what is wrong with a file of ours. TLS errors have a reason and number of their own."""
    reason = getattr(error, "reason", None)
    if reason is None and isinstance(error, OSError) and error.errno in errno.errorcode:
        reason = error.strerror
    return printable(reason or type(error).__name__)


def _tls_failure(error: OSError) -> str | None:
    """Say what was wrong with a receiver's certificate; None if it was something else."""
    verify_message = getattr(error, "verify_message", None)
    if verify_message:
        return "its certificate is not accepted: %s" % printable(verify_message)
    reason = getattr(error, "reason", None)
    return "TLS: %s" % printable(reason) if reason else None


# -- a program --------------------------------------------------------------------------------------------------------


def _run(argv: list[str], body: bytes, asked: Record) -> None:
    """Run a program with the event on its standard input. Exit 0 means that it has taken it."""
    seconds = min(asked.get("timeout") or LONGEST_PROGRAM, LONGEST_PROGRAM)
    input_out, input_in = os.pipe()
    failure_out, failure_in = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(argv, input_out, failure_in)
    os.close(input_out)
    os.close(failure_in)
    try:
        failure = os.read(failure_out, 16)  # closed by a successful exec
        status = _status(pid, input_in, body, seconds, asked.get("grace") or 0)
    finally:
        os.close(failure_out)
    if failure:
        raise Refused("it cannot be run: %s" % os.strerror(int(failure)))
    if status is None:
        raise Refused("it was ended after %g s" % seconds)
    state, rc, name = schema.exit_outcome(status)
    if state != schema.SUCCEEDED:
        raise Refused("it was killed by %s" % name if name else "it ended with exit status %d" % rc)


def _become(argv: list[str], source: int, failure: int) -> NoReturn:
    number = errno.EINVAL
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        for target, fd in enumerate((source, null, null)):
            os.dup2(fd, target)
        for one in range(1, signal.NSIG):
            if one not in (signal.SIGKILL, signal.SIGSTOP):
                try:
                    signal.signal(one, signal.SIG_DFL)
                except OSError:
                    pass  # one of the C library's own
        # It is no process of the job: whoever ends the job must not end it.
        unwanted = (schema.COOKIE, *notify_socket.INHERITED)
        environment = {name: value for name, value in os.environ.items() if name not in unwanted}
        os.execvpe(argv[0], argv, environment)
    except OSError as error:
        number = error.errno or number
    finally:
        os.write(failure, b"%d" % number)
        os._exit(127)


def _status(pid: int, sink: int, body: bytes, seconds: float, grace: float) -> int | None:
    """Return how a program has ended; None if it had to be ended, with all that is in its session's group."""
    until = time.monotonic() + seconds
    ended = _feed(pid, sink, body, until)
    if ended is not None:
        return ended
    _signal(pid, signal.SIGTERM)
    if _feed(pid, -1, b"", time.monotonic() + grace) is None:
        _signal(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    else:
        _signal(pid, signal.SIGKILL)  # what it has left behind
    return None


def _feed(pid: int, sink: int, body: bytes, until: float) -> int | None:
    """Write a program's input, and wait for its end; None if it has not ended in time."""
    left = memoryview(body)
    poll = select.poll()
    if sink >= 0:
        os.set_blocking(sink, False)
        poll.register(sink, select.POLLOUT)
    try:
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status
            if time.monotonic() >= until:
                return None
            if sink >= 0 and poll.poll(int(_TICK * 1000)):
                left = _written(sink, left)
                if not left:
                    os.close(sink)
                    sink = -1
            elif sink < 0:
                time.sleep(_TICK)
    finally:
        if sink >= 0:
            os.close(sink)


def _written(sink: int, left: memoryview) -> memoryview:
    """Write what a pipe takes and return what is left; nothing if nobody reads it any more."""
    try:
        return left[os.write(sink, left) :]
    except BrokenPipeError:  # its exit status says whether it was content with what it has read
        return left[:0]
    except BlockingIOError:
        return left


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


# -- the journal ------------------------------------------------------------------------------------------------------


def _journal(event: Record) -> None:
    data = event["data"]
    fields = {
        "MESSAGE": data["msg"],
        "PRIORITY": _PRIORITIES.get(data["state"], 3),
        "SYSLOG_IDENTIFIER": "durable.jobs",
        "DURABLE_JOB_ID": data["ansible_job_id"],
        "DURABLE_JOB_NAME": data["name"],
        "DURABLE_JOB_STATE": data["state"],
        "DURABLE_JOB_RC": data["rc"],
        "DURABLE_JOB_EVENT": event["id"],
    }
    known = [(name, printable(value)) for name, value in fields.items() if value is not None]
    lines = "".join("%s=%s\n" % item for item in known).encode("utf-8", "replace")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        try:
            journal.connect(JOURNAL)
            journal.send(lines)
        except (FileNotFoundError, ConnectionRefusedError):
            raise Refused("no journald listens on %s" % JOURNAL) from None


def body_of(told: Record, sink: Record) -> bytes:
    """Return the event as a sink is to get it, JSON. The same for each attempt, so its signature is the same, too.

    :param told: the event as it lies in the outbox, and beside it the tail of the output.
    """
    event: Record = told["event"]
    if sink.get("include_output") and told.get("tail") is not None:
        event = dict(event, data=dict(event["data"], tail=told["tail"]))
    return json.dumps(event).encode()
