"""Counts and rates at a threshold, of both classes."""

import numpy as np
from sklearn import metrics

from covjax import CLASSES
from covjax.metrics.roc import auc

POSITIVE = 'covid'


def checked(labels, scores):
    """Labels and scores as arrays, fit for every metric.

    Args:
        labels: [N] of 0 and 1.
        scores: [N] of finite numbers.

    Returns:
        (int [N], float [N]).

    Raises:
        ValueError: anything that would make a metric a number without meaning.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, float)
    if labels.shape != scores.shape or labels.ndim != 1 or not len(labels):
        raise ValueError(
            'metrics need one score for each label and at least one of both, '
            f'not {labels.shape} and {scores.shape}'
        )
    if not np.isin(labels, (0, 1)).all() or not np.isfinite(scores).all():
        raise ValueError('metrics need labels 0 or 1 and finite scores')
    return labels.astype(int), scores


def rates(labels, scores, threshold=0.5, positive_class=POSITIVE):
    """Counts and rates of the decisions at a threshold, and the area under the ROC curve.

    An image is called covid when its score reaches the threshold. tp, fp, fn, tn, recall,
    precision, specificity and f1 are those of `positive_class`; precision_negative and f1_negative
    are those of the other class, whose recall is the specificity. A rate without a denominator is
    NaN, and so is the area when there is only one class.

    Args:
        labels: int [N], 1 = covid.
        scores: P(covid), float [N].
        threshold: of the scores.
        positive_class: one of covjax.CLASSES.

    Returns:
        A dict of positive_class, n_positive, n_negative, the four counts (int), accuracy, recall,
        precision, specificity, f1, precision_negative, f1_negative and auc (float).

    Raises:
        ValueError: labels or scores are not fit for a metric, or there is no such class.
    """
    labels, scores = checked(labels, scores)
    if positive_class not in CLASSES:
        raise ValueError(f'positive_class={positive_class}: choose one of {", ".join(CLASSES)}')
    positive = CLASSES.index(positive_class)
    negative = 1 - positive
    predicted = (scores >= threshold).astype(int)
    counts = metrics.confusion_matrix(labels, predicted, labels=[positive, negative])
    (tp, fn), (fp, tn) = counts
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
        'specificity': score(metrics.recall_score, negative),
        'f1': score(metrics.f1_score, positive),
        'precision_negative': score(metrics.precision_score, negative),
        'f1_negative': score(metrics.f1_score, negative),
        'auc': auc(labels, scores),  # the same for either class
    }
