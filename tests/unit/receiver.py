# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A receiver of events for tests: a real HTTP server that answers, refuses, hangs, or breaks off."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import os
import shutil
import socketserver
import ssl
import subprocess
import threading

import pytest

SECRET = "c4nary-secret"


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass  # a sender that has been killed


class Receiver:
    """Receives events on a port of its own.

    :param behaviour: what it does with the next requests; may be changed at any time.
    :param tls: arguments of ``ssl.SSLContext.load_cert_chain``.
    :param client_ca: whoever asks must prove that this authority knows him.
    """

    def __init__(self, behaviour="ok", tls=None, client_ca=None, port=0):
        self.behaviour = behaviour
        self.requests = []  # headers and body of each
        self.taken = []  # the events that were answered with 2xx
        self.released = threading.Event()

        def receive(handler):
            body = handler.rfile.read(int(handler.headers["Content-Length"]))
            self.requests.append((dict(handler.headers), body))
            getattr(self, "_" + self.behaviour)(handler, body)

        methods = {"do_POST": receive, "log_message": lambda *_arguments: None}
        handler_type = type("Handler", (http.server.BaseHTTPRequestHandler,), methods)
        self._server = Server(("127.0.0.1", port), handler_type)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            if client_ca:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(client_ca)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = "%s://127.0.0.1:%d/endpoint?key=c4nary-path" % (
            "https" if tls else "http",
            self.port,
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def ids(self):
        return [event["id"] for event in self.taken]

    def _ok(self, handler, body):
        self.taken.append(json.loads(body.decode()))
        handler.send_response(200)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def _status(self, handler, status):
        handler.send_response(status)
        handler.send_header("Location", "http://127.0.0.1:%d/elsewhere" % self.port)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def _error(self, handler, _body):
        self._status(handler, 500)

    def _redirect(self, handler, _body):
        self._status(handler, 302)

    def _hang(self, _handler, _body):
        self.released.wait()

    def _half(self, handler, _body):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    def _torn(self, handler, _body):
        handler.wfile.write(b"HTTP/1.")

    def _dribble(self, handler, _body):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.released.wait(0.05):
            handler.wfile.write(b"x")


def is_signed(headers, body, secret=SECRET):
    """Tell whether a request has the right signature."""
    right = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return headers.get("X-Hub-Signature-256") == right


def certificate(folder, name, subject="DNS:localhost,IP:127.0.0.1", issuer=None):
    """Make a certificate with openssl, and return the paths of it and of its key.

    :param issuer: what this function returned for an authority; without it the certificate is signed by itself.
    """
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    cert, key, request = (os.path.join(str(folder), name + end) for end in (".pem", ".key", ".csr"))

    def openssl(*words):
        subprocess.run(["openssl", *words], check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key)
    if issuer is None:
        authority = ("-addext", "keyUsage=keyCertSign,digitalSignature")
        openssl(
            "req", "-x509", "-days", "2", "-subj", "/CN=" + name, *new, "-out", cert, *authority
        )
        return cert, key
    openssl("req", "-subj", "/CN=" + name, *new, "-out", request)
    extensions = os.path.join(str(folder), name + ".ext")
    with open(extensions, "w", encoding="ascii") as target:
        target.write("subjectAltName=%s\n" % subject)
    signed = ("-CA", issuer[0], "-CAkey", issuer[1], "-CAcreateserial", "-days", "2")
    openssl("x509", "-req", "-in", request, *signed, "-extfile", extensions, "-out", cert)
    return cert, key
