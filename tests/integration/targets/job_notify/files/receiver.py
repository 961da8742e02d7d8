# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A receiver of events: writes its port to a file, and each event, with whether its signature was right, to a log."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import os
import sys

port_file, log, secret = sys.argv[1:4]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        right = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        event = json.loads(body.decode())
        event["signed"] = self.headers.get("X-Hub-Signature-256") == right
        is_open = not os.path.exists(log + ".closed")
        if is_open:
            with open(log, "a", encoding="utf-8") as target:
                target.write(json.dumps(event) + "\n")
        self.send_response(204 if is_open else 503)
        self.end_headers()


server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
with open(port_file + ".new", "w", encoding="ascii") as target:
    target.write(str(server.server_address[1]))
os.rename(port_file + ".new", port_file)
server.serve_forever()
