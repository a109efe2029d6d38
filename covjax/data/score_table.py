"""The table of an audit of a classifier from elsewhere: images, their scores, and whose they are.

A line an image, with the columns

file or id   the file below the folder, or the id in a prepared data set
score        P(positive class), 0 to 1; may be empty for images of training
label        the name of its class, or 0 and 1
patient      whose it is
document     the paper or web page that pictures of several patients may come from
source       the hospital, scanner or data set that it comes from, in all lines or none
split        train, validation or test, in all lines or none; without it all images are tests

All but the first may be left out; other columns are passed over.
"""

import dataclasses
import math
from typing import NamedTuple

from covjax import InputError
from covjax.data import csv_table

COLUMNS = ('score', 'label', 'patient', 'document', 'source', 'split')
SPLITS = ('train', 'validation', 'test')
GIVE = (
    'write the column file (or id, of a prepared data set) and, as far as known, score, label, '
    'patient, document, source and split'
)


class Line(NamedTuple):
    """What a table says of an image; '' and None where it does not."""

    name: str  # of the file below the folder, or the id of the example
    score: float | None
    label: str
    patient: str
    document: str
    source: str
    split: str  # of SPLITS, or ''


class ScoreTable(NamedTuple):
    """A whole table."""

    lines: dict[str, Line]  # by name
    columns: frozenset  # of COLUMNS, those that any line fills in


def read(file, source=''):
    """The ScoreTable of a file.

    Args:
        file: pathlib.Path of a CSV; commas, semicolons or tabs between cells.
        source: pathlib.Path of the folder of the files, or '' of a prepared data set.

    Raises:
        InputError: there is no such table, or a line is wrong.
    """
    table = csv_table.read(file, ('file', 'id', *COLUMNS), (), GIVE, others=True)
    lines = {}
    for number, cells in table:
        where, name = f'{file}: line {number}', cells['file'] or cells['id']
        if not name:
            raise InputError(f'{where} names no image; {GIVE}')
        if source:
            name = csv_table.file_name(name, source)
        if name in lines:
            raise InputError(f'{where} has {name} again; keep one line for each image')
        if cells['split'] and cells['split'] not in SPLITS:
            raise InputError(
                f'{where} has the split {cells["split"]}; write one of {", ".join(SPLITS)}'
            )
        others = [cells[column] for column in COLUMNS[1:]]
        lines[name] = Line(name, _score(cells['score'], where), *others)
    for column in ('split', 'source'):
        _check_whole(file, column, lines.values())
    filled = {column for column in COLUMNS if any(cells[column] for _, cells in table)}
    return ScoreTable(lines, frozenset(filled))


def _check_whole(file, column, lines):
    """Refuses a column that only some lines fill in."""
    lacking = [line.name for line in lines if not getattr(line, column)]
    if 0 < len(lacking) < len(lines):
        raise InputError(
            f'{file}: {len(lacking)} of {len(lines)} lines have no {column} (first: {lacking[0]}); '
            'fill it in, or leave the column out'
        )


def _score(text, where):
    """The number of a cell, None of an empty one."""
    if not text:
        return None
    try:
        score = float(text.replace(',', '.'))
    except ValueError:
        raise InputError(f'{where} has the score {text}; write a number from 0 to 1') from None
    if math.isnan(score) or not 0 <= score <= 1:
        raise InputError(
            f'{where} has the score {text}; give P(positive class) from 0 to 1, of a logit '
            '1 / (1 + exp(-logit))'
        )
    return score


def completed(row, line):
    """A Row with the patient, document and source that a line says.

    Args:
        row: data.rows.Row.
        line: Line, or None of an image that has none. A document without patients is one group.
    """
    if line is None:
        return row
    # What is before the '/' of a group is its document.
    known = [line.document.replace('/', '_'), line.patient.replace('/', '_')]
    group = '/'.join(filter(None, known)) or row.group
    return dataclasses.replace(row, group=group, others=row.others | {'source': line.source})
