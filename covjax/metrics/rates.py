"""Counts and rates: of one class against the rest at a threshold, and means over all classes."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn import metrics

from covjax.classes import POSITIVE
from covjax.metrics.roc import auc


def checked(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
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


def rates(
    labels: ArrayLike, scores: ArrayLike, threshold: float = 0.5, positive_class: str = POSITIVE
) -> dict[str, Any]:
    """Counts and rates of one class against the rest at a threshold, and the area under the ROC.

    An image is called positive when its score reaches the threshold. tp, fp, fn, tn, recall,
    precision, specificity and f1 are those of the positive class; precision_negative and
    f1_negative are those of the rest, whose recall is the specificity. A rate without a denominator
    is NaN, and so is the area when all images are of one kind.

    Args:
        labels: int [N], 1 of the positive class, 0 of the rest.
        scores: P(positive class), float [N].
        threshold: of the scores.
        positive_class: its name, which the result repeats.

    Returns:
        A dict of positive_class, n_positive, n_negative, the four counts (int), accuracy, recall,
        precision, specificity, f1, precision_negative, f1_negative and auc (float).

    Raises:
        ValueError: labels or scores are not fit for a metric.
    """
    labels, scores = checked(labels, scores)
    predicted = (scores >= threshold).astype(int)
    counts = metrics.confusion_matrix(labels, predicted, labels=[1, 0])
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
        'recall': score(metrics.recall_score, 1),
        'precision': score(metrics.precision_score, 1),
        'specificity': score(metrics.recall_score, 0),
        'f1': score(metrics.f1_score, 1),
        'precision_negative': score(metrics.precision_score, 0),
        'f1_negative': score(metrics.f1_score, 0),
        'auc': auc(labels, scores),  # the same for either class
    }


def confusion(labels: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """How often images of each class get the highest score for each class.

    Args:
        labels: int [N], 0 to C - 1.
        scores: float [N, C].

    Returns:
        int [C, C]; row: class of the image, column: class of its highest score, the first of equal
        ones.

    Raises:
        ValueError: there is no image, a label or a shape does not fit, or a score is not finite.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, float)
    if labels.ndim != 1 or not len(labels) or scores.shape[:-1] != labels.shape:
        raise ValueError(
            'a confusion matrix needs labels [N] and scores [N, C] of at least one image, '
            f'not {labels.shape} and {scores.shape}'
        )
    classes = range(scores.shape[1])
    if not np.isin(labels, classes).all() or not np.isfinite(scores).all():
        raise ValueError('a confusion matrix needs the label of a class and finite scores')
    return metrics.confusion_matrix(labels, scores.argmax(1), labels=classes)


def macro_rates(labels: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """Accuracy, and means over classes of the rates of each against the rest.

    An image is taken for the class with its highest score; the area of a class is that of its own
    scores.

    Args:
        labels: int [N], 0 to C - 1.
        scores: float [N, C].

    Returns:
        {'accuracy', 'recall', 'specificity', 'auc'} (float); a mean is NaN where one of the classes
        has no image.

    Raises:
        ValueError: there is no image, a label or a shape does not fit, or a score is not finite.
    """
    counts = confusion(labels, scores)
    found, of_class, right = counts.sum(0), counts.sum(1), counts.diagonal()
    others = len(labels) - of_class
    with np.errstate(invalid='ignore'):
        recall = right / of_class
        specificity = (others - (found - right)) / others
    areas = [auc(np.asarray(labels) == k, np.asarray(scores)[:, k]) for k in range(len(counts))]
    return {
        'accuracy': float(right.sum() / len(labels)),
        'recall': float(recall.mean()),
        'specificity': float(specificity.mean()),
        'auc': float(np.mean(areas)),
    }
