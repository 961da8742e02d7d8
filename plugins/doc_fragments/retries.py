# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a job starts later, and when it is tried again."""

from __future__ import annotations


class ModuleDocFragment:
    """Documents module_utils/_job/retrying.py: DEFAULTS."""

    DOCUMENTATION = r"""
options:
  start_in:
    description:
      - Seconds after which the job starts, without the controller. Until then it is V(queued), its reason is V(delayed), and
        C(start_at) says when.
      - The clock goes on while the machine is suspended. A machine that sleeps through the moment starts the job when it wakes.
      - M(durable.jobs.job_stop) ends a job that has not started as V(stopped), with C(started=false).
      - A job that has not started when the machine reboots is V(lost), reason V(rebooted).
    type: raw
    default: 0
    version_added: 1.0.0
  retries:
    description:
      - How many attempts there may be beyond the first, from V(0) to V(1000). They follow without the controller. It is one job, with
        one id and one name, and its result is that of its last attempt.
      - All that an attempt has left running is ended before the next one starts. So no two attempts are alive at the same time.
      - Between attempts the job is V(queued), its reason is V(retry), and C(start_at) says when it goes on. In a batch with C(slots)
        it keeps its slot.
      - The command finds the number of the attempt in E(DURABLE_JOB_ATTEMPT).
      - M(durable.jobs.job_stop) stops the job, not the attempt.
    type: raw
    default: 0
    version_added: 1.0.0
  retry_on:
    description:
      - Which ends of an attempt are tried again. Each is an exit code such as V(75), a signal that killed the command such as V(SIGSEGV), or a word.
      - V(failed) is every exit code but 0, every signal, and a command that could not be started. V(timed_out) is the end at
        O(timeout), V(oom) a process that the kernel has killed for lack of memory, and V(watchdog) the end for lack of a sign of life.
      - V(lost) is an attempt whose exit status cannot be known. Its command may have done its work.
        After a reboot nothing is tried again, whatever is listed here.
      - What was stopped is never tried again.
    type: list
    elements: raw
    default: [failed]
    version_added: 1.0.0
  retry_delay:
    description:
      - Seconds between the end of the first attempt and the start of the second.
    type: raw
    default: 10
    version_added: 1.0.0
  retry_backoff:
    description:
      - By what the pause is multiplied after each further attempt, from V(1) to V(1000).
    type: raw
    default: 2
    version_added: 1.0.0
  retry_delay_max:
    description:
      - Seconds that a pause lasts at the most, but no less than O(retry_delay).
    type: raw
    default: 300
    version_added: 1.0.0
  retry_jitter:
    description:
      - By which share a pause is made longer at random, from V(0) to V(1), so that many hosts do not try at the same moment. The
        pause stays between O(retry_delay) and O(retry_delay_max).
    type: raw
    default: 0.1
    version_added: 1.0.0
  timeout_total:
    description:
      - Seconds that all attempts and their pauses may take together, counted from the start of the first one. V(0) sets no limit.
      - An attempt that runs then is ended as at its O(timeout), and the reason is V(timeout_total). An attempt that would start
        after that is not made.
    type: raw
    default: 0
    version_added: 1.0.0
"""
