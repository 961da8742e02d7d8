# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The launcher: a process of the engine that forks a keeper for each job and answers when all commands run.

Request::

    {"async_dir": "/home/me/.ansible_async", "jobs": [{
        "argv": ["/bin/sleep", "15"],   what is exec'ed
        "module": null,                 the name of the module of Ansible that it is
        "keyword": null,                {"check_mode": false}, of a job that the keyword `async` launches
        "jid": null,                    of a job whose folder the caller has made; he removes it if it is not needed
        "parameter": "cmd",             which parameter that came from
        "name": null, "spec": null, "on_conflict": "fail", "rerun": "always",    see schema.decide
        "by": null,                     who asks, see schema.requester: for the job that is replaced
        "cmd": ["/bin/sleep", "15"],    what the record shows of it
        "chdir": null, "env": {}, "stdin": null, "umask": null, "nice": null,
        "timeout": 3600.0, "max_timeout": null, "watchdog": null,
        "grace": 10.0, "stop_signal": 15, "output_limit": 67108864, "no_log": false,
        "start_in": 0, "retry": null, "timeout_total": null,    see retrying.checked
        "containment": "auto", "memory_max": null, "cpu_quota": null, "tasks_max": null,
        "notify": [{"url": "https://..."}], "notify_for": 86400.0,    see notifying; neither without notifications
        "source": "web1"}],             the host's name in the inventory, for events
     "manager": "/run/systemd/private"}    the socket of the systemd that can give them a unit; null for none

``"adopt": [jid, ...]`` asks for a new keeper for jobs that have lost theirs, and their runner.

Answer, in the same order: ``{"jobs": [{"record": {...}}, {"error": {"msg": ...,
...}}]}``, or, where a name said
that there was nothing to launch, ``{"decision": "attach", "jid": ...}`` (see schema.decide). ``"no_unit"`` says why
jobs that wanted a unit did not get one.
"""

from __future__ import annotations

import gc
import json
import os
import select
import sys

from . import adoption, attempts, prewarm, removing, retrying, schema, status, stopping, unit
from .errors import JobError
from .host import require_proc
from .job import log_loss
from .keeper import Keeper
from .names import lock_name
from .queueing import Turn
from .runner import ProcessDefaults, read_all
from .standby import Plan
from .store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from .schema import Record
    from .store import Job


# Jobs that are launched side by side, at the most. What the launcher does between two forks, it does for all of them
# before: so they share the memory that it touches. Each costs up to 20 descriptors meanwhile.
SIDE_BY_SIDE = 32
DESCRIPTORS = 25  # of each of them; and so many are left for the launcher:
SPARE_DESCRIPTORS = 64


class Launcher:
    """A process that waits for a request, answers it and ends.

    It ignores signals, may be put into a unit, and keepers are copies of it. So it is not the process that answers the
    call, and best it is forked before that has read anything: keepers carry what the memory holds at that moment.

    :raises OSError: no process can be made.
    """

    def __init__(self) -> None:
        request_out, self._request = os.pipe()
        self._answer, answer_in = os.pipe()
        self._errors, errors_in = os.pipe()
        try:
            self._pid = os.fork()
        except OSError:
            for fd in (
                request_out,
                self._request,
                self._answer,
                answer_in,
                self._errors,
                errors_in,
            ):
                os.close(fd)
            raise
        if self._pid == 0:
            try:
                os.close(self._request)
                data = read_all(request_out)
                if data:
                    _redirect(answer_in, errors_in)
                    _send(1, json.dumps(answer(json.loads(data))).encode())
            except BaseException:
                sys.excepthook(*sys.exc_info())
                raise
            finally:
                os._exit(0)
        for fd in (request_out, answer_in, errors_in):
            os.close(fd)

    def ask(self, request: Record) -> Record:
        """Return the answer. :raises JobError: the launcher has died without one."""
        try:
            _send(self._request, json.dumps(request).encode())
        except BrokenPipeError:  # what it died of is in the errors
            pass
        data, errors, code = self._end()
        if not data:
            told = (code, errors.decode("utf-8", "replace").strip()[-2000:])
            raise JobError("the launcher gave no answer (wait status %d): %s" % told)
        found: Record = json.loads(data)
        return found

    def dismiss(self) -> None:
        """End it, without a request."""
        self._end()

    def _end(self) -> tuple[bytes, bytes, int]:
        os.close(self._request)
        data, errors = read_all(self._answer), read_all(self._errors)
        _pid, code = os.waitpid(self._pid, 0)
        return data, errors, code


_ready: list[Launcher] = []


def get_ready() -> None:
    """Start a launcher, for the first launch to come."""
    try:
        _ready.append(Launcher())
    except OSError:  # perhaps there will be nothing to launch
        pass


def dismiss() -> None:
    """End the launcher that waits, if it has not been needed."""
    while _ready:
        _ready.pop().dismiss()


def launch(request: Record) -> Record:
    """Have a launcher launch jobs, and adopt jobs; return its answer.

    :raises JobError: there is none, or it has died without an answer.
    """
    try:
        launcher = _ready.pop() if _ready else Launcher()
    except OSError as error:
        raise JobError("cannot start the launcher: %s" % error.strerror) from None
    return launcher.ask(request)


def _redirect(answer: int, errors: int) -> None:
    """Let standard output and error be these, and close all other descriptors: they are the engine's.

    A keeper lets go of both when its job has been launched.
    """
    os.dup2(answer, 1)
    os.dup2(errors, 2)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    os.closerange(3, highest + 1)


def answer(request: Record) -> Record:
    """Launch what is asked for. The answer tells about each job by itself."""
    defaults = ProcessDefaults()
    is_patient = request.get("slots") or any(map(retrying.is_patient, request["jobs"]))
    prewarm.look_up(sys.modules[__name__], prewarm.PATIENT if is_patient else ())
    gc.disable()  # a collection would copy the pages that all keepers share; ours make no cycles
    if request.get("adopt") or any(one.get("module") for one in request["jobs"]):
        # Before the first fork, for their keepers; those of commands need not carry it.
        from . import modules  # noqa: F401  # pylint: disable=unused-import
    if request.get("adopt") or any(one.get("notify") for one in request["jobs"]):
        from . import delivery  # noqa: F401  # pylint: disable=unused-import
    try:
        require_proc()
        store = Store.open(request["async_dir"], create=True)
        enclosure = unit.enclose(request)
        slots = request.get("slots", 0)
        answers = launch_all(store, request["jobs"], defaults, slots, enclosure)
        adopt_all(store, request.get("adopt", []))
    except JobError as error:
        answers = [_error(error)] * len(request["jobs"])
        enclosure = unit.Unit(None, "")
    return {"jobs": answers, "no_unit": enclosure.why_not}


def launch_all(
    store: Store,
    requests: list[Record],
    defaults: ProcessDefaults,
    slots: int,
    enclosure: unit.Unit,
) -> list[Record]:
    """Launch jobs side by side and return each one's answer, in order.

    :param slots: how many of them may run at once; the others are queued. 0 for no limit.
    :param enclosure: what we are in.
    """
    # Asked here: the soft limit has been raised, see ProcessDefaults.
    room = (os.sysconf("SC_OPEN_MAX") - SPARE_DESCRIPTORS) // DESCRIPTORS
    side_by_side = max(1, min(SIDE_BY_SIDE, room))
    every = [Launch(request) for request in requests]
    launches: list[Launch] = []
    ready: list[Launch] = []
    # In a queue, jobs that start later come behind those that start sooner, so that nobody waits for their time.
    for launch in (
        sorted(every, key=lambda one: one.request.get("start_in") or 0) if slots else every
    ):
        request = launch.request
        if len(ready) == side_by_side:
            _launch_side_by_side(ready, defaults)
        launches.append(launch)
        try:
            if request["name"] is not None:
                _lock_name(launch, store, ready, defaults)
            launch.answer = _without_launch(store, request)
            if launch.answer is None:
                ahead = [other.jid for other in launches if other.may_be_live()] if slots else []
                launch.prepare(store, Turn(ahead, slots), enclosure)
                ready.append(launch)
        except OSError as error:
            launch.answer = _error(store.failure(error))
        except JobError as error:
            launch.answer = _error(error)
        if launch.answer is not None:
            launch.let_go()
    _launch_side_by_side(ready, defaults)
    return [launch.answer or {} for launch in every]


def _launch_side_by_side(ready: list[Launch], defaults: ProcessDefaults) -> None:
    """Fork the keepers of jobs that have been prepared, and wait for their answers; afterwards none is ready."""
    opened = {launch: launch.opened() for launch in ready}
    everybodys = set().union(*opened.values())
    strange = [(launch, _spans(everybodys.difference(opened[launch]))) for launch in ready]
    for launch, others in strange:
        if launch.keeper is not None:
            launch.fork(launch.keeper, defaults, others)
    for launch in ready:
        launch.let_go("out")
    for launch in ready:
        launch.settle()
    ready.clear()


def _spans(fds: set[int]) -> memoryview:
    """Return descriptors as ranges: the first, and the one after the last.

    In one piece of memory: a keeper that read numbers from all over it would copy all of that.
    """
    spans: list[int] = []
    for fd in sorted(fds):
        if spans and spans[-1] == fd:
            spans[-1] = fd + 1
        else:
            spans += (fd, fd + 1)
    return memoryview(b"".join(fd.to_bytes(4, sys.byteorder) for fd in spans)).cast("i")


def _lock_name(
    launch: Launch, store: Store, ready: list[Launch], defaults: ProcessDefaults
) -> None:
    """Take the lock of a launch's name.

    Who decides about a name holds its lock, here and in the keeper, until the command has been exec'ed or queued.
    Nobody waits for a lock and holds one: two launchers can never wait for each other.
    """
    try:
        launch.lock_name(store, wait=False)
    except BlockingIOError:
        _launch_side_by_side(ready, defaults)
        launch.lock_name(store, wait=True)


def adopt_all(store: Store, jids: list[str]) -> None:
    """Give jobs that have lost keeper and runner a new keeper; return when each has one, or needs none."""
    for jid in jids:
        job = store.job(jid)
        try:
            ready_out, ready_in = os.pipe()
            pid = os.fork()
        except OSError:  # too many open files, or processes: the next look asks again
            return
        if pid == 0:
            try:
                os.close(ready_out)
                _leave_stdio()
                adoption.adopt(job, [ready_in])
            except Exception:  # pylint: disable=broad-exception-caught  # nobody else would see it
                log_loss(job)
            finally:
                os._exit(0)
        os.close(ready_in)
        os.read(ready_out, 1)
        os.close(ready_out)


def _leave_stdio() -> None:
    """Let go of what the caller waits for, and of a terminal, if there is one."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


class Launch:
    """One request on its way to an answer.

    Its descriptors have roles: the locks ``name``, ``keeper`` and ``turn``, and the answer's pipe ``in`` and ``out``.
    """

    def __init__(self, request: Record) -> None:
        self.request = request
        self.answer: Record | None = None
        self.job: Job | None = None
        self.keeper: Keeper | None = None
        self._turn = Turn([], 0)
        self._fds: dict[str, int] = {}
        self._pid = 0

    @property
    def jid(self) -> str:
        """The job's; empty if there is none."""
        return "" if self.job is None else self.job.jid

    def may_be_live(self) -> bool:
        """Tell whether a job has been made, and is not known to have failed at its launch."""
        return self.job is not None and (self.answer is None or "record" in self.answer)

    def lock_name(self, store: Store, *, wait: bool) -> None:
        """Take the lock of the name, see ``Store.lock_name``."""
        self._fds["name"] = lock_name(store, self.request["name"], wait=wait)

    def prepare(self, store: Store, turn: Turn, enclosure: unit.Unit) -> None:
        """Make the job's folder and take its locks: whoever comes later finds it held, however slow its keeper is."""
        jid = self.request.get("jid")
        job = store.job(jid) if jid else store.create_job()
        try:
            self.request["unit"] = enclosure.place(self.request, job.jid)
            is_late = bool(self.request.get("start_in"))
            queued = turn.must_wait() or is_late
            # While its command does not run, a job has no runner that would give it another keeper.
            self.request["standby"] = is_late or bool(self.request.get("retry"))
            job.furnish(queued=queued, standby=self.request["standby"])
            for role in ("keeper", "turn") if queued else ("keeper",):
                lock = job.lock(role)
                if lock is None:
                    raise JobError("cannot launch job %s: somebody else has its locks" % job.jid)
                self._fds[role] = lock
            self._fds["out"], self._fds["in"] = os.pipe()
            is_patient = queued or retrying.is_patient(self.request)
            kind = attempts.PatientKeeper if is_patient else Keeper
            self.keeper = keeper = kind(job, self.request, self._fds["keeper"])
            keeper.open(to_start=not queued)
            if self.request["watchdog"] and job.inbox < 0:
                text = "watchdog cannot be used in async_dir %s: its file system takes no sockets"
                raise JobError(text % store.path)
        except BaseException:
            removing.remove(job)
            raise
        self.job, self._turn = job, turn

    def opened(self) -> list[int]:
        """Return all descriptors that are for this job only."""
        fds = list(self._fds.values())
        if self.keeper is not None:
            fds += self.keeper.opened()
        if self.job is not None:
            fds.append(self.job.fd)
        return fds

    def fork(self, keeper: Keeper, defaults: ProcessDefaults, others: memoryview) -> None:
        """Start the keeper; ``others`` are descriptors of the jobs that are launched side by side, and not for it."""
        try:
            self._pid = os.fork()
        except OSError as error:
            self._pid = -1
            self.answer = _error(keeper.job.store.failure(error))
            removing.remove(keeper.job)
        if self._pid == 0:
            for place in range(0, len(others), 2):
                os.closerange(others[place], others[place + 1])
            os.close(self._fds.pop("out"))
            self._fds.pop("keeper")
            turn_lock = self._fds.pop("turn", -1)
            _be_keeper(keeper, defaults, self._turn, turn_lock, self._fds)

    def let_go(self, *kept: str) -> None:
        """Close the descriptors of all roles but these, and all that the keeper has opened."""
        for role in [role for role in self._fds if role not in kept]:
            os.close(self._fds.pop(role))
        if self.keeper is not None:
            for fd in self.keeper.opened():
                os.close(fd)
            self.keeper = None
        if self.job is not None:
            self.job.close()

    def _keeper_died(self) -> JobError:
        text = "the job's keeper died while launching it; look at the machine's log"
        if self.job is None or not _will_exist(self.job):
            return JobError(text)
        text += (
            ". Whether the command has been started, job_status with jid=%s tells" % self.job.jid
        )
        return JobError(text, ansible_job_id=self.job.jid)

    def settle(self) -> None:
        """Wait for the keeper's answer."""
        if self.answer is None:
            data = read_all(self._fds.pop("out"))
            self.answer = json.loads(data) if data else _error(self._keeper_died())
            if "error" in self.answer:
                os.waitpid(self._pid, 0)
        self.let_go()


def _will_exist(job: Job) -> bool:
    """Tell whether a job whose keeper has died has a record; who may be writing one at this moment is waited for.

    Without a keeper nobody opens the gate, so whoever has not written it ends soon.
    """
    runner = job.watch("runner")
    while not os.path.lexists(job.results_file):
        if runner is None:
            return False
        poll = select.poll()
        poll.register(runner, 0)
        if poll.poll(20):
            os.close(runner)
            runner = None
    if runner is not None:
        os.close(runner)
    return True


def _without_launch(store: Store, request: Record) -> Record | None:
    """Answer a request whose name says that there is nothing to launch; None if there is."""
    if request["name"] is None:
        return None
    job, record = status.latest(store, request["name"])
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
                job,
                number=private["stop_signal"],
                grace=private["grace"],
                reason="replaced",
                by=request.get("by"),
            )
        except JobError as error:
            return _error(error)
        return None
    return {"decision": decision, "jid": job.jid}


def _be_keeper(
    keeper: Keeper, defaults: ProcessDefaults, turn: Turn, turn_lock: int, borrowed: dict[str, int]
) -> NoReturn:
    """Be a job's keeper until it is finished. The caller has got its answer by then.

    :param turn_lock: the lock of a job that is queued; -1 for one that starts at once.
    :param borrowed: the answer's pipe, ``in``, and the lock of the job's name if it has one: what is let go of then.
    """
    answered = False
    try:
        _leave_stdio()
        try:
            plan = Plan(keeper.request, defaults, turn, turn_lock, adoption.adopt)
            record = keeper.launch(plan, list(borrowed.values()))
            answer = b'{"record": ' + record + b"}"
        except JobError as error:
            record, answer = b"", json.dumps(_error(error)).encode()
        answered = True
        _send(borrowed["in"], answer)
        for fd in borrowed.values():
            os.close(fd)
        if record:
            keeper.supervise()
    except Exception as error:  # pylint: disable=broad-exception-caught  # nobody else would see it
        if not answered:
            failure = JobError("the job's keeper failed while launching it: %r" % error)
            _send(borrowed["in"], json.dumps(_error(failure)).encode())
        log_loss(keeper.job)
    finally:
        os._exit(0)


def _send(fd: int, answer: bytes) -> None:
    data = memoryview(answer)
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError:  # the module was killed: the job goes on, and the next look finds it
        pass


def _error(error: JobError) -> Record:
    return {"error": dict(error.details, msg=error.msg)}
