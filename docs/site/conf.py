# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How Sphinx builds the site of the collection from the pages that antsibull-docs writes (`make docs`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from docutils import nodes

if TYPE_CHECKING:
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "durable.jobs"
project_copyright = "durable.jobs contributors"
html_title = "durable.jobs: durable background jobs"
html_short_title = "durable.jobs"

extensions = ["sphinx_antsibull_ext"]
pygments_style = "ansible"
highlight_language = "YAML+Jinja"
default_role = "any"
nitpicky = True

html_theme = "sphinx_ansible_theme"
html_theme_options = {"collapse_navigation": False}
html_show_sphinx = False
html_use_index = False
html_copy_source = False

CORE = "https://docs.ansible.com/projects/ansible/latest/"
# Pages of ansible-core's site to which antsibull-docs links. Its inventory would have to be fetched.
LABELS = {
    "action_plugins": "plugins/action.html",
    "ansible_configuration_settings": "reference_appendices/config.html",
    "common_return_values": "reference_appendices/common_return_values.html",
}
BUILTIN = re.compile(r"ansible_collections\.ansible\.builtin\.([a-z_]+_(?:module|filter|lookup))$")


def link_core(
    _app: Sphinx, _env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Return a link to a page of ansible-core; None for what is none, which Sphinx warns of then."""
    target = node["reftarget"]
    plugin = BUILTIN.match(target)
    page = LABELS.get(target)
    if plugin:
        page = f"collections/ansible/builtin/{plugin[1]}.html"
    if page is None:
        return None
    return nodes.reference("", "", content.deepcopy(), internal=False, refuri=CORE + page)


def setup(app: Sphinx) -> None:
    """Add what is above to Sphinx."""
    app.connect("missing-reference", link_core)
