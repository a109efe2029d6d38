"""Tables that people write: CSV with a header, as spreadsheets and pandas save it."""

import csv
import io
import pathlib
import re
from collections import Counter

from covjax import InputError
from covjax.ct import archive

DELIMITERS = ',;\t'  # spreadsheets of some countries write semicolons
HINT = re.compile(r'sep=.\r?\n', re.IGNORECASE)  # a first line that Excel writes for itself
WHOLE = re.compile(r'\d+\.0+')


def read(file, columns, required, give, others=False):
    """The lines of a table, cells without the spaces around them.

    Names of columns may be in capitals and have spaces around them.

    Args:
        file: pathlib.Path; it may lie in an archive.
        columns: names that it may have.
        required: those of them that it must have, a tuple; the first, if any, must be filled in
            every line.
        give: what to give instead, as the end of the message.
        others: whether it may have further columns, which are passed over.

    Returns:
        [(number of the line, {column: str})] with every one of `columns`, '' where one is missing.

    Raises:
        InputError: there is no such table, it has other columns, a line is wrong, or there is none.
    """
    reader, lines = _lines(file, give)
    header = [(name or '').strip().lower() for name in reader.fieldnames or []]
    unknown = set(header) - set(columns)
    if not set(required) <= set(header) or (unknown and not others) or _twice(header, columns):
        raise InputError(f'{file}: has the columns {", ".join(header) or "none"}; {give}')
    table = []
    for number, line in lines:
        if None in line:  # where DictReader puts cells beyond the header
            raise InputError(
                f'{file}: line {number} has more cells than the header; '
                'put cells with a comma into quotation marks'
            )
        cells = {(name or '').strip().lower(): (cell or '').strip() for name, cell in line.items()}
        row = {name: cells.get(name, '') for name in columns}
        if required and not row[required[0]]:
            raise InputError(f'{file}: line {number} has no {required[0]}; fill it in')
        table.append((number, row))
    if not table:
        raise InputError(f'{file}: has no lines; {give}')
    return table


def file_name(text, source):
    """The name of a file below a folder, the same however a table writes its path.

    Args:
        text: a path, relative to the folder or absolute.
        source: pathlib.Path of the folder.

    Returns:
        str such as 'covid/a.png'; of a file elsewhere the whole path.
    """
    if '\\' in text and '/' not in text:  # as Windows writes it
        text = pathlib.PureWindowsPath(text).as_posix()
    path = pathlib.PurePath(text)
    if path.is_absolute() and not path.is_relative_to(source):
        path = pathlib.Path(path).resolve()  # through links, as the folder itself was found
    relative = path.relative_to(source) if path.is_relative_to(source) else path
    return relative.as_posix()


def word(text):
    """A name as labels have it: lower case, without characters that specs use.

    Of a whole number that was written with decimals, such as 1.0, it is that number.
    """
    if WHOLE.fullmatch(text.strip()):
        return text.strip().partition('.')[0]
    return re.sub(r'\W+', '_', text.strip().lower()).strip('_')


def _lines(file, give):
    """(csv.DictReader, [(number of the line, {name as in the header: cell})]) of a table."""
    try:
        text = archive.read_text(file)
        text = text[len(found[0]) :] if (found := HINT.match(text)) else text
        header = text.splitlines()[0] if text.strip() else ''
        delimiter = max(DELIMITERS, key=header.count)
        # Cells may have line breaks.
        lines = io.StringIO(text, newline='')
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
        return reader, [(reader.line_num, line) for line in reader]
    except FileNotFoundError:
        raise InputError(f'{file}: no such table; {give}') from None
    except csv.Error as error:
        raise InputError(f'{file}: is no CSV table ({error}); {give}') from None


def _twice(header, columns):
    """Whether one of the columns is there more than once."""
    return any(Counter(header)[name] > 1 for name in columns)
