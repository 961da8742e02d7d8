# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parameters by which the end of a job is told."""

from __future__ import annotations


class ModuleDocFragment:
    """Documents module_utils/_argspec.py: NOTIFY."""

    DOCUMENTATION = r"""
options:
  notify:
    description:
      - Who is to be told of the end of the job. Each entry has exactly one of O(notify[].url), O(notify[].argv) and
        O(notify[].journald). At most 16 entries.
      - What is sent is an event in the JSON format of CloudEvents 1.0. Its C(type) is C(durable.jobs.finished), its C(id) is
        C(<jid>:<attempt>:<type>), its C(source) is the name of the host in the inventory, and its C(data) is the job dictionary without output.
      - The event is on the disk before anybody is told that the job has finished, in room that was allocated at the launch.
        It is sent afterwards, so the end of a job never waits for a receiver.
      - It is sent at least once. A receiver that gets it twice, because its answer was lost, gets the same C(id) and the same bytes.
        Events of several jobs come in any order.
      - What is not taken is sent again after a second, then after pauses that double up to 5 minutes, until it is taken or older than
        O(notify_for). The pauses vary by a quarter, so that a thousand jobs do not ask at the same moment.
      - No controller and no daemon is needed for that. A host has at most 4 processes at once that send. After a reboot the next launch, look or
        M(durable.jobs.job_notify) in the same async dir goes on.
      - C(notifications) in the results of M(durable.jobs.job_status) and M(durable.jobs.job_info) says what has become of it,
        and why a receiver has not taken it.
      - Of a job that is launched with C(no_log) neither the command nor any output is sent.
      - The parameter is kept in a file that only the job's user can read, until nothing is left to send. It is in no record, result, command line or log.
      - It is no part of the specification that launches under a C(name) compare. A job keeps what it was launched with.
    type: list
    elements: dict
    version_added: 1.0.0
    suboptions:
      "on":
        description:
          - The states of which to tell, of V(succeeded), V(failed), V(timed_out), V(stopped) and V(lost). If it is not given, all of them.
          - V(attempt) is each failed attempt of a job that is tried again.
          - YAML reads an unquoted C(on) as C(true). Both are understood.
        type: list
        elements: str
      url:
        description:
          - An C(http) or C(https) URL to which the event is sent by POST. An answer of 2xx means that it has been taken.
          - Of C(https) the certificate and the host name are verified. Redirects are not followed, and no proxy is used.
        type: str
      secret:
        description:
          - Signs the request. Its header C(X-Hub-Signature-256) is C(sha256=) and the HMAC-SHA256 of the body.
        type: str
      bearer:
        description:
          - A token for the header C(Authorization).
        type: str
      ca_file:
        description:
          - A file on the target with the certificates of the authorities that are trusted for this receiver, and of no others.
            If it is not given, those that the target trusts.
        type: path
      client_cert:
        description:
          - A file on the target with a certificate, for a receiver that asks for one. It may hold the key, too.
        type: path
      client_key:
        description:
          - A file on the target with the key of O(notify[].client_cert), without a passphrase.
        type: path
      http_timeout:
        description:
          - Seconds that a receiver may take for all of the request, from the connection to the end of its answer. At most 300.
        type: raw
        default: 10
      argv:
        description:
          - A program of the target, and its arguments, that gets the event on its standard input. Exit status 0 means that it has been taken.
          - It runs as the job's user in C(/) with umask 077, in the environment of the launch but without the job's C(env), and its output goes to
            C(/dev/null).
          - It may take as long as the job, its C(timeout), but at most 5 minutes. Then it gets SIGTERM, and after the job's C(grace) SIGKILL.
        type: list
        elements: str
      journald:
        description:
          - Write the event to the journal of systemd, with the fields C(DURABLE_JOB_ID), C(DURABLE_JOB_NAME), C(DURABLE_JOB_STATE),
            C(DURABLE_JOB_RC) and C(MESSAGE).
        type: bool
        default: false
      include_output:
        description:
          - Whether C(data) has a key C(tail) with the last 4 KiB of C(stdout) and C(stderr). Never for a job that is launched with C(no_log).
        type: bool
        default: false
  notify_for:
    description:
      - Seconds after the end of the job for which it is tried to tell of it. Every receiver is tried at least once.
    type: raw
    default: 86400
    version_added: 1.0.0
"""
