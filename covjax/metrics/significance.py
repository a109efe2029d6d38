"""Whether two classifiers differ on the same images: DeLong for areas, McNemar for decisions.

Holm adjusts the p values of several such tests. Images count as independent, which several images
of one patient are not: then the p values are too small.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from covjax.metrics.rates import checked


class Comparison(NamedTuple):
    """What a test found."""

    difference: float  # first less second: of the areas, or of the shares of right decisions
    p: float  # two-sided; 1 where there is nothing to tell apart, NaN where nothing can be said


def delong(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> Any:
    """DeLong's test of two areas under ROC curves of the same images.

    Args:
        labels: int [N], 1 = positive.
        first, second: P(positive) of the two classifiers, float [N].

    Returns:
        The Comparison of the areas. Both values are NaN when there is only one class, p alone when
        there are too few images for a variance.

    Raises:
        ValueError: labels or scores are not fit for a metric.

    References:
        DeLong et al., Comparing the areas under two or more correlated receiver operating
        characteristic curves, Biometrics 44, 1988; computed by midranks as in Sun and Xu, Fast
        implementation of DeLong's algorithm, IEEE Signal Processing Letters 21, 2014.
    """
    labels, first = checked(labels, first)
    labels, second = checked(labels, second)
    positive, negative = labels == 1, labels == 0
    m, n = positive.sum(), negative.sum()
    if not m or not n:
        return Comparison(float('nan'), float('nan'))
    areas, of_positives, of_negatives = [], [], []
    for scores in (first, second):
        among_all = stats.rankdata(scores)
        # How often each image is on the right side of one of the other class, ties half.
        of_positives.append((among_all[positive] - stats.rankdata(scores[positive])) / n)
        of_negatives.append(1 - (among_all[negative] - stats.rankdata(scores[negative])) / m)
        areas.append(of_positives[-1].mean())
    difference = float(areas[0] - areas[1])
    variance = _variance(of_positives) + _variance(of_negatives)
    if variance > 0:
        p = float(2 * stats.norm.sf(abs(difference) / np.sqrt(variance)))
    elif variance == 0 and difference == 0:
        p = 1.0
    else:  # both are perfect, one of them the wrong way round, or there are too few images
        p = float('nan')
    return Comparison(difference, p)


def _variance(parts):
    """Of the difference of two means, from the parts of one class, two arrays [K]."""
    first, second = parts
    count = len(first)
    return np.var(np.subtract(first, second), ddof=1) / count if count > 1 else np.nan


def mcnemar(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> Any:
    """McNemar's exact test of whether two classifiers decide equally many images right.

    It counts only the images that exactly one of the two decides right.

    Args:
        labels: int [N], 1 = positive.
        first, second: decisions of the two classifiers, int [N] of 0 and 1.

    Returns:
        The Comparison of the shares of right decisions.

    Raises:
        ValueError: labels or decisions are not fit for a metric.

    References:
        McNemar, Note on the sampling error of the difference between correlated proportions or
        percentages, Psychometrika 12, 1947.
    """
    labels, first = checked(labels, first)
    labels, second = checked(labels, second)
    only_first = int(((first == labels) & (second != labels)).sum())
    only_second = int(((first != labels) & (second == labels)).sum())
    either = only_first + only_second
    p = stats.binomtest(only_first, either).pvalue if either else 1.0
    return Comparison((only_first - only_second) / len(labels), float(p))


def holm(p_values: ArrayLike) -> Any:
    """Adjusts the p values of several tests by Holm's method.

    Rejecting where an adjusted one is below a level keeps the chance of any false rejection below
    that level.

    Args:
        p_values: sequence of float; NaN stays NaN and does not count.

    Returns:
        [float], the adjusted p values in the order of p_values, at most 1.

    References:
        Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
        Statistics 6, 1979.
    """
    p_values = np.asarray(p_values, float)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known])]
    multiplied = p_values[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(len(p_values), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(multiplied), 1)
    return adjusted.tolist()
