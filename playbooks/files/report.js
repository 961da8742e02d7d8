// Copyright (c) durable.jobs contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
//
// Shows what the element `data` holds. Names and output come from hosts and are only ever set as text. However many
// jobs there are, only the rows that can be seen are in the document.
"use strict";

(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const STATES = {
    running: "M2.5 1.5 11 6.5 2.5 11.5z",
    queued: "M6.5 1.5a5 5 0 1 0 .01 0z",
    succeeded: "M6.5 1.5a5 5 0 1 0 .01 0z",
    failed: "M2.5 2.5l8 8M10.5 2.5l-8 8",
    timed_out: "M2 1.5h9l-9 10h9z",
    stopped: "M2 2h9v9H2z",
    lost: "M6.5 1 12 6.5 6.5 12 1 6.5z",
    unknown: "M1.5 5h10v3h-10z",
  };
  const BAD = new Set(["failed", "timed_out", "lost", "unknown"]);
  const SPANS = [["", "all"], [604800, "7 days"], [86400, "24 hours"], [21600, "6 hours"], [3600, "1 hour"], [600, "10 minutes"]];
  const STEPS = [1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 2592000, 31536000];
  const EXTRA_ROWS = 8; // drawn above and below what can be seen
  const BAR = 12; // pixels
  const MARK = 9; // pixels that a shape takes on either side of its moment
  const MAX_TICKS = 60;
  const LATEST = 1e10; // seconds since 1970; no clock of ours goes farther

  const data = JSON.parse(document.getElementById("data").textContent);
  const [summary, problems, states, host, span, search, axis, rows, sheet, none, details, legend, filters] = [
    "summary", "problems", "states", "host", "span", "search", "axis", "rows", "sheet", "none", "details", "legend", "filters",
  ].map((id) => document.getElementById(id));
  const narrow = matchMedia("(max-width: 640px)");

  const jobs = data.hosts.flatMap((one) => one.jobs.map((job) => prepared(job, one)));
  const wanted = new Set(); // states; empty for all
  let items = []; // what the list shows: hosts and jobs, in this order
  let chosen = null;
  let view = { from: 0, to: 1 };

  // What a job says may be nonsense. A time that cannot be drawn is left out.
  function sound(seconds) {
    return Number.isFinite(seconds) && seconds >= 0 && seconds <= LATEST ? seconds : null;
  }

  function prepared(job, where) {
    for (const key of ["submitted_at", "start_at", "end_at", "deadline_at", "elapsed", "timeout"]) job[key] = sound(job[key]);
    if (!Object.hasOwn(STATES, job.state)) job.state = "unknown";
    const begin = job.submitted_at ?? job.start_at ?? null;
    const isLive = job.state === "running" || job.state === "queued";
    const end = job.end_at ?? (isLive ? sound(data.at) : job.start_at ?? begin);
    const words = [where.name, job.name, job.id, job.cmd, job.state, job.reason, job.signal, job.user, job.progress, job.stdout, job.stderr];
    return Object.assign(job, {
      host: where.name, begin, end, isLive, words: words.filter((word) => word != null).join("\n").toLowerCase(),
    });
  }

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text != null) made.textContent = text;
    return made;
  }

  function drawn(name, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function shape(state) {
    const icon = drawn("svg", { class: `shape ${state}`, viewBox: "0 0 13 13", "aria-hidden": "true" });
    icon.append(drawn("path", { d: STATES[state] }));
    return icon;
  }

  const worded = (state) => state.replace("_", " ");
  const many = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

  function duration(seconds) {
    if (seconds < 60) return `${Math.floor(seconds * 10) / 10}s`;
    for (const [size, unit, smaller, name] of [[86400, "d", 3600, "h"], [3600, "h", 60, "m"], [60, "m", 1, "s"]]) {
      if (seconds < size) continue;
      const rest = Math.floor((seconds % size) / smaller);
      return `${Math.floor(seconds / size)}${unit}${rest ? String(rest).padStart(2, "0") + name : ""}`;
    }
    return "";
  }

  function clock(seconds, step = 1) {
    const date = new Date(seconds * 1000);
    const two = (n) => String(n).padStart(2, "0");
    const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
    const time = `${two(date.getHours())}:${two(date.getMinutes())}`;
    if (step >= 86400) return day;
    if (step >= 60) return time === "00:00" ? day : time;
    return `${time}:${two(date.getSeconds())}`;
  }
  const moment = (seconds) => `${clock(seconds, 86400)} ${clock(seconds)}`;

  const window_ = (job) => (job.timeout == null ? "-" : job.timeout === 0 ? "none" : duration(job.timeout));
  const times = (job) => `${job.elapsed == null ? "-" : duration(job.elapsed)}/${window_(job)}`;
  const title = (job) => job.name ?? job.id;

  function told(job) {
    const parts = [`${title(job)} on ${job.host}: ${worded(job.state)}`];
    if (job.reason ?? job.signal) parts.push(job.reason ?? job.signal);
    if (job.rc != null) parts.push(`rc ${job.rc}`);
    if (job.progress) parts.push(job.progress);
    parts.push(`${times(job)} run and limit`);
    if (job.start_at != null && job.submitted_at != null) parts.push(`queued ${duration(job.start_at - job.submitted_at)}`);
    return parts.join(", ");
  }

  // What is shown

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const since = span.value ? data.at - Number(span.value) : -Infinity;
    const fits = (job) =>
      (!wanted.size || wanted.has(job.state)) &&
      (job.end == null ? since === -Infinity : job.end >= since) &&
      words.every((word) => job.words.includes(word));
    items = [];
    for (const one of data.hosts) {
      if (host.value && host.value !== one.name) continue;
      const found = one.jobs.filter(fits);
      if (found.length || one.problem != null || (!one.jobs.length && !wanted.size && !words.length)) {
        items.push({ heading: one, found }, ...found);
      }
    }
    const found = items.filter((item) => !item.heading);
    none.hidden = found.length > 0 || items.some((item) => item.heading.problem == null);
    view = range(found, since);
    if (chosen && !found.includes(chosen)) choose(null);
    summarise(found.length);
    rows.scrollTop = 0;
    layout();
  }

  function range(found, since) {
    let from = Infinity;
    let to = -Infinity;
    for (const job of found) {
      if (job.begin != null) from = Math.min(from, job.begin);
      if (job.end != null) to = Math.max(to, job.end);
    }
    if (from > to) [from, to] = [data.at - 3600, data.at];
    from = Math.max(from, since);
    let latest = to;
    for (const job of found) if (job.isLive && job.deadline_at != null) latest = Math.max(latest, job.deadline_at);
    const length = Math.max(to - from, 1);
    // Limits in the far future must not make everything else small.
    return { from: from - length * 0.01, to: Math.min(latest, to + length / 4) + length * 0.03 };
  }

  function summarise(shown) {
    const parts = [many(data.hosts.length, "host"), shown === jobs.length ? many(jobs.length, "job") : `${shown} of ${many(jobs.length, "job")}`];
    const more = data.hosts.reduce((sum, one) => sum + one.more, 0);
    if (more) parts.push(`${more} more not in this report`);
    const silent = data.hosts.filter((one) => one.problem != null).length;
    if (silent) parts.push(`no answer from ${many(silent, "host")}`);
    summary.textContent = `${parts.join(", ")}, as of ${moment(data.at)}`;
  }

  // The list

  let height = 28;
  let width = 100;
  let left = 0;

  function layout() {
    height = parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row"));
    sheet.style.height = `${items.length * height}px`;
    sheet.replaceChildren();
    const sample = jobRow({ state: "unknown", begin: null, end: null }, 0);
    sheet.append(sample);
    const bar = sample.querySelector(".bar").getBoundingClientRect();
    width = Math.max(bar.width, 40);
    left = bar.left - rows.getBoundingClientRect().left;
    drawAxis();
    draw();
  }

  const x = (seconds) => ((seconds - view.from) / (view.to - view.from)) * width;
  const clamped = (seconds) => Math.min(Math.max(x(seconds), 0), width);

  function ticks() {
    const length = view.to - view.from;
    const enough = STEPS.find((one) => (one / length) * width >= 90) ?? STEPS[STEPS.length - 1];
    const step = enough * Math.max(1, Math.ceil(length / enough / MAX_TICKS));
    const zone = new Date(view.from * 1000).getTimezoneOffset() * 60;
    const found = [];
    const first = Math.ceil((view.from - zone) / step) * step + zone;
    for (let i = 0; i < MAX_TICKS && first + i * step < view.to; i += 1) found.push(first + i * step);
    return { step, found };
  }

  function drawAxis() {
    const { step, found } = ticks();
    axis.replaceChildren(
      ...found.map((at) => {
        const tick = element("span", "", clock(at, step));
        tick.style.left = `${left + x(at)}px`;
        return tick;
      }),
    );
  }

  let marks = [];
  function draw() {
    const first = Math.max(0, Math.floor(rows.scrollTop / height) - EXTRA_ROWS);
    const last = Math.min(items.length, Math.ceil((rows.scrollTop + rows.clientHeight) / height) + EXTRA_ROWS);
    marks = ticks().found.map(x);
    const made = [];
    for (let i = first; i < last; i += 1) made.push(items[i].heading ? hostRow(items[i], i) : jobRow(items[i], i));
    sheet.replaceChildren(...made);
    const active = document.getElementById("chosen");
    if (active) rows.setAttribute("aria-activedescendant", "chosen");
    else rows.removeAttribute("aria-activedescendant");
  }

  function placed(row, i) {
    row.style.top = `${i * height}px`;
    return row;
  }

  function hostRow({ heading, found }, i) {
    const row = element("div", "host");
    row.setAttribute("role", "presentation");
    row.append(element("span", "title", heading.name));
    if (heading.problem != null) row.append(element("span", "why", `no answer: ${heading.problem}`));
    else row.append(element("span", "tally", found.length ? many(found.length, "job") : heading.note || "no jobs"));
    for (const state of Object.keys(STATES)) {
      const n = found.filter((job) => job.state === state).length;
      if (!n) continue;
      const tally = element("span", "tally");
      tally.title = worded(state);
      tally.append(shape(state), String(n));
      row.append(tally);
    }
    if (heading.more) row.append(element("span", "tally", `${heading.more} more not in this report`));
    return placed(row, i);
  }

  function jobRow(job, i) {
    const row = element("div", job === chosen ? "job chosen" : "job");
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", String(job === chosen));
    row.setAttribute("aria-setsize", String(items.length));
    row.setAttribute("aria-posinset", String(i + 1));
    row.setAttribute("aria-label", told(job));
    row.title = told(job);
    if (job === chosen) row.id = "chosen";
    const name = element("div", "name");
    name.append(shape(job.state), element("span", "", title(job)));
    row.append(name, barOf(job), element("div", "state", worded(job.state)), element("div", "time", times(job)));
    row.addEventListener("click", () => {
      choose(job);
      rows.focus();
    });
    return placed(row, i);
  }

  function barOf(job) {
    const bar = drawn("svg", { class: `bar ${job.state}`, "aria-hidden": "true" });
    const middle = (narrow.matches ? 18 : height) / 2;
    const top = middle - BAR / 2;
    for (const at of marks) bar.append(drawn("line", { class: "tick", x1: at, x2: at, y1: 0, y2: middle * 2 }));
    if (data.at < view.to) {
      bar.append(drawn("line", { class: "now", x1: x(data.at), x2: x(data.at), y1: 0, y2: middle * 2 }));
    }
    if (job.begin == null) return bar;
    const started = job.start_at ?? job.end;
    const waits = job.submitted_at != null && started > job.submitted_at;
    if (waits && x(started) - x(job.submitted_at) >= 2) {
      const from = clamped(job.submitted_at);
      bar.append(drawn("rect", { class: "wait", x: from, y: top + 3, width: Math.max(0, clamped(started) - from), height: BAR - 6 }));
    }
    if (job.deadline_at != null && job.deadline_at > job.end) {
      bar.append(drawn("line", { class: "left", x1: clamped(job.end), x2: clamped(job.deadline_at), y1: middle, y2: middle }));
    }
    if (job.start_at != null) {
      const from = clamped(job.start_at);
      bar.append(drawn("rect", { class: "run", x: from, y: top, width: Math.max(2, clamped(job.end) - from), height: BAR, rx: 2 }));
    }
    const at = job.deadline_at == null ? -1 : x(job.deadline_at);
    // A limit that was used up is below the shape of the end.
    if (at >= 0 && at <= width && Math.abs(at - x(job.end)) > MARK) {
      bar.append(drawn("line", { class: "limit", x1: at, x2: at, y1: top - 3, y2: top + BAR + 3 }));
      bar.append(drawn("path", { class: "flag", d: `M${at} ${top - 4}h6l-2 2.5 2 2.5h-6z` }));
    }
    const mark = drawn("g", { class: `shape ${job.state}`, transform: `translate(${clamped(job.end) - 6.5} ${middle - 6.5})` });
    mark.append(drawn("path", { class: "halo", d: STATES[job.state] }), drawn("path", { d: STATES[job.state] }));
    bar.append(mark);
    return bar;
  }

  // The chosen job

  function choose(job) {
    chosen = job;
    details.hidden = !job;
    if (job) describe(job);
    layout();
  }

  function describe(job) {
    const close = element("button", "close", "×");
    close.type = "button";
    close.setAttribute("aria-label", "Close the details");
    close.addEventListener("click", () => {
      choose(null);
      rows.focus();
    });
    const verdict = element("p", "verdict");
    const why = [worded(job.state), job.reason ?? job.signal, job.rc == null ? null : `rc ${job.rc}`].filter((part) => part != null);
    verdict.append(shape(job.state), element("span", "", why.join(", ")));
    const list = element("dl");
    const add = (term, value) => {
      if (value != null && value !== "") list.append(element("dt", "", term), element("dd", "", value));
    };
    add("Host", job.host);
    add("Job", job.id);
    add("Command", job.cmd);
    add("User", job.user);
    add("Progress", job.progress);
    if (job.submitted_at != null) add("Submitted", moment(job.submitted_at));
    if (job.submitted_at != null && (job.start_at != null || job.isLive)) {
      add("Queued for", duration(Math.max(0, (job.start_at ?? data.at) - job.submitted_at)));
    }
    if (job.start_at != null) {
      const here = moment(job.start_at);
      const there = String(job.start).slice(0, 19);
      add("Started", there === here ? here : `${here} (there: ${there})`);
    }
    if (!job.isLive && job.end_at != null) add("Ended", moment(job.end_at));
    if (job.elapsed != null) add("Ran for", duration(job.elapsed));
    if (job.timeout != null) add("Limit", window_(job));
    if (job.deadline_at != null) add("Deadline", moment(job.deadline_at));
    add("Containment", job.containment);
    add("Record", job.results_file);
    details.replaceChildren(close, element("h2", "", title(job)), verdict, list);
    for (const stream of ["stderr", "stdout"]) output(job, stream);
    details.scrollTop = 0;
  }

  function output(job, stream) {
    const bytes = job[`${stream}_bytes`];
    if (job[stream]) {
      const shown = element("pre", "", job[stream]);
      shown.tabIndex = 0; // so that the keys can scroll it
      details.append(element("h3", "", `The end of ${stream}${bytes == null ? "" : ` (${bytes} bytes)`}`), shown);
      shown.scrollTop = shown.scrollHeight;
    } else if (bytes) {
      details.append(element("h3", "", `${stream}: ${bytes} bytes, ${job.left_out ? "too much for this report" : "not in this report"}`));
    }
  }

  function move(step, fits = () => true) {
    let i = chosen ? items.indexOf(chosen) : step > 0 ? -1 : items.length;
    let left_ = Math.abs(step);
    let last = null;
    for (i += Math.sign(step); i >= 0 && i < items.length; i += Math.sign(step)) {
      if (items[i].heading || !fits(items[i])) continue;
      last = i;
      left_ -= 1;
      if (left_ <= 0) break;
    }
    if (last == null) return;
    choose(items[last]);
    const above = (items[last - 1] && items[last - 1].heading ? last - 1 : last) * height;
    const below = (last + 1) * height;
    if (above < rows.scrollTop) rows.scrollTop = above;
    else if (below > rows.scrollTop + rows.clientHeight) rows.scrollTop = below - rows.clientHeight;
    draw();
  }

  function zoom(step) {
    span.selectedIndex = Math.min(Math.max(span.selectedIndex + step, 0), SPANS.length - 1);
    filter();
  }

  const isBad = (job) => BAD.has(job.state);
  const page = () => Math.max(1, Math.floor(rows.clientHeight / height) - 1);
  const LIST_KEYS = {
    ArrowDown: () => move(1), ArrowUp: () => move(-1), j: () => move(1), k: () => move(-1),
    PageDown: () => move(page()), PageUp: () => move(-page()), Home: () => move(-items.length), End: () => move(items.length),
    Enter: () => (chosen ? details.focus() : move(1)),
  };
  const PAGE_KEYS = {
    n: () => move(1, isBad), p: () => move(-1, isBad), "/": () => search.focus(), "+": () => zoom(1), "=": () => zoom(1), "-": () => zoom(-1),
    Escape: () => {
      if (document.activeElement !== rows && chosen) rows.focus();
      else choose(null);
    },
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const typing = event.target === search || event.target === host || event.target === span;
    if (typing) {
      if (event.key === "Escape" || (event.key === "Enter" && event.target === search)) {
        event.preventDefault();
        rows.focus();
      }
      return;
    }
    const act = (event.target === rows && LIST_KEYS[event.key]) || PAGE_KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    act();
    if ((event.key === "n" || event.key === "p") && document.activeElement !== details) rows.focus();
  });

  // The parts that do not change

  function build() {
    for (const state of Object.keys(STATES)) {
      const n = jobs.filter((job) => job.state === state).length;
      if (!n) continue;
      const button = element("button");
      button.type = "button";
      button.dataset.state = state;
      button.setAttribute("aria-pressed", "false");
      button.append(shape(state), element("span", "", worded(state)), element("b", "", n));
      button.addEventListener("click", () => {
        if (!wanted.delete(state)) wanted.add(state);
        button.setAttribute("aria-pressed", String(wanted.has(state)));
        filter();
      });
      states.append(button);
    }
    for (const one of data.hosts) {
      const option = element("option", "", one.name);
      option.value = one.name;
      host.append(option);
      if (one.problem != null) problems.append(element("li", "", `${one.name} gave no answer: ${one.problem}`));
    }
    problems.hidden = !problems.childElementCount;
    for (const [seconds, text] of SPANS) {
      const option = element("option", "", seconds ? `last ${text}` : text);
      option.value = seconds;
      span.append(option);
    }
    const parts = [
      ["queued", [["rect", { class: "wait", x: 2, y: 4, width: 36, height: 6 }]]],
      ["running", [["rect", { class: "run", x: 2, y: 1, width: 36, height: 12, rx: 2 }]]],
      ["deadline", [["line", { class: "limit", x1: 16, x2: 16, y1: 1, y2: 14 }], ["path", { class: "flag", d: "M16 0h6l-2 2.5 2 2.5h-6z" }]]],
      ["the moment of this report", [["line", { class: "now", x1: 20, x2: 20, y1: 0, y2: 14 }]]],
    ];
    for (const [text, lines] of parts) {
      const bar = drawn("svg", { class: "bar running", viewBox: "0 0 40 14", "aria-hidden": "true" });
      bar.append(...lines.map(([name, attributes]) => drawn(name, attributes)));
      const part = element("span");
      part.append(bar, text);
      legend.append(part);
    }
  }

  build();
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => {
    wanted.clear();
    for (const button of states.children) button.setAttribute("aria-pressed", "false");
    for (const field of [search, host, span]) field.value = "";
    filter();
  });
  search.addEventListener("input", filter);
  for (const field of [host, span]) field.addEventListener("change", filter);
  rows.addEventListener("scroll", () => requestAnimationFrame(draw));
  new ResizeObserver(layout).observe(rows);
  filter();
  document.documentElement.dataset.ready = Math.round(performance.now());
})();
