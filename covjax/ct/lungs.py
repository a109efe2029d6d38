"""Where the lungs are in a grey CT slice, found by SimpleITK without HU.

For audits and measurements, not for the clinic.
"""

from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy.spatial import ConvexHull, QhullError

# The share of the image that two lungs take; outside of this range something else was found.
PLAUSIBLE = (0.05, 0.7)
# The share of the image below which a piece of air is an airway or bowel.
SMALLEST = 0.01
# The share of the side over which lungs are closed, so that vessels and opacities belong to them.
CLOSED = 0.04
# The share of a piece of lung beyond the mediastinum up to which it is of one lung.
ONE_SIDED = 0.25


def mask(grey: np.ndarray) -> np.ndarray:
    """Finds the lungs with their vessels and opacities.

    Otsu's threshold parts air from tissue; air that touches the edge of the image is outside; of
    the rest the two largest pieces are kept, filled, and closed over 4 % of the side. Consolidation
    at the pleura stays outside, and so does a lung that a figure has cut off.

    Args:
        grey: uint8 [H, W], air dark.

    Returns:
        bool [H, W], all False where no lungs are found.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(grey))
    air = sitk.OtsuThreshold(image)  # 1 where it is dark
    inside = air - sitk.BinaryReconstructionByDilation(_edge(air), air)
    pieces = sitk.RelabelComponent(
        sitk.ConnectedComponent(inside),
        minimumObjectSize=int(max(SMALLEST * grey.size, 1)),
    )
    # Filled before they are closed, which can join two lungs around the heart.
    lungs = sitk.BinaryFillhole((pieces > 0) & (pieces <= 2))
    # Closing would cut off what is near the edge.
    radius = [max(round(CLOSED * max(grey.shape)), 1)] * 2
    lungs = sitk.BinaryMorphologicalClosing(sitk.ConstantPad(lungs, radius, radius), radius)
    return sitk.GetArrayFromImage(sitk.Crop(lungs, radius, radius)).astype(bool)


def mask_in_crop(grey: np.ndarray) -> np.ndarray:
    """Finds the lungs of a picture that is cropped to them, whose edge may cut them.

    Args:
        grey: uint8 [H, W], air dark.

    Returns:
        bool [H, W]; what is dark at the edge counts as lung where it is large enough, a corner
        outside the body too.
    """
    margin = max(round(CLOSED * max(grey.shape)), 1)
    framed = np.pad(grey, margin, constant_values=255)  # as if tissue were around
    return mask(framed)[margin:-margin, margin:-margin]


def largest(mask: np.ndarray, count: int) -> np.ndarray:
    """The largest connected pieces of a mask, in which pieces that touch at a corner are one.

    Args:
        mask: bool [slices, H, W].
        count: how many pieces are kept; two lungs that touch are one.

    Returns:
        bool of the same shape.
    """
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    pieces = sitk.RelabelComponent(sitk.ConnectedComponent(image, True), sortByObjectSize=True)
    return (sitk.GetArrayViewFromImage(pieces) <= count) & mask


def left(mask: np.ndarray) -> np.ndarray:
    """The left lung of a mask of both.

    The mediastinum is where the fewest lungs are in the middle third; each connected piece of a
    slice is of the side on which most of it lies, and one that reaches far into both is parted.

    Args:
        mask: bool [slices, H, W] of lungs in LPS, whose columns run to the patient's left.

    Returns:
        bool of the same shape; the rest of the mask is the right lung.
    """
    columns = mask.sum((0, 1))
    if not columns.any():
        return np.zeros_like(mask)
    first, last = np.flatnonzero(columns)[[0, -1]]
    third = (last + 1 - first) // 3
    middle = first + third + int(np.argmin(columns[first + third : last + 1 - third]))
    beyond = np.arange(mask.shape[2]) >= middle
    found = mask & beyond
    for plane, whole in zip(found, mask):
        pieces = sitk.ConnectedComponent(sitk.GetImageFromArray(whole.astype(np.uint8)), True)
        numbered = sitk.GetArrayFromImage(pieces)
        sizes, of_left = np.bincount(numbered.ravel()), np.bincount(numbered[:, beyond].ravel())
        of_left = np.pad(of_left, (0, len(sizes) - len(of_left)))
        share = of_left / np.maximum(sizes, 1)
        plane[(share > 1 - ONE_SIDED)[numbered] & whole] = True
        plane[(share < ONE_SIDED)[numbered]] = False
    return found


def hull(mask: np.ndarray) -> np.ndarray:
    """The convex hulls of two lungs, with consolidation at the pleura that no threshold finds.

    Args:
        mask: bool [H, W] of lungs.

    Returns:
        bool [H, W], each of the two largest pieces with all that lies between its points.
    """
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    pieces = sitk.RelabelComponent(sitk.ConnectedComponent(image, True), sortByObjectSize=True)
    numbered, pixels = sitk.GetArrayFromImage(pieces), np.indices(mask.shape).reshape(2, -1).T
    inside = mask.copy()
    for piece in (1, 2):
        points = np.argwhere(numbered == piece)
        try:
            planes = ConvexHull(points).equations  # of outward normals and offsets
        except (QhullError, ValueError):  # no piece, or one that is a line
            continue
        within = (pixels @ planes[:, :2].T + planes[:, 2] <= 1e-9).all(1)
        inside |= within.reshape(mask.shape)
    return inside


def masks(images: np.ndarray) -> np.ndarray:
    """Finds the lungs of many images: uint8 [N, H, W, 1] -> bool [N, H, W]."""
    return np.stack([mask(image[..., 0]) for image in images])


def plausible(masks: np.ndarray) -> np.ndarray:
    """Whether each mask covers a share that lungs can have: bool [N, H, W] -> bool [N]."""
    share = masks.mean((1, 2))
    return (share >= PLAUSIBLE[0]) & (share <= PLAUSIBLE[1])


def dice(first: np.ndarray, second: np.ndarray) -> Any:
    """Measures the overlap of masks (Dice 1945).

    Args:
        first, second: bool [N, H, W].

    Returns:
        float [N] in 0..1; NaN where both masks are empty.
    """
    shared = (first & second).sum((1, 2))
    sizes = first.sum((1, 2)) + second.sum((1, 2))
    return np.divide(2 * shared, sizes, out=np.full(len(shared), np.nan), where=sizes > 0)


def _edge(air):
    """The pixels of `air` on the edge of the image."""
    height, width = air.GetSize()[::-1]
    frame = np.ones((height, width), np.uint8)
    frame[1:-1, 1:-1] = 0
    return air * sitk.GetImageFromArray(frame)
