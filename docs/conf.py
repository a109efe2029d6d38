"""The documentation as a site: python -m sphinx docs site (pip install -e '.[docs]')."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from covjax import __version__  # noqa: E402

project, version, release = 'covjax', __version__, __version__
copyright = 'covjax developers, Apache-2.0'
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.viewcode']
html_theme = 'furo'
html_title = f'covjax {__version__}'
html_static_path = []
# The notebook is shown as it is stored; tests run it.
nb_execution_mode = 'off'
myst_heading_anchors = 3
myst_enable_extensions = ['colon_fence']
# Docstrings say types in words.
autodoc_typehints = 'none'
autodoc_default_options = {'members': True, 'member-order': 'bysource'}
autodoc_inherit_docstrings = False
napoleon_google_docstring, napoleon_numpy_docstring = True, False
suppress_warnings = ['myst.xref_missing', 'myst.header', 'misc.highlighting_failure']
exclude_patterns = ['_build']


CODE = re.compile(r'[\w, ]+ = \S|[\w.]+\(|from \w|import \w|python |--')


def as_code(app, what, name, obj, options, lines):
    """Sets the examples of docstrings, paragraphs of code, apart as such."""
    paragraphs = '\n'.join(lines).split('\n\n')
    for i, paragraph in enumerate(paragraphs):
        if what == 'module' and all(map(CODE.match, map(str.strip, paragraph.splitlines()))):
            indented = '\n'.join(f'    {line}' for line in paragraph.splitlines())
            paragraphs[i] = f'::\n\n{indented}' if paragraph.strip() else paragraph
    lines[:] = '\n\n'.join(paragraphs).splitlines()


def setup(app):
    """What Sphinx calls."""
    app.connect('autodoc-process-docstring', as_code)
