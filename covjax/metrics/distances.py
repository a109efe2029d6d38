"""How far two sets of images are apart in a space of features: kernel and Fréchet distance. NumPy; features come from covjax.features."""

from typing import NamedTuple

import numpy as np
from scipy import stats

from covjax.metrics.intervals import LEVEL

HALVES = 20


class Kid(NamedTuple):
    """Kernel distance with its interval; NaN ends where a set has a single group."""

    value: float
    low: float
    high: float


def kid(first, second, first_groups=None, second_groups=None):
    """Kernel inception distance (Binkowski et al. 2018, arXiv 1801.01401) of features float [N, D] and [M, D]: the unbiased squared maximum mean discrepancy of the kernel
    (x . y / D + 1) ** 3. Sets of one distribution give 0 on average, at any size, so it can be negative.

    Groups are patients or series (by default each image is one): pairs of images of one group say nothing about the set and are left out, and the interval is that of a jackknife
    which leaves out one group at a time. It is only as normal as the estimate is.
    """
    sets = _Pairs(first, second, first_groups, second_groups)
    everything, variance = [np.ones(len(groups), bool) for groups in sets.groups], 0.0
    for side, groups in enumerate(sets.groups):
        n = groups.max() + 1
        keeps = [
            [groups != k if s == side else kept for s, kept in enumerate(everything)]
            for k in range(n)
        ]
        left = np.array([sets.mmd(keep) for keep in keeps] if n > 1 else [np.nan])
        variance += (n - 1) / n * ((left - left.mean()) ** 2).sum()
    value, half = sets.mmd(everything), stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(variance)
    return Kid(value, float(value - half), float(value + half))


def kid_value(first, second, first_groups=None, second_groups=None):
    """The same without its interval, which takes by far the longer; NaN where a set has a single group."""
    sets = _Pairs(first, second, first_groups, second_groups)
    return sets.mmd([np.ones(len(groups), bool) for groups in sets.groups])


class _Pairs:
    """Kernel values of all pairs of images, those of one group left out."""

    def __init__(self, first, second, first_groups, second_groups):
        first, second = _checked(first, second)
        kernel = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3
        self.groups = [
            np.unique(
                np.arange(len(rows)) if groups is None else np.asarray(groups, str),
                return_inverse=True,
            )[1]
            for rows, groups in ((first, first_groups), (second, second_groups))
        ]
        self.apart = [(groups[:, None] != groups).astype(float) for groups in self.groups]
        self.within = [
            kernel(rows, rows) * apart for rows, apart in zip((first, second), self.apart)
        ]
        self.between = kernel(first, second)

    def mmd(self, keep):
        """The unbiased estimate over the images that are kept, bool [N] and bool [M]."""
        one, other = (kept.astype(float) for kept in keep)
        sums = [
            (kept @ matrix @ kept, kept @ apart @ kept)
            for kept, matrix, apart in zip((one, other), self.within, self.apart)
        ]
        inner = [total / pairs if pairs else np.nan for total, pairs in sums]
        return float(sum(inner) - 2 * (one @ self.between @ other) / (one.sum() * other.sum()))


def fid(first, second):
    """Fréchet inception distance (Heusel et al. 2017, arXiv 1706.08500) of features float [N, D] and [M, D]: that of the normal distributions with their means and covariances.

    It is biased upwards, the more so the fewer images there are (Chong and Forsyth 2020, arXiv 1911.07023): two halves of one set are apart too (fid_floor), and values of other set
    sizes or other features can not be compared with it.
    """
    first, second = _checked(first, second)
    means = [rows.mean(0) for rows in (first, second)]
    a, b = ((rows - mean) / np.sqrt(len(rows) - 1) for rows, mean in zip((first, second), means))
    # With covariances A'A and B'B the trace of the root of their product is the sum of the singular values of AB', also where they have no full rank.
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(((means[0] - means[1]) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * root)


def fid_floor(features, groups=None, seed=0):
    """The mean FID of two random halves (of whole groups) of one set: what images of one source show at half this size. NaN for fewer than four groups."""
    features = np.asarray(features, float)
    _, group = np.unique(
        np.arange(len(features)) if groups is None else np.asarray(groups, str), return_inverse=True
    )
    n, rng = group.max() + 1, np.random.default_rng(seed)
    if n < 4:
        return float('nan')
    values = []
    for _ in range(HALVES):
        half = np.isin(group, rng.permutation(n)[: n // 2])
        values.append(
            fid(features[half], features[~half]) if min(half.sum(), (~half).sum()) > 1 else np.nan
        )
    return float(np.nanmean(values))


def _checked(first, second):
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.ndim != 2 or first.shape[1:] != second.shape[1:] or min(len(first), len(second)) < 2:
        raise ValueError(
            f'distances need two sets of at least two images in the same features, not {first.shape} and {second.shape}'
        )
    if not np.isfinite(first).all() or not np.isfinite(second).all():
        raise ValueError('distances need finite features')
    return first, second
