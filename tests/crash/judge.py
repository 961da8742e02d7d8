# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judges what is on a disk after a crash: the real code looks, launches, delivers and prunes in it.

A program for a machine that has been booted anew (see machine.py of the fault tests): ``judge.py <folder>``. The folder
has ``home``, ``notes`` and ``log`` of a protocol (see protocols.py, tracing.py); each state is made in ``home``, where
its records say that they are. It prints a line of JSON for each state that is not as it has to be, and one at the end.
"""

from __future__ import annotations

import collections
import json
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from ansible_collections.durable.jobs.plugins.module_utils._job import (
    boot,
    installation,
    launcher,
    main,
    names,
    notifying,
    outbox,
    removing,
    schema,
    status,
    store,
)
from ansible_collections.durable.jobs.tests.crash import models, protocols, tracing
from ansible_collections.durable.jobs.tests.crash.operations import Tree
from ansible_collections.durable.jobs.tests.unit import support

PATIENCE = 60  # seconds after which a state hangs
LOST = (schema.LOST, None, schema.REBOOTED)
# Of an end that was reported, what every later look has to say again.
TOLD = (
    *("state", "rc", "signal", "reason", "name", "cmd", "start", "end", "elapsed", "stdout"),
    *("stderr", "attempts", "stopped_by", "msg"),
)


class Wrong(Exception):
    """Something is not as it has to be."""


class Known:
    """What outsiders knew at each moment of a protocol, and what became of its jobs in the end."""

    def __init__(self, operations, async_dir):
        self.launched = {}  # the moment of each, by jid
        self.ended = {}
        self.removing = {}
        self.removed = {}
        self.told = []
        self.names = {}
        self.notified = set()  # jids of jobs with notifications
        self.final = {}
        self.installed = None
        self.marks = [0]
        self.begin = 0
        tree = Tree()
        for at, one in enumerate(operations):
            tree.do(one)
            if one.kind == "mark":
                self._note(at, one.text)
            elif one.kind == "rename" and one.folder == tree.find(f"/{async_dir}"):
                self._record(at, json.loads(tree.nodes[one.file].data.rstrip(b"\0")))
            self.marks.append(self.marks[-1] + (one.kind == "mark"))

    def _note(self, at, text):
        kind, _colon, what = text.partition(": ")
        if text == "notes: begin":
            self.begin = at + 1
        elif kind == "launched":
            self.launched[what] = at
        elif kind == "told":
            self.told.append(at)
        elif kind == "notes":
            kind, _colon, what = what.partition(": ")
            if kind == "installed":
                self.installed = at
            else:
                getattr(self, kind)[what] = at

    def _record(self, at, record):
        jid = record["ansible_job_id"]
        self.names[jid] = record["name"]
        if record[schema.PRIVATE].get("notify"):
            self.notified.add(jid)
        if record["finished"]:
            self.ended.setdefault(jid, at)
            self.final.setdefault(jid, schema.present(record))

    def before(self, moments, moment):
        """Return of what is known when that was before a moment."""
        return {key for key, at in moments.items() if at < moment}

    def latest(self, name, moment):
        """Return the jids that a name may mean: the last one that was acknowledged, and those after it."""
        of_name = {jid for jid, one in self.names.items() if one == name}
        there = of_name - self.before(self.removing, moment)
        last = max(
            (self.launched[jid] for jid in self.before(self.launched, moment) & there), default=-1
        )
        # What is being removed may be there still, or not.
        later = {jid for jid in of_name if self.launched.get(jid, moment) >= last}
        return later - self.before(self.removed, moment), last >= 0


class Judge:
    """Judges states, one after the other, in one folder.

    :param is_strict: whether notifications of which somebody was told have to be called delivered.
    """

    def __init__(self, folder, known, *, is_strict):
        self.is_strict = is_strict
        self.home = folder / "home"
        self.notes = folder / "notes"
        self.path = self.home / protocols.ASYNC_DIR
        self.known = known

    def judge(self, state):
        """Return what is wrong in a state."""
        for place in (self.home, self.notes):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(mode=0o700)
        (self.notes / protocols.REFUSED).touch()
        state.tree.build(self.home)
        signal.alarm(PATIENCE)
        try:
            self._judge(state.moment)
        except Wrong as wrong:
            return str(wrong)
        except Exception:  # pylint: disable=broad-exception-caught  # whatever the code under test raises
            return traceback.format_exc()
        finally:
            signal.alarm(0)
            _end_others()
        return ""

    def _judge(self, moment):
        known = self.known
        if known.installed is not None or known.final == {}:
            self._judge_engine(moment)
        where = store.Store.open(str(self.path), create=True)
        try:
            jids = set(where.jids())
            looks = self._look(where, jids, moment)
            self._judge_names(where, moment)
            listed = self._ask(
                "job_info",
                **dict.fromkeys(("states", "names", "jids")),
                limit=0,
                order="newest",
                output="none",
            )
            said = {one["ansible_job_id"]: one["state"] for one in listed["jobs"]}
            if said != {jid: one["state"] for jid, one in looks.items()}:
                raise Wrong(f"job_info says {said}")
            self._judge_notifications(where, moment, looks)
            self._launch(where, looks)
            self._prune(where)
        finally:
            where.close()
        ran = self._noted("ran")
        if set(ran) & set(known.names):
            raise Wrong(f"a command runs again: {ran}")

    def _noted(self, name):
        file = self.notes / name
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []

    def _ask(self, verb, **params):
        asked = support.question(str(self.path), verb, params=params)
        found = main.answer(dict(asked.request, async_dir=str(self.path)), None)
        if found.get("failed") or found.get("warnings"):
            raise Wrong(f"{verb} says {found['msg']}")
        return found

    def _judge_engine(self, moment):
        name, path = protocols.ENGINE, str(self.path)
        found = boot.installed(path, name) if self.path.exists() else None
        if found not in (None, protocols.content(name)):
            raise Wrong("an engine is run that is not what was installed")
        if not found and self.known.installed is not None and self.known.installed < moment:
            raise Wrong("the engine was installed, and is not there")
        where = store.Store.open(path, create=True)
        installation.install(where, name, protocols.content(name), needed=True)
        left = os.listdir(where.private_path("engine"))
        where.secret()
        where.close()
        if boot.installed(path, name) != protocols.content(name):
            raise Wrong("the engine cannot be installed")
        if len(left) > installation.KEPT or any(one.endswith(".new") for one in left):
            raise Wrong(f"an installation leaves {left}")

    def _look(self, where, jids, moment):
        known, looks = self.known, {}
        removing_ = known.before(known.removing, moment)
        for jid in known.before(known.launched, moment) - removing_ - jids:
            raise Wrong(f"{jid} was launched, and is not there")
        for jid in known.before(known.removed, moment) & jids:
            raise Wrong(f"{jid} was removed, and is there")
        for jid in sorted(jids):
            found = self._one_look(where, jid)
            if self._one_look(where, jid) != found:
                raise Wrong(f"two looks at {jid} differ")
            looks[jid] = found
            if jid not in known.names:
                raise Wrong(f"a job {jid} that never was")
            # Of a launch that failed nothing has run.
            true = known.final.get(jid) or dict(found, state=schema.LOST, reason=schema.REBOOTED)
            if jid in known.before(known.ended, moment) - removing_:
                _compare(found, true, TOLD)
            _compare(found, true, ("name", "cmd", "ansible_job_id"))
            outcome = (found["state"], found["rc"], found["reason"])
            if not found["finished"] or outcome not in _allowed(true):
                raise Wrong(f"{jid} is called {outcome}: {found['msg']}")
        return looks

    def _one_look(self, where, jid):
        job = where.job(jid)
        try:
            return dict(status.look(job), notifications=None)
        finally:
            job.close()

    def _judge_names(self, where, moment):
        for name in self._all_names():
            allowed, must_be = self.known.latest(name, moment)
            job = names.latest_job(where, name)
            if must_be if job is None else job.jid not in allowed:
                raise Wrong(
                    f"the name {name} means {job and job.jid}, not one of {sorted(allowed)}"
                )

    def _judge_notifications(self, where, moment, looks):
        # Of a launch that failed nobody need be told.
        launched = self.known.before(self.known.launched, moment)
        for jid in self.known.notified & set(looks) & launched:
            before = [at for at in self.known.told if at < moment]
            if before and not self.is_strict:
                continue
            limit = time.monotonic() + PATIENCE / 2
            while any(one["state"] != notifying.DELIVERED for one in self._told(where, jid)):
                if time.monotonic() > limit:
                    raise Wrong(f"the end of {jid} is not told: {self._told(where, jid)}")
                self._ask("job_notify", timeout=5.0)
            if not before and not self._noted("told"):
                raise Wrong(f"nobody was told of the end of {jid}")

    def _told(self, where, jid):
        job = where.job(jid)
        try:
            return outbox.told(job)[0]
        finally:
            job.close()

    def _launch(self, where, looks):
        """Launch again what each name means, unless that has succeeded, and a job without a name if that is nothing."""
        meant = {name: names.latest_job(where, name) for name in self._all_names()}
        kept = {
            name: job.jid
            for name, job in meant.items()
            if job is not None and looks[job.jid]["state"] == schema.SUCCEEDED
        }
        line = f"echo new >> {self.notes}/ran"
        how = {"spec": protocols.SPEC, "rerun": "on_failure"}
        asked = [support.request("/bin/sh", "-c", line, name=name, **how) for name in meant]
        if len(kept) == len(meant):
            asked.append(support.request("/bin/sh", "-c", line))
        wanted = {"async_dir": str(self.path), "jobs": asked, "manager": ""}
        for name, answer in zip([*meant, None], launcher.launch(wanted)["jobs"]):
            if name in kept:
                if answer != {"decision": "keep", "jid": kept[name]}:
                    raise Wrong(f"launch of {name}, whose job has succeeded: {answer}")
                continue
            if "record" not in answer:
                raise Wrong(f"launch of {name}: {answer}")
            job = where.job(answer["record"]["ansible_job_id"])
            found = status.wait(job, PATIENCE / 2, show="none")
            job.close()
            if found["state"] != schema.SUCCEEDED:
                raise Wrong(f"the new job ended as {found}")
        if self._noted("ran") != ["new"] * (len(asked) - len(kept)):
            raise Wrong(
                f"of {len(asked)} commands, {len(kept)} not to run, ran {self._noted('ran')}"
            )

    def _all_names(self):
        return sorted(set(self.known.names.values()) - {None})

    def _prune(self, where):
        """Prune everything, a day later: nothing at all stays of any job."""
        everything = dict.fromkeys(("states", "older_than", "keep_last", "max_bytes"))
        self._ask("job_prune", **everything)
        if where.jids():
            raise Wrong(f"not pruned: {where.jids()}")
        for folder in ("jobs", "gone"):
            path = Path(where.private_path(folder))
            for one in path.iterdir() if path.exists() else ():
                os.utime(one, (0, time.time() - removing.ABANDONED_AFTER - 1))
        self._ask("job_prune", **everything)
        for folder in ("jobs", "gone", "names"):
            path = Path(where.private_path(folder))
            if path.exists() and os.listdir(path):
                raise Wrong(f"{folder} keeps {os.listdir(path)}")


def _allowed(true):
    """Return what a job may be called whose end had not been reported.

    :param true: what became of it where the power did not go.
    """
    allowed = [LOST, (true["state"], true["rc"], true["reason"])]
    if true["state"] in (
        schema.TIMED_OUT,
        schema.STOPPED,
    ):  # the power went while it was being ended
        allowed.append((true["state"], None, true["reason"]))
    # Of a job that would have been tried again, the attempt that ended may be all there is.
    return allowed + [(one["state"], one["rc"], one["reason"]) for one in true["attempts"]]


def _compare(found, true, keys):
    """Complain of what a job dictionary tells otherwise than it was told before."""
    differs = [
        f"{key} was {_short(true.get(key))}, and is {_short(found.get(key))}"
        for key in keys
        if found.get(key) != true.get(key)
    ]
    if differs:
        raise Wrong("; ".join([f"{found['ansible_job_id']} is told otherwise", *differs]))


def _short(value):
    text = repr(value)
    return text if len(text) < 200 else f"{text[:60]} ... {text[-60:]}"


def _end_others():
    """End all other processes of this machine but its first one, and those of whoever has started this."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (1, os.getpid()):
            try:
                os.kill(int(name), signal.SIGKILL)
            except ProcessLookupError:
                continue


def distinct(known, history, chosen):
    """Yield the states that differ in what is on the disk, or in what was known, with their numbers.

    :param chosen: the models.
    """
    seen = set()
    for model in chosen:
        number = 0
        for state in models.MODELS[model](history):
            key = state.tree.digest(), known.marks[state.moment]
            if key not in seen:
                seen.add(key)
                yield f"{model}:{number}", state
                number += 1


def _hangs(_number, _frame):
    raise Wrong("something hangs")


def run(folder, bounds):
    """Judge all states.

    :param bounds: ``models``; ``tears`` and ``every``, see models.History; ``shown``: of how many that are wrong to
        tell; ``only``: the number of a state, to judge only that; ``failed``: only after the flush that failed.
    """
    operations, _tree = tracing.read(folder / "log", folder / "home", folder / "notes")
    known = Known(operations, protocols.ASYNC_DIR)
    first = 0
    if bounds["failed"]:
        kinds = [one.kind for one in operations]
        first = kinds.index("failed sync") + 1 if "failed sync" in kinds else len(kinds)
    how = {"tears": bounds["tears"], "every": bounds["every"], "first": first}
    how["between"] = bounds["every"] or not bounds["failed"]
    history = models.History(operations, known.begin, **how)
    judge = Judge(folder, known, is_strict=not bounds["failed"])
    counts = collections.Counter()
    wrong = []
    for which, state in distinct(known, history, bounds["models"]):
        if bounds["only"] in ("", which):
            counts[state.model] += 1
            said = judge.judge(state)
            if said:
                wrong.append(_described(which, state, said, operations[known.begin :], known.begin))
    flushes = sum(one.kind == "sync" for one in operations[known.begin :])
    told = {"operations": len(operations) - known.begin, "flushes": flushes, "states": counts}
    print(json.dumps({**told, "wrong": len(wrong), "shown": wrong[: bounds["shown"]]}), flush=True)


def _described(which, state, said, operations, begin):
    """Return for people to read what is wrong, and how it came to that."""
    lines = [f"state {which}: {state.what}", *said.splitlines(), "what had been done:"]
    for at, one in enumerate(operations, begin):
        if at == state.moment:
            lines.append("  -- here the power went --")
        lines.append(f"  {at} {one.described()}")
    return "\n".join(lines)


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, _hangs)
    run(Path(sys.argv[1]), json.loads(sys.argv[2]))
