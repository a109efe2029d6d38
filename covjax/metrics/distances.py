"""How far two sets of images are apart in a space of features: kernel and Fréchet distance.

NumPy; features, float [N, D], come from covjax.features.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from covjax.metrics.intervals import LEVEL

HALVES = 20  # how often fid_floor halves a set


class Kid(NamedTuple):
    """A kernel distance with its interval; NaN where a set has too few groups (see `kid`)."""

    value: float
    low: float
    high: float


def kid(
    first: np.ndarray,
    second: np.ndarray,
    first_groups: ArrayLike | None = None,
    second_groups: ArrayLike | None = None,
) -> Any:
    """The kernel inception distance, with an interval.

    It is the unbiased squared maximum mean discrepancy of the kernel (x . y / D + 1) ** 3. Sets of
    one distribution give 0 on average, at any size, so it can be negative. Pairs of images of one
    group say nothing about the set and are left out. The interval is that of a jackknife which
    leaves out one group at a time; it is only as normal as the estimate is.

    Args:
        first, second: features, float [N, D] and [M, D].
        first_groups, second_groups: patient or series of each image, str [N] and [M]; by default
            each image is a group of its own.

    Returns:
        Kid; all NaN where a set has a single group, low and high NaN where a set has only two.

    Raises:
        ValueError: a set has fewer than two images, the features differ, or some are not finite.

    References:
        Binkowski et al., Demystifying MMD GANs, ICLR 2018 (arXiv 1801.01401).
    """
    sets = _Pairs(first, second, first_groups, second_groups)
    variance = 0.0 + sets.jackknife(0) + sets.jackknife(1)
    value, half = sets.mmd(), stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(variance)
    return Kid(value, float(value - half), float(value + half))


def kid_value(
    first: np.ndarray,
    second: np.ndarray,
    first_groups: ArrayLike | None = None,
    second_groups: ArrayLike | None = None,
) -> float:
    """The kernel inception distance without its interval, which takes far longer.

    Args:
        first, second: features, float [N, D] and [M, D].
        first_groups, second_groups: patient or series of each image, str [N] and [M]; by default
            each image is a group of its own.

    Returns:
        float, the value of `kid`; NaN where a set has a single group.

    Raises:
        ValueError: a set has fewer than two images, the features differ, or some are not finite.
    """
    return _Pairs(first, second, first_groups, second_groups).mmd()


class _Pairs:
    """The kernel of all pairs of images of two sets, those of one group left out."""

    def __init__(self, first, second, first_groups, second_groups):
        first, second = _checked(first, second)
        kernel = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3
        self.groups = [_numbered(first_groups, len(first)), _numbered(second_groups, len(second))]
        self.apart = [(groups[:, None] != groups).astype(float) for groups in self.groups]
        self.within = [
            kernel(rows, rows) * apart for rows, apart in zip((first, second), self.apart)
        ]
        self.between = kernel(first, second)

    def mmd(self, kept=None):
        """The unbiased estimate over the images kept, [bool [N], bool [M]]; by default over all."""
        kept = kept or [np.ones(len(groups), bool) for groups in self.groups]
        first, second = (keep.astype(float) for keep in kept)
        inner = []
        for keep, kernel, apart in zip((first, second), self.within, self.apart):
            total, pairs = keep @ kernel @ keep, keep @ apart @ keep
            inner.append(total / pairs if pairs else np.nan)
        between = 2 * (first @ self.between @ second) / (first.sum() * second.sum())
        return float(sum(inner) - between)

    def jackknife(self, side):
        """The variance that the groups of one set, 0 or 1, contribute; NaN for fewer than three."""
        n = self.groups[side].max() + 1
        if n == 1:
            return np.nan
        values = np.array([self.mmd(self._without(side, group)) for group in range(n)])
        return (n - 1) / n * ((values - values.mean()) ** 2).sum()

    def _without(self, side, group):
        """The images of both sets that are kept without one group of one of them."""
        kept = [np.ones(len(groups), bool) for groups in self.groups]
        kept[side] = self.groups[side] != group
        return kept


def _numbered(groups, n):
    """Groups as numbers from 0, int [n]; without groups each image has one of its own."""
    names = np.arange(n) if groups is None else np.asarray(groups, str)
    return np.unique(names, return_inverse=True)[1]


def fid(first: np.ndarray, second: np.ndarray) -> float:
    """The Fréchet inception distance: that of normal distributions fitted to two sets.

    It is biased upwards, the more so the fewer images there are: two halves of one set are apart
    too (`fid_floor`). Values of other set sizes or other features cannot be compared with it.

    Args:
        first, second: features, float [N, D] and [M, D].

    Returns:
        float, 0 for equal means and covariances.

    Raises:
        ValueError: a set has fewer than two images, the features differ, or some are not finite.

    References:
        Heusel et al., GANs trained by a two time-scale update rule converge to a local Nash
        equilibrium, NeurIPS 2017 (arXiv 1706.08500); on the bias Chong and Forsyth, Effectively
        unbiased FID and Inception Score and where to find them, CVPR 2020 (arXiv 1911.07023).
    """
    first, second = _checked(first, second)
    means = [rows.mean(0) for rows in (first, second)]
    a, b = ((rows - mean) / np.sqrt(len(rows) - 1) for rows, mean in zip((first, second), means))
    # With covariances A'A and B'B the trace of the root of their product is the sum of the singular
    # values of AB', also where they have no full rank.
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(((means[0] - means[1]) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * root)


def fid_floor(features: np.ndarray, groups: ArrayLike | None = None, seed: int = 0) -> float:
    """The mean FID of two random halves of a set: what images of one kind show at half its size.

    Args:
        features: float [N, D].
        groups: patient or series of each image, str [N], which stay together; by default each image
            is a group of its own.
        seed: of the halves.

    Returns:
        float; NaN for fewer than four groups.
    """
    features = np.asarray(features, float)
    group = _numbered(groups, len(features))
    n, rng = group.max() + 1, np.random.default_rng(seed)
    if n < 4:
        return float('nan')
    values = []
    for _ in range(HALVES):
        half = np.isin(group, rng.permutation(n)[: n // 2])
        enough = min(half.sum(), (~half).sum()) > 1
        values.append(fid(features[half], features[~half]) if enough else np.nan)
    return float(np.nanmean(values))


def _checked(first, second):
    """Both as float arrays; a ValueError where they have no distance."""
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.ndim != 2 or first.shape[1:] != second.shape[1:] or min(len(first), len(second)) < 2:
        raise ValueError(
            'distances need two sets of at least two images in the same features, '
            f'not {first.shape} and {second.shape}'
        )
    if not np.isfinite(first).all() or not np.isfinite(second).all():
        raise ValueError('distances need finite features')
    return first, second
