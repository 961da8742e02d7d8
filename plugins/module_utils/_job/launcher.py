# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The launcher: one lean interpreter that reads requests, forks a keeper for each and answers when all commands run.

Request, on stdin::

    {"async_dir": "/home/me/.ansible_async", "jobs": [{
        "argv": ["/bin/sleep", "15"],   what is exec'ed
        "parameter": "cmd",             which parameter that came from
        "name": null, "spec": null, "on_conflict": "fail", "rerun": "always",    see schema.decide
        "cmd": ["/bin/sleep", "15"],    what the record shows of it
        "chdir": null, "env": {}, "stdin": null, "umask": null, "nice": null,
        "timeout": 3600.0, "grace": 10.0, "stop_signal": 15, "output_limit": 67108864, "no_log": false}]}

``"adopt": [jid, ...]`` asks for a new keeper for jobs that have lost theirs, and their runner.

Answer, on stdout, in the same order: ``{"jobs": [{"record": {...}}, {"error": {"msg": ...,
...}}]}``, or, where a name said
that there was nothing to launch, ``{"decision": "attach", "jid": ...}`` (see schema.decide).
"""

from __future__ import annotations

import gc
import json
import os
import sys

from . import looking, schema, stopping
from .errors import JobError
from .keeper import Keeper, adopt
from .runner import Inheritance
from .store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from .schema import Record
    from .store import Job


def main() -> None:
    """Launch what is asked for on stdin. The answer tells about each job by itself; the exit status is 0."""
    inheritance = Inheritance()
    request = json.load(sys.stdin)
    gc.disable()  # a collection would copy the pages that all keepers share; ours make no cycles
    try:
        store = Store.open(request["async_dir"], create=True)
        answers = launch_all(store, request["jobs"], inheritance)
        adopt_all(store, request.get("adopt", []))
    except JobError as error:
        answers = [_error(error)] * len(request["jobs"])
    json.dump({"jobs": answers}, sys.stdout)


def launch_all(store: Store, requests: list[Record], inheritance: Inheritance) -> list[Record]:
    """Launch jobs side by side and return each one's answer, in order.

    Who decides about a name holds its lock, here and in the keeper, until the command has been exec'ed.
    """
    locks = _lock_names(store, requests)
    launches: list[Launch] = []
    for request in requests:
        launch = Launch(request["name"])
        for other in launches:
            if other.name is not None and other.name == launch.name:
                other.settle()
        borrowed = locks + [other.fd for other in launches if other.answer is None]
        try:
            launch.answer = _without_launch(store, request)
            if launch.answer is None:
                launch.fork(store.create_job(), request, inheritance, borrowed)
        except OSError as error:
            launch.answer = _error(store.failure(error))
        except JobError as error:
            launch.answer = _error(error)
        launches.append(launch)
    return [launch.settle() for launch in launches]


def _lock_names(store: Store, requests: list[Record]) -> list[int]:
    """Take the locks of all names, sorted, so that two launchers never wait for each other."""
    names = sorted({request["name"] for request in requests if request["name"] is not None})
    try:
        return [store.lock_name(name) for name in names]
    except OSError as error:
        raise store.failure(error) from None


def adopt_all(store: Store, jids: list[str]) -> None:
    """Give jobs that have lost keeper and runner a new keeper; return when each has one, or needs none."""
    for jid in jids:
        job = store.job(jid)
        ready_out, ready_in = os.pipe()
        if os.fork() == 0:
            try:
                os.close(ready_out)
                _leave_stdio()
                adopt(job, [ready_in])
            except Exception:  # pylint: disable=broad-exception-caught  # nobody else would see it
                job.log_loss()
            finally:
                os._exit(0)
        os.close(ready_in)
        os.read(ready_out, 1)
        os.close(ready_out)


def _leave_stdio() -> None:
    """Let go of what the module waits for and of a terminal, if there is one."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


class Launch:
    """One request on its way to an answer."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.answer: Record | None = None
        self.pid = 0
        self.fd = -1

    def fork(
        self, job: Job, request: Record, inheritance: Inheritance, borrowed: list[int]
    ) -> None:
        """Start the keeper."""
        self.fd, answer_in = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.fd)
            _be_keeper(job, request, inheritance, answer_in, borrowed)
        os.close(answer_in)

    def settle(self) -> Record:
        """Wait for the keeper's answer."""
        if self.answer is None:
            with open(self.fd, "rb") as source:
                data = source.read()
            lost = JobError("the job's keeper died while launching it; look at the machine's log")
            self.answer = json.loads(data) if data else _error(lost)
            if "error" in self.answer:
                os.waitpid(self.pid, 0)
        return self.answer


def _without_launch(store: Store, request: Record) -> Record | None:
    """Answer a request whose name says that there is nothing to launch; None if there is."""
    if request["name"] is None:
        return None
    job, record = looking.latest(store, request["name"])
    decision = schema.decide(
        record, request["spec"], on_conflict=request["on_conflict"], rerun=request["rerun"]
    )
    if job is None or record is None or decision == schema.START:
        return None
    if decision == schema.CONFLICT:
        differs = schema.differing(record, request["spec"])
        return _error(JobError(schema.conflict_message(record, request["spec"]), differs=differs))
    if decision == schema.REPLACE:
        private = record.get(schema.PRIVATE) or request  # a damaged record has no private part
        try:
            stopping.stop(
                job, number=private["stop_signal"], grace=private["grace"], reason="replaced"
            )
        except JobError as error:
            return _error(error)
        return None
    return {"decision": decision, "jid": job.jid}


def _be_keeper(
    job: Job, request: Record, inheritance: Inheritance, answer: int, borrowed: list[int]
) -> NoReturn:
    """Be a job's keeper until it is finished. The caller has got its answer by then."""
    answered = False
    try:
        _leave_stdio()
        keeper = Keeper(job, request)
        try:
            outcome = {"record": keeper.launch(inheritance, [answer, *borrowed])}
        except JobError as error:
            outcome = _error(error)
        answered = True
        _send(answer, outcome)
        for fd in borrowed:
            os.close(fd)
        if "record" in outcome:
            keeper.supervise()
    except Exception as error:  # pylint: disable=broad-exception-caught  # nobody else would see it
        if not answered:
            _send(
                answer, _error(JobError("the job's keeper failed while launching it: %r" % error))
            )
        job.log_loss()
    finally:
        os._exit(0)


def _send(fd: int, answer: Record) -> None:
    data = memoryview(json.dumps(answer).encode())
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError:  # the module was killed: the job goes on, and the next look finds it
        pass
    os.close(fd)


def _error(error: JobError) -> Record:
    return {"error": dict(error.details, msg=error.msg)}
