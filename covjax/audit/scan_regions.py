"""Which part of the slices the score of a whole scan needs: every slice is changed alike.

The changes are those of `audit.regions`. A scan counts where plausible lungs are found in at least
half of the slices of its bag; the other slices stay as they are.
"""

import numpy as np

from covjax.audit import regions
from covjax.audit.verdict import TestedArea, Verdict, area, lungs_alone
from covjax.ct import lungs
from covjax.pages.figures import Estimate

NAME = 'regions of the slices'
RULE = regions.RULE
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


def changed(bags, masks, change):
    """Bags with every slice changed by one of regions.CHANGES: object array [N]."""
    result = np.empty(len(bags), object)
    for i, (bag, mask) in enumerate(zip(bags, masks)):
        result[i] = change(bag, mask)
    return result


def check(subject):
    """The Verdict of the area on scans whose slices are changed."""
    if alone := lungs_alone(subject, NAME):
        return alone
    rows, kept, tested = [], [], []
    for test, images in subject.tests.items():
        part, masks = with_lungs(images)
        if len(np.unique(part.labels)) < 2:
            continue
        whole = area(subject.score(part.images), part)
        areas = {
            name: area(subject.score(changed(part.images, masks, change)), part)
            for name, change in regions.CHANGES.items()
        }
        found = f'{len(part.rows)} of {len(images.rows)}'
        rows.append((test, found, str(whole), *map(str, areas.values())))
        kept += [
            f'{areas[name]} on {test} with {name}'
            for name in regions.NO_LUNG
            if regions.keeps(areas[name], whole)
        ]
        tested += [
            TestedArea(test, Estimate(f'the network, {name}', *reached, kind='reference'))
            for name, reached in areas.items()
        ]
    if not rows:
        finding = 'No plausible lungs were found in scans of both classes of a test set.'
        return Verdict(name=NAME, flag=None, finding=finding)
    if kept:
        finding = f'Without lungs the score still tells the classes apart: AUC {"; ".join(kept)}.'
    else:
        finding = (
            f'Without lungs the score finds {subject.titles[0]} no better than chance, or keeps '
            'little of what it had.'
        )
    return Verdict(
        name=NAME,
        flag=bool(kept),
        finding=finding,
        rule=RULE,
        columns=COLUMNS,
        rows=tuple(rows),
        areas=tuple(tested),
    )
