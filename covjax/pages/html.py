"""One self-contained HTML page: text, tables and pictures, nothing loaded from elsewhere; light and dark, narrow, wide and printed."""

import base64
import html
import pathlib

STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #777; }
@media (prefers-color-scheme: dark) { :root { --quiet: #999; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; margin-bottom: .2rem; } h1, p { overflow-wrap: anywhere; } h2 { margin-top: 2.5rem; }
.warning { border-left: 4px solid #c60; padding: .4rem 1rem; background: #c601; }
.wide { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; font-size: 13px; } caption { text-align: left; padding: .3rem 0; color: var(--quiet); }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td { font-variant-numeric: tabular-nums; } td:nth-child(-n+3) { overflow-wrap: anywhere; min-width: 5.5rem; } td:nth-child(n+6) { min-width: 5rem; }
figure { margin: 1rem 0; } figcaption { color: var(--quiet); font-size: 14px; }
img { max-width: 100%; height: auto; background: white; } .quiet { color: var(--quiet); }
@media print { body { margin: 0; max-width: none; font-size: 11pt; } figure, tr { break-inside: avoid; } .wide { overflow: visible; } }
"""


def document(title, body):
    """The whole page around HTML that is ready."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{text(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n'
    )


def text(value):
    """Anything as escaped text, numbers with three decimals."""
    return (
        ''
        if value is None
        else f'{value:.3f}'
        if isinstance(value, float)
        else html.escape(str(value))
    )


def table(columns, rows, caption=''):
    """A table with a header; cells are text, or HTML that is marked as such by `raw`."""
    head = ''.join(f'<th scope="col">{text(column)}</th>' for column in columns)
    body = ''.join(
        '<tr>'
        + ''.join(f'<td>{cell if isinstance(cell, raw) else text(cell)}</td>' for cell in row)
        + '</tr>'
        for row in rows
    )
    return f'<div class="wide"><table>{f"<caption>{text(caption)}</caption>" if caption else ""}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


class raw(str):
    """HTML that is ready."""


def figure(path, alt, caption=''):
    """A PNG file, embedded."""
    data = base64.b64encode(pathlib.Path(path).read_bytes()).decode()
    return f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(alt)}">{f"<figcaption>{text(caption)}</figcaption>" if caption else ""}</figure>'
