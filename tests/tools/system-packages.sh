#!/usr/bin/env bash
# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# What the SSH and fault tests need and Python cannot bring: an sshd to talk to, sudo to become
# another user, setfacl, with which ansible hands its files from one unprivileged user to another,
# strace, which kills a process at the system call that a test names, and libfaketime, which
# moves the wall clock of single processes.
# With the argument "browser", what the browser tests need instead: Debian's chromium and its driver;
# with "eda", the Java in which ansible-rulebook runs its rule engine, instead;
# with "machines", what makes and boots machines (tests/tools/machines.py), too.
# Without root, or where it fails, it says so and goes on: those tests then skip themselves.
set -uo pipefail
PATH=$PATH:/usr/sbin:/sbin

missing=()
if [ "${1:-}" = browser ]; then
    command -v chromium >/dev/null || missing+=(chromium)
    command -v chromedriver >/dev/null || missing+=(chromium-driver)
elif [ "${1:-}" = eda ]; then
    command -v java >/dev/null || missing+=(openjdk-17-jre-headless)
    command -v openssl >/dev/null || missing+=(openssl)
else
    command -v sshd >/dev/null || missing+=(openssh-server)
    command -v ssh >/dev/null || missing+=(openssh-client)
    command -v sudo >/dev/null || missing+=(sudo)
    command -v setfacl >/dev/null || missing+=(acl)
    command -v strace >/dev/null || missing+=(strace)
    command -v unshare >/dev/null || missing+=(util-linux)
    command -v mkfs.ext4 >/dev/null || missing+=(e2fsprogs)
    compgen -G '/usr/lib*/*/faketime/libfaketime.so.1' >/dev/null ||
        compgen -G '/usr/lib*/faketime/libfaketime.so.1' >/dev/null || missing+=(libfaketime)
fi
if [ "${1:-}" = machines ]; then
    command -v debootstrap >/dev/null || missing+=(debootstrap)
    command -v systemd-nspawn >/dev/null || missing+=(systemd-container)
    command -v ip >/dev/null || missing+=(iproute2)
fi

[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
    reason="only root can install them"
elif command -v apt-get >/dev/null; then
    echo "Installing for the tests: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -qq -y --no-install-recommends "${missing[@]}" </dev/null && exit 0
    reason="apt-get could not install them"
elif command -v dnf >/dev/null; then
    echo "Installing for the tests: ${missing[*]}"
    names=("${missing[@]/openssh-client/openssh-clients}")
    names=("${names[@]/openjdk-17-jre-headless/java-17-openjdk-headless}")
    dnf install -q -y "${names[@]/chromium-driver/chromedriver}" </dev/null && exit 0
    reason="dnf could not install them"
else
    reason="this machine has neither apt-get nor dnf"
fi
echo "SOME TESTS WILL BE SKIPPED: ${missing[*]} missing, and ${reason}."
