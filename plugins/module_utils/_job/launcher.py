# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The launcher: one lean interpreter that reads requests, forks a keeper for each and answers when all commands run.

Request, on stdin::

    {"async_dir": "/home/me/.ansible_async", "jobs": [{
        "argv": ["/bin/sleep", "15"],   what is exec'ed
        "parameter": "cmd",             which parameter that came from
        "cmd": ["/bin/sleep", "15"],    what the record shows of it
        "chdir": null, "env": {}, "stdin": null, "umask": null, "nice": null,
        "timeout": 3600.0, "grace": 10.0, "stop_signal": 15, "output_limit": 67108864, "no_log": false}]}

Answer, on stdout, in the same order: ``{"jobs": [{"record": {...}}, {"error": {"msg": ..., ...}}]}``.
"""

from __future__ import annotations

import gc
import json
import os
import sys

from .errors import JobError
from .keeper import Keeper
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
    try:
        store = Store.open(request["async_dir"], create=True)
    except JobError as error:
        answers = [_error(error)] * len(request["jobs"])
    else:
        gc.disable()  # a collection would copy the pages that all keepers share; ours make no cycles
        answers = launch_all(store, request["jobs"], inheritance)
    json.dump({"jobs": answers}, sys.stdout)


def launch_all(store: Store, requests: list[Record], inheritance: Inheritance) -> list[Record]:
    """Launch jobs side by side and return each one's record or error, in order."""
    pids: list[int] = []
    answers: list[int] = []
    for request in requests:
        job = store.create_job()
        answer_out, answer_in = os.pipe()
        pid = os.fork()
        if pid == 0:
            for fd in (*answers, answer_out):
                os.close(fd)
            _be_keeper(job, request, inheritance, answer_in)
        os.close(answer_in)
        pids.append(pid)
        answers.append(answer_out)
    return [_answer(pid, fd) for pid, fd in zip(pids, answers)]


def _answer(pid: int, fd: int) -> Record:
    with open(fd, "rb") as source:
        data = source.read()
    answer: Record = (
        json.loads(data)
        if data
        else _error(JobError("the job's keeper died while launching it; look at the machine's log"))
    )
    if "error" in answer:
        os.waitpid(pid, 0)
    return answer


def _be_keeper(job: Job, request: Record, inheritance: Inheritance, answer: int) -> NoReturn:
    """Be a job's keeper until it is finished. The caller has got its answer by then."""
    try:
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)
        keeper = Keeper(job, request, inheritance, answer)
        try:
            _send(answer, {"record": keeper.launch()})
        except JobError as error:
            _send(answer, _error(error))
        else:
            keeper.supervise()
    except Exception:  # pylint: disable=broad-exception-caught  # nobody else would see the loss
        _log_loss(job)
    finally:
        os._exit(0)


def _log_loss(job: Job) -> None:
    """Write down what ended a keeper (by hand: the module traceback would cost every keeper memory)."""
    kind, error, frame = sys.exc_info()
    with open(job.path("keeper.log"), "a", encoding="utf-8") as log:
        while frame is not None:
            log.write("%s:%d\n" % (frame.tb_frame.f_code.co_filename, frame.tb_lineno))
            frame = frame.tb_next
        log.write("%s: %s\n" % (kind.__name__ if kind else "", error))


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
