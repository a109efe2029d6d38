"""One self-contained HTML page: text, tables and pictures, nothing loaded from elsewhere.

It reads well in light and dark, on narrow and wide screens, and printed.
"""

import base64
import html
import pathlib
import string

STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #777; }
@media (prefers-color-scheme: dark) { :root { --quiet: #999; } }
body { font: 16px/1.5 system-ui, sans-serif; \
max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; margin-bottom: .2rem; } \
h1, p { overflow-wrap: anywhere; } \
h2 { margin-top: 2.5rem; }
.warning { border-left: 4px solid #c60; padding: .4rem 1rem; background: #c601; }
.wide { overflow-x: auto; margin: 1rem 0; } \
table { border-collapse: collapse; font-size: 13px; } \
caption { text-align: left; padding: .3rem 0; color: var(--quiet); }
th, td { text-align: left; padding: .35rem .6rem; \
border-bottom: 1px solid var(--line); vertical-align: top; }
td { font-variant-numeric: tabular-nums; } \
td:nth-child(-n+3) { overflow-wrap: anywhere; min-width: 5.5rem; } \
td:nth-child(n+6) { min-width: 5rem; }
figure { margin: 1rem 0; } figcaption { color: var(--quiet); font-size: 14px; }
img { max-width: 100%; height: auto; background: white; } .quiet { color: var(--quiet); }
@media print { body { margin: 0; max-width: none; font-size: 11pt; } \
figure, tr { break-inside: avoid; } .wide { overflow: visible; } }
"""
DOCUMENT = string.Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
</body>
</html>
""")
TABLE = string.Template(
    '<div class="wide"><table>$caption<thead><tr>$head</tr></thead>'
    '<tbody>$body</tbody></table></div>'
)
FIGURE = string.Template(
    '<figure><img src="data:image/png;base64,$data" alt="$alt">$caption</figure>'
)


class raw(str):
    """HTML that is ready, which `table` does not escape."""


def document(title, body):
    """The whole page.

    Args:
        title: plain text, of the tab and of the heading.
        body: HTML that is ready.

    Returns:
        str.
    """
    return DOCUMENT.substitute(title=text(title), style=STYLE, body=body)


def text(value):
    """Anything as escaped text: floats with three decimals, None as nothing."""
    if value is None:
        return ''
    if isinstance(value, float):
        return f'{value:.3f}'
    return html.escape(str(value))


def table(columns, rows, caption=''):
    """The HTML of a table with a header.

    Args:
        columns: what the header says.
        rows: sequences of cells: anything that `text` takes, or HTML marked as such by `raw`.
        caption: plain text above the table.

    Returns:
        str.
    """
    head = ''.join(f'<th scope="col">{text(column)}</th>' for column in columns)
    body = ''.join(_row(row) for row in rows)
    caption = f'<caption>{text(caption)}</caption>' if caption else ''
    return TABLE.substitute(caption=caption, head=head, body=body)


def _row(cells):
    contents = (cell if isinstance(cell, raw) else text(cell) for cell in cells)
    return '<tr>' + ''.join(f'<td>{content}</td>' for content in contents) + '</tr>'


def figure(path, alt, caption=''):
    """The HTML of a picture, which is embedded.

    Args:
        path: of a PNG file.
        alt: what it shows, for those who do not see it.
        caption: plain text below it.

    Returns:
        str.
    """
    data = base64.b64encode(pathlib.Path(path).read_bytes()).decode()
    caption = f'<figcaption>{text(caption)}</figcaption>' if caption else ''
    return FIGURE.substitute(data=data, alt=html.escape(alt), caption=caption)
