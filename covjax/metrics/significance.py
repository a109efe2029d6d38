"""Tests of whether two classifiers differ on the same images: DeLong for areas, McNemar for decisions, Holm for several of them."""

from typing import NamedTuple

import numpy as np
from scipy import stats

from covjax.metrics.rates import checked


class Comparison(NamedTuple):
    """What a comparison found."""

    difference: float  # of the first from the second: area, or share of images decided right
    p: float  # two-sided; 1 where there is nothing to tell apart, NaN where nothing can be said


def delong(labels, first, second):
    """Areas under two ROC curves of the same images (DeLong et al. 1988, with the midranks of Sun and Xu 2014). Images count as independent. NaN when there is only one class."""
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
    spread = lambda parts, count: (
        np.var(np.subtract(*parts), ddof=1) / count if count > 1 else np.nan
    )
    variance = spread(of_positives, m) + spread(of_negatives, n)
    if not variance > 0:
        return Comparison(
            difference, 1.0 if difference == 0 and variance == 0 else float('nan')
        )  # both perfect, or too few images
    return Comparison(difference, float(2 * stats.norm.sf(abs(difference) / np.sqrt(variance))))


def mcnemar(labels, first, second):
    """Decisions (int [N], 0 or 1) of two classifiers: the exact test of those images that only one of them decides right (McNemar 1947)."""
    labels, first = checked(labels, first)
    labels, second = checked(labels, second)
    only_first = int(((first == labels) & (second != labels)).sum())
    only_second = int(((first != labels) & (second == labels)).sum())
    p = (
        stats.binomtest(only_first, only_first + only_second).pvalue
        if only_first + only_second
        else 1.0
    )
    return Comparison((only_first - only_second) / len(labels), float(p))


def holm(p_values):
    """p values adjusted for their number (Holm 1979), in their order; NaN stays NaN and does not count."""
    p_values = np.asarray(p_values, float)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known])]
    adjusted = np.full(len(p_values), np.nan)
    adjusted[order] = np.minimum(
        np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)), 1
    )
    return adjusted.tolist()
