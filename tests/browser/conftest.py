# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the browser tests: one headless chromium, and the pages that it opens."""

from __future__ import annotations

import os
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from ansible_collections.durable.jobs.tests.browser import invented, pages

EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1><!--<script>\u2028{{ 7 * 7 }}\u202e"


class Browser:
    """A chromium that knows no network, whose zone is UTC, and which is as wide and as dark as a test asks for."""

    def __init__(self):
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        options.add_argument("--headless=new")
        options.add_argument("--disable-dev-shm-usage")
        options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")  # chromium has none for root
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = Service(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self._command("Emulation.setTimezoneOverride", timezoneId="UTC")

    def _command(self, name, **parameters):
        self.driver.execute_cdp_cmd(name, parameters)

    def open(self, page, width=1280, height=800, scheme="light"):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._command("Emulation.setDeviceMetricsOverride", **metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._command("Emulation.setEmulatedMedia", features=features)
        self.driver.get(page.as_uri())
        return self.driver

    def complaints(self):
        return [one["message"] for one in self.driver.get_log("browser")]


@pytest.fixture(scope="session")
def browser():
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"this machine has no {' and no '.join(missing)}")
    made = Browser()
    yield made
    made.driver.quit()


@pytest.fixture(autouse=True)
def no_complaints(browser):
    """A page that logs an error, or that its own policy stops, fails the test."""
    browser.complaints()
    yield
    assert browser.complaints() == []


@pytest.fixture(scope="session")
def written(tmp_path_factory, browser):
    """Return what writes a page, unless there is nothing to open it with."""
    assert browser.driver

    def write(name, answers):
        return pages.write(tmp_path_factory.mktemp(name), answers)

    return write


@pytest.fixture(scope="session")
def few(written):
    return written("few", invented.few())


@pytest.fixture(scope="session")
def many(written):
    answers = invented.many(5000, tail="a line of what it said\n" * 20)
    return written("many", answers)


@pytest.fixture(scope="session")
def hostile(written):
    known = {
        "name": EVIL,
        "cmd": EVIL,
        "stderr": EVIL,
        "user": EVIL,
        "reason": EVIL,
        "results_file": EVIL,
    }
    answers = {
        EVIL: invented.answer(invented.job("failed", ago=60, ran=5, **known)),
        f"{EVIL} down": {"unreachable": True, "msg": EVIL},
    }
    return written("hostile", answers)
