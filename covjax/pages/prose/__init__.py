"""The prose of the pages: one TOML file per page, with an opening and its sections."""

import tomllib
from importlib import resources
from typing import NamedTuple

from covjax.pages.html import Section


class Prose(NamedTuple):
    """The text of a page, with placeholders in braces for what was measured."""

    title: str  # '' where the config of the run has it
    opening: str
    sections: dict[str, dict[str, str]]  # {name: its 'title' and 'text'}

    def section(self, part, columns=(), rows=(), figures=(), **values):
        """A Section, its places filled with values.

        Args:
            part: name of the table in the TOML file.
            columns, rows, figures: of the Section.
            values: by the names of the places.
        """
        title, text = (self.sections[part][key].format(**values) for key in ('title', 'text'))
        return Section(title, text, columns, rows, figures)


def read(name):
    """The Prose of a page, by the name of its file without the ending."""
    content = tomllib.loads((resources.files(__name__) / f'{name}.toml').read_text('utf-8'))
    return Prose(content.pop('title', ''), content.pop('opening'), content)
