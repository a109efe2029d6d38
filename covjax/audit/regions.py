"""Which part of the image the score needs: lungs blacked out, lungs alone, the border alone, patches in random order."""

import numpy as np

from covjax.audit.verdict import Verdict, area
from covjax.ct import lungs, picture
from covjax.pages import pictures

NAME = 'regions of the image'
BORDER = 1 / 8  # of the side, the frame that is left of an image
GRID = 8  # patches a side
TILE = 144  # pixels a side in the picture of the page
KEPT = 0.5  # share of what the whole image is better than chance that may not be left without lungs


def without_lungs(images, masks):
    """The lungs black, of uint8 [N, H, W, 1] and bool [N, H, W]."""
    return np.where(masks[..., None], 0, images).astype(np.uint8)


def lungs_only(images, masks):
    """Everything else black."""
    return np.where(masks[..., None], images, 0).astype(np.uint8)


def border_only(images, masks=None):
    """The middle black."""
    changed, (height, width) = images.copy(), (round(BORDER * side) for side in images.shape[1:3])
    changed[:, height : images.shape[1] - height, width : images.shape[2] - width] = 0
    return changed


def shuffled(images, masks=None):
    """Patches of a GRID x GRID raster in another order in every image, always the same for the same place in the set; what does not fill a patch is cut off."""
    n, height, width, channels = images.shape
    tall, wide = height // GRID, width // GRID
    patches = (
        images[:, : tall * GRID, : wide * GRID]
        .reshape(n, GRID, tall, GRID, wide, channels)
        .swapaxes(2, 3)
        .reshape(n, GRID * GRID, tall, wide, channels)
    )
    mixed = np.stack(
        [one[np.random.default_rng(i).permutation(GRID * GRID)] for i, one in enumerate(patches)]
    )
    whole = (
        mixed.reshape(n, GRID, GRID, tall, wide, channels)
        .swapaxes(2, 3)
        .reshape(n, tall * GRID, wide * GRID, channels)
    )
    return np.pad(whole, ((0, 0), (0, height - tall * GRID), (0, width - wide * GRID), (0, 0)))


CHANGES = {
    'lungs blacked out': without_lungs,
    'lungs only': lungs_only,
    'border only': border_only,
    'patches shuffled': shuffled,
}
NO_LUNG = ('lungs blacked out', 'border only')


def check(subject):
    """The area on changed test images; those in which no plausible lungs are found are left out of every column."""
    rows, told, tiles = [], [], []
    for test, images in subject.tests.items():
        masks = lungs.masks(images.images)
        found = lungs.plausible(masks)
        part = images._replace(
            images=images.images[found],
            labels=images.labels[found],
            rows=[row for row, ok in zip(images.rows, found) if ok],
        )
        if len(np.unique(part.labels)) < 2:
            continue
        whole = area(subject.score(part.images), part)
        areas = {
            name: area(subject.score(change(part.images, masks[found])), part)
            for name, change in CHANGES.items()
        }
        rows.append((test, f'{found.sum()} of {len(found)}', str(whole), *map(str, areas.values())))
        told += [
            f'{areas[name]} on {test} with {name}'
            for name in NO_LUNG
            if areas[name].low > 0.5 and areas[name].value - 0.5 >= KEPT * max(whole.value - 0.5, 0)
        ]
        some = np.unique(np.linspace(0, len(part.rows) - 1, 4).astype(int))
        views = [
            part.images[some],
            *(change(part.images[some], masks[found][some]) for change in CHANGES.values()),
        ]
        tiles += [
            pictures.draw_boxes(view[k, ..., 0], (), TILE)
            for k in range(len(some))
            for view in views
        ]
    if not rows:
        return Verdict(NAME, None, 'No plausible lungs were found in both classes of a test set.')
    picture.save(
        subject.folder / 'regions.png',
        np.vstack(
            [
                pictures.header(['as it is', *CHANGES], TILE),
                pictures.contact_sheet(tiles, 1 + len(CHANGES)),
            ]
        ),
    )
    return Verdict(
        NAME,
        bool(told),
        f'Without lungs the score still tells the classes apart: AUC {"; ".join(told)}.'
        if told
        else 'Without lungs the score finds COVID no better than chance, or keeps little of what it had.',
        f'Red flag when images without lungs keep {KEPT:.0%} of what the whole image is better than chance, with an interval above 0.5. '
        'The outline of the lungs stays visible, and consolidation at their edge may stay outside the mask.',
        ('test', 'lungs found', 'whole image', *CHANGES),
        tuple(rows),
        (
            (
                subject.folder / 'regions.png',
                f'Test images as they are, and with {", ".join(CHANGES)}',
            ),
        ),
    )
