#!/usr/bin/python
# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Launch one module of Ansible as a job."""

from __future__ import annotations

DOCUMENTATION = r"""
module: job_module
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 0.1.0
short_description: Launch any module of Ansible as a durable background job
description:
  - Launches a module on the target and returns as soon as it has been started. The job is like those of
    M(durable.jobs.job_start), with the same deadline, evidence, output and names.
  - The result of the module is the result of the job. M(durable.jobs.job_status) and M(durable.jobs.job_wait), and
    M(ansible.builtin.async_status) too, return the module's own keys beside the job dictionary.
  - The keys C(changed), C(failed), C(rc), C(msg), C(cmd), C(stdout) and C(stderr) are the module's. Every other key
    of the job dictionary has the job's value, even if the module returns a key of that name. C(module_result) holds
    the module's result unchanged, without its output.
  - The module's files are in the job's private folder until the job has ended.
options:
  module:
    description:
      - The module, by its fully qualified name.
      - Modules with an action plugin of their own do a part of their work on the controller. Of these modules,
        V(ansible.builtin.command),
        V(ansible.builtin.shell), V(ansible.builtin.script), V(ansible.builtin.copy), V(ansible.builtin.template),
        V(ansible.builtin.assemble), V(ansible.builtin.unarchive), V(ansible.builtin.package), V(ansible.builtin.service), V(ansible.builtin.dnf) and
        V(ansible.builtin.uri) work, because their action plugin only prepares and then runs one module. The launch
        does this preparation, including the transfer of files, before it returns. The others are refused.
      - A script of V(ansible.builtin.script) is a job that runs a command. Its result is its exit status and its
        output.
    type: str
    required: true
  args:
    description:
      - The parameters of the module. They are stored only as far as the module itself returns them. The module
        censors those that it marks C(no_log).
      - The C(module_defaults) of the module are not applied.
    type: dict
    default: {}
  timeout:
    description:
      - Seconds that the module may run. After that the job is ended and its state is V(timed_out).
        V(0) sets no limit.
    type: raw
    default: 3600
  max_timeout:
    description:
      - Seconds that the module may run at the most if it asks for more time. See O(durable.jobs.job_start#module:max_timeout).
    type: raw
  watchdog:
    description:
      - Seconds that may pass without a sign of life of the module. See O(durable.jobs.job_start#module:watchdog).
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
      - Directory in which to run the module.
    type: path
  env:
    description:
      - Environment variables for the module, beside those of the task's C(environment). They are
        stored nowhere.
    type: dict
  stdin:
    description:
      - What the module reads from its standard input. Without it the module reads from
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
      - The module's umask as an octal number, for example V('0022').
    type: raw
  nice:
    description:
      - By how much to raise the module's nice value. Only root can lower it.
    type: int
  output_limit:
    description:
      - Bytes of each of the two output streams that are kept on disk, half of them from the
        beginning and half from the end. V(0) keeps all.
      - A module writes its result to its standard output. A result that does not fit cannot be read any more, and the
        job fails.
    type: int
    default: 67108864
  containment:
    description:
      - What holds the job's processes together and protects them. See O(durable.jobs.job_start#module:containment).
    type: str
    default: auto
    choices:
      - auto
      - systemd
      - process
  memory_max:
    description:
      - How much memory the job may use, in bytes or with a unit such as V(512M). See O(durable.jobs.job_start#module:memory_max).
    type: str
  cpu_quota:
    description:
      - How much processor time the job may use, in percent of one processor. See O(durable.jobs.job_start#module:cpu_quota).
    type: str
  tasks_max:
    description:
      - How many processes and threads the job may have at once. See O(durable.jobs.job_start#module:tasks_max).
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
      - The specification is everything that a launch asks for - module, C(args), C(chdir), C(env), C(stdin), limits
        and so
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
      - Seconds for which finished jobs are kept. V(0) keeps all. See O(durable.jobs.job_start#module:retention).
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
      - The module is not run, and nothing is started or written. The result has the id V(j0.0), with which
        M(durable.jobs.job_status) reports a skipped look.
        So has the result of a launch that O(creates) or O(removes) made unnecessary, or that found nothing to do.
      - With O(name) the result says whether the job would be started, attached to or refused, and describes the
        existing job.
  diff_mode:
    support: full
    details:
      - With O(name), returns the specification of the latest job of that name and the one asked for
        now, secrets masked.
      - The module runs in diff mode, and the job's result has its diff.
notes:
  - This module needs its action plugin, so it cannot be called in a way that bypasses action plugins.
  - The values of O(args), O(env) and O(stdin), and the result of a task with C(no_log), are never stored where a look
    would print them.
seealso:
  - module: durable.jobs.job_start
  - module: durable.jobs.job_status
  - module: durable.jobs.job_wait
"""

EXAMPLES = r"""
- name: Start a download that may take an hour
  durable.jobs.job_module:
    module: ansible.builtin.get_url
    args:
      url: https://example.com/image.iso
      dest: /srv/image.iso
      mode: "0644"
    timeout: 1h
  register: download

- name: Wait for it
  durable.jobs.job_status:
    jid: "{{ download.ansible_job_id }}"
    wait: "{{ download.poll.wait }}"
  register: image
  until: image.finished
  retries: "{{ download.poll.retries }}"
  delay: "{{ download.poll.delay }}"

- name: Upgrade all packages, unless the upgrade is running or has succeeded before
  durable.jobs.job_module:
    module: ansible.builtin.package
    args:
      name: "*"
      state: latest
    name: upgrade
    rerun: on_failure
  register: upgrade
  become: true
"""

RETURN = r"""
module:
  description: The name of the module that the job is. Other jobs do not have this key.
  returned: always
  type: str
  sample: ansible.builtin.get_url
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

from ansible_collections.durable.jobs.plugins.module_utils._argspec import START_MODULE
from ansible_collections.durable.jobs.plugins.module_utils._module import ask


def main() -> None:
    """Run the module: parameters in, one JSON result out."""
    ask(START_MODULE)


if __name__ == "__main__":
    main()
