"""Intervals: of metrics by the bootstrap over groups, since images of one patient or document are not independent, and of shares by Wilson."""
import numpy as np
from scipy import stats

from covjax.metrics.rates import checked

LEVEL, DRAWS = 0.95, 2000
NAMES = ('accuracy', 'recall', 'precision', 'specificity', 'f1', 'precision_negative', 'f1_negative', 'auc')


def bootstrap(labels, scores, groups, threshold=0.5, seed=0):
    """{name: (low, high)} of rates of `metrics.rates`, covid positive: percentile intervals over draws of whole groups with replacement (cluster bootstrap).

    labels int [N] (1 = covid), groups [N] of str, scores float [N], or [S, N] of S runs, whose mean is then meant. A single group has no interval: all are (NaN, NaN).
    Draws in which a metric has no value (one class only) are left out of it; where none is left the interval is (NaN, NaN).
    """
    runs = [checked(labels, row) for row in np.atleast_2d(scores)]
    _, group = np.unique(np.asarray(groups, str), return_inverse=True)
    n = group.max() + 1
    if n < 2:                                               # nothing can be said of how groups differ
        return dict.fromkeys(NAMES, (float('nan'),) * 2)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), DRAWS)[:, group].astype(float)       # [DRAWS, N]: how often an image is drawn
    draws = [_draws(labels == 1, row, row >= threshold, times) for labels, row in runs]
    means = {name: np.mean([draw[name] for draw in draws], axis=0) for name in NAMES}
    finite = {name: values[np.isfinite(values)] for name, values in means.items()}
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    return {name: tuple(np.quantile(values, tails).tolist()) if len(values) else (float('nan'),) * 2 for name, values in finite.items()}


def _draws(labels, scores, predicted, times):
    """{name: float [DRAWS]}, NaN where a draw has no value."""
    count = lambda chosen: times @ chosen.astype(float)
    tp, fp, fn, tn = count(labels & predicted), count(~labels & predicted), count(labels & ~predicted), count(~labels & ~predicted)
    # The area under the curve is the share of pairs that are in order, ties half.
    positive, negative = scores[labels].reshape(-1, 1), scores[~labels].reshape(1, -1)
    ordered = ((times[:, labels] @ ((positive > negative) + .5 * (positive == negative))) * times[:, ~labels]).sum(1)
    with np.errstate(invalid='ignore'):
        return {'accuracy': (tp + tn) / (tp + fp + fn + tn), 'recall': tp / (tp + fn), 'precision': tp / (tp + fp), 'specificity': tn / (tn + fp), 'f1': 2 * tp / (2 * tp + fp + fn),
                'precision_negative': tn / (tn + fn), 'f1_negative': 2 * tn / (2 * tn + fn + fp), 'auc': ordered / ((tp + fn) * (fp + tn))}


def wilson(successes, n):
    """(low, high) of a share of n independent images (Wilson 1927); (NaN, NaN) of none."""
    if not n:
        return float('nan'), float('nan')
    low, high = stats.binomtest(int(successes), int(n)).proportion_ci(LEVEL, method='wilson')
    return float(low), float(high)
