"""Intervals: of metrics by the bootstrap over groups, since images of one patient or document are not independent, and of shares by Wilson."""

import numpy as np
from scipy import stats

from covjax.metrics.rates import checked

LEVEL, DRAWS = 0.95, 2000
NAMES = (
    'accuracy',
    'recall',
    'precision',
    'specificity',
    'f1',
    'precision_negative',
    'f1_negative',
    'auc',
)


def bootstrap(labels, scores, groups, threshold=0.5, seed=0):
    """{name: (low, high)} of rates of `metrics.rates`, covid positive: percentile intervals over draws of whole groups with replacement (cluster bootstrap).

    labels int [N] (1 = covid), groups [N] of str, scores float [N], or [S, N] of S runs, whose mean is then meant. A single group has no interval: all are (NaN, NaN).
    Draws in which a metric has no value (one class only) are left out of it; where none is left the interval is (NaN, NaN).
    """
    runs, times = [checked(labels, row) for row in np.atleast_2d(scores)], _times(groups, seed)
    if times is None:
        return dict.fromkeys(NAMES, (float('nan'),) * 2)
    draws = [_draws(labels == 1, row, row >= threshold, times) for labels, row in runs]
    return {name: _ends(np.mean([draw[name] for draw in draws], axis=0)) for name in NAMES}


def auc_difference(labels, first, second, groups, seed=0):
    """(low, high) of the area of the first scores less that of the second, on the same images and the same draws of whole groups; as `bootstrap` otherwise."""
    (labels, first), (_, second), times = (
        checked(labels, first),
        checked(labels, second),
        _times(groups, seed),
    )
    if times is None:
        return (float('nan'),) * 2
    return _ends(
        np.subtract(
            *(
                _draws(labels == 1, scores, scores >= 0.5, times)['auc']
                for scores in (first, second)
            )
        )
    )


def mean_interval(values, groups, seed=0):
    """(low, high) of the mean of values float [N], over draws of whole groups; as `bootstrap` otherwise. Values that are NaN do not count."""
    values, times = np.asarray(values, float), _times(groups, seed)
    if times is None:
        return (float('nan'),) * 2
    known = np.isfinite(values)
    with np.errstate(invalid='ignore'):
        return _ends(times[:, known] @ values[known] / times[:, known].sum(1))


def _times(groups, seed):
    """How often each image is drawn, float [DRAWS, N]; None for a single group: nothing can be said of how groups differ."""
    _, group = np.unique(np.asarray(groups, str), return_inverse=True)
    n = group.max() + 1
    return (
        np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), DRAWS)[:, group].astype(float)
        if n > 1
        else None
    )


def _ends(values):
    values = values[np.isfinite(values)]
    return (
        tuple(np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist())
        if len(values)
        else (float('nan'),) * 2
    )


def _draws(labels, scores, predicted, times):
    """{name: float [DRAWS]}, NaN where a draw has no value."""
    count = lambda chosen: times @ chosen.astype(float)
    tp, fp, fn, tn = (
        count(labels & predicted),
        count(~labels & predicted),
        count(labels & ~predicted),
        count(~labels & ~predicted),
    )
    # The area under the curve is the share of pairs that are in order, ties half.
    positive, negative = scores[labels].reshape(-1, 1), scores[~labels].reshape(1, -1)
    ordered = (
        (times[:, labels] @ ((positive > negative) + 0.5 * (positive == negative)))
        * times[:, ~labels]
    ).sum(1)
    with np.errstate(invalid='ignore'):
        return {
            'accuracy': (tp + tn) / (tp + fp + fn + tn),
            'recall': tp / (tp + fn),
            'precision': tp / (tp + fp),
            'specificity': tn / (tn + fp),
            'f1': 2 * tp / (2 * tp + fp + fn),
            'precision_negative': tn / (tn + fn),
            'f1_negative': 2 * tn / (2 * tn + fn + fp),
            'auc': ordered / ((tp + fn) * (fp + tn)),
        }


def wilson(successes, n):
    """(low, high) of a share of n independent images (Wilson 1927); (NaN, NaN) of none."""
    if not n:
        return float('nan'), float('nan')
    low, high = stats.binomtest(int(successes), int(n)).proportion_ci(LEVEL, method='wilson')
    return float(low), float(high)
