"""Where the lungs are in a grey CT slice, found by SimpleITK without HU: for audits and measurements, not for the clinic."""

import numpy as np
import SimpleITK as sitk

PLAUSIBLE = (
    0.05,
    0.7,
)  # share of the picture that two lungs take; outside of it something else was found
SMALLEST = 0.01  # share of the picture below which a piece of air is an airway or bowel


def mask(grey):
    """uint8 [H, W], air dark -> bool [H, W]: the lungs with their vessels and opacities, all False where none are found.

    Otsu's threshold parts air from tissue; air that touches the edge of the picture is outside; of the rest the two largest pieces, filled and closed over
    4 % of the side. Consolidation at the pleura stays outside, and so does a lung that a figure has cut off.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(grey))
    air = sitk.OtsuThreshold(image)  # 1 where it is dark
    pieces = sitk.RelabelComponent(
        sitk.ConnectedComponent(air - sitk.BinaryReconstructionByDilation(_edge(air), air)),
        minimumObjectSize=int(max(SMALLEST * grey.size, 1)),
    )
    lungs = sitk.BinaryFillhole(
        (pieces > 0) & (pieces <= 2)
    )  # before closing, which can join two lungs around the heart
    radius = max(round(0.04 * max(grey.shape)), 1)
    lungs = sitk.ConstantPad(
        lungs, [radius] * 2, [radius] * 2
    )  # closing would cut what is near the edge
    lungs = sitk.BinaryMorphologicalClosing(lungs, [radius] * 2)
    return sitk.GetArrayFromImage(sitk.Crop(lungs, [radius] * 2, [radius] * 2)).astype(bool)


def masks(images):
    """uint8 [N, H, W, 1] -> bool [N, H, W]."""
    return np.stack([mask(image[..., 0]) for image in images])


def plausible(masks):
    """bool [N, H, W] -> bool [N]: whether each covers a share of the picture that lungs can have."""
    share = masks.mean((1, 2))
    return (share >= PLAUSIBLE[0]) & (share <= PLAUSIBLE[1])


def dice(first, second):
    """Overlap of masks bool [N, H, W] (Dice 1945) -> float [N] in 0..1; NaN where both are empty."""
    both, sizes = (first & second).sum((1, 2)), first.sum((1, 2)) + second.sum((1, 2))
    return np.divide(2 * both, sizes, out=np.full(len(both), np.nan), where=sizes > 0)


def _edge(air):
    """The pixels of `air` on the edge of the picture."""
    height, width = air.GetSize()[::-1]
    inner = np.ones((height, width), np.uint8)
    inner[1:-1, 1:-1] = 0
    frame = sitk.GetImageFromArray(inner)
    return air * frame
