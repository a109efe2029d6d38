"""Counts and rates at a threshold, of both classes."""

import numpy as np
from sklearn import metrics

from covjax import CLASSES
from covjax.metrics.roc import auc

POSITIVE = 'covid'


def checked(labels, scores):
    """(int [N] of 0 and 1, float [N]) of what every metric takes; an error for anything that would make it a number without meaning."""
    labels, scores = np.asarray(labels), np.asarray(scores, float)
    if labels.shape != scores.shape or labels.ndim != 1 or not len(labels):
        raise ValueError(
            f'metrics need one score for each label and at least one of both, not {labels.shape} and {scores.shape}'
        )
    if not np.isin(labels, (0, 1)).all() or not np.isfinite(scores).all():
        raise ValueError('metrics need labels 0 or 1 and finite scores')
    return labels.astype(int), scores


def rates(labels, scores, threshold=0.5, positive_class=POSITIVE):
    """labels int [N] (1 = covid), scores P(covid) float [N] -> dict of counts and rates.

    An image is called covid when its score reaches the threshold. tp, fp, fn, tn, recall, precision, specificity and f1 are those of `positive_class`; precision_negative and f1_negative
    those of the other class, whose recall is the specificity. A rate without a denominator is NaN, the area too when there is only one class.
    """
    labels, scores = checked(labels, scores)
    if positive_class not in CLASSES:
        raise ValueError(f'positive_class={positive_class}: choose one of {", ".join(CLASSES)}')
    positive = CLASSES.index(positive_class)
    predicted = (scores >= threshold).astype(int)
    (tp, fn), (fp, tn) = metrics.confusion_matrix(
        labels, predicted, labels=[positive, 1 - positive]
    )
    score = lambda metric, label: float(
        metric(labels, predicted, pos_label=label, zero_division=np.nan)
    )
    return {
        'positive_class': positive_class,
        'n_positive': int(tp + fn),
        'n_negative': int(fp + tn),
        'tp': int(tp),
        'fp': int(fp),
        'fn': int(fn),
        'tn': int(tn),
        'accuracy': float(metrics.accuracy_score(labels, predicted)),
        'recall': score(metrics.recall_score, positive),
        'precision': score(metrics.precision_score, positive),
        'specificity': score(metrics.recall_score, 1 - positive),
        'f1': score(metrics.f1_score, positive),
        'precision_negative': score(metrics.precision_score, 1 - positive),
        'f1_negative': score(metrics.f1_score, 1 - positive),
        'auc': auc(labels, scores),  # the same for either class
    }
