# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An event source of ansible-rulebook that receives what the parameter notify of job_start sends."""

from __future__ import annotations

import asyncio
import collections
import hmac
import json
import logging
import ssl
import typing as t
import uuid

from aiohttp import web

DOCUMENTATION = r"""
---
short_description: Receive the ends of background jobs.
description:
  - An ansible-rulebook event source plugin that receives what the parameter C(notify) of M(durable.jobs.job_start) sends to its C(url).
  - Each event is a CloudEvent. A rule uses it without a filter, as in C(event.data.state == "failed").
  - A sender that does not get an answer sends the event again. The plugin drops what it has handed over already, by C(source) and C(id).
  - The answer is 200 only after the rule engine has taken the event out of the queue. With O(feedback) it is 200 only after the engine has
    stored the event on disk, so the end of ansible-rulebook loses nothing that was answered. Otherwise the sender keeps the event.
  - A request needs the right signature (O(secret)), the right token (O(token)), or a certificate that O(cafile) knows, and all of them if
    several are given. At least one of them must be given.
options:
  host:
    description:
      - The address to listen on.
    type: str
    default: "0.0.0.0"
  port:
    description:
      - The TCP port to listen on.
    type: int
    required: true
  secret:
    description:
      - The C(secret) of C(notify). The body of each request must carry its signature in the header C(X-Hub-Signature-256).
    type: str
  token:
    description:
      - The C(bearer) of C(notify). Each request must carry it in the header C(Authorization).
    type: str
  certfile:
    description:
      - The path of a file with the certificate of this receiver, for HTTPS.
    type: str
  keyfile:
    description:
      - The path of the key of O(certfile), if it is not in the same file.
    type: str
  password:
    description:
      - The password of O(keyfile).
    type: str
  cafile:
    description:
      - The path of a file with certificates of authorities. Each sender must have a certificate of one of them, as C(client_cert) of C(notify).
    type: str
  feedback:
    description:
      - Whether ansible-rulebook is to tell when it has stored an event. It needs ansible-rulebook 1.3 or later, a C(name) of the source,
        C(--persistence-id) and a database.
    type: bool
    default: false
  timeout:
    description:
      - Seconds after which a request is answered by 503 if the rule engine has not taken its event. The sender then sends it again.
    type: float
    default: 60
  remember:
    description:
      - How many events are remembered, to drop those that come again.
    type: int
    default: 100000
"""

EXAMPLES = r"""
- durable.jobs.completions:
    host: "0.0.0.0"
    port: 5000
    secret: "{{ receiver_secret }}"
    certfile: /etc/eda/receiver.pem
    keyfile: /etc/eda/receiver.key
"""

logger = logging.getLogger(__name__)

Event = t.Dict[str, t.Any]

SIGNATURE = "X-Hub-Signature-256"
TYPES = ("durable.jobs.finished", "durable.jobs.attempt")
LARGEST_BODY = 8 * 1024 * 1024  # bytes: an event holds the command, and a command may hold 2 MiB
NAMESPACE = uuid.UUID("5a0c2f6e-9d0f-5b7e-8d58-6f0e6f0d9c51")  # of ids that only this plugin makes

# The type of each argument, and its default.
ARGUMENTS: dict[str, tuple[type, t.Any]] = {
    "host": (str, "0.0.0.0"),
    "port": (int, None),
    **dict.fromkeys(("secret", "token", "certfile", "keyfile", "password", "cafile"), (str, None)),
    "feedback": (bool, False),
    "timeout": (float, 60.0),
    "remember": (int, 100000),
}
FEEDBACK_QUEUE = "eda_feedback_queue"  # ansible-rulebook adds it to the arguments


def checked(args: dict[str, t.Any]) -> dict[str, t.Any]:
    """Return the arguments with their defaults.

    :raises ValueError: naming the argument that is wrong. The message shows no value that may be secret.
    """
    unknown = sorted(set(args) - set(ARGUMENTS) - {FEEDBACK_QUEUE})
    if unknown:
        raise ValueError("unknown argument: %s; known are %s" % (unknown[0], ", ".join(ARGUMENTS)))
    found = {
        name: default if args.get(name) is None else _converted(name, kind, args[name])
        for name, (kind, default) in ARGUMENTS.items()
    }
    if found["port"] is None or not 0 < found["port"] < 65536:
        raise ValueError("port is required, a number from 1 to 65535")
    if not (found["timeout"] > 0 and found["remember"] > 0):
        raise ValueError("timeout and remember must be more than 0")
    if not (found["secret"] or found["token"] or found["cafile"]):
        raise ValueError("give secret, token or cafile, so that not everybody can send events")
    for name in ("keyfile", "password", "cafile"):
        if found[name] and not found["certfile"]:
            raise ValueError("%s needs certfile" % name)
    return found


def _converted(name: str, kind: type, value: t.Any) -> t.Any:
    """Return an argument as what it must be. ansible-rulebook makes text of what comes out of its templates."""
    try:
        if kind is bool:
            return {"true": True, "yes": True, "false": False, "no": False}[str(value).lower()]
        if isinstance(value, bool) or not isinstance(value, (str, kind, int)):
            raise TypeError
        if kind is str and (not isinstance(value, str) or not value):
            raise TypeError
        return kind(value)
    except (KeyError, TypeError, ValueError):
        needed = {str: "text that is not empty", bool: "true or false"}.get(kind, "a number")
        raise ValueError("%s must be %s" % (name, needed)) from None


def tls(args: dict[str, t.Any]) -> ssl.SSLContext | None:
    """Return how senders are spoken to; None without TLS. :raises ValueError: a file cannot be used."""
    if not args["certfile"]:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without a password, OpenSSL would ask for one on a terminal.
        context.load_cert_chain(args["certfile"], args["keyfile"], args["password"] or "")
    except (OSError, ValueError) as error:
        raise ValueError("certfile, keyfile or password cannot be used: %s" % error) from None
    if args["cafile"]:
        try:
            context.load_verify_locations(args["cafile"])
        except (OSError, ValueError) as error:
            raise ValueError("cafile cannot be used: %s" % error) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def is_authentic(headers: t.Mapping[str, str], body: bytes, args: dict[str, t.Any]) -> bool:
    """Tell whether a request has the signature and the token that the arguments ask for."""
    right = True
    if args["secret"]:
        key = args["secret"].encode("utf-8", "surrogatepass")
        wanted = "sha256=" + hmac.new(key, body, "sha256").hexdigest()
        right = _is_same(headers.get(SIGNATURE, ""), wanted)
    if args["token"]:
        right = _is_same(headers.get("Authorization", ""), "Bearer " + args["token"]) and right
    return right


def _is_same(given: str, wanted: str) -> bool:
    """Compare what may be secret, in a time that does not tell where the first difference is."""
    first, second = (text.encode("utf-8", "surrogatepass") for text in (given, wanted))
    return hmac.compare_digest(first, second)


def parsed(body: bytes) -> Event:
    """Return the event that a request carries. :raises ValueError: it is no event of ours."""

    def refuse(constant: str) -> t.NoReturn:
        raise ValueError("%s is not JSON" % constant)  # and the rule engine would not take it

    try:
        event = json.loads(body.decode(), parse_constant=refuse)
    except RecursionError:
        raise ValueError("too deep") from None
    if not isinstance(event, dict) or event.get("specversion") != "1.0":
        raise ValueError("no CloudEvent of version 1.0")
    if event.get("type") not in TYPES or not isinstance(event.get("data"), dict):
        raise ValueError("no event of a job")
    for name in ("id", "source"):
        if not isinstance(event.get(name), str) or not event[name]:
            raise ValueError("no %s" % name)
    return event


class Refused(Exception):
    """The rule engine has not taken an event; the sender may try again."""


class Handover:
    """Hands events over to the rule engine, each once, and knows when it has taken them.

    :param queue: the one that ansible-rulebook gives to a source.
    :param feedback: the queue in which ansible-rulebook returns each event that it has stored; None without feedback.
    :param remember: how many events that have been taken to remember.
    :param patience: seconds after which an event without feedback is handed over again if it comes again.
    """

    def __init__(
        self,
        queue: asyncio.Queue[t.Any],
        feedback: asyncio.Queue[t.Any] | None,
        remember: int,
        patience: float,
    ) -> None:
        self._queue = queue
        self._feedback = feedback
        self._remember = remember
        self._patience = patience
        self._taken: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._awaited: dict[str, asyncio.Future[None]] = {}
        self._turn = asyncio.Lock()

    async def take(self, event: Event) -> bool:
        """Return when the rule engine has the event; tell whether it is new.

        :raises Refused: it does not have it.
        """
        # The same event always has the same uuid. The engine's own memory of what it has seen, which with persistence
        # outlives it, goes by that.
        name = str(uuid.uuid5(NAMESPACE, json.dumps([event["source"], event["id"]])))
        if name in self._taken:
            self._taken.move_to_end(name)
            return False
        is_new = name not in self._under_way
        if is_new:
            task = asyncio.ensure_future(self._hand_over(name, event))
            self._under_way[name] = task
            task.add_done_callback(lambda done: self._note(name, done))
        # The task goes on if the sender gives up. The sender meets it again when it comes back.
        shared = asyncio.shield(self._under_way[name])
        try:
            await asyncio.wait_for(shared, self._patience)
        except asyncio.TimeoutError:
            raise Refused("the rule engine has not taken it in time") from None
        return is_new

    def _note(self, name: str, done: asyncio.Task[None]) -> None:
        del self._under_way[name]
        if done.cancelled() or done.exception() is not None:
            return
        self._taken[name] = None
        while len(self._taken) > self._remember:
            self._taken.popitem(last=False)

    async def _hand_over(self, name: str, event: Event) -> None:
        event = dict(event, meta={"uuid": name})
        if self._feedback is None:
            async with (
                self._turn
            ):  # so that an empty queue says of this event that it has been taken
                await self._put(event)
                await self._until_empty()
            return
        self._awaited[name] = asyncio.get_running_loop().create_future()
        try:
            await self._put(event)
            await asyncio.wait_for(self._awaited[name], self._patience)
        except asyncio.TimeoutError:
            raise Refused("the rule engine has not stored it in time") from None
        finally:
            del self._awaited[name]

    async def _put(self, event: Event) -> None:
        try:
            await self._queue.put(event)
        except Exception as error:  # a filter of the source has failed, whatever it is
            logger.exception("the event %s cannot be handed over", event["id"])
            raise Refused("it cannot be handed over") from error

    async def _until_empty(self) -> None:
        """Wait until the rule engine has taken what is in the queue. It works on an event before it waits again."""
        # ansible-rulebook hands over its queue in a wrapper that applies the filters. It has room for one event.
        inner = getattr(self._queue, "queue", self._queue)
        pause = 0.0
        while isinstance(inner, asyncio.Queue) and not inner.empty():
            await asyncio.sleep(pause)
            pause = min(pause + 0.001, 0.05)

    async def listen(self) -> None:
        """Take note of what ansible-rulebook has stored, until cancelled. It must be read, or the engine waits."""
        while self._feedback is not None:
            event = await self._feedback.get()
            meta = event.get("meta") if isinstance(event, dict) else None
            awaited = self._awaited.get(meta.get("uuid", "")) if isinstance(meta, dict) else None
            if awaited is not None and not awaited.done():
                awaited.set_result(None)


def application(handover: Handover, args: dict[str, t.Any]) -> web.Application:
    """Return the web application that answers the senders."""

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        if not is_authentic(request.headers, body, args):
            logger.warning("a request from %s has no right signature or token", request.remote)
            return web.Response(status=401, text="no right signature or token\n")
        try:
            event = parsed(body)
        except ValueError as error:
            logger.warning("a request from %s is no event: %s", request.remote, error)
            return web.Response(status=400, text="no event of a job\n")
        try:
            is_new = await handover.take(event)
        except Refused as refusal:
            logger.warning("%s of %s: %s", event["id"], event["source"], refusal)
            return web.Response(status=503, text="%s\n" % refusal)
        return web.Response(text="taken\n" if is_new else "known\n")

    app = web.Application(client_max_size=LARGEST_BODY)
    app.router.add_post("/{endpoint:.*}", receive)
    return app


async def main(queue: asyncio.Queue[t.Any], args: dict[str, t.Any]) -> None:
    """Receive events until cancelled.

    :raises ValueError: an argument is wrong.
    """
    given = checked(args)
    context = tls(given)
    feedback = args.get(FEEDBACK_QUEUE)
    if given["feedback"] and feedback is None:
        raise ValueError("feedback needs a version of ansible-rulebook that has it (1.3 or later)")
    handover = Handover(queue, feedback, given["remember"], given["timeout"])
    runner = web.AppRunner(application(handover, given), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, given["host"], given["port"], ssl_context=context)
        await site.start()
        logger.info("waiting for the ends of jobs on port %d", given["port"])
        await (handover.listen() if feedback is not None else asyncio.Event().wait())
    finally:
        await runner.cleanup()
