"""Which part of an image the score needs.

The classifier is shown images with the lungs blacked out, the lungs alone, the border alone, and
patches in random order.
"""

import numpy as np

from covjax.audit.verdict import Verdict, area, lungs_alone
from covjax.ct import lungs, picture
from covjax.pages import pictures

NAME = 'regions of the image'
BORDER = 1 / 8  # of the side, the frame that is left of an image
GRID = 8  # patches a side
TILE = 144  # pixels a side in the picture of the page
SHOWN = 4  # images of a test set in the picture of the page
# The share of what the whole image is better than chance that may not be left without lungs.
KEPT = 0.5
RULE = (
    f'Red flag when images without lungs keep {KEPT:.0%} of what the whole image is better than '
    'chance, with an interval above 0.5. The outline of the lungs stays visible, and consolidation '
    'at their edge may stay outside the mask.'
)


def without_lungs(images, masks):
    """Images uint8 [N, H, W, 1] with the lungs black; masks bool [N, H, W], True in lungs."""
    return np.where(masks[..., None], 0, images).astype(np.uint8)


def lungs_only(images, masks):
    """Images uint8 [N, H, W, 1] black outside the lungs; masks bool [N, H, W], True in lungs."""
    return np.where(masks[..., None], images, 0).astype(np.uint8)


def border_only(images, masks=None):
    """Images uint8 [N, H, W, 1] black within a frame of BORDER of each side; masks are not used."""
    changed = images.copy()
    height, width = images.shape[1:3]
    above, left = round(BORDER * height), round(BORDER * width)
    changed[:, above : height - above, left : width - left] = 0
    return changed


def shuffled(images, masks=None):
    """Images uint8 [N, H, W, C] whose patches of a GRID x GRID raster are in random order.

    Every image has an order of its own, always the same for the same place in the set. Pixels that
    do not fill a patch are cut off, and black instead. Masks are not used.
    """
    n, height, width, channels = images.shape
    tall, wide = height // GRID, width // GRID
    raster = images[:, : tall * GRID, : wide * GRID].reshape(n, GRID, tall, GRID, wide, channels)
    patches = raster.swapaxes(2, 3).reshape(n, GRID * GRID, tall, wide, channels)
    order = lambda i: np.random.default_rng(i).permutation(GRID * GRID)
    mixed = np.stack([image[order(i)] for i, image in enumerate(patches)])
    raster = mixed.reshape(n, GRID, GRID, tall, wide, channels).swapaxes(2, 3)
    whole = raster.reshape(n, tall * GRID, wide * GRID, channels)
    return np.pad(whole, ((0, 0), (0, height - tall * GRID), (0, width - wide * GRID), (0, 0)))


CHANGES = {
    'lungs blacked out': without_lungs,
    'lungs only': lungs_only,
    'border only': border_only,
    'patches shuffled': shuffled,
}
NO_LUNG = ('lungs blacked out', 'border only')
COLUMNS = ('test', 'lungs found', 'whole image', *CHANGES)
CAPTION = f'Test images as they are, and with {", ".join(CHANGES)}'


def check(subject):
    """The Verdict of the area on changed test images.

    Images in which no plausible lungs are found are left out of every column.
    """
    if alone := lungs_alone(subject, NAME):
        return alone
    rows, kept, tiles = [], [], []
    for test, images in subject.tests.items():
        part, masks = with_lungs(images)
        if len(np.unique(part.labels)) < 2:
            continue
        whole = area(subject.score(part.images), part)
        areas = {
            name: area(subject.score(change(part.images, masks)), part)
            for name, change in CHANGES.items()
        }
        found = f'{len(part.rows)} of {len(images.rows)}'
        rows.append((test, found, str(whole), *map(str, areas.values())))
        kept += [
            f'{areas[name]} on {test} with {name}' for name in NO_LUNG if _keeps(areas[name], whole)
        ]
        tiles += _tiles(part.images, masks)
    if not rows:
        finding = 'No plausible lungs were found in both classes of a test set.'
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
        figures=((_draw(tiles, subject.folder / 'regions.png'), CAPTION),),
    )


def with_lungs(images):
    """The verdict.Images in which plausible lungs are found, and their masks bool [N, H, W]."""
    masks = lungs.masks(images.images)
    found = lungs.plausible(masks)
    return images.chosen(np.flatnonzero(found)), masks[found]


def _keeps(changed, whole):
    """Whether too much is left of the Area of whole images in that of changed ones."""
    better_than_chance = max(whole.value - 0.5, 0)
    return changed.low > 0.5 and changed.value - 0.5 >= KEPT * better_than_chance


def _tiles(images, masks):
    """SHOWN of the images, each as it is and changed in every way, [uint8 RGB]."""
    chosen = np.unique(np.linspace(0, len(images) - 1, SHOWN).astype(int))
    images, masks = images[chosen], masks[chosen]
    views = [images, *(change(images, masks) for change in CHANGES.values())]
    return [pictures.draw_boxes(grey[..., 0], (), TILE) for each in zip(*views) for grey in each]


def _draw(tiles, path):
    """Writes tiles below their captions as PNG -> its path."""
    captions = pictures.header(['as it is', *CHANGES], TILE)
    picture.save(path, np.vstack([captions, pictures.contact_sheet(tiles, 1 + len(CHANGES))]))
    return path
