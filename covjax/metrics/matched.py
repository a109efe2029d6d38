"""Slices of scans compared at equal height: scan against scan, and inside one scan.

Slices without disease lie at the apex and the base of lungs, where a slice holds little lung and
partial volume looks like ground glass. So slices are compared with those of the same height, and
inside one scan with those of about the same area of lung.
"""

import numpy as np

BINS = 10  # of relative height
NEAR = 0.1  # relative heights that differ by less are the same
ALIKE = 0.25  # areas of lung that differ by less than this share are the same


def relative_height(places):
    """Places of slices along a scan, int or float [N], as shares of the way from first to last."""
    places = np.asarray(places, float)
    return (places - places.min()) / max(places.max() - places.min(), 1e-9)


def difference(first, second):
    """By how much the mean of one scan is above that of another at equal relative height.

    Args:
        first: (values float [N], relative heights float [N]) of the one scan.
        second: the same of the other.

    Returns:
        The mean over BINS bins of height of the difference of means; bins that either scan lacks
        do not count. NaN where there is no other.
    """
    one, other = (_by_height(*scan) for scan in (first, second))
    differences = one - other
    known = np.isfinite(differences)
    return float(differences[known].mean()) if known.any() else float('nan')


def _by_height(values, heights):
    """The mean of the values in each of BINS bins of relative height, NaN in an empty one."""
    bins = np.minimum((np.asarray(heights) * BINS).astype(int), BINS - 1)
    sums, counts = np.bincount(bins, values, BINS), np.bincount(bins, minlength=BINS)
    return np.divide(sums, counts, out=np.full(BINS, np.nan), where=counts > 0)


def concordance(scores, positive, heights, areas):
    """How often a slice with disease scores higher than one without, height and area being equal.

    Args:
        scores: float [N] of the slices of one scan.
        positive: bool [N].
        heights: relative heights, float [N].
        areas: of lung, float [N].

    Returns:
        (share of the pairs of comparable slices that are in order, ties half; number of pairs).
        The share is NaN without any.
    """
    positive = np.asarray(positive, bool)
    scores, heights, areas = (np.asarray(each, float) for each in (scores, heights, areas))
    both = lambda values: (values[positive][:, None], values[~positive][None])
    (above, below), (high, low), (large, small) = map(both, (scores, heights, areas))
    comparable = np.abs(high - low) < NEAR
    comparable &= np.abs(large - small) < ALIKE * np.maximum(large, small)
    in_order = (above > below) + 0.5 * (above == below)
    count = int(comparable.sum())
    return (float(in_order[comparable].mean()) if count else float('nan')), count
