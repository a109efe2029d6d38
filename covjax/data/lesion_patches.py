"""Squares around lesions, and their mirror images in the other lung: disease inside one slice.

A lesion and healthy lung at the mirrored place of the same slice share patient, scanner, window and
compression, so nothing but what is in the lung tells them apart. NumPy and SciPy.
"""

import numpy as np
from scipy import ndimage

from covjax.ct import lungs
from covjax.data.lesion_masks import APART

AROUND = 1.5  # a side of the square, in longer sides of the box of the lesion
LEAST_SIDE = 0.25  # a side of the square at least, in sides of the image
LEAST_AREA = 1e-3  # of a lesion, a share of the image
# By which the mirrored square may be moved up or down, in sides of the image; the first that fits.
MOVED = (0.0, -0.05, 0.05, -0.1, 0.1, -0.15, 0.15)
LEAST_LUNG = 0.5  # share of lung in the mirrored square, relative to the square of the lesion


def squares(mask):
    """Squares around the connected parts of a mask that are large enough, the largest first.

    Args:
        mask: bool [S, S].

    Returns:
        [(slice of rows, slice of columns)], each a square inside the image.
    """
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    areas = ndimage.sum_labels(mask, parts, np.arange(1, count + 1))
    boxes = ndimage.find_objects(parts)
    order = [i for i in np.argsort(-areas, kind='stable') if areas[i] >= LEAST_AREA * mask.size]
    return [_square(boxes[i], mask.shape[0]) for i in order]


def _square(box, size):
    """The square around a box, moved into an image of size x size."""
    longest = max(part.stop - part.start for part in box)
    side = min(max(round(AROUND * longest), round(LEAST_SIDE * size)), size)
    starts = [round((part.start + part.stop - side) / 2) for part in box]
    return tuple(slice(start, start + side) for start in np.clip(starts, 0, size - side))


def pairs(grey, mask):
    """Squares around the lesions of a slice that have healthy lung near the mirrored place.

    Args:
        grey: uint8 [S, S], cropped to the lungs.
        mask: bool [S, S], all lesions.

    Returns:
        [(square of the lesion, square of healthy lung)], each (slice of rows, slice of columns).
    """
    lung = lungs.mask_in_crop(grey) | mask
    near = ndimage.distance_transform_edt(~mask) <= APART * mask.shape[0]
    found = []
    for square in squares(mask):
        enough = LEAST_LUNG * lung[square].mean()
        fits = (
            place
            for place in _mirrored(square, mask.shape[0])
            if not near[place].any() and lung[place].mean() >= enough
        )
        if healthy := next(fits, None):
            found.append((square, healthy))
    return found


def _mirrored(square, size):
    """Yields the mirrored square of an image of size x size, moved by MOVED."""
    rows, columns = square
    for move in MOVED:
        top = rows.start + round(move * size)
        if 0 <= top <= size - (rows.stop - rows.start):
            moved = slice(top, top + rows.stop - rows.start)
            yield moved, slice(size - columns.stop, size - columns.start)
