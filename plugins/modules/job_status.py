#!/usr/bin/python
# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at one job."""

from __future__ import annotations

DOCUMENTATION = r"""
module: job_status
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 0.1.0
short_description: Look at a background job
description:
  - Looks once at one job, which M(durable.jobs.job_start) or the C(async) keyword of ansible-core has launched.
  - Can be used in place of M(ansible.builtin.async_status), with the same parameters and results.
  - The state is derived from evidence on the target. A job whose processes are gone is not reported as running.
  - Fails if the job has finished and did not succeed.
  - The result is changed when the job has finished, as with M(ansible.builtin.async_status), even if another play has
    launched the job. To report only changes of this play after an attached launch, use C(changed_when).
    M(durable.jobs.job_wait) and the roles do so by themselves.
options:
  jid:
    description:
      - The job's id, C(ansible_job_id) in the result of the task that launched it.
      - One of O(jid) and O(name) must be given.
    type: str
  name:
    description:
      - The job's name. It means the latest job of that name in the async dir.
    type: str
  mode:
    description:
      - V(status) looks at the job.
      - V(cleanup) removes the record and the files of a finished job. It fails for a job that is not finished, and
        changes nothing if there is no such job.
    type: str
    choices:
      - cleanup
      - status
    default: status
  wait:
    description:
      - Seconds to wait on the target for the end of the job. The answer comes as soon as the job has finished, and at
        the latest after this time.
    type: raw
    default: 0
  output:
    description:
      - How much of the output to return. V(full) returns at most 1 MiB of each stream, V(tail) its last lines, at
        most 4 KiB, and V(none) nothing.
    type: str
    choices:
      - full
      - tail
      - none
    default: full
  reveal:
    description:
      - Whether to show the output of a job even if it was launched with C(no_log). Without this option, no look at
        such a job shows its command or output.
      - The output is read from the job's files, which belong to the job's user. The command is stored nowhere and
        cannot be shown.
      - This is a separate parameter because a module cannot distinguish C(no_log=false) from a task without
        C(no_log).
    type: bool
    default: false
extends_documentation_fragment:
  - durable.jobs.async_dir
  - durable.jobs.told
  - durable.jobs.attributes
  - durable.jobs.durations
attributes:
  check_mode:
    details:
      - With O(mode=cleanup) nothing is removed, and no final state is recorded. For the id that
        M(durable.jobs.job_start) returns in check mode, the look is skipped.
seealso:
  - module: durable.jobs.job_start
  - module: ansible.builtin.async_status
  - plugin: durable.jobs.poll_plan
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Start a job
  durable.jobs.job_start:
    cmd: /bin/sleep 15
    timeout: 60
  register: task_result

- name: Poll it as one polls async_status
  durable.jobs.job_status:
    jid: "{{ task_result.ansible_job_id }}"
  register: async_result
  until: async_result.finished
  retries: 60
  delay: 10

- name: Be told at once when it ends, in one look
  durable.jobs.job_status:
    jid: "{{ task_result.ansible_job_id }}"
    wait: 60
  register: async_result

- name: Remove what is left of it
  durable.jobs.job_status:
    jid: "{{ task_result.ansible_job_id }}"
    mode: cleanup
"""

RETURN = r"""
erased:
  description: The record that was removed; null if none was.
  returned: always
  type: str
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

from ansible_collections.durable.jobs.plugins.module_utils._argspec import STATUS
from ansible_collections.durable.jobs.plugins.module_utils._module import ask


def main() -> None:
    """Run the module: parameters in, one JSON result out."""
    ask(STATUS)


if __name__ == "__main__":
    main()
