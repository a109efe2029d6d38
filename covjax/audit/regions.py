"""Which part of an image the score needs.

The classifier is shown images with the lungs blacked out, the lungs alone, the border alone, and
patches in random order.
"""

import math

import numpy as np

from covjax.audit.verdict import TestedArea, Verdict, area, lungs_alone
from covjax.ct import lungs, picture
from covjax.pages import pictures
from covjax.pages.figures import Estimate
from covjax.pages.html import Figure

NAME = 'regions of the image'
BORDER = 1 / 8  # of the side, the frame that is left of an image
GRID = 8  # patches a side
TILE = 144  # pixels a side in the picture of the page
SHOWN = 2  # images of each class of a test set in the picture of the page
# The share of what the whole image is better than chance that may not be left without lungs.
KEPT = 0.5
RULE = (
    f'Red flag when images without lungs keep {KEPT:.0%} of the margin over chance of the whole '
    'image, with an interval above 0.5. The outline of the lungs stays visible, and consolidation '
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
AS_IT_IS = 'as it is'
NO_LUNG = ('lungs blacked out', 'border only')
COLUMNS = ('test', 'lungs found', 'whole image', *CHANGES)
NO_NETWORK = 'This asks the classifier about changed images, and only its scores are known.'
CAPTION = (
    'What the network was shown of the test images, two of each class, and the area under its ROC '
    'curve on all that have plausible lungs'
)


def check(subject):
    """The Verdict of the area on changed test images.

    Images in which no plausible lungs are found are left out of every column.
    """
    change = lambda change, images, masks: change(images, masks)
    strips = []
    verdict = judged(
        subject, NAME, COLUMNS, with_lungs, change, lambda *shown: strips.extend(_strip(*shown))
    )
    if not verdict.rows:
        return verdict
    path = _draw(strips, subject.folder / 'regions.png')
    return verdict._replace(figures=(Figure(path, CAPTION),))


def judged(subject, name, columns, with_lungs, changed, show=lambda *shown: None):
    """The Verdict of the area on test sets whose images, or slices of scans, are changed.

    Args:
        subject: verdict.Subject.
        name: of the check.
        columns: of its table.
        with_lungs: function from Images to (those of which the lungs are known, masks of these).
        changed: function (one of CHANGES, images, masks) -> the images changed.
        show: is given (test, Images, masks, {view: Area}) of every test set.
    """
    if alone := lungs_alone(subject, name):
        return alone
    if subject.score is None:
        return Verdict(name=name, flag=None, finding=NO_NETWORK)
    rows, kept, tested = [], [], []
    for test, images in subject.tests.items():
        part, masks = with_lungs(images)
        if len(np.unique(part.labels)) < 2:
            continue
        whole = area(subject.scores(part), part)
        areas = {
            view: area(subject.score(changed(change, part.images, masks)), part)
            for view, change in CHANGES.items()
        }
        found = f'{len(part.rows)} of {len(images.rows)}'
        rows.append((test, found, str(whole), *map(str, areas.values())))
        kept += [
            f'{areas[view]} on {test} with {view}' for view in NO_LUNG if _keeps(areas[view], whole)
        ]
        show(test, part, masks, {AS_IT_IS: whole, **areas})
        tested += [
            TestedArea(test, Estimate(f'the network, {view}', *reached, kind='reference'))
            for view, reached in areas.items()
        ]
    if not rows:
        finding = 'No plausible lungs were found in both classes of a test set.'
        return Verdict(name=name, flag=None, finding=finding)
    if all(math.isnan(each.estimate.low) for each in tested):
        finding = 'Intervals need several patients or series of each class.'
        return Verdict(name=name, flag=None, finding=finding, columns=columns, rows=tuple(rows))
    finding = (
        f'Without lungs the score finds {subject.titles[0]} no better than chance, or keeps little '
        'of what it had.'
    )
    if kept:
        finding = f'Without lungs the score still tells the classes apart: AUC {"; ".join(kept)}.'
    return Verdict(
        name=name,
        flag=bool(kept),
        finding=finding,
        rule=RULE,
        columns=columns,
        rows=tuple(rows),
        areas=tuple(tested),
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


def _strip(test, images, masks, areas):
    """Some images of a test set, each as it is and changed in every way, below captions.

    Args:
        test: its name.
        images: verdict.Images; SHOWN of each class are drawn.
        masks: bool [N, H, W], True in lungs.
        areas: {view: Area}, in the order of the columns.

    Returns:
        [uint8 [h, w, 3]] of one width.
    """
    classes = [np.flatnonzero(images.labels == label) for label in (1, 0)]
    spread = [of[np.unique(np.linspace(0, len(of) - 1, SHOWN).astype(int))] for of in classes]
    chosen = np.concatenate(spread)
    shown, masks = images.images[chosen], masks[chosen]
    views = [shown, *(change(shown, masks) for change in CHANGES.values())]
    tiles = [pictures.draw_boxes(grey[..., 0], (), TILE) for each in zip(*views) for grey in each]
    captions = [f'{view}\nAUC {reached.value:.3f}' for view, reached in areas.items()]
    return [
        pictures.header([test], TILE * len(areas)),
        pictures.header(captions, TILE),
        pictures.contact_sheet(tiles, len(areas)),
    ]


def _draw(strips, path):
    """Writes strips one below the other as PNG -> its path."""
    picture.save(path, np.vstack(strips))
    return path
