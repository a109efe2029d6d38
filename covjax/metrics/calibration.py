"""Whether a score of 0.8 means 80 %: Brier score, calibration error, reliability, temperature."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss

from covjax.metrics.rates import checked

BINS = 10
CLIP = 1e-6  # scores of 0 and 1 would be infinite logits
TEMPERATURES = (0.05, 20.0)  # the range that is searched


def brier(labels: ArrayLike, scores: ArrayLike) -> float:
    """The Brier score: the mean squared distance of P(positive) from the label.

    0 is best; 0.25 is what a score of 0.5 for every image gives.

    Args:
        labels: int [N], 1 = positive.
        scores: P(positive), float [N].

    Returns:
        float in 0..1.

    Raises:
        ValueError: labels or scores are not fit for a metric.

    References:
        Brier, Verification of forecasts expressed in terms of probability, Monthly Weather Review
        78, 1950.
    """
    labels, scores = checked(labels, scores)
    return float(brier_score_loss(labels, scores, pos_label=1))


def reliability(labels: ArrayLike, scores: ArrayLike, bins: int = BINS) -> Any:
    """The reliability curve: how many images of a score are positive.

    The range 0..1 is cut into equal intervals; an image on a border belongs to the upper one.
    Intervals without images are left out.

    Args:
        labels: int [N], 1 = positive.
        scores: P(positive), float [N].
        bins: number of intervals.

    Returns:
        (mean score, share of positives, number of images) of the intervals, arrays [K], K <= bins.

    Raises:
        ValueError: labels or scores are not fit for a metric, or a score is outside of 0..1.
    """
    labels, scores = checked(labels, scores)
    if scores.min() < 0 or scores.max() > 1:
        raise ValueError('calibration needs scores in 0..1')
    index = np.minimum((scores * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    filled = count > 0
    mean = lambda values: np.bincount(index, values, bins)[filled] / count[filled]
    return mean(scores), mean(labels), count[filled]


def expected_calibration_error(labels: ArrayLike, scores: ArrayLike, bins: int = BINS) -> float:
    """The mean over images of the distance between score and share of positives in their interval.

    It is that of the positive class, of the intervals of `reliability`. It depends on their number,
    and for few images it is above 0 even of a calibrated score.

    Args:
        labels: int [N], 1 = positive.
        scores: P(positive), float [N].
        bins: number of intervals.

    Returns:
        float in 0..1.

    Raises:
        ValueError: labels or scores are not fit for a metric, or a score is outside of 0..1.

    References:
        Naeini et al., Obtaining well calibrated probabilities using Bayesian binning, AAAI 2015.
    """
    score, share, count = reliability(labels, scores, bins)
    return float(np.average(np.abs(score - share), weights=count))


def fit_temperature(labels: ArrayLike, scores: ArrayLike) -> float:
    """The temperature T for which sigmoid(logit(score) / T) has the least cross-entropy.

    Above 1 it softens scores that are too certain. For validation sets only. It is searched for in
    TEMPERATURES: the upper end says that the scores tell nothing.

    Args:
        labels: int [N], 1 = positive.
        scores: P(positive), float [N], clipped by CLIP.

    Returns:
        float; NaN when there is only one class.

    Raises:
        ValueError: labels or scores are not fit for a metric.

    References:
        Guo et al., On calibration of modern neural networks, ICML 2017 (arXiv 1706.04599).
    """
    labels, scores = checked(labels, scores)
    if len(np.unique(labels)) < 2:
        return float('nan')
    logits, sign = logit(np.clip(scores, CLIP, 1 - CLIP)), 1 - 2 * labels
    loss = lambda log_t: np.logaddexp(0, sign * logits / np.exp(log_t)).mean()
    bounds, options = np.log(TEMPERATURES), {'xatol': 1e-6}
    found = minimize_scalar(loss, bounds=bounds, method='bounded', options=options)
    return float(np.exp(found.x))


def scaled(scores: ArrayLike, temperature: float) -> np.ndarray:
    """The scores at a temperature, sigmoid(logit(score) / T); their order stays.

    Args:
        scores: P(positive), float [N], clipped by CLIP.
        temperature: of `fit_temperature`.

    Returns:
        float [N] in 0..1.
    """
    return expit(logit(np.clip(np.asarray(scores, float), CLIP, 1 - CLIP)) / temperature)
