"""One self-contained HTML page made of sections: text, pictures and tables, nothing from elsewhere.

A page opens with what it says, in a few sentences; each section then shows its pictures before its
table. It reads well in light and dark, on narrow and wide screens, and printed: a table that is too
wide scrolls in its own box.
"""

import base64
import html
import pathlib
import re
import string
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

from covjax import __version__, drafts

FOLDER = resources.files('covjax.pages')
DOCUMENT = string.Template((FOLDER / 'document.html').read_text(encoding='utf-8'))
STYLE = (FOLDER / 'style.css').read_text(encoding='utf-8')
TABLE = string.Template(
    '<div class="wide" tabindex="0"><table><thead><tr>$head</tr></thead>'
    '<tbody>$body</tbody></table></div>'
)
FIGURE = string.Template(
    '<figure><img src="data:image/png;base64,$data" alt="$alt"><figcaption>$alt</figcaption>'
    '</figure>'
)
# How the title of a page of drawn data begins, and what the page says of it.
PHANTOMS = 'Phantoms'
DRAWN = (
    'Everything here is drawn: what is called real was drawn to look real, and shows no patient.'
)
LONG = 28  # characters of a cell from which it is broken into lines
BREAKS = re.compile('([+,/])')  # behind which a long word may be broken


class Figure(NamedTuple):
    """A picture of a page."""

    path: pathlib.Path  # of a PNG file, which is embedded
    text: str  # what it shows: its caption, and what is read to those who do not see it


class Mark(NamedTuple):
    """A coloured cell of a table; it also says in words what the colour means."""

    text: str
    tone: str  # 'bad', 'good' or 'none'


class Section(NamedTuple):
    """A part of a page: a heading, what it says, pictures, and a table."""

    title: str
    # Paragraphs, with an empty line between two; of one whose lines begin with '- ', a list.
    text: str = ''
    columns: Sequence = ()  # of the table; without any there is none
    rows: Sequence = ()  # of cells: Mark, or anything that `text` takes
    figures: Sequence = ()  # of Figure, above the table
    level: int = 2  # of the heading; 3 for a part of the section above


def page(title, opening, sections):
    """The whole page.

    Args:
        title: of the tab and of the heading; one that begins with PHANTOMS adds DRAWN to the
            opening.
        opening: what the page says, in a few sentences; paragraphs as in a Section.
        sections: iterable of Section.

    Returns:
        str, HTML.
    """
    return DOCUMENT.substitute(
        title=text(title),
        style=STYLE,
        opening=_paragraphs(f'{opening}\n\n{DRAWN}' if title.startswith(PHANTOMS) else opening),
        sections='\n'.join(map(_section, sections)),
        version=__version__,
    )


def write(path, title, opening, sections):
    """Writes a `page` into a file (pathlib.Path)."""
    drafts.write_text(path, page(title, opening, sections))


def text(value):
    """Anything as escaped text: floats with three decimals, None as nothing."""
    if value is None:
        return ''
    if isinstance(value, float):
        return f'{value:.3f}'
    return html.escape(str(value))


def _section(section):
    parts = [f'<h{section.level}>{text(section.title)}</h{section.level}>']
    parts.append(_paragraphs(section.text))
    parts += map(_figure, section.figures)
    if section.columns:
        parts.append(_table(section.columns, section.rows))
    return '\n'.join(filter(None, parts))


def _paragraphs(plain):
    """Paragraphs and lists of plain text as HTML."""
    return '\n'.join(_paragraph(part) for part in re.split(r'\n\s*\n', plain.strip()) if part)


def _paragraph(plain):
    if not plain.startswith('- '):
        return f'<p>{text(plain)}</p>'
    items = re.split(r'\n- ', plain.removeprefix('- '))
    return '<ul>' + ''.join(f'<li>{text(item)}</li>' for item in items) + '</ul>'


def _table(columns, rows):
    head = ''.join(f'<th scope="col">{text(column)}</th>' for column in columns)
    return TABLE.substitute(head=head, body=''.join(map(_row, rows)))


def _row(cells):
    return '<tr>' + ''.join(map(_cell, cells)) + '</tr>'


def _cell(cell):
    if isinstance(cell, Mark):
        return f'<td><span class="mark {cell.tone}">{text(cell.text)}</span></td>'
    content = text(cell)
    if len(content) < LONG:
        return f'<td>{content}</td>'
    breakable = BREAKS.sub(r'\1<wbr>', content)
    return f'<td class="long">{breakable}</td>'


def _figure(figure):
    data = base64.b64encode(pathlib.Path(figure.path).read_bytes()).decode()
    return FIGURE.substitute(data=data, alt=html.escape(figure.text))
