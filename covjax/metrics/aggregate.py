"""From the scores of the slices of a patient to one score of the patient."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

LEAST = 1e-6  # probabilities of a slice are kept this far from 0 and 1
HALF = 0.5


def mean(scores: np.ndarray, threshold: float) -> float:
    """The mean score, as DRE-Net has it (Song et al. 2021)."""
    del threshold
    return scores.mean()


def highest(scores: np.ndarray, threshold: float) -> float:
    """The highest score."""
    del threshold
    return scores.max()


def share(scores: np.ndarray, threshold: float) -> float:
    """The share of slices at or above a threshold, as Gozes et al. 2020 have it."""
    return (scores >= threshold).mean()


def majority(scores: np.ndarray, threshold: float) -> float:
    """The share of slices at or above one half: at least half of them is a vote for the class."""
    del threshold
    return (scores >= HALF).mean()


def noisy_or(scores: np.ndarray, threshold: float) -> float:
    """1 - prod(1 - P) over the slices, as Xu et al. 2020 have it: one sure slice is enough."""
    del threshold
    return -np.expm1(np.log1p(-np.clip(scores, LEAST, 1 - LEAST)).sum())


# {name: function (scores float [K] of the slices of a patient, threshold of a slice) -> float}.
AGGREGATES = {
    'mean': mean,
    'max': highest,
    'share': share,
    'noisy_or': noisy_or,
    'majority': majority,
}


def by_patient(
    labels: ArrayLike, scores: ArrayLike, patients: ArrayLike, name: str, threshold: float = HALF
) -> Any:
    """One label and one score of each patient.

    A patient has the positive class where any of the slices has it.

    Args:
        labels: int [N] of slices, 1 = positive.
        scores: P(positive), float [N].
        patients: of each slice, str [N].
        name: a key of AGGREGATES.
        threshold: of a slice, for 'share'.

    Returns:
        (patients, sorted, [P]; labels int [P]; scores float [P]; slices of each, int [P]).
    """
    labels, scores = np.asarray(labels), np.asarray(scores, float)
    names, group = np.unique(np.asarray(patients, str), return_inverse=True)
    order = np.argsort(group, kind='stable')
    counts = np.bincount(group)
    ends = np.cumsum(counts)[:-1]
    of_labels, of_scores = (np.split(each[order], ends) for each in (labels, scores))
    aggregate = AGGREGATES[name]
    return (
        names.tolist(),
        np.array([part.max() for part in of_labels]),
        np.array([aggregate(np.sort(part), threshold) for part in of_scores]),
        counts,
    )
