#!/usr/bin/python3
# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module for recordings, small enough to be in one while it runs: it says that it has begun, and waits. WANT_JSON."""

import sys
import time

print("begun", flush=True)
time.sleep(600)
sys.exit(0)
