#!/usr/bin/python
# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Launch one job."""

from __future__ import annotations

DOCUMENTATION = r"""
module: job_start
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 0.1.0
short_description: Launch a command as a durable background job
description:
  - Launches a command on the target and returns as soon as it has been started. If the command cannot be started, the
    task fails with the reason.
  - From then on the job needs neither the connection nor the controller. Look at it with
    M(durable.jobs.job_status).
  - The command gets the same environment, umask and working directory as with M(ansible.builtin.command). It also gets
    E(DURABLE_JOB_ID), the job's id, E(DURABLE_JOB_NAME), its name if it has one, and E(DURABLE_JOB_ATTEMPT).
  - The job can start later, see O(start_in), and can be tried again, see O(retries), both without the controller.
  - The command has the resource limits of the caller. No signal is ignored or blocked, even if the caller ignores or
    blocks it.
  - A job that is launched from inside another job is a job of its own. It has its own deadline, and goes on when the outer job ends, is
    stopped or reaches its deadline.
  - While it runs, the command may report to E(NOTIFY_SOCKET) as a service of systemd does, for example
    C(systemd-notify --status="copying files" X_PROGRESS=40). See RV(progress). Reports are optional.
  - The job ends when its command ends. Leave out C(nohup) and C(&), because a program that the command leaves in the background is
    outside of the job and its O(timeout).
options:
  cmd:
    description:
      - The command, split into words as a shell would. No shell runs it, and nothing in it is expanded. Unquoted
        operators, variables and patterns, which only a shell understands, cause a warning.
      - Since ansible-core 2.19 free form is taken as O(cmd), as in C(ansible -m durable.jobs.job_start -a "sleep 15").
        Words with C(=) are parameters there. Earlier releases of ansible-core refuse free form themselves;
        C(-a "cmd='sleep 15'") works with all.
    type: str
  argv:
    description:
      - The command as a list of words.
    type: list
    elements: str
  shell:
    description:
      - A line for the shell O(executable).
    type: str
  executable:
    description:
      - The shell that runs O(shell).
    type: path
    default: /bin/sh
  timeout:
    description:
      - Seconds that the command may run. After that the job is ended and its state is V(timed_out).
        V(0) sets no limit.
      - The command can ask for more time, see O(max_timeout).
    type: raw
    default: 3600
  max_timeout:
    description:
      - Seconds that the command may run at the most if it asks for more time, with C(EXTEND_TIMEOUT_USEC)
        as sd_notify(3) describes it. Asking never shortens the time that it has.
      - If it equals O(timeout), the command gets no more time. Without this option, or with V(0), the command gets
        all the time that it asks for.
      - RV(poll) then covers this limit. To wait for a job that may ask for more time without such a limit,
        use M(durable.jobs.job_wait).
    type: raw
  watchdog:
    description:
      - Seconds that may pass without a sign of life, which is C(WATCHDOG=1) sent to E(NOTIFY_SOCKET), for
        example by C(systemd-notify WATCHDOG=1). The first sign is due so many seconds after the start.
      - A job that is silent for longer is ended as after its time limit. Its state is V(timed_out) and its reason is
        V(watchdog).
      - The command finds the limit in E(WATCHDOG_USEC). E(WATCHDOG_PID) is not set, so any of its
        processes may give the sign.
      - Without this option, or with V(0), no sign is needed.
    type: raw
  grace:
    description:
      - Seconds between O(stop_signal) and SIGKILL when the job is ended.
    type: raw
    default: 10
  stop_signal:
    description:
      - The signal that asks the job to end, by name or number. Every process of the job gets it,
        also those that have left its session.
    type: str
    default: TERM
  chdir:
    description:
      - Directory in which to run the command.
    type: path
  env:
    description:
      - Environment variables for the command, beside those of the task's C(environment). They are
        stored nowhere.
      - Set E(NOTIFY_SOCKET) to an empty text to hide the socket for reports from the command.
    type: dict
  stdin:
    description:
      - What the command reads from its standard input. Without it the command reads from
        C(/dev/null). It is stored nowhere.
    type: str
  stdin_add_newline:
    description:
      - Whether to end O(stdin) with a newline.
    type: bool
    default: true
  creates:
    description:
      - A path or glob pattern, relative to O(chdir). If it exists, nothing is started.
    type: path
  removes:
    description:
      - A path or glob pattern, relative to O(chdir). If it does not exist, nothing is started.
    type: path
  umask:
    description:
      - The command's umask as an octal number, for example V('0022'), at most V('0777').
    type: raw
  nice:
    description:
      - By how much to raise the command's nice value, from V(-40) to V(40). Only root can lower it.
    type: int
  output_limit:
    description:
      - Bytes of each of the two output streams that are kept on disk, half of them from the
        beginning and half from the end. V(0) keeps all. The largest value is 2 to the power of 60, as for every
        number of bytes.
      - The command is neither stopped nor slowed down by it.
    type: int
    default: 67108864
  containment:
    description:
      - What holds the job's processes together and protects them.
      - V(systemd) is a transient unit, a scope, in which the job has a control group of its own. No logout ends the
        unit, it can have limits, and all its processes can be killed at once. Units of root belong to the system's
        systemd. Units of other users belong to their own systemd, which must outlive the logout (C(loginctl
        enable-linger)). If there can be no such unit, the launch fails and says why.
      - V(process) is a separate session whose keeper adopts every orphan. If logind kills the processes of a user who
        logs out (C(KillUserProcesses=yes)), the job ends with the user's login.
      - V(auto) is V(systemd) if that works, otherwise V(process).
      - RV(containment) of the result says which of the two the job has. If nothing protects the job from the logout,
        the launch warns and names the setting.
    type: str
    default: auto
    choices:
      - auto
      - systemd
      - process
  memory_max:
    description:
      - How much memory the job may use, all its processes together, in bytes or with a unit such as
        V(512M) or V(2G). If the job exceeds it, the kernel kills a process of the job, and RV(reason) is V(oom).
      - Needs O(containment) V(systemd) or V(auto). A limit that cannot be enforced on the target fails
        the launch.
    type: str
  cpu_quota:
    description:
      - How much processor time the job may use, in percent of one processor. V(200) is two processors.
      - Has the same requirements as O(memory_max). A user's systemd has this limit only if it was given the
        controller; see C(Delegate) in the manual page C(systemd.resource-control).
    type: str
  tasks_max:
    description:
      - How many processes and threads the job may have at once, V(1) to V(4194304). At the limit, the job cannot
        start another one.
      - Has the same requirements as O(memory_max).
    type: int
  name:
    description:
      - A name for this work. While a job of that name is live in the async dir, launching it again
        does not start it twice. See
        O(on_conflict) and O(rerun). At most one job of a name is live, even if several launches come at the same
        time.
      - Made of letters and digits of ASCII, of C(._-@:+) and of blanks inside it, at most 200.
    type: str
  on_conflict:
    description:
      - What to do if a job of that O(name) is live. With the same specification the launch always
        attaches to it.
      - V(fail) refuses a launch with another specification, and says what differs.
      - V(attach) attaches to the live job as it is.
      - V(replace) stops all processes of the live job and then starts the new one. If a process cannot be stopped,
        nothing is started.
      - The specification is everything that a launch asks for - command, C(chdir), C(env), C(stdin), limits and so
        on.
    type: str
    default: fail
    choices:
      - fail
      - attach
      - replace
  rerun:
    description:
      - What to do if the latest job of that O(name) has finished.
      - V(always) starts a new one.
      - V(on_failure) starts a new one unless the latest succeeded. V(never) starts none. If none is started, the
        result is that of M(durable.jobs.job_status) for the latest job, with C(changed=false).
    type: str
    default: always
    choices:
      - always
      - on_failure
      - never
  retention:
    description:
      - Seconds for which finished jobs are kept. A launch removes, in passing, the jobs in the same async dir that
        finished longer ago, even those of other plays. V(0) removes none. See M(durable.jobs.job_prune).
      - A launch spends at most a twentieth of a second on this. It looks only from time to time - at least once an
        hour, and the less often the more jobs there are. Later launches remove the rest.
      - The latest job of a O(name) stays if it was launched with another O(rerun) than V(always), so that its work is
        not done again. Jobs of the C(async) keyword and jobs with damaged records stay, too.
    type: raw
    default: 1209600
extends_documentation_fragment:
  - durable.jobs.async_dir
  - durable.jobs.told
  - durable.jobs.attributes
  - durable.jobs.durations
  - durable.jobs.notify
  - durable.jobs.retries
attributes:
  check_mode:
    details:
      - Nothing is started or written. The result has the id V(j0.0), with which
        M(durable.jobs.job_status) reports a skipped look.
        So has the result of a launch that O(creates) or O(removes) made unnecessary.
      - With O(name) the result says whether the job would be started, attached to or refused, and describes the
        existing job.
  diff_mode:
    support: full
    details:
      - With O(name), returns the specification of the latest job of that name and the one asked for
        now, secrets masked.
notes:
  - The values of O(env) and O(stdin), and the command and output of a task with C(no_log), are never stored where a
    look would print them.
seealso:
  - module: durable.jobs.job_status
  - module: durable.jobs.job_prune
  - module: ansible.builtin.command
"""

EXAMPLES = r"""
- name: Start a backup that may take an hour
  durable.jobs.job_start:
    cmd: /usr/local/bin/backup --all
    timeout: 1h
  register: backup

- name: Wait for it
  durable.jobs.job_status:
    jid: "{{ backup.ansible_job_id }}"
    wait: "{{ backup.poll.wait }}"
  register: backup_result
  until: backup_result.finished
  retries: "{{ backup.poll.retries }}"
  delay: "{{ backup.poll.delay }}"

- name: Start it unless it is running, or has succeeded before
  durable.jobs.job_start:
    cmd: /usr/local/bin/backup --all
    name: nightly backup
    rerun: on_failure
  register: backup

- name: Start it in three hours, and try again for up to an hour if the other side is busy (exit 75)
  durable.jobs.job_start:
    cmd: /usr/local/bin/backup --all
    start_in: 3h
    retries: 10
    retry_on: [75, timed_out]
    retry_delay: 1m
    timeout: 30m
    timeout_total: 1h
  register: backup

- name: Start it in a unit of systemd, with at most 2 GiB of memory and half a processor
  durable.jobs.job_start:
    cmd: /usr/local/bin/backup --all
    containment: systemd
    memory_max: 2G
    cpu_quota: 50
  register: backup
"""

RETURN = r"""
attached:
  description: Whether a live job of that O(name) was found and nothing was started.
  returned: always
  type: bool
poll:
  description:
    - How to poll this job; C(retries) and C(delay) for the task, C(wait) for
      M(durable.jobs.job_status). They belong together.
  returned: always
  type: dict
  sample:
    retries: 361
    delay: 1
    wait: 9
# The job dictionary, from docs/templates/job_return.yml.
ansible_job_id:
  description: The job's id, C(jid) for short. Unique, and sortable by launch time.
  returned: always
  type: str
  sample: j1795301990843259553.10311
name:
  description: The user's own id for this work; null if it has none.
  returned: always
  type: str
state:
  description:
    - One of V(queued), V(running), V(succeeded) (rc 0), V(failed) (another rc, or killed by a
      signal that nobody of ours sent), V(timed_out),
      V(stopped) (on request) and V(lost) (the job is gone and its exit status cannot be known).
    - Null if there is no such job.
  returned: always
  type: str
  sample: running
started:
  description: Whether the job has been started.
  returned: always
  type: bool
finished:
  description: Whether the job has ended, in whatever way.
  returned: always
  type: bool
rc:
  description:
    - The exit status; minus the number of the signal if a signal ended the command; null while the
      job runs or if nobody can know.
    - It is V(0) only for a job that succeeded. A command that answers the stop signal of its
      deadline with exit 0 has minus the stop signal here.
  returned: always
  type: int
  sample: 0
signal:
  description: Name of the signal that ended the command; null if none did.
  returned: always
  type: str
  sample: SIGKILL
reason:
  description:
    - What else is known of the state, for example V(delayed) or V(retry) of a queued job, V(rebooted) or V(killed) of a lost job,
      V(unsupervised) of a running one whose keeper was killed, V(watchdog) of one that O(durable.jobs.job_start#module:watchdog) ended,
      V(oom) of a failed one of which the kernel has killed a process for lack of memory (only where
      RV(containment) is V(systemd)).
  returned: always
  type: str
cmd:
  description:
    - What was launched, as a list, or as a string if it was given as
      O(durable.jobs.job_start#module:shell).
    - For a module, its name, and when it has ended, what it returns as C(cmd) if it does.
  returned: always
  type: raw
  sample: [/bin/sleep, '15']
start:
  description: When the command was started, or its latest attempt, in the target's local time.
  returned: always
  type: str
  sample: '2026-11-21 22:59:50.861902'
end:
  description: When the command ended, counted from RV(start) by a clock that nobody can set.
  returned: always
  type: str
delta:
  description: How long the command ran.
  returned: always
  type: str
  sample: '0:00:15.004321'
elapsed:
  description: How long the command has been running or ran, in seconds.
  returned: always
  type: float
timeout:
  description: The limit in seconds; V(0) if there is none.
  returned: always
  type: float
deadline:
  description: When the limit is reached, also one that the command has extended; null if there is none.
  returned: always
  type: str
stdout:
  description:
    - What the command has written to its standard output so far, without trailing newlines. Bytes
      that are not UTF-8 are replaced.
    - Of more than 1 MiB the beginning and the end, with a mark in between.
  returned: always
  type: str
stderr:
  description: The same of its standard error output.
  returned: always
  type: str
stdout_lines:
  description: RV(stdout) as a list of lines.
  returned: always
  type: list
  elements: str
stderr_lines:
  description: RV(stderr) as a list of lines.
  returned: always
  type: list
  elements: str
stdout_bytes:
  description: How many bytes the command has written to its standard output.
  returned: always
  type: int
stderr_bytes:
  description: How many bytes the command has written to its standard error output.
  returned: always
  type: int
truncated:
  description: Whether RV(stdout) or RV(stderr) lacks anything, or may lack something, see RV(output_error).
  returned: always
  type: bool
output_error:
  description:
    - What the disk said, for example V(No space left on device), if a command that wrote its output there was, or would have been,
      refused. Nobody can count what was lost so; RV(stdout_bytes) counts what is there.
    - Null if nothing of the kind was seen. The disk is looked at when the job ends, and while it runs unless O(durable.jobs.job_start#module:output_limit)
      is V(0).
  returned: always
  type: str
stdout_file:
  description:
    - The file on the target into which the command writes. What was cut by the output limit is a
      hole in it.
  returned: always
  type: str
stderr_file:
  description: The same of its standard error output.
  returned: always
  type: str
results_file:
  description: The job's record on the target, JSON.
  returned: always
  type: str
containment:
  description: What holds the job's processes together and protects them, V(systemd) or V(process).
  returned: always
  type: str
  sample: process
user:
  description: The user on the target as whom the job runs.
  returned: always
  type: str
progress:
  description:
    - What the command has reported of its progress so far; null if nothing.
    - Reports are shown within half a second. One that comes faster replaces the one before.
  returned: always
  type: dict
  sample: {percent: 40, status: copying files, at: '2026-11-21 23:00:02.118301'}
  contains:
    percent:
      description: The number, from 0 to 100, of the last C(X_PROGRESS); null if there was none.
      type: float
    status:
      description:
        - The text of the last C(STATUS), as one line of at most 200 characters, without control characters; null if there was
          none, or an empty one.
        - Hidden for a job that was launched with C(no_log).
      type: str
    at:
      description: When that was reported, in the target's local time.
      type: str
attempt:
  description: The number of the latest attempt that has begun, from V(1); V(1) too if none has.
  returned: always
  type: int
max_attempts:
  description: How many attempts there may be.
  returned: always
  type: int
attempts:
  description:
    - The attempts that are over, the first one first.
    - In a task with C(until) or C(retries) this is the number of the task's own attempts, which ansible-core puts here. The list
      is in C(attempt_list) then.
  returned: always
  type: list
  elements: dict
  sample:
    - {attempt: 1, state: failed, rc: 75, signal: null, reason: null, start: '2026-11-21 22:59:50.861902', end: '2026-11-21 22:59:51.012345',
       elapsed: 0.150443, stdout: '', stderr: try again}
  contains:
    attempt:
      description: Its number.
      type: int
    state:
      description: How it ended; RV(rc), RV(signal), RV(reason), RV(start), RV(end) and RV(elapsed) are those of the attempt too.
      type: str
    stdout:
      description: The end of what it has written to its standard output, at most 4 KiB; and C(stderr), the same of its standard error output.
      type: str
start_at:
  description: When a V(queued) job starts, or is tried again, in the target's local time; null if nobody can say.
  returned: always
  type: str
timeout_total:
  description: The limit of all attempts together, in seconds; null if there is none.
  returned: always
  type: float
stopped_by:
  description:
    - Who asked for the end of a stopped job, see M(durable.jobs.job_stop). Null for other jobs.
  returned: always
  type: dict
  sample: {via: ansible, user: root, login: deploy, controller_user: ada, controller: control.example.com}
notifications:
  description:
    - What has become of what O(durable.jobs.job_start#module:notify) asks for. Null for a job without it.
  returned: always
  type: dict
  sample:
    pending: 1
    delivered: 0
    given_up: 0
    sinks:
      - to: https://eda.example.com:5000
        state: pending
        reason: Connection refused
        tries: 7
        at: '2026-11-21 22:59:50.861902'
  contains:
    pending:
      description: How many notifications are still tried.
      type: int
    delivered:
      description: How many have been taken.
      type: int
    given_up:
      description: How many were not taken in the time of O(durable.jobs.job_start#module:notify_for).
      type: int
    sinks:
      description:
        - Of each entry to whom it is (C(to), without path and arguments, which may be secret), its C(state), why it has not been taken
          (C(reason)), how often it was tried, and when last (C(at)). The C(state) is null before the job has ended, and V(unwanted) if
          the entry does not want to hear of this end.
      type: list
      elements: dict
survivors:
  description:
    - Processes (C(pid) and C(name)) that were still alive after SIGKILL. One that C(/proc) hides (mount option C(hidepid)) is
      called C(hidden process).
  returned: when the job was ended by its deadline or on request
  type: list
  elements: dict
# End of the job dictionary.
"""

from ansible_collections.durable.jobs.plugins.module_utils._argspec import START
from ansible_collections.durable.jobs.plugins.module_utils._module import ask


def main() -> None:
    """Run the module: parameters in, one JSON result out."""
    ask(START)


if __name__ == "__main__":
    main()
