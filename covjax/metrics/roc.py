"""The ROC curve, the area under it, and the threshold that validation chooses on it."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn import metrics


def curve(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve.

    Args:
        labels: int [N], 1 = positive, both kinds.
        scores: P(positive), float [N].

    Returns:
        (false positive rate, true positive rate), both float [K], rising from 0 to 1.
    """
    false_positive_rate, true_positive_rate, _ = metrics.roc_curve(labels, scores)
    return false_positive_rate, true_positive_rate


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """The area under the ROC curve by the trapezoid rule, as in the paper.

    It is the chance that a positive image scores above a negative one, ties half.

    Args:
        labels: int [N], 1 = positive.
        scores: P(positive), float [N].

    Returns:
        float in 0..1; NaN when there is only one class.
    """
    if len(np.unique(labels)) < 2:
        return float('nan')
    return float(metrics.auc(*curve(labels, scores)))


def operating_point(labels: ArrayLike, scores: ArrayLike) -> float:
    """The threshold with the greatest recall + specificity, in the middle between two scores.

    Of several equally good ones it is the highest. For validation sets only: on a test set it would
    flatter the classifier.

    Args:
        labels: int [N], 1 = positive.
        scores: P(positive), float [N].

    Returns:
        float; NaN when there is only one class.

    References:
        Youden, Index for rating diagnostic tests, Cancer 3, 1950.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, float)
    if len(np.unique(labels)) < 2:
        return float('nan')
    false_positive_rate, true_positive_rate, thresholds = metrics.roc_curve(
        labels, scores, drop_intermediate=False
    )
    chosen = thresholds[np.argmax(true_positive_rate - false_positive_rate)]
    below = scores[scores < chosen]
    if not len(below):
        return float(chosen)
    # The first threshold of a curve is infinite.
    highest = min(chosen, scores.max() + 1e-6)
    return float((highest + below.max()) / 2)
