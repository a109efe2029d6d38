"""The tables of LUNA16: annotated nodules, their malignancy, candidates, folds, and the split of a series."""

import csv
import hashlib
import math
import pathlib
from typing import NamedTuple

import numpy as np

from covjax import InputError
from covjax.ct import archive

PLACE = {'seriesuid', 'coordX', 'coordY', 'coordZ'}
MOST = 1000.0  # mm that a nodule can measure


class Nodule(NamedTuple):
    """One row of annotations.csv."""

    row: int  # 0-based, the number the paper names its slices by
    series: str
    world: tuple[float, float, float]  # mm
    diameter: float  # mm, in 3-D
    malignancy: int = (
        -1
    )  # 1 malignant, 0 benign by the mean rating of the radiologists, -1 not known


class Candidate(NamedTuple):
    """One row of candidates.csv: a place that a detector found."""

    row: int
    series: str
    world: tuple[float, float, float]  # mm
    nodule: bool  # class 1 of the table


def series_split(series):
    """The split of a series, from a stable hash of its id: 80 % train, 10 % validation, 10 % test.

    A function of the id alone, so a series never trains in one data set and tests in another.
    """
    tenth = int.from_bytes(hashlib.sha256(series.encode()).digest()[:8], 'big') % 10
    return {8: 'validation', 9: 'test'}.get(tenth, 'train')


def challenge_fold(path):
    """K of the folder subsetK or archive subsetK.zip that a volume lies in, the fold of the LUNA16 challenge; -1 elsewhere."""
    folds = [
        parent.stem[6:]
        for parent in pathlib.Path(path).parents
        if parent.stem.startswith('subset') and parent.stem[6:].isdigit()
    ]
    return int(folds[0]) if folds else -1


def read_nodules(path):
    """annotations.csv (seriesuid, coordX, coordY, coordZ, diameter_mm) -> list of Nodule in file order."""
    nodules = []
    for i, row, world in _rows(path, 'diameter_mm', 'annotations'):
        diameter = _numbers(path, i, row, ['diameter_mm'])[0]
        if not 0 < diameter <= MOST:
            raise InputError(
                f'{path}: row {i}: the diameter is {diameter:g} mm; repair or remove the row'
            )
        nodules.append(Nodule(i, row['seriesuid'], world, diameter))
    return nodules


def with_malignancy(nodules, path):
    """The nodules with the ratings of annotations_with_malignancy.csv (seriesuid, coordX, coordY, coordZ, mal_bool) of those within 1 mm of a row there."""
    rated = {}
    for i, row, world in _rows(path, 'mal_bool', 'annotations'):
        if row['mal_bool'] not in ('True', 'False'):
            raise InputError(
                f'{path}: row {i}: mal_bool is {row["mal_bool"]}; expected True or False'
            )
        rated.setdefault(row['seriesuid'], []).append(
            (np.array(world), int(row['mal_bool'] == 'True'))
        )

    def rating(nodule):
        near = [
            (np.abs(world - nodule.world).max(), value)
            for world, value in rated.get(nodule.series, ())
        ]
        return next((value for distance, value in sorted(near) if distance < 1), -1)

    return [nodule._replace(malignancy=rating(nodule)) for nodule in nodules]


def read_candidates(path):
    """candidates.csv or candidates_V2.csv (seriesuid, coordX, coordY, coordZ, class) -> list of Candidate in file order."""
    candidates = []
    for i, row, world in _rows(path, 'class', 'candidates'):
        if row['class'] not in ('0', '1'):
            raise InputError(f'{path}: row {i}: class is {row["class"]}; expected 0 or 1')
        candidates.append(Candidate(i, row['seriesuid'], world, row['class'] == '1'))
    return candidates


def _rows(path, column, key):
    """Yields (number, row, world) of a table that has a place and one more column."""
    if not archive.is_file(path):
        raise InputError(f'{path}: no such table; give its path as config.{key}')
    try:
        reader = csv.DictReader(archive.read_text(path).splitlines())
        columns, rows = set(reader.fieldnames or ()), list(reader)
    except csv.Error as error:
        raise InputError(
            f'{path}: is not a comma-separated table ({error}); look for a stray quotation mark'
        ) from None
    if missing := (PLACE | {column}) - columns:
        raise InputError(
            f'{path}: no column {", ".join(sorted(missing))}; expected a comma-separated table with the header of LUNA16'
        )
    for i, row in enumerate(rows):
        yield i, row, tuple(_numbers(path, i, row, ('coordX', 'coordY', 'coordZ')))


def _numbers(path, i, row, keys):
    try:
        numbers = [float(row[key]) for key in keys]
    except (TypeError, ValueError):
        raise InputError(
            f'{path}: row {i}: {", ".join(keys)} must be numbers; repair or remove the row'
        ) from None
    if not all(map(math.isfinite, numbers)):
        raise InputError(
            f'{path}: row {i}: {", ".join(keys)} must be finite; repair or remove the row'
        )
    return numbers
