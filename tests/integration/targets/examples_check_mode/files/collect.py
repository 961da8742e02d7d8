# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a playbook of each example of the documentation: collect.py COLLECTION FOLDER prints their paths.

Examples are the files of docs/examples, the EXAMPLES of plugins, and the YAML of README files and guides. An example
that is only a list of tasks becomes a play of its own.
"""

from __future__ import annotations

import ast
import pathlib
import re
import sys
import textwrap
import typing as t

ROOT, FOLDER = map(pathlib.Path, sys.argv[1:])
HEADER = re.compile(r"\A(#.*\n)*---\n")
IN_MARKDOWN = re.compile(r"^```ya?ml\n(.*?)^```", re.MULTILINE | re.DOTALL)
IN_RST = re.compile(r"^\.\. code-block:: yaml.*\n\n((?:    .*\n|\n)+)", re.MULTILINE)


def written() -> t.Iterator[tuple[str, str]]:
    """Yield the examples that are not in files of their own, and how to call each."""
    for path in sorted(ROOT.glob("plugins/*/*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXAMPLES":
                yield path.stem, ast.literal_eval(node.value)
    for path in [ROOT / "README.md", *sorted(ROOT.glob("roles/*/README.md"))]:
        for number, text in enumerate(IN_MARKDOWN.findall(path.read_text(encoding="utf-8"))):
            yield f"{path.parent.name}_readme_{number}", text
    for path in sorted(ROOT.glob("docs/docsite/rst/*.rst")):
        for number, text in enumerate(IN_RST.findall(path.read_text(encoding="utf-8"))):
            yield f"{path.stem}_{number}", text


def main() -> None:
    """Write the playbooks."""
    files = sorted(ROOT.glob("docs/examples/**/*.yml"))
    known = {HEADER.sub("", path.read_text(encoding="utf-8")).strip() for path in files}
    for path in files:
        # Tasks are included by the playbook beside them. What is in eda needs ansible-rulebook: tests/eda runs it.
        if not path.name.endswith("_tasks.yml") and "eda" not in path.parts:
            print(path)
    for name, text in written():
        example = textwrap.dedent(text).strip()
        if example in known:
            continue
        if not re.search(r"^  hosts:", example, re.MULTILINE):
            play = "- name: Run an example\n  hosts: all\n  gather_facts: false\n  tasks:\n"
            example = play + textwrap.indent(example, "    ")
        target = FOLDER / f"{name}.yml"
        target.write_text(example + "\n", encoding="utf-8")
        print(target)


main()
