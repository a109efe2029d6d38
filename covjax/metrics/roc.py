"""ROC curve and the area under it by the trapezoid rule."""
import numpy as np
from sklearn import metrics


def curve(labels, scores):
    """labels int [N], scores float [N] -> (false positive rate, true positive rate), both float [K] rising from 0 to 1."""
    false_positive_rate, true_positive_rate, _ = metrics.roc_curve(labels, scores)
    return false_positive_rate, true_positive_rate


def auc(labels, scores):
    """Area under the curve; NaN when there is only one class."""
    if len(np.unique(labels)) < 2:
        return float('nan')
    return float(metrics.auc(*curve(labels, scores)))
