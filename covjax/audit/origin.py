"""Whether images of one class betray which data set they come from, their origin.

A class that comes from one data set alone can then be recognised by its origin. In texts that
people read an origin is called a source.
"""

import dataclasses

import numpy as np

from covjax.audit import grey_statistics, pixel_baseline
from covjax.audit.probe import FOLDS, out_of_fold
from covjax.audit.verdict import RED, Images, Verdict, area

NAME = 'source of the images'
RULE = (
    f'Red flag when the source is recognised at AUC {RED}, with an interval above 0.5, and no data '
    'set has both classes of the training set: then a classifier can learn the source in place of '
    'the disease. Also when no source has both classes, and no class two that could be compared.'
)
COLUMNS = ('one source', 'other source', 'told by', 'AUC')
# What might tell origins apart; a probe of files or of another few numbers would do as well.
PROBES = (pixel_baseline.PROBE, grey_statistics.PROBE)


def scores(probe, first, second):
    """How much each image of two origins looks like one of the second, out of fold.

    Whole groups are in one fold.

    Args:
        probe: probe.Probe.
        first, second: verdict.Images of N and M images.

    Returns:
        (scores float [N + M], verdict.Images of both, labelled 0 and 1 by origin).
    """
    both = _labelled_by_origin(first, second)
    return out_of_fold(probe, both), both


def _labelled_by_origin(first, second):
    """The Images of both, without those that a network sees."""
    native = [
        (grey, dataclasses.replace(row, label=label))
        for label, images in enumerate((first, second))
        for grey, row in images.native
    ]
    rows = [row for _, row in native]
    return Images(
        spec=f'{first.spec} or {second.spec}',
        images=np.empty(0),
        labels=np.array([row.label for row in rows]),
        rows=rows,
        native=native,
    )


def check(subject):
    """The Verdict of how well origins can be told apart with the class the same in both."""
    if not subject.pairs:
        return _without_pairs(subject)
    rows, flagged = [], []
    for first, second in subject.pairs:
        if min(len(set(images.groups)) for images in (first, second)) < FOLDS:
            continue
        for probe in PROBES:
            reached = area(*scores(probe, first, second))
            rows.append((first.spec, second.spec, probe.name, str(reached)))
            if reached.tells():
                flagged.append(f'{reached} for {first.spec} or {second.spec} ({probe.name})')
    if not rows:
        finding = f'The sources have fewer than {FOLDS} patients or series.'
        return Verdict(name=NAME, flag=None, finding=finding)
    if flagged:
        finding = f'Within one class the source is recognised at AUC {"; ".join(flagged)}.'
    else:
        finding = 'Within one class the source is not recognised.'
    return Verdict(
        name=NAME,
        flag=bool(flagged) and subject.origins[0].isdisjoint(subject.origins[1]),
        finding=f'{finding} {_classes(subject)}',
        rule=RULE,
        columns=COLUMNS,
        rows=tuple(rows),
    )


def _without_pairs(subject):
    """The Verdict where no class is known to come from two origins."""
    others, positive = (subject.origins.get(label, set()) for label in (0, 1))
    if others and positive and others.isdisjoint(positive):
        finding = f'Nothing can tell source and disease apart. {_classes(subject)}'
        return Verdict(name=NAME, flag=True, finding=finding, rule=RULE)
    finding = 'No sources were named (config.pairs, or a column source of the table).'
    return Verdict(name=NAME, flag=None, finding=finding)


def _classes(subject):
    """A sentence on the data sets that the classes of training, or of the tests, come from."""
    others, positive = subject.origins[0], subject.origins[1]
    if others.isdisjoint(positive):
        shared = 'different data sets'
    elif others == positive:
        shared = 'the same data sets'
    else:
        shared = 'partly the same data sets'
    names = [', '.join(sorted(origins)) for origins in (others, positive)]
    each = f'{names[0]} for {subject.titles[1]} and {names[1]} for {subject.titles[0]}'
    of = 'test' if subject.train is None else 'training'
    return f'The classes of the {of} set come from {shared}: {each}.'
