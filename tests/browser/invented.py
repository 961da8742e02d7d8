# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers of job_info as hosts might give them: what a page looks like must not depend on when it was made."""

from __future__ import annotations

import datetime
import random
import typing as t

AT = 1795600000.0  # the moment of every page: 2026-11-25 09:46:40 UTC
HOUR = 3600.0
ENDS: dict[str, dict[str, t.Any]] = {
    "succeeded": {"rc": 0},
    "failed": {"rc": 3},
    "timed_out": {"rc": -15, "signal": "SIGTERM"},
    "stopped": {"rc": -15, "signal": "SIGTERM"},
    "lost": {"rc": None, "reason": "rebooted"},
    "running": {"rc": None},
    "queued": {"rc": None},
}


def local(epoch: float, zone: float = 0) -> str:
    """Write a moment as a host of that time zone (hours) does."""
    zoned = datetime.timezone(datetime.timedelta(hours=zone))
    return datetime.datetime.fromtimestamp(epoch, zoned).strftime("%Y-%m-%d %H:%M:%S.%f")


def job(
    state: str,
    *,
    ago: float,
    wait: float = 0,
    ran: float | None = None,
    zone: float = 0,
    **known: t.Any,
) -> dict[str, t.Any]:
    """Return the dictionary of a job that was launched so many seconds ago, and waited and ran so long."""
    launched = AT - ago
    start = None if state == "queued" else launched + wait
    if state == "running":
        ran = AT - launched - wait
    timeout = known.pop("timeout", HOUR)
    jid = f"j{int(launched * 1e9)}.{int(ago * 7) % 32768}"
    found = {
        "ansible_job_id": jid,
        "name": None,
        "state": state,
        "signal": None,
        "reason": None,
        "cmd": ["/usr/local/bin/work", "--on", "this disk"],
        "submitted": local(launched, zone),
        "start": None if start is None else local(start, zone),
        "end": None,
        "elapsed": None if start is None else ran,
        "timeout": timeout,
        "deadline": local(start + timeout, zone) if start is not None and timeout else None,
        "stdout": "",
        "stderr": "",
        "stdout_bytes": 0,
        "stderr_bytes": 0,
        "results_file": f"/home/deploy/.ansible_async/{jid}",
        "containment": "process",
        "user": "deploy",
        "progress": None,
    }
    if start is not None and state != "running":
        found["end"] = local(start + (ran or 0), zone)
    return dict(found, **ENDS[state], **known)


def answer(*jobs: dict[str, t.Any]) -> dict[str, t.Any]:
    """Return what job_info returns of these jobs."""
    newest = sorted(jobs, key=lambda one: str(one["ansible_job_id"]), reverse=True)
    return {"jobs": newest, "total": len(jobs), "msg": "jobs in /home/deploy/.ansible_async"}


def few() -> dict[str, dict[str, t.Any]]:
    """Return one job of each kind on some hosts, one of which is unreachable."""
    stack = "Traceback (most recent call last):\n" + "".join(
        f'  File "/usr/lib/shop/step{i}.py", line {i * 7}, in run\n' for i in range(20)
    )
    return {
        "db1.example.com": answer(
            job(
                "running",
                ago=HOUR * 0.7,
                wait=300,
                name="reindex for 4.2",
                progress={"percent": 40, "status": "copying customers", "at": local(AT - 5)},
            ),
            job("queued", ago=HOUR * 0.69, name="vacuum after 4.2"),
            job(
                "failed",
                ago=HOUR * 1.9,
                ran=1500,
                name="migrate to 4.2",
                stderr=stack + "psycopg.OperationalError: the disk is full\n",
                stderr_bytes=88123,
                stdout="1000 of 5000 rows\n2000 of 5000 rows\n",
                stdout_bytes=38,
            ),
            job("succeeded", ago=HOUR * 2.2, ran=700, name="backup of orders", timeout=1800),
        ),
        "web1.example.com": answer(
            job("timed_out", ago=HOUR * 1.5, wait=120, ran=1805, timeout=1800, name="warm caches"),
            job("succeeded", ago=HOUR * 1.5, ran=15.2),
            job("stopped", ago=HOUR * 0.9, ran=600, timeout=0, name="rotate logs"),
            job("lost", ago=HOUR * 2.1, ran=None, name="sync images"),
            {"ansible_job_id": "j123456789.77", "state": None, "msg": "another machine has it"},
        ),
        "web2.example.com": {"unreachable": True, "msg": "Connection timed out"},
        "web3.example.com": {
            "jobs": [],
            "total": 0,
            "msg": "0 jobs in /root/.ansible_async as user root",
        },
    }


def many(n: int, hosts: int = 25, tail: str = "") -> dict[str, dict[str, t.Any]]:
    """Return so many jobs of two weeks on so many hosts, some output in those that did not succeed."""
    chance = random.Random(7)
    found: dict[str, list[dict[str, t.Any]]] = {f"host{i}": [] for i in range(1, hosts + 1)}
    names = list(found)
    states = (
        ["succeeded"] * 80
        + ["failed"] * 8
        + ["timed_out", "stopped", "lost"] * 3
        + ["running", "queued"]
    )
    for i in range(n):
        state = chance.choice(states)
        live = state in ("running", "queued")
        ago = chance.uniform(60, 0.8 * HOUR if live else 14 * 24 * HOUR)
        ran = None if live or state == "lost" else min(ago, chance.expovariate(1 / 1200))
        output: dict[str, t.Any] = {"stderr": tail, "stderr_bytes": len(tail)}
        if state in ("succeeded", "queued"):
            output = {}
        name = f"step {i} of {n}"
        found[names[i % hosts]].append(job(state, ago=ago, ran=ran, name=name, **output))
    return {host: answer(*jobs) for host, jobs in found.items()}
