# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check a web application: probe one URL some times; exit 0 only if every answer is right.

Usage: python3 check_web.py [--probes N] [--interval S] [--timeout S] [--expect TEXT] URL
"""

from __future__ import annotations

import argparse
import sys
import time
import urllib.error
import urllib.request


def probe(url: str, *, timeout: float, expect: str) -> str | None:
    """Ask once. Return what is wrong with the answer, or None."""
    # Whoever checks a server on this machine does not want to check a proxy elsewhere.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as answer:
            body = answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return "answered %d %s" % (error.code, error.reason)
    except urllib.error.URLError as error:
        return "did not answer: %s" % error.reason
    except (OSError, ValueError) as error:
        return "did not answer: %s" % error
    if expect not in body:
        return "answered without the text %r" % expect
    return None


def main() -> int:
    """Probe as often as asked and say how it went."""
    parser = argparse.ArgumentParser(description="Check a web application.")
    parser.add_argument("url")
    parser.add_argument("--probes", type=int, default=5, help="how often to ask")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds from one to the next")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for an answer")
    parser.add_argument("--expect", default="", help="text that every answer must contain")
    options = parser.parse_args()

    failures = 0
    for number in range(1, options.probes + 1):
        begin = time.monotonic()
        problem = probe(options.url, timeout=options.timeout, expect=options.expect)
        elapsed = time.monotonic() - begin
        verdict = problem or "answered in %.0f ms" % (elapsed * 1000)
        print("probe %d of %d: %s" % (number, options.probes, verdict), flush=True)
        failures += problem is not None
        if number < options.probes:
            time.sleep(max(0.0, options.interval - elapsed))

    right = options.probes - failures
    print("%s: %d of %d answers were right" % (options.url, right, options.probes))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
