"""The part of an image that is shown: a region with a margin, or a region alone.

A slice that is framed shows its lungs, with a margin, in the window of the clinic. So do most
pictures of papers, which is why framing alone brings slices of other scanners close to them
(benchmarks/framing.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from covjax.ct import lungs, windows

MARGIN = 0.05  # of each side of the box of a region, that is shown around it


def box_of(mask: np.ndarray, margin: float = MARGIN) -> Any:
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


def cropped(grey: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The part of an image that a mask takes up, with a margin and whatever else is in that box.

    Args:
        grey: uint8 [H, W].
        mask: bool [H, W] with at least one True.

    Returns:
        uint8 [h, w].
    """
    return grey[box_of(mask)]


def alone(grey: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An image that is black outside a mask, cropped to it.

    Args:
        grey: uint8 [H, W].
        mask: bool [H, W] with at least one True.

    Returns:
        uint8 [h, w].
    """
    return cropped(np.where(mask, grey, np.uint8(0)), mask)


VIEWS = {'crop': cropped, 'mask': alone}


# ---- slices framed by their lungs

# HU of healthy lung and of soft tissue, to which pictures in an unknown window are levelled.
LUNG_HU, TISSUE_HU = -860.0, 40.0
TISSUE = 128  # grey level above which pictures show soft tissue outside of lungs, and none inside
LEAST_CONTRAST = 40  # grey levels between the two, below which a picture is left as it is
SLIVER = 1e-6  # share of a side that is left of a box by rounding
WINDOW = 'clinic'  # of windows.WINDOWS, that framed slices are seen through


def frame(grey: np.ndarray) -> Any:
    """Where the lungs of a slice are, with a margin.

    Args:
        grey: uint8 [H, W], air dark.

    Returns:
        (slice of rows, slice of columns), or None where no plausible lungs are found.
    """
    mask = lungs.mask(grey)
    return box_of(mask) if lungs.plausible(mask[None])[0] else None


def levelled(grey: np.ndarray, lung: np.ndarray, counted: Any = True) -> np.ndarray:
    """A picture in an unknown window, as if it were seen through WINDOW.

    Its grey levels are scaled and shifted so that the median of healthy lung and that of soft
    tissue are what they are there. What the picture has cut off stays cut off.

    Args:
        grey: uint8 [H, W].
        lung: bool [H, W], where lung is. What is brighter than TISSUE elsewhere is soft tissue.
        counted: bool [H, W], what is known to be no lesion; all of it by default.

    Returns:
        uint8 [H, W]; the picture itself where one of the two is missing, or where they hardly
        differ.
    """
    lung, tissue = lung & counted, ~lung & counted & (grey > TISSUE)
    if not (lung.any() and tissue.any()):
        return grey
    dark, bright = np.median(grey[lung]), np.median(grey[tissue])
    if bright - dark < LEAST_CONTRAST:
        return grey
    ends = windows.to_grey(np.array([LUNG_HU, TISSUE_HU]), windows.WINDOWS[WINDOW]).astype(float)
    level = ends[0] + (grey - dark) * (ends[1] - ends[0]) / (bright - dark)
    return np.clip(np.round(level), 0, 255).astype(np.uint8)


def whole(shape: tuple[int, ...]) -> Any:
    """The frame (slice of rows, slice of columns) of all of an image [H, W] of a shape."""
    return tuple(slice(0, length) for length in shape)


def as_box(part: Any, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """A frame as (ymin, xmin, ymax, xmax) in 0..1 of the image [H, W] that it is cut from."""
    (rows, columns), (height, width) = part, shape
    return (
        rows.start / height,
        columns.start / width,
        rows.stop / height,
        columns.stop / width,
    )


def of_box(box: Sequence[float], shape: tuple[int, ...]) -> Any:
    """The inverse of `as_box`: the frame that a box means in an image [H, W] of a shape."""
    ymin, xmin, ymax, xmax = (round(edge * length) for edge, length in zip(box, (*shape, *shape)))
    return slice(ymin, ymax), slice(xmin, xmax)


def moved(box: Sequence[float], part: Any, shape: tuple[int, ...]) -> Any:
    """A box of an image as a box of the part of it that a frame shows.

    Args:
        box: (ymin, xmin, ymax, xmax) in 0..1 of the image.
        part: (slice of rows, slice of columns).
        shape: of the image, (H, W) in pixels.

    Returns:
        (ymin, xmin, ymax, xmax) in 0..1 of that part, clipped to it; None where nothing is left.
    """
    edges = [
        min(max((edge * length - inside.start) / (inside.stop - inside.start), 0.0), 1.0)
        for edge, length, inside in zip(box, (*shape, *shape), (*part, *part))
    ]
    left = min(edges[2] - edges[0], edges[3] - edges[1])
    return tuple(edges) if left > SLIVER else None
