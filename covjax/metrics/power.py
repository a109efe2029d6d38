"""What difference a test can resolve, told before anything is trained.

A difference is *resolved* where a two-sided test at LEVEL finds it with probability POWER. What is
smaller may be there, but such a test says nothing about it.
"""

import numpy as np
from scipy import stats

LEVEL, POWER = 0.05, 0.8


def of_error(standard_error: float) -> float:
    """The smallest difference that an estimate with a standard error resolves.

    Args:
        standard_error: of the estimated difference, float.
    """
    return float((stats.norm.ppf(1 - LEVEL / 2) + stats.norm.ppf(POWER)) * standard_error)


def of_mean(deviation: float, count: int) -> float:
    """The smallest mean of paired differences that so many pairs resolve.

    Args:
        deviation: standard deviation of one difference.
        count: of independent pairs, such as patients.
    """
    return of_error(deviation / np.sqrt(count))


def auc_error(area: float, positives: int, negatives: int) -> float:
    """The standard error of an area under the ROC curve.

    Args:
        area: its value, in 0.5..1.
        positives, negatives: numbers of independent examples.

    References:
        Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 143, 1982.
    """
    both, twice = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (
        area * (1 - area) + (positives - 1) * (both - area**2) + (negatives - 1) * (twice - area**2)
    )
    return float(np.sqrt(variance / (positives * negatives)))


def of_auc(area: float, positives: int, negatives: int, correlation: float = 0.5) -> float:
    """The smallest difference of two areas on the same examples that is resolved.

    Args:
        area: about which both are expected, in 0.5..1.
        positives, negatives: numbers of independent examples.
        correlation: of the two estimates, 0..1, because they share their examples.

    References:
        Hanley and McNeil, A method of comparing the areas under ROC curves derived from the same
        cases, Radiology 148, 1983.
    """
    error = auc_error(area, positives, negatives)
    return of_error(error * np.sqrt(2 * (1 - correlation)))
