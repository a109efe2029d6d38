"""Intervals: of metrics by the bootstrap over groups, of shares of images by Wilson.

Images of one patient or document are not independent, so the bootstrap draws whole groups with
replacement (cluster bootstrap). All bootstrap intervals are percentile intervals of the same draws
for the same groups and seed.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from covjax.metrics.rates import checked

LEVEL = 0.95
DRAWS = 2000
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
NO_INTERVAL = (float('nan'), float('nan'))


def bootstrap(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, threshold: float = 0.5, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """The intervals of the rates of `metrics.rates`.

    A draw in which a rate has no value (one class only) is left out of that rate.

    Args:
        labels: int [N], 1 = positive.
        scores: P(positive), float [N], or [S, N] of S runs, whose mean rate is then meant.
        groups: patient, document or series of each image, str [N].
        threshold: from which on an image is called positive.
        seed: of the draws.

    Returns:
        {name: (low, high)} of NAMES. Both ends are NaN for a single group, of which nothing can be
        said, and where no draw has a value.

    Raises:
        ValueError: labels or scores are not fit for a metric.

    References:
        Field and Welsh, Bootstrapping clustered data, Journal of the Royal Statistical Society B
        69, 2007.
    """
    runs = [checked(labels, run_scores) for run_scores in np.atleast_2d(scores)]
    times = _times(groups, seed)
    if times is None:
        return dict.fromkeys(NAMES, NO_INTERVAL)
    draws = [
        _draws(labels == 1, run_scores, run_scores >= threshold, times)
        for labels, run_scores in runs
    ]
    return {name: _ends(np.mean([draw[name] for draw in draws], axis=0)) for name in NAMES}


def auc_difference(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    groups: ArrayLike,
    seed: int = 0,
    over_runs: bool = False,
) -> tuple[float, float]:
    """The interval of the difference of two areas under the ROC curve, on the same images.

    Both areas are of the same draws of whole groups, so what they share cancels.

    Args:
        labels: int [N], 1 = positive.
        first: P(positive) of one classifier, float [N], or [S, N] of S runs, whose mean area is
            then meant.
        second: of the other, whose area is subtracted.
        groups: patient, document or series of each image, str [N].
        seed: of the draws.
        over_runs: whether runs are drawn too, as if others had been trained: `mean_over_runs`. Both
            classifiers then have as many, and runs of equal index belong together.

    Returns:
        (low, high); NaN for a single group, and where no draw has both classes.

    Raises:
        ValueError: labels or scores are not fit for a metric.
    """
    first, second = (
        [checked(labels, run_scores) for run_scores in np.atleast_2d(scores)]
        for scores in (first, second)
    )
    times = _times(groups, seed)
    if times is None:
        return NO_INTERVAL

    areas = lambda runs: np.stack(
        [_draws(labels == 1, scores, scores >= 0.5, times)['auc'] for labels, scores in runs]
    )
    if over_runs:
        return _ends(_of_drawn_runs(areas(first) - areas(second), seed))
    return _ends(areas(first).mean(0) - areas(second).mean(0))


def mean_interval(values: ArrayLike, groups: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """The interval of the mean of values.

    Args:
        values: float [N]; NaN does not count.
        groups: patient, document or series of each value, str [N].
        seed: of the draws.

    Returns:
        (low, high); NaN for a single group, and where no value is known.
    """
    values, times = np.asarray(values, float), _times(groups, seed)
    if times is None:
        return NO_INTERVAL
    known = np.isfinite(values)
    with np.errstate(invalid='ignore'):
        return _ends(times[:, known] @ values[known] / times[:, known].sum(1))


def mean_over_runs(values: ArrayLike, groups: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """The interval of the mean of what several runs reach on the same images.

    Runs and groups are drawn, each with replacement and independently of the other: the interval is
    for runs with other seeds on other patients. Of the difference of two kinds of runs it is what
    that of their differences is, image by image and seed by seed.

    Args:
        values: float [S, N] of S runs; NaN does not count.
        groups: patient, document or series of each image, str [N].
        seed: of the draws.

    Returns:
        (low, high); NaN for a single group, and where no value is known.

    References:
        Owen, The pigeonhole bootstrap, The Annals of Applied Statistics 1, 2007.
    """
    values, times = np.asarray(values, float), _times(groups, seed)
    if times is None:
        return NO_INTERVAL
    known = np.isfinite(values)
    with np.errstate(invalid='ignore'):
        means = np.nan_to_num(values) @ times.T / (known.astype(float) @ times.T)
    return _ends(_of_drawn_runs(means, seed))


def ratio_interval(
    numerators: ArrayLike, denominators: ArrayLike, groups: ArrayLike, seed: int = 0
) -> tuple[float, float]:
    """The interval of the ratio of two means, both of the same draws.

    Args:
        numerators, denominators: float [N].
        groups: patient, document or series of each, str [N].
        seed: of the draws.

    Returns:
        (low, high); NaN for a single group.
    """
    times = _times(groups, seed)
    if times is None:
        return NO_INTERVAL
    with np.errstate(divide='ignore', invalid='ignore'):
        return _ends((times @ numerators) / (times @ denominators))


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The interval of a share of independent images; it has an answer for shares of 0 and 1 too.

    Images of one patient are not independent: of such it is too narrow.

    Args:
        successes: number of images that count.
        n: number of all.

    Returns:
        (low, high) in 0..1; NaN for n = 0.

    References:
        Wilson, Probable inference, Journal of the American Statistical Association 22, 1927.
    """
    if not n:
        return NO_INTERVAL
    low, high = stats.binomtest(int(successes), int(n)).proportion_ci(LEVEL, method='wilson')
    return float(low), float(high)


def _times(groups, seed):
    """How often each image is drawn, float [DRAWS, N].

    None for a single group: nothing can be said of how groups differ.
    """
    _, group = np.unique(np.asarray(groups, str), return_inverse=True)
    n = group.max() + 1
    if n == 1:
        return None
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), DRAWS)
    return drawn[:, group].astype(float)


def _of_drawn_runs(values, seed):
    """The mean over runs of values [S, DRAWS], of runs that are drawn anew in each draw."""
    n = len(values)
    times = np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), DRAWS)
    return (times.T * values).sum(0) / n


def _ends(values):
    """(low, high) of the draws that have a value."""
    values = values[np.isfinite(values)]
    if not len(values):
        return NO_INTERVAL
    return tuple(np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist())


def _draws(labels, scores, predicted, times):
    """{name: float [DRAWS]} of NAMES, NaN where a draw has no value.

    Args:
        labels: bool [N], True = positive.
        scores: float [N].
        predicted: bool [N].
        times: how often each image is drawn, float [DRAWS, N].
    """
    count = lambda chosen: times @ chosen.astype(float)
    tp, fp = count(labels & predicted), count(~labels & predicted)
    fn, tn = count(labels & ~predicted), count(~labels & ~predicted)
    # The area under the curve is the share of pairs that are in order, ties half.
    positive, negative = scores[labels].reshape(-1, 1), scores[~labels].reshape(1, -1)
    in_order = (positive > negative) + 0.5 * (positive == negative)
    ordered = ((times[:, labels] @ in_order) * times[:, ~labels]).sum(1)
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
