"""ROC curve and the area under it by the trapezoid rule, and the threshold that validation chooses on it."""

import numpy as np
from sklearn import metrics


def curve(labels, scores):
    """labels int [N], scores float [N] -> (false positive rate, true positive rate), both float [K] rising from 0 to 1."""
    false_positive_rate, true_positive_rate, _ = metrics.roc_curve(labels, scores)
    return false_positive_rate, true_positive_rate


def auc(labels, scores):
    """Area under the curve, by the trapezoid rule as in the paper; NaN when there is only one class."""
    if len(np.unique(labels)) < 2:
        return float('nan')
    return float(metrics.auc(*curve(labels, scores)))


def operating_point(labels, scores):
    """The threshold with the greatest recall + specificity (Youden 1950), in the middle between two scores; the first of equals from above. For validation sets only.

    NaN when there is only one class.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, float)
    if len(np.unique(labels)) < 2:
        return float('nan')
    false_positive_rate, true_positive_rate, thresholds = metrics.roc_curve(
        labels, scores, drop_intermediate=False
    )
    chosen = thresholds[np.argmax(true_positive_rate - false_positive_rate)]
    below = scores[scores < chosen]
    return (
        float((min(chosen, scores.max() + 1e-6) + below.max()) / 2) if len(below) else float(chosen)
    )
