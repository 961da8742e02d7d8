# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job is, where it lies and who runs it: one package, two lives.

Modules import it like any other module utility. The same files, copied to a content-addressed
folder of the async dir, are the program that outlives the module (``python3 -I -S <folder>``).
Hence two rules: nothing but the standard library, and nothing but relative imports.

This package is private to the collection; only the JSON record and the modules are for others.
"""
