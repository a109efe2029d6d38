"""The tables of LUNA16: annotated nodules, their malignancy, candidates; folds and splits."""

import csv
import hashlib
import math
import pathlib
from typing import NamedTuple

import numpy as np

from covjax import InputError
from covjax.ct import archive

PLACE = ('coordX', 'coordY', 'coordZ')
LARGEST = 1000.0  # mm that a nodule can measure
UNKNOWN = -1  # malignancy of a nodule that nobody rated, fold of a volume that lies elsewhere


class Annotation(NamedTuple):
    """One row of annotations.csv: a nodule."""

    row: int  # 0-based, the number that the paper names its slices by
    series: str
    world: tuple[float, float, float]  # mm
    diameter: float  # mm, in 3-D
    # 1 malignant, 0 benign by the mean rating of the radiologists, -1 not known.
    malignancy: int = UNKNOWN


class Candidate(NamedTuple):
    """One row of candidates.csv: a place that a detector found."""

    row: int  # 0-based
    series: str
    world: tuple[float, float, float]  # mm
    nodule: bool  # class 1 of the table


def series_split(series):
    """Returns the split of a series: 'train' (80 %), 'validation' (10 %) or 'test' (10 %).

    A stable hash of the series id alone, so a series never trains in one data set and tests in
    another.
    """
    tenth = int.from_bytes(hashlib.sha256(series.encode()).digest()[:8], 'big') % 10
    return {8: 'validation', 9: 'test'}.get(tenth, 'train')


def challenge_fold(path):
    """Returns the fold of the LUNA16 challenge that a volume belongs to.

    That is K of the folder subsetK or the archive subsetK.zip that it lies in; -1 elsewhere.
    """
    for parent in pathlib.Path(path).parents:
        number = parent.stem.removeprefix('subset')
        if parent.stem.startswith('subset') and number.isdigit():
            return int(number)
    return UNKNOWN


def read_nodules(path):
    """Reads annotations.csv, with columns seriesuid, coordX, coordY, coordZ and diameter_mm.

    Returns:
        [Annotation] in file order, malignancy not known.

    Raises:
        InputError: there is no such table, or it is damaged, or a number in it is impossible.
    """
    annotations = []
    for i, row, world in _rows(path, 'diameter_mm', 'annotations'):
        (diameter,) = _numbers(path, i, row, ['diameter_mm'])
        if not 0 < diameter <= LARGEST:
            raise InputError(
                f'{path}: row {i}: the diameter is {diameter:g} mm; repair or remove the row'
            )
        annotations.append(Annotation(i, row['seriesuid'], world, diameter))
    return annotations


def without_copies(rows):
    """Separates the rows of a table from repeated ones, equal to a thousandth of a mm.

    Args:
        rows: [Annotation] or [Candidate].

    Returns:
        (the first of each, the numbers of the others).
    """
    kept, copies = {}, []
    for row in rows:
        said = tuple(map(_rounded, row._replace(row=0)))
        if kept.setdefault(said, row) is not row:
            copies.append(row.row)
    return list(kept.values()), copies


def _rounded(value):
    """A value of a row, lengths to a thousandth of a mm: spreadsheets write other digits."""
    if isinstance(value, tuple):
        return tuple(map(_rounded, value))
    return round(value, 3) if isinstance(value, float) else value


def with_malignancy(annotations, path):
    """Adds the ratings of annotations_with_malignancy.csv to annotations.

    A nodule gets the rating of the nearest row there that is within 1 mm of it on every axis.

    Args:
        annotations: [Annotation].
        path: of the table, with columns seriesuid, coordX, coordY, coordZ and mal_bool.

    Returns:
        [Annotation].

    Raises:
        InputError: there is no such table, or it is damaged.
    """
    ratings = {}
    for i, row, world in _rows(path, 'mal_bool', 'annotations'):
        value = row['mal_bool']
        if value not in ('True', 'False'):
            raise InputError(f'{path}: row {i}: mal_bool is {value}; expected True or False')
        ratings.setdefault(row['seriesuid'], []).append((np.array(world), int(value == 'True')))
    return [
        annotation._replace(malignancy=_rating(annotation, ratings.get(annotation.series, ())))
        for annotation in annotations
    ]


def _rating(annotation, ratings):
    """The malignancy of the nearest of [(world, malignancy)], UNKNOWN where none is near."""
    near = [(np.abs(world - annotation.world).max(), value) for world, value in ratings]
    distance, value = min(near, default=(math.inf, UNKNOWN))
    return value if distance < 1 else UNKNOWN


def read_candidates(path):
    """Reads candidates.csv or candidates_V2.csv.

    Columns are seriesuid, coordX, coordY, coordZ and class.

    Returns:
        [Candidate] in file order.

    Raises:
        InputError: there is no such table, or it is damaged.
    """
    candidates = []
    for i, row, world in _rows(path, 'class', 'candidates'):
        if row['class'] not in ('0', '1'):
            raise InputError(f'{path}: row {i}: class is {row["class"]}; expected 0 or 1')
        candidates.append(Candidate(i, row['seriesuid'], world, row['class'] == '1'))
    return candidates


def _rows(path, column, key):
    """Yields (number, row as a dict, world) of a table that has a place and one more column."""
    if not archive.is_file(path):
        raise InputError(f'{path}: no such table; give its path as config.{key}')
    try:
        reader = csv.DictReader(archive.read_text(path).splitlines())
        columns, rows = set(reader.fieldnames or ()), list(reader)
    except csv.Error as error:
        raise InputError(
            f'{path}: is not a comma-separated table ({error}); look for a stray quotation mark'
        ) from None
    if missing := {'seriesuid', *PLACE, column} - columns:
        raise InputError(
            f'{path}: no column {", ".join(sorted(missing))}; '
            'expected a comma-separated table with the header of LUNA16'
        )
    for i, row in enumerate(rows):
        yield i, row, tuple(_numbers(path, i, row, PLACE))


def _numbers(path, i, row, keys):
    """The finite numbers [float] of some columns of row i."""
    remedy = 'repair or remove the row'
    try:
        numbers = [float(row[key]) for key in keys]
    except (TypeError, ValueError):
        message = f'{path}: row {i}: {", ".join(keys)} must be numbers; {remedy}'
        raise InputError(message) from None
    if not all(map(math.isfinite, numbers)):
        raise InputError(f'{path}: row {i}: {", ".join(keys)} must be finite; {remedy}')
    return numbers
