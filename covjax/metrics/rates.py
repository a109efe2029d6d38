"""Counts and rates at a threshold."""
import numpy as np
from sklearn import metrics

from covjax.metrics.roc import auc

POSITIVE = 'covid'


def rates(labels, scores, threshold=0.5):
    """labels int [N] (1 = covid), scores float [N] in 0..1 -> dict of counts and rates, covid positive. A rate without a denominator is NaN."""
    labels, scores = np.asarray(labels), np.asarray(scores, float)
    if not len(labels) or not np.isfinite(scores).all():
        raise ValueError('rates need at least one example and finite scores')
    predicted = scores >= threshold
    kwargs = dict(zero_division=np.nan)
    return {
        'positive_class': POSITIVE,
        'n_positive': int((labels == 1).sum()),
        'n_negative': int((labels == 0).sum()),
        'accuracy': float(metrics.accuracy_score(labels, predicted)),
        'recall': float(metrics.recall_score(labels, predicted, **kwargs)),
        'precision': float(metrics.precision_score(labels, predicted, **kwargs)),
        'specificity': float(metrics.recall_score(labels, predicted, pos_label=0, **kwargs)),
        'f1': float(metrics.f1_score(labels, predicted, **kwargs)),
        'auc': auc(labels, scores),
    }
