# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of the playbook report, in a real browser."""

from __future__ import annotations

import os
import re
import stat

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from ansible_collections.durable.jobs.tests.browser import invented
from ansible_collections.durable.jobs.tests.browser.conftest import EVIL

ROWS = "#sheet .job .name span"


def texts(driver, selector):
    return [one.text for one in driver.find_elements(By.CSS_SELECTOR, selector)]


def one(driver, selector):
    return driver.find_element(By.CSS_SELECTOR, selector)


def press(driver, *keys):
    driver.switch_to.active_element.send_keys(*keys)


def chosen(driver):
    return next(iter(texts(driver, "#details:not([hidden]) h2")), None)


def focused(driver):
    return driver.execute_script("return document.activeElement.id")


def box(driver, name, selector):
    """Return left and right end of a part of a job's bar, in pixels."""
    rows = driver.find_elements(By.CSS_SELECTOR, "#sheet .job")
    row = next(
        found for found in rows if found.find_element(By.CSS_SELECTOR, ".name span").text == name
    )
    rect = row.find_element(By.CSS_SELECTOR, f".bar {selector}").rect
    return rect["x"], rect["x"] + rect["width"]


def test_it_shows_every_job_under_its_host_with_counts(browser, few):
    driver = browser.open(few)
    assert one(driver, "#summary").text == (
        "4 hosts, 9 jobs, no answer from 1 host, as of 2026-11-25 09:46:40"
    )
    assert texts(driver, "#states button") == [
        *("running\n1", "queued\n1", "succeeded\n2", "failed\n1"),
        *("timed out\n1", "stopped\n1", "lost\n1", "unknown\n1"),
    ]
    assert texts(driver, ROWS)[:4] == [
        *("migrate to 4.2", "reindex for 4.2", "vacuum after 4.2", "backup of orders")
    ]
    assert len(texts(driver, ROWS)) == 9
    assert texts(driver, "#sheet .time")[1:3] == ["37m/1h", "-/1h"]


def test_what_needs_attention_comes_first(browser, few):
    driver = browser.open(few)
    hosts = [f"{name}.example.com" for name in ("web2", "db1", "web1", "web3")]
    assert texts(driver, ".host .title") == hosts
    assert texts(driver, "#sheet .state")[:4] == ["failed", "running", "queued", "succeeded"]


@pytest.mark.parametrize("value", [1e18, 1e300, -1e300, 10**40, "0:00:05", [1], float("nan")])
def test_a_job_that_says_nonsense_hides_no_other(browser, written, value):
    bad = invented.job("failed", ago=5, ran=1, name="bad")
    bad.update(elapsed=value, rc=value, timeout=value, stdout_bytes=value)
    good = invented.job("failed", ago=50, ran=1, name="good")
    driver = browser.open(written("bad", {"a": invented.answer(bad, good)}))
    assert texts(driver, ROWS) == ["bad", "good"]
    one(driver, "#sheet .job").click()
    assert "unusable: " in one(driver, "#details .verdict").text


@pytest.mark.parametrize("value", ["1e300", "1e17", "-1e17", '"soon"', "[]"])
@pytest.mark.parametrize(
    "key", ["elapsed", "timeout", "start_at", "end_at", "submitted_at", "deadline_at", "state"]
)
def test_the_page_draws_whatever_its_data_says(browser, few, tmp_path, key, value):
    """The filter leaves such values out; a page must not hang even if one gets through."""
    text = few.read_text(encoding="utf-8")
    page = tmp_path / "page.html"
    page.write_text(re.sub(f'"{key}":[^,}}]+', f'"{key}":{value}', text), encoding="utf-8")
    driver = browser.open(page)
    assert len(texts(driver, ROWS)) == 9
    assert len(texts(driver, "#axis span")) <= 60
    press(driver, "n", "n")
    assert chosen(driver)


def test_a_host_without_an_answer_is_named_with_the_reason(browser, few):
    driver = browser.open(few)
    why = "unreachable: Connection timed out"
    assert texts(driver, "#problems li") == [f"web2.example.com gave no answer: {why}"]
    assert texts(driver, ".host .why") == [f"no answer: {why}"]
    assert "0 jobs in /root/.ansible_async as user root" in one(driver, "#sheet").text


def test_bars_show_queue_run_and_limit_to_scale(browser, few):
    driver = browser.open(few)
    name = "reindex for 4.2"  # waited 5 minutes, has run 37, may run 60
    wait, run, limit = (box(driver, name, part) for part in (".wait", ".run", ".limit"))
    minute = (run[1] - run[0]) / 37
    assert wait[1] == pytest.approx(run[0], abs=3)
    assert (wait[1] - wait[0]) / minute == pytest.approx(5, abs=0.5)
    assert (limit[0] - run[0]) / minute == pytest.approx(60, abs=1)
    now = box(driver, name, ".now")
    assert now[0] == pytest.approx(run[1], abs=3)
    # On all hosts alike: what was submitted at the same time begins at the same place.
    other = box(driver, "warm caches", ".wait")[0], box(driver, "migrate to 4.2", ".run")[0]
    assert (other[0] - other[1]) / minute == pytest.approx(24, abs=1)


def test_each_state_has_a_shape_of_its_own(browser, few):
    driver = browser.open(few)
    shapes = driver.execute_script(
        """return [...document.querySelectorAll("#states .shape")].map((icon) => {
          const path = icon.querySelector("path"), fill = getComputedStyle(path).fill;
          return path.getAttribute("d") + (fill === getComputedStyle(path).stroke ? " full" : " hollow");
        })"""
    )
    assert len(shapes) == 8
    assert len(set(shapes)) == 8


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_shapes_stand_out(browser, few, scheme):
    """WCAG 2.1: 4.5 for text, 3 for shapes."""
    driver = browser.open(few, scheme=scheme)
    found = driver.execute_script(
        """const hue = (element, what) => getComputedStyle(element)[what].match(/[0-9.]+/g).slice(0, 3).map(Number);
        return { page: hue(document.body, "backgroundColor"),
          texts: [...document.querySelectorAll("body, #summary, .host .why, .job .time, footer")].map(
            (e) => hue(e, "color")),
          shapes: [...document.querySelectorAll("#states .shape path")].map((e) => hue(e, "stroke")) }"""
    )

    def light(hue):
        parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in hue]
        return sum(part * weight for part, weight in zip(parts, (0.2126, 0.7152, 0.0722)))

    def contrast(hue):
        low, high = sorted([light(hue), light(found["page"])])
        return (high + 0.05) / (low + 0.05)

    assert (light(found["page"]) < 0.1) == (scheme == "dark")
    assert [hue for hue in found["texts"] if contrast(hue) < 4.5] == []
    assert [hue for hue in found["shapes"] if contrast(hue) < 3] == []


def test_the_end_of_what_a_failed_job_said_is_shown(browser, few):
    driver = browser.open(few)
    press(driver, "n")
    assert chosen(driver) == "migrate to 4.2"
    assert one(driver, "#details .verdict").text == "failed, rc 3"
    error, said = texts(driver, "#details pre")
    assert error.endswith("psycopg.OperationalError: the disk is full")
    assert said == "1000 of 5000 rows\n2000 of 5000 rows"
    assert texts(driver, "#details h3") == [
        *("The end of stderr (88123 bytes)", "The end of stdout (38 bytes)")
    ]
    bottom = driver.execute_script(
        "const pre = document.querySelector('pre'); return pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 1"
    )
    assert bottom


def test_the_mouse_shows_a_hint_and_a_click_the_details(browser, few):
    driver = browser.open(few)
    row = driver.find_elements(By.CSS_SELECTOR, "#sheet .job")[1]
    assert row.get_attribute("title") == (
        "reindex for 4.2 on db1.example.com: running, 40 %, copying customers, 37m/1h run and limit, queued 5m"
    )
    row.click()
    assert chosen(driver) == "reindex for 4.2"
    one(driver, "#details .close").click()
    assert chosen(driver) is None


def test_the_keyboard_is_enough(browser, few):
    driver = browser.open(few)
    for _number in range(30):
        press(driver, Keys.TAB)
        if focused(driver) == "rows":
            break
    assert focused(driver) == "rows"
    press(driver, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert chosen(driver) == "reindex for 4.2"
    active = one(driver, "#" + one(driver, "#rows").get_attribute("aria-activedescendant"))
    assert active.get_attribute("aria-selected") == "true"
    assert active.get_attribute("aria-label").startswith(
        "reindex for 4.2 on db1.example.com: running"
    )
    press(driver, Keys.ENTER)
    assert focused(driver) == "details"
    press(driver, Keys.ESCAPE)
    assert focused(driver) == "rows"
    press(driver, Keys.END)
    assert chosen(driver) == texts(driver, ROWS)[-1]
    press(driver, Keys.HOME)
    assert chosen(driver) == "migrate to 4.2"
    press(driver, "n")
    press(driver, "n")
    assert chosen(driver) == "sync images"
    press(driver, "p")
    assert chosen(driver) == "warm caches"
    press(driver, Keys.ARROW_UP)
    assert chosen(driver) == "backup of orders"
    press(driver, Keys.ESCAPE)
    assert chosen(driver) is None
    press(driver, "/")
    assert focused(driver) == "search"
    press(driver, "n/p-", Keys.ENTER)  # while one types, they are letters
    assert one(driver, "#search").get_attribute("value") == "n/p-"
    assert focused(driver) == "rows"
    press(driver, "-", "+", "+")
    assert Select(one(driver, "#span")).first_selected_option.text == "last 24 hours"


def test_filters_and_search_narrow_down(browser, few):
    driver = browser.open(few)
    failed = one(driver, "#states [data-state=failed]")
    failed.click()
    assert failed.get_attribute("aria-pressed") == "true"
    one(driver, "#states [data-state=lost]").click()
    assert texts(driver, ROWS) == ["migrate to 4.2", "sync images"]
    assert "2 of 9 jobs" in one(driver, "#summary").text
    assert "web2.example.com" in texts(driver, ".host .title")  # it may have some, too
    Select(one(driver, "#host")).select_by_visible_text("web1.example.com")
    assert texts(driver, ROWS) == ["sync images"]
    one(driver, "button[type=reset]").click()
    assert len(texts(driver, ROWS)) == 9
    one(driver, "#search").send_keys("DISK is full  psycopg")
    assert texts(driver, ROWS) == ["migrate to 4.2"]
    one(driver, "#search").send_keys(" nothing like it")
    assert one(driver, "#none").text == "No job fits."
    one(driver, "button[type=reset]").click()
    Select(one(driver, "#span")).select_by_visible_text("last 1 hour")
    assert texts(driver, ROWS) == [
        *("reindex for 4.2", "vacuum after 4.2", "warm caches", "rotate logs")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["few", "hostile"])
def test_a_telephone_is_wide_enough(browser, request, page, scheme):
    driver = browser.open(request.getfixturevalue(page), width=360, height=740, scheme=scheme)
    seen = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert seen[0] <= seen[1]
    narrow = [
        field.rect
        for field in driver.find_elements(
            By.CSS_SELECTOR, "#fields input, #fields select, #fields button"
        )
        if field.rect["width"] < 60
        or field.rect["x"] < 0
        or field.rect["x"] + field.rect["width"] > 360
    ]
    assert narrow == []
    bars = [found.rect["width"] for found in driver.find_elements(By.CSS_SELECTOR, "#sheet .bar")]
    assert min(bars) > 250
    press(driver, "n")
    assert one(driver, "#details").rect["width"] > 300
    one(driver, "#details .close").click()
    assert chosen(driver) is None


def test_hostile_names_and_output_are_only_text(browser, hostile):
    driver = browser.open(hostile)
    press(driver, "n")
    found = driver.execute_script(
        """const text = (selector) => document.querySelector(selector).textContent;
        return { hacked: window.hacked ?? null, scripts: document.scripts.length, images: document.images.length,
          name: text("#details h2"), pre: text("#details pre"), host: text(".host .title"),
          row: text(".job .name span"), problem: text("#problems li"),
          loaded: performance.getEntriesByType("resource").length }"""
    )
    assert found == {
        "hacked": None,
        "scripts": 2,
        "images": 0,
        "name": EVIL,
        "pre": EVIL,
        "host": f"{EVIL} down",
        "row": EVIL,
        "problem": f"{EVIL} down gave no answer: unreachable: {EVIL}",
        "loaded": 0,
    }


def test_nothing_else_may_run_or_be_loaded(browser, few):
    driver = browser.open(few)
    stopped = driver.execute_async_script(
        """const done = arguments[0], stopped = [];
        document.addEventListener("securitypolicyviolation", (event) => stopped.push(event.effectiveDirective));
        const script = document.createElement("script");
        script.textContent = "window.hacked = 1";
        document.body.append(script);
        document.body.setAttribute("onclick", "window.hacked = 1");
        document.body.click();
        document.body.setAttribute("style", "color: red");
        document.body.append(Object.assign(new Image(), { src: "http://127.0.0.1:9/" }));
        const end = () => done([window.hacked ?? null, ...stopped.sort()]);
        fetch("http://127.0.0.1:9/").catch(() => setTimeout(end, 100));"""
    )
    assert stopped == [
        None,
        *("connect-src", "img-src", "script-src-attr", "script-src-elem", "style-src-attr"),
    ]
    assert len(browser.complaints()) >= 5  # as it should; the next test begins with none


def test_the_file_is_private(few):
    assert stat.S_IMODE(few.stat().st_mode) == 0o600


def test_five_thousand_jobs_stay_usable(browser, many, capsys):
    driver = browser.open(many)
    ready = int(one(driver, "html").get_attribute("data-ready"))
    elements = len(driver.find_elements(By.CSS_SELECTOR, "*"))
    took = driver.execute_script(
        """const search = document.getElementById("search"), rows = document.getElementById("rows"), took = {};
        const timed = (name, act) => {
          const begin = performance.now();
          act();
          document.body.getBoundingClientRect();
          took[name] = Math.round(performance.now() - begin);
        };
        timed("search", () => { search.value = "step 4999"; search.dispatchEvent(new Event("input")); });
        timed("all again", () => { search.value = ""; search.dispatchEvent(new Event("input")); });
        return took;"""
    )
    with capsys.disabled():
        size = many.stat().st_size / 1e6
        print(f"\n5000 jobs, {size:.1f} MB: shown after {ready} ms, {elements} elements, {took} ms")
    assert "25 hosts, 5000 jobs" in one(driver, "#summary").text
    assert elements < 2000
    assert ready < 5000
    assert max(took.values()) < 1000
    one(driver, "#rows").click()
    one(driver, "#rows").send_keys(Keys.END)
    assert len(texts(driver, ROWS)) < 100
    visible = driver.execute_script(
        "const e = document.getElementById('chosen').getBoundingClientRect(), r = document.getElementById('rows')"
        ".getBoundingClientRect(); return e.top >= r.top && e.bottom <= r.bottom + 1"
    )
    assert visible


LOOKS = {
    "report": ("few", 1000, 640, "light", "n"),
    "report-dark": ("few", 1280, 800, "dark", "n"),
    "report-narrow": ("few", 360, 740, "light", ""),
    "report-narrow-details": ("few", 360, 740, "light", "n"),
    "report-many": ("many", 1280, 800, "light", ""),
    "report-many-narrow": ("many", 360, 740, "dark", ""),
}


PICTURES = os.environ.get("DURABLE_JOBS_PICTURES")  # the folder for all of them; else one is enough


@pytest.mark.parametrize("name", LOOKS if PICTURES else ["report"])
def test_pictures_can_be_taken(browser, request, tmp_path, name):
    page, width, height, scheme, keys = LOOKS[name]
    driver = browser.open(request.getfixturevalue(page), width=width, height=height, scheme=scheme)
    press(driver, *keys)
    picture = os.path.join(PICTURES or tmp_path, f"{name}.png")
    assert driver.save_screenshot(picture)
    assert os.path.getsize(picture) > 10000
