"""Rows of a study of budgets (covjax.budgets) in words, and as a forest plot with budgets apart."""

from covjax.budgets import ALL, ALONE, NONE, REAL, TOGETHER, TUNED
from covjax.pages.figures import Estimate

NAMES = {
    REAL: '{real}',
    ALONE: '{source}',
    TOGETHER: '{source} and {real} together',
    TUNED: '{source}, then {real}',
}
TITLES = {NONE: 'no {real}', ALL: 'all {real}'}


def name_of(row, sources, real):
    """What a row learned from, in words.

    Args:
        row: dict with the fields of a budgets.Row.
        sources: {source: what it makes, such as 'painted lesions'}.
        real: what its budget is of, such as 'real pictures'.
    """
    return NAMES[row['mode']].format(source=sources.get(row['source']), real=real)


def forest(rows, estimate_of, real):
    """{title: [Estimate]} of draw_forest: the rows of each budget, those without any first.

    Args:
        rows: dicts with the fields of a budgets.Row.
        estimate_of: function of a row that gives its Estimate.
        real: as for `name_of`.
    """
    found = {}
    for row in sorted(rows, key=lambda row: row['budget'] != NONE):
        title = TITLES.get(row['budget'], '{budget} {real}')
        title = title.format(budget=row['budget'], real=real)
        found.setdefault(title, []).append(estimate_of(row))
    return found


def estimate(label, found, kind):
    """The Estimate of a mean over seeds.

    Args:
        label: str.
        found: {'mean', 'low', 'high', 'seeds'}.
        kind: a key of figures.COLOURS.
    """
    ends = (found[end] for end in ('mean', 'low', 'high'))
    return Estimate(label, *ends, kind, tuple(found['seeds']))
