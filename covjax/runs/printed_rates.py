"""Printed accuracy, recall, precision and F1 -> the test set sizes that they could come from.

A rate in a table is a fraction of whole numbers of images, so few confusion matrices round to all
four of them. The search tries every matrix up to a bound.
"""

import csv
import math
from typing import NamedTuple

import numpy as np

from covjax import InputError, drafts, provenance
from covjax.ct import archive
from covjax.workdir import write_json

PERCENT = ('accuracy', 'recall', 'precision', 'f1')
LISTED = 8  # sizes that are written out for a row
HEAD = ('model', 'test', *PERCENT, 'sizes that fit (positive / negative)')
FITS_ALL = (
    '{test}: of {rows} rows {fitting} fit some size up to {bound} / {bound}; '
    'sizes that fit all of these: {sizes}.'
)
FITS_CLAIM = '{test}: {claimed} fits {fitting} of {rows} rows.'
EDGE = 1e-9  # slack for rounding errors, so that a whole number on a limit counts as within it


class Matrix(NamedTuple):
    """Counts of a test of `positives` and `negatives` images."""

    positives: int
    negatives: int
    tp: int
    fp: int


def run(config, workdir):
    """Finds what fits each row of config.table, and which sizes fit all rows of a test."""
    rows = read_table(config.table)
    fits = [matrices(row, config.tolerance, config.bound) for row in rows]
    sizes = [_sizes(found) for found in fits]
    by_test = {}
    for row, row_sizes in zip(rows, sizes):
        by_test.setdefault(row['test'], []).append(row_sizes)
    lines = [_line(HEAD), '|' + '---|' * len(HEAD)]
    lines += [_row_line(row, row_sizes) for row, row_sizes in zip(rows, sizes)]
    for test, test_sizes in by_test.items():
        lines += ['', *_findings(test, test_sizes, config)]
    print('\n'.join(lines))
    drafts.write_text(workdir / 'printed_rates.md', '\n'.join(lines) + '\n')
    document = {
        **provenance.of(config),
        'tolerance': config.tolerance,
        'bound': config.bound,
        'common': {test: _common(test_sizes) for test, test_sizes in by_test.items()},
        'rows': [
            {**row, 'fits': [fit._asdict() for fit in found]} for row, found in zip(rows, fits)
        ],
    }
    write_json(workdir / 'printed_rates.json', document)


def _sizes(found):
    """{(positives, negatives)} of matrices."""
    return {(fit.positives, fit.negatives) for fit in found}


def _common(test_sizes):
    """The sizes, sorted, that fit every row of a test that fits any."""
    fitting = [sizes for sizes in test_sizes if sizes]
    return sorted(set.intersection(*fitting)) if fitting else []


def _line(cells):
    return '| ' + ' | '.join(cells) + ' |'


def _row_line(row, sizes):
    """The line of the table for one printed row."""
    listed = _listed(sorted(sizes))
    if len(sizes) > LISTED:
        listed += f' and {len(sizes) - LISTED} more'
    rates = [f'{row[name]:.2f}' for name in PERCENT]
    return _line([row['model'], row['test'], *rates, listed])


def _claimed(text):
    """(positives, negatives) of 'positives/negatives'."""
    parts = text.split('/')
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise InputError(
            f'config.claimed={text}: write positives/negatives, for example 300/300; '
            'empty compares none'
        )
    return tuple(int(part) for part in parts)


def _listed(sizes):
    """The first sizes as text."""
    texts = [f'{positives} / {negatives}' for positives, negatives in sizes[:LISTED]]
    return ', '.join(texts) or 'none'


def _findings(test, test_sizes, config):
    """Lines on the sizes of the rows of one test."""
    fits_all = FITS_ALL.format(
        test=test,
        rows=len(test_sizes),
        fitting=sum(bool(sizes) for sizes in test_sizes),
        bound=config.bound,
        sizes=_listed(_common(test_sizes)),
    )
    if not config.claimed:
        return [fits_all]
    claimed = _claimed(config.claimed)
    fits_claim = FITS_CLAIM.format(
        test=test,
        claimed=config.claimed,
        fitting=sum(claimed in sizes for sizes in test_sizes),
        rows=len(test_sizes),
    )
    return [fits_all, fits_claim]


def read_table(path):
    """The rows of a printed table.

    Args:
        path: of a CSV with the columns model, test, accuracy, recall, precision and f1, the last
            four in per cent.

    Returns:
        [dict] with these keys, and others that the file has; rates are floats.

    Raises:
        InputError: there is no such file, or it lacks rows, columns or numbers.
    """
    columns = ('model', 'test', *PERCENT)
    if not archive.is_file(path):
        raise InputError(
            f'config.table={path}: no such file; give a CSV with the columns {", ".join(columns)}'
        )
    try:
        rows = list(csv.DictReader(archive.read_text(path).splitlines()))
    except csv.Error as error:
        raise InputError(f'config.table={path}: is not a comma-separated table ({error})') from None
    if not rows or not set(columns) <= set(rows[0]):
        raise InputError(f'config.table={path}: needs rows and the columns {", ".join(columns)}')
    try:
        rates = [{name: float(row[name]) for name in PERCENT} for row in rows]
    except (TypeError, ValueError):
        rates = [{'': math.nan}]
    if not all(0 <= value <= 100 for of_row in rates for value in of_row.values()):
        raise InputError(f'config.table={path}: the four rates must be numbers in per cent')
    return [row | of_row for row, of_row in zip(rows, rates)]


def matrices(printed, tolerance, bound):
    """The confusion matrices whose rates are the printed ones.

    Rounding to two decimals moves a rate by up to 0.005, cutting off by up to 0.01; tables mix
    both, so a tolerance of 0.0101 accepts either.

    Args:
        printed: {'accuracy', 'recall', 'precision', 'f1'} in per cent.
        tolerance: by how much a rate may differ, in percentage points.
        bound: the greatest number of images of either class.

    Returns:
        [Matrix].
    """
    near = lambda value, name: np.abs(100 * value - printed[name]) <= tolerance
    negatives, found = np.arange(1, bound + 1), []
    for positives in range(1, bound + 1):
        for tp in _whole(printed['recall'], tolerance, positives):
            for fp in _false_positives(printed['precision'], tolerance, tp, bound):
                if not near(2 * tp / (positives + tp + fp), 'f1'):
                    continue
                tn = negatives - fp
                fits = (tn >= 0) & near((tp + tn) / (positives + negatives), 'accuracy')
                found += [Matrix(positives, int(n), tp, fp) for n in negatives[fits]]
    return found


def _whole(percent, tolerance, total):
    """The whole numbers k with 100 k / total within the tolerance of a rate."""
    low = np.ceil((percent - tolerance) * total / 100 - EDGE)
    high = np.floor((percent + tolerance) * total / 100 + EDGE)
    return range(max(int(low), 0), min(int(high), total) + 1)


def _false_positives(percent, tolerance, tp, bound):
    """The whole numbers fp with 100 tp / (tp + fp) within the tolerance of a precision."""
    if not tp:
        return range(0)
    least = max(0, int(np.ceil(100 * tp / (percent + tolerance) - tp - EDGE)))
    most = bound
    if percent > tolerance:
        most = min(bound, int(np.floor(100 * tp / (percent - tolerance) - tp + EDGE)))
    return range(least, most + 1)
