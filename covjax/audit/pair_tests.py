"""How classifiers of several seeds score real lesions: inside a slice, over scans, in figures.

Every function takes the scores of all seeds, P(covid) float [S, N], and returns a dict of plain
values for JSON. Areas are those under the ROC curve; intervals are of the mean over seeds, over a
bootstrap that draws whole groups: patients, or what takes their place where they are not known.
"""

import numpy as np

from covjax.metrics import matched
from covjax.metrics.intervals import bootstrap
from covjax.metrics.roc import auc

HEALTHY = 'normal'  # the label of scans without disease
SOURCES = ('crawled', 'medpix')  # of the non-COVID pictures of COVID-CT


def areas(scores, labels, groups):
    """The area of each seed, and that of their mean.

    Args:
        scores: float [S, N].
        labels: int [N], 1 = COVID.
        groups: patient or source of each image, [str].

    Returns:
        {'seeds': [float], 'mean', 'deviation': over seeds, 'low', 'high': of the mean, 'images'}.
    """
    each = [auc(labels, of_seed) for of_seed in scores]
    low, high = bootstrap(labels, scores, groups)['auc']
    return {
        'seeds': each,
        'mean': float(np.mean(each)),
        'deviation': float(np.std(each, ddof=1)) if len(each) > 1 else float('nan'),
        'low': low,
        'high': high,
        'images': len(labels),
    }


def over_scans(scores, rows, lung_areas):
    """Scores of scans, each with disease against those of healthy people, and inside each.

    Args:
        scores: float [S, N].
        rows: [data.rows.Row] of the slices, with z, label_name and `infected` (1, 0, or -1) in
            `others`; a group is a scan.
        lung_areas: of each slice, float [N], in one unit.

    Returns:
        {scan: {'mean': [float], of each seed; 'above': [float], by how much it is above the scans
        called HEALTHY at equal relative height (not of such a one itself); 'inside': [float], the
        share of comparable pairs of slices with and without infection that are in order, where it
        has both; 'pairs': how many}}.
    """
    named = np.array([row.group for row in rows])
    heights, healthy = np.zeros(len(rows)), np.array([row.label_name == HEALTHY for row in rows])
    for scan in np.unique(named):
        heights[named == scan] = matched.relative_height(
            [row.z for row in rows if row.group == scan]
        )
    infected, found = np.array([row.others['infected'] for row in rows]), {}
    for scan in sorted({*named}):
        of_scan = named == scan
        found[scan] = {'mean': scores[:, of_scan].mean(1).tolist()}
        if healthy.any() and not healthy[of_scan].any():
            found[scan]['above'] = [
                matched.difference((s[of_scan], heights[of_scan]), (s[healthy], heights[healthy]))
                for s in scores
            ]
        if {0, 1} <= {*infected[of_scan]}:
            known = of_scan & (infected >= 0)
            facts = [each[known] for each in (infected == 1, heights, lung_areas)]
            shares, counts = zip(*(matched.concordance(s[known], *facts) for s in scores))
            found[scan] |= {'inside': list(shares), 'pairs': counts[0]}
    return found


def by_source(scores, labels, rows):
    """COVID-19 pictures against the others of each source.

    Args:
        scores: float [S, N].
        labels: int [N], 1 = COVID.
        rows: [data.rows.Row] of covid_ct.

    Returns:
        {source: what `areas` returns}.
    """
    groups = np.array([row.group for row in rows])
    found = {}
    for source in SOURCES:
        of_source = np.array([group.startswith(source) for group in groups])
        chosen = np.flatnonzero((labels == 1) | of_source)
        if len({*labels[chosen]}) == 2:
            found[source] = areas(scores[:, chosen], labels[chosen], list(groups[chosen]))
    return found


def effect(pairs):
    """By how many grey levels lesions differ from the shams of their pairs.

    Args:
        pairs: iterable of data.datasets.Pair.

    Returns:
        {kind: [(grey levels, group)]}: the mean over what the gate covers whole.
    """
    found = {}
    for pair in pairs:
        whole = pair.gate == 255
        change = pair.lesion[whole].astype(float) - pair.sham[whole]
        kind = pair.row.others['lesion']
        found.setdefault(kind, []).append((float(change.mean()), pair.row.group))
    return found
