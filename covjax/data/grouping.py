"""Which images stay together where patients are not known, and splits of whole groups."""

import hashlib
import re

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from covjax.data.near_duplicates import near_duplicates

# Of the correlation at 32x32. Lower than for copies: neighbouring slices of a patient reach it.
ALIKE = 0.9
RUN = 10  # file numbers that are taken for slices of one scan
NUMBER = re.compile(r'(.*?)(\d+)\D*')
SHARES = {'validation': 0.1, 'test': 0.1}  # of the groups; the others train


def alike(images, threshold=ALIKE):
    """Finds which images show much the same: two of them, or a chain of such pairs.

    Args:
        images: uint8 [N, 32, 32, 1], as near_duplicates.shrunk gives them.
        threshold: of the correlation of a pair.

    Returns:
        int [N], a number for each set of images that hang together.
    """
    pairs = near_duplicates(images, threshold)
    return _hang_together([(i, j) for _, i, j in pairs], len(images))


def in_runs(names):
    """Puts files together whose numbers follow one another, as those of slices of a scan do.

    Args:
        names: of files, without ending. What is before the last number of a name must agree, and
            the number divided by RUN; names without a number are alone.

    Returns:
        [str], the same for files that stay together.
    """
    keys = []
    for name in names:
        match = NUMBER.fullmatch(name)
        keys.append(f'{match[1]}{int(match[2]) // RUN * RUN}' if match else name)
    return keys


def joined(first, second):
    """The coarsest of two groupings: images stay together that are together in either.

    Args:
        first, second: a key for each image, [N].

    Returns:
        int [N].
    """
    pairs = []
    for keys in (first, second):
        seen = {}
        pairs += [(seen.setdefault(key, i), i) for i, key in enumerate(keys)]
    return _hang_together(pairs, len(first))


def _hang_together(pairs, n):
    """int [n]: the connected components of a graph of pairs."""
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def splits_of(groups):
    """Splits groups at random but always alike: {group: 'train', 'validation' or 'test'}.

    Of three groups and more each split has at least one; of fewer all train.

    Args:
        groups: iterable of str.
    """
    ordered = in_random_order(groups)
    splits, start = dict.fromkeys(ordered, 'train'), 0
    if len(ordered) >= 1 + len(SHARES):
        for split, share in SHARES.items():
            count = max(round(share * len(ordered)), 1)
            splits |= dict.fromkeys(ordered[start : start + count], split)
            start += count
    return splits


def in_random_order(groups):
    """Distinct groups in the order of a hash of their names, [str]."""
    return sorted(set(groups), key=lambda group: hashlib.sha256(group.encode()).digest())


def held_out(groups, count):
    """Whole groups that hold exactly `count` images or, where that cannot be, a few less.

    Args:
        groups: of each image, [str].
        count: how many images.

    Returns:
        set of groups.
    """
    chosen, left = set(), count
    for group in in_random_order(groups):
        size = groups.count(group)
        if size <= left:
            chosen.add(group)
            left -= size
    return chosen
