"""Printed accuracy, recall, precision and F1 -> the confusion matrices of whole numbers that round to them, and so the sizes of the test set they can come from."""

import csv
from typing import NamedTuple

import numpy as np

from covjax import InputError
from covjax.ct import archive
from covjax.workdir import write_json

PERCENT = ('accuracy', 'recall', 'precision', 'f1')


class Matrix(NamedTuple):
    """Counts of a test of `positives` and `negatives` images."""

    positives: int
    negatives: int
    tp: int
    fp: int


def run(config, workdir):
    """Every row of config.table; what fits each, and which sizes fit all rows of a test."""
    rows = read_table(config.table)
    fits = [
        matrices({name: row[name] for name in PERCENT}, config.tolerance, config.bound)
        for row in rows
    ]
    lines = [
        '| model | test | ' + ' | '.join(PERCENT) + ' | sizes that fit (positive / negative) |',
        '|' + '---|' * (len(PERCENT) + 3),
    ]
    for row, found in zip(rows, fits):
        told = [
            f'{positives} / {negatives}'
            for positives, negatives in sorted({fit[:2] for fit in found})
        ]
        lines.append(
            f'| {row["model"]} | {row["test"]} | '
            + ' | '.join(f'{row[name]:.2f}' for name in PERCENT)
            + ' | '
            + (
                ', '.join(told[:8]) + (f' and {len(told) - 8} more' if len(told) > 8 else '')
                or 'none'
            )
            + ' |'
        )
    common = {}
    for test in dict.fromkeys(row['test'] for row in rows):
        sets = [{fit[:2] for fit in found} for row, found in zip(rows, fits) if row['test'] == test]
        some = [sizes for sizes in sets if sizes]
        common[test] = sorted(set.intersection(*some)) if some else []
        near = ', '.join(f'{positives} / {negatives}' for positives, negatives in common[test][:8])
        lines += [
            '',
            f'{test}: of {len(sets)} rows {len(some)} fit some size up to {config.bound} / {config.bound}; sizes that fit all of these: {near or "none"}.',
        ]
        if config.claimed:
            size = tuple(int(part) for part in config.claimed.split('/'))
            lines.append(
                f'{test}: {config.claimed} fits {sum(size in sizes for sizes in sets)} of {len(sets)} rows.'
            )
    print('\n'.join(lines))
    (workdir / 'printed_rates.md').write_text('\n'.join(lines) + '\n')
    write_json(
        workdir / 'printed_rates.json',
        {
            'tolerance': config.tolerance,
            'bound': config.bound,
            'common': common,
            'rows': [
                {**row, 'fits': [fit._asdict() for fit in found]} for row, found in zip(rows, fits)
            ],
        },
    )


def read_table(path):
    """CSV with columns model, test and the four rates in per cent."""
    if not archive.is_file(path):
        raise InputError(
            f'config.table={path}: no such file; give a CSV with the columns model, test, {", ".join(PERCENT)}'
        )
    rows = list(csv.DictReader(archive.read_text(path).splitlines()))
    if not rows or not {'model', 'test', *PERCENT} <= set(rows[0]):
        raise InputError(
            f'config.table={path}: needs rows and the columns model, test, {", ".join(PERCENT)}'
        )
    try:
        rows = [{**row, **{name: float(row[name]) for name in PERCENT}} for row in rows]
    except (TypeError, ValueError):
        raise InputError(
            f'config.table={path}: the four rates must be numbers in per cent'
        ) from None
    return rows


def matrices(printed, tolerance, bound):
    """Every Matrix with up to `bound` images of each class whose rates lie within `tolerance` of the printed ones, all in per cent.

    Rounding to two decimals moves a rate by 0.005, cutting off by 0.01; tables mix both, so 0.0101 takes either.
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
    """Whole numbers k with 100 k / total within the tolerance."""
    low, high = (
        np.ceil((percent - tolerance) * total / 100 - 1e-9),
        np.floor((percent + tolerance) * total / 100 + 1e-9),
    )
    return range(max(int(low), 0), min(int(high), total) + 1)


def _false_positives(percent, tolerance, tp, bound):
    """Whole numbers fp with 100 tp / (tp + fp) within the tolerance."""
    if not tp:
        return range(0)
    most = (
        bound
        if percent - tolerance <= 0
        else min(bound, int(np.floor(100 * tp / (percent - tolerance) - tp + 1e-9)))
    )
    least = max(0, int(np.ceil(100 * tp / (percent + tolerance) - tp - 1e-9)))
    return range(least, most + 1)
