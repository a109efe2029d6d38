"""Whether images of one class betray which data set they are from, so that a class that comes from one data set alone can be told by its source."""

import dataclasses

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from covjax.audit import grey_statistics, pixel_baseline
from covjax.audit.verdict import RED, Images, Verdict, area

NAME = 'source of the images'
FOLDS = 5


def scores(probe, first, second):
    """(score of belonging to the second source, float [N + M], the images of both): out of fold, with whole groups in one fold."""
    native = [
        (grey, dataclasses.replace(row, label=label))
        for label, images in enumerate((first, second))
        for grey, row in images.native
    ]
    both = Images(
        f'{first.spec} or {second.spec}',
        np.empty(0),
        np.array([row.label for _, row in native]),
        [row for _, row in native],
        native,
    )
    out = np.empty(len(native))
    groups = np.unique(both.groups, return_inverse=True)[1]
    for fit, held in StratifiedGroupKFold(FOLDS).split(native, both.labels, groups):
        out[held] = probe.scores([native[i] for i in fit], [native[i] for i in held])
    return out, both


def check(subject):
    """The area of telling sources apart, with the class the same in both."""
    if not subject.sources:
        return Verdict(NAME, None, 'No pair of sources was named (config.sources).')
    apart = not subject.origins[0] & subject.origins[1]
    rows, told = [], []
    for first, second in subject.sources:
        if min(len(set(images.groups)) for images in (first, second)) < FOLDS:
            continue
        for probe in (pixel_baseline.PROBE, grey_statistics.PROBE):
            found = area(*scores(probe, first, second))
            rows.append((first.spec, second.spec, probe.name, str(found)))
            if found.tells():
                told.append(f'{found} for {first.spec} or {second.spec} ({probe.name})')
    if not rows:
        return Verdict(NAME, None, f'The sources have fewer than {FOLDS} patients or series.')
    classes = ' and '.join(
        f'{", ".join(sorted(names))} for {label}'
        for label, names in zip(('non-COVID', 'COVID'), (subject.origins[0], subject.origins[1]))
    )
    finding = (
        f'Within one class the source is told at AUC {"; ".join(told)}. '
        if told
        else 'Within one class the source is not told. '
    )
    finding += f'The classes of the training set come from {"different data sets" if apart else "the same data sets" if subject.origins[0] == subject.origins[1] else "partly the same data sets"}: {classes}.'
    return Verdict(
        NAME,
        bool(told) and apart,
        finding,
        f'Red flag when the source is told at AUC {RED}, with an interval above 0.5, and no data set has both classes of the training set: '
        'then a classifier can learn the source in place of the disease.',
        ('one source', 'other source', 'told by', 'AUC'),
        tuple(rows),
    )
