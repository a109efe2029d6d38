"""Which images stay together where patients are not known, and splits of whole groups."""

import hashlib
import re
from collections import Counter

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from covjax.data import near_duplicates

# Of the correlation at 32x32. Lower than for copies: neighbouring slices of a patient reach it.
ALIKE = 0.9
RUN = 10  # file numbers that are taken for slices of one scan
NUMBER = re.compile(r'(.*?)(\d+)\D*')
SHARES = {'validation': 0.1, 'test': 0.1}  # of the images; the others train


def alike(images, threshold=ALIKE):
    """Finds which images look much the same: two of them, or a chain of such pairs.

    Args:
        images: uint8 [N, 32, 32, 1], as near_duplicates.shrunk gives them.
        threshold: of the correlation of a pair.

    Returns:
        int [N], a number for each set of images that hang together.
    """
    return _hang_together(near_duplicates.pairs_above(images, threshold), len(images))


def in_runs(names):
    """Groups files whose numbers follow one another, as those of the slices of a scan do.

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
    """int [n]: the connected components of a graph of pairs, [M, 2]."""
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def splits_of(groups, shares=SHARES):
    """Splits groups at random but always in the same way: {group: 'train', 'validation' or 'test'}.

    Each split but train gets groups that hold about its share of the images, and no group that
    holds more, unless there is none else. No split stays empty, but of fewer groups than splits all
    train.

    Args:
        groups: of each image, [str].
        shares: {split: share of the images}; the other images train.
    """
    left = list(groups)
    splits = dict.fromkeys(left, 'train')
    if len(splits) < 1 + len(shares):
        return splits
    for still_empty, (split, share) in zip(range(len(shares), 0, -1), shares.items()):
        chosen = held_out(left, max(round(share * len(groups)), 1)) or {_smallest(left)}
        spare = len(set(left)) - still_empty  # the others, and train, get a group each
        chosen = in_random_order(chosen)[:spare]
        splits |= dict.fromkeys(chosen, split)
        left = [group for group in left if group not in chosen]
    return splits


def _smallest(groups):
    """The group of fewest images, the first in random order of several."""
    sizes = Counter(groups)
    return min(in_random_order(groups), key=sizes.get)


def in_random_order(groups):
    """Distinct groups in the order of a hash of their names, [str]."""
    return sorted(set(groups), key=lambda group: hashlib.sha256(group.encode()).digest())


def held_out(groups, count):
    """Whole groups that hold `count` images or, where those that come first do not add up, fewer.

    Args:
        groups: of each image, [str].
        count: how many images.

    Returns:
        set of groups.
    """
    chosen, left, sizes = set(), count, Counter(groups)
    for group in in_random_order(sizes):
        if sizes[group] <= left:
            chosen.add(group)
            left -= sizes[group]
    return chosen
