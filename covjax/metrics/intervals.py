"""Intervals of metrics by the bootstrap. Images of one patient or document are not independent, so whole groups are drawn."""
import numpy as np

LEVEL, DRAWS = 0.95, 2000


def bootstrap(labels, scores, groups, threshold=0.5, seed=0):
    """{name: (low, high)} of the rates of `metrics.rates`: percentile intervals over draws of whole groups with replacement (cluster bootstrap).

    labels int [N] (1 = covid), scores float [N], groups [N] of str. A single group has no interval: all are (NaN, NaN). Draws in which a metric has no value (one class only) are left out of it; where
    none is left the interval is (NaN, NaN).
    """
    labels, scores = np.asarray(labels) == 1, np.asarray(scores, float)
    _, group = np.unique(np.asarray(groups, str), return_inverse=True)
    n = group.max() + 1
    if n < 2:                                               # nothing can be said of how groups differ
        return dict.fromkeys(('accuracy', 'recall', 'precision', 'specificity', 'f1', 'auc'), (float('nan'),) * 2)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), DRAWS)[:, group].astype(float)       # [DRAWS, N]: how often an image is drawn
    predicted = scores >= threshold
    count = lambda chosen: times @ chosen.astype(float)
    tp, fp, fn, tn = count(labels & predicted), count(~labels & predicted), count(labels & ~predicted), count(~labels & ~predicted)
    # The area under the curve is the share of pairs that are in order, ties half.
    positive, negative = scores[labels].reshape(-1, 1), scores[~labels].reshape(1, -1)
    ordered = ((times[:, labels] @ ((positive > negative) + .5 * (positive == negative))) * times[:, ~labels]).sum(1)
    with np.errstate(invalid='ignore'):
        draws = {'accuracy': (tp + tn) / (tp + fp + fn + tn), 'recall': tp / (tp + fn), 'precision': tp / (tp + fp), 'specificity': tn / (tn + fp),
                 'f1': 2 * tp / (2 * tp + fp + fn), 'auc': ordered / ((tp + fn) * (fp + tn))}
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    finite = {name: values[np.isfinite(values)] for name, values in draws.items()}
    return {name: tuple(np.quantile(values, tails).tolist()) if len(values) else (float('nan'),) * 2 for name, values in finite.items()}
