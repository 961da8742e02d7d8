#!/usr/bin/python
# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read what a job has written."""

from __future__ import annotations

DOCUMENTATION = r"""
module: job_output
author:
  - durable.jobs contributors (@durable-jobs)
version_added: 0.1.0
short_description: Read the output of a background job, also while it runs
description:
  - Reads a stream of one job, from an offset or its last lines. The job may be running or may have ended in any way.
  - The offset belongs to the reader. The target does not remember which parts were read, so any number of readers can
    follow a job, each at its own pace. Give RV(next_offset) as O(offset) the next time, until RV(eof) is true.
  - A character that would be cut by the end of a piece is in the next piece. Bytes that are not UTF-8 are replaced.
  - A job of C(async) has output only after its end, without trailing newlines.
options:
  jid:
    description:
      - The job's id, C(ansible_job_id) in the result of the task that launched it.
      - One of O(jid) and O(name) must be given.
    type: str
  name:
    description:
      - The job's name. It means the latest job of that name, which may be another job the next time. To follow one
        job, give its O(jid).
    type: str
  stream:
    description:
      - Which stream of the job to read.
    type: str
    choices:
      - stdout
      - stderr
    default: stdout
  offset:
    description:
      - Where to begin, in bytes from the beginning of the stream.
      - If the stream is shorter than that, nothing is returned, and RV(next_offset) is O(offset).
      - The default is 0.
    type: int
  attempt:
    description:
      - Of which attempt of a job that is tried again. Without it, the latest that has begun. The next one may be waited for.
      - Earlier attempts keep together as many bytes of each stream as C(output_limit) of M(durable.jobs.job_start) allows one. Of those that
        are not kept any more, RV(durable.jobs.job_status#module:attempts) has the end.
      - With O(follow) and without this option, the output of all further attempts is shown too.
    type: int
    version_added: 1.0.0
  tail_lines:
    description:
      - Begin with the last so many lines instead, which together have at most O(max_bytes). V(0) begins at the end.
      - Only the end of a large stream is read.
    type: int
  max_bytes:
    description:
      - How many bytes to return at most, from 1 to 16777216. One whole character is returned even if it has more
        bytes.
    type: int
    default: 1048576
  wait:
    description:
      - Seconds to wait on the target until there is something to return, or the job has finished.
    type: raw
    default: 0
  follow:
    description:
      - Show each line as soon as it is written, until the job has finished and its whole output has been shown. The
        task then succeeds, even if the job did not.
      - RV(content) is then the end of the shown output, about O(max_bytes) of it.
      - Control characters of terminals are shown as C(?). A task with C(no_log) shows nothing.
    type: bool
    default: false
  reveal:
    description:
      - Whether to show the output of a job even if it was launched with C(no_log), or if a damaged record hides
        whether it was. The output is read from the job's files, which belong to the job's user.
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
      - Reads the same, and does not follow. For the id that M(durable.jobs.job_start) returns in check mode, and for a name of which there is
        no job, reading is skipped.
notes:
  - The lines are shown under stdout callbacks that write text for people. Under others, such as C(ansible.posix.json), there
    are none. The variable C(durable_jobs_live_lines), the environment variable E(DURABLE_JOBS_LIVE_LINES) and
    C(live_lines) in the section C([durable_jobs]) of C(ansible.cfg) turn them off (V(false)) or on (V(true)).
seealso:
  - module: durable.jobs.job_info
  - module: durable.jobs.job_status
"""

EXAMPLES = r"""
- name: Read the last lines that a job has written
  durable.jobs.job_output:
    name: reindex users
    tail_lines: 20
  register: end

- name: Wait up to a minute for what comes next
  durable.jobs.job_output:
    jid: "{{ end.ansible_job_id }}"
    offset: "{{ end.next_offset }}"
    wait: 60
  register: more

- name: Show it
  ansible.builtin.debug:
    var: more.content_lines

- name: Show line by line what a job writes, until it has finished
  durable.jobs.job_output:
    name: reindex users
    follow: true
"""

RETURN = r"""
attempt:
  description: Of which attempt the output is.
  returned: always
  type: int
  version_added: 1.0.0
content:
  description:
    - What was read, as text.
    - For a job that was launched with C(no_log), a text that says so.
  returned: always
  type: str
content_lines:
  description: RV(content) as a list of lines. The first and the last may be parts of a line.
  returned: always
  type: list
  elements: str
offset:
  description: Where RV(content) begins, in bytes.
  returned: always
  type: int
next_offset:
  description: Where to go on.
  returned: always
  type: int
eof:
  description:
    - Whether the job has finished and everything has been read. As long as it is false, more may come.
  returned: always
  type: bool
shrunk:
  description:
    - Whether the stream has fewer bytes than O(offset). If that was RV(next_offset) of an earlier answer, the command, or a tool that
      rotates logs, has truncated its output since. What is there now begins at offset V(0). With O(follow), reading begins there again.
    - If the stream has grown beyond O(offset) again in the meantime, nobody can tell that it was truncated.
  returned: always
  type: bool
size:
  description: How many bytes the stream has; null if the output is hidden.
  returned: always
  type: int
lost_bytes:
  description:
    - How many bytes between the O(offset) that was asked for and RV(offset) have been cut out by the output limit
      (O(durable.jobs.job_start#module:output_limit)).
  returned: always
  type: int
cut_from:
  description:
    - Where the bytes that the output limit has cut out of the stream begin; null if all are there. A piece ends there, and the
      next one begins at RV(cut_to).
  returned: always
  type: int
cut_to:
  description: Where they end. While the job runs this may grow.
  returned: always
  type: int
stream:
  description: The stream that was read.
  returned: always
  type: str
ansible_job_id:
  description: The job's id.
  returned: always
  type: str
name:
  description: The job's name; null if it has none.
  returned: always
  type: str
state:
  description: The job's state, as M(durable.jobs.job_status) returns it.
  returned: always
  type: str
reason:
  description: What else is known of the state.
  returned: always
  type: str
finished:
  description: Whether the job has ended, in whatever way.
  returned: always
  type: bool
"""

from ansible_collections.durable.jobs.plugins.module_utils._argspec import OUTPUT
from ansible_collections.durable.jobs.plugins.module_utils._module import ask


def main() -> None:
    """Run the module: parameters in, one JSON result out."""
    ask(OUTPUT)


if __name__ == "__main__":
    main()
