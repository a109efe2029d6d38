"""Rows of a study of budgets (covjax.budgets) in words, and as a forest plot with budgets apart."""

from covjax.budgets import ALL, ALONE, MODES, NONE, REAL, TOGETHER, TUNED
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


def curves(rows, key, sources, real):
    """{name: {budget: mean over seeds}} of draw_curves, budgets in the order of the rows.

    There is a curve of real images alone, and one of every source and mode of several budgets,
    which begins with that source alone. Of other sources there is what they reach alone.

    Args:
        rows: dicts with the fields of a budgets.Row, those of smaller budgets first.
        key: of what is drawn, {'mean', 'low', 'high', 'seeds'}.
        sources, real: as for `name_of`.
    """
    found = {}
    for row in rows:
        found.setdefault((row['source'], row['mode']), {})[row['budget']] = row[key]
    begun = {
        (source, mode): (found.get((source, ALONE), {}) if mode in MODES else {}) | curve
        for (source, mode), curve in found.items()
    }
    long = {place for place, curve in begun.items() if len(curve) > 2}
    alone = {place for place in begun if place[1] == ALONE} - {(name, ALONE) for name, _ in long}
    return {
        name_of({'source': source, 'mode': mode}, sources, real): begun[source, mode]
        for source, mode in begun
        if (source, mode) in long | alone
    }


def estimate(label, found, kind):
    """The Estimate of a mean over seeds.

    Args:
        label: str.
        found: {'mean', 'low', 'high', 'seeds'}.
        kind: a key of figures.COLOURS.
    """
    ends = (found[end] for end in ('mean', 'low', 'high'))
    return Estimate(label, *ends, kind, tuple(found['seeds']))
