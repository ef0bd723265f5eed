"""Sphinx configuration: `make docs` builds docs/_build/html, and every warning is an error.

The reference pages of configuration, command line and modules are written into docs/_generated/ before each build, see
generated.py, so that they are those of the code at hand.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT)]
# geoopt, at import: it uses torch.jit.script, which torch deprecates.
warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")

import generated  # noqa: E402
from plain_docstrings import restructured  # noqa: E402

from hyplearn import __version__  # noqa: E402

project = "hyplearn"
project_copyright = "the hyplearn developers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"hyplearn {release}"
html_copy_source = False

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
python_use_unqualified_type_names = True
toc_object_entries = False  # else every page carries a menu of every function

# A reference to a name of this package must lead somewhere; names of others are not linked, nor types in signatures
# that have no entry of their own: private ones, type variables, those of modules that are only listed.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!hyplearn\.).*"),
    (
        "py:class",
        r"hyplearn\.(training|inference|config|jobs|runs|cli|console|data)\..*|hyplearn\..*\.(_\w+|J|M|Loss|Value|Result|Backward)",
    ),
]


def setup(app: Sphinx) -> None:
    """Write the generated pages first, and read docstrings as the plain text that they are."""
    app.connect("builder-inited", lambda app: generated.write_pages(DOCS / "_generated"))
    app.connect("autodoc-process-docstring", _process)


def _process(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = restructured(lines)
