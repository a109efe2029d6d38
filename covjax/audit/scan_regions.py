"""Which part of the slices the score of a whole scan needs: every slice is changed alike.

The changes are those of `audit.regions`. A scan counts where plausible lungs are found in at least
half of the slices of its bag; the other slices stay as they are.
"""

import numpy as np

from covjax.audit import regions
from covjax.ct import lungs

NAME = 'regions of the slices'
COLUMNS = ('test', 'lungs found', 'whole slices', *regions.CHANGES)
LEAST = 0.5  # of the slices of a bag, in which lungs must be found


def with_lungs(images):
    """The scans that count, and where their lungs are.

    Args:
        images: verdict.Images of scans.

    Returns:
        (verdict.Images; [bool [k, size, size]] of each, nothing in slices without plausible lungs).
    """
    found = []
    for bag in images.images:
        masks = lungs.masks(bag)
        found.append(masks & lungs.plausible(masks)[:, None, None])
    enough = [i for i, mask in enumerate(found) if mask.any((1, 2)).mean() >= LEAST]
    return images.chosen(enough), [found[i] for i in enough]


def changed(change, bags, masks):
    """Bags with every slice changed by one of regions.CHANGES: object array [N]."""
    result = np.empty(len(bags), object)
    for i, (bag, mask) in enumerate(zip(bags, masks)):
        result[i] = change(bag, mask)
    return result


def check(subject):
    """The Verdict of the area on scans whose slices are changed."""
    return regions.judged(subject, NAME, COLUMNS, with_lungs, changed)
