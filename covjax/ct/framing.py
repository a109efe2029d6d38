"""What of an image is shown: a region with a margin, or a region alone."""

import numpy as np

MARGIN = 0.05  # of each side of the box of a region, that is shown around it


def box_of(mask, margin=MARGIN):
    """The smallest box around a mask, with a margin, inside the image.

    Args:
        mask: bool [H, W] with at least one True.
        margin: share of each side of the box that is added at both ends.

    Returns:
        (slice of rows, slice of columns).
    """
    box = []
    for axis in (1, 0):
        places = np.flatnonzero(mask.any(axis))
        first, end = places[0], places[-1] + 1
        room = round(margin * (end - first))
        box.append(slice(max(first - room, 0), min(end + room, mask.shape[1 - axis])))
    return tuple(box)


def cropped(grey, mask):
    """The part of an image that a mask takes, with a margin and what else is in that box.

    Args:
        grey: uint8 [H, W].
        mask: bool [H, W] with at least one True.

    Returns:
        uint8 [h, w].
    """
    return grey[box_of(mask)]


def alone(grey, mask):
    """An image that is black outside of a mask, cropped to it.

    Args:
        grey: uint8 [H, W].
        mask: bool [H, W] with at least one True.

    Returns:
        uint8 [h, w].
    """
    return cropped(np.where(mask, grey, np.uint8(0)), mask)


VIEWS = {'crop': cropped, 'mask': alone}
