"""Rules that draw masks without a network: a Dice that they also reach is worth little.

Each is fitted on images and masks, and then draws a mask of any image. Lesions of COVID-19 lie in
much the same places of pictures that are cropped to the lungs, and in a range of grey levels of
their own, so that the mean mask of other patients, or a band of grey, already overlaps with them.
"""

from functools import partial

import numpy as np
from PIL import Image

SIZE = 128  # pixels a side at which rules are fitted
SHARES = np.linspace(0.05, 0.6, 12)  # of the mean mask, from which on a pixel is in it
LEVELS = np.arange(5, 256, 20)  # grey levels at which a band can begin and end


def everything(images, masks):
    """The rule that every pixel is in the region."""
    return lambda grey: np.ones(grey.shape, bool)


def mean_mask(images, masks):
    """The rule that a pixel is in the region where it often is in other masks."""
    mean = masks.mean(0).astype(np.float32)
    share = _best(SHARES, lambda share: np.broadcast_to(mean >= share, masks.shape), masks)
    return lambda grey: _resized(mean, grey.shape) >= share


def grey_band(images, masks):
    """The rule that a pixel is in the region whose grey level is in a band."""
    bands = [(low, high) for low in LEVELS for high in LEVELS if low < high]
    band = _best(bands, partial(_in_band, images), masks)
    return lambda grey: _in_band(grey, band)


def band_in_mean_mask(images, masks):
    """The rule that both hold."""
    band, mean = grey_band(images, masks), masks.mean(0).astype(np.float32)
    inside = band(images)
    share = _best(SHARES, lambda share: inside & (mean >= share), masks)
    return lambda grey: band(grey) & (_resized(mean, grey.shape) >= share)


RULES = {
    'everything': everything,
    'mean mask': mean_mask,
    'band of grey': grey_band,
    'band of grey within the mean mask': band_in_mean_mask,
}


def fit(rule, images, masks):
    """Fits a rule.

    Args:
        rule: one of RULES.
        images: uint8 [N, SIZE, SIZE].
        masks: bool [N, SIZE, SIZE].

    Returns:
        A function from an image uint8 [H, W] of any size to its mask, bool [H, W].
    """
    return RULES[rule](images, masks)


def _in_band(grey, band):
    low, high = band
    return (grey >= low) & (grey <= high)


def _resized(mean, shape):
    """float32 [H, W], resized bilinearly to a shape."""
    return np.asarray(Image.fromarray(mean).resize(shape[::-1], Image.Resampling.BILINEAR))


def _best(choices, draw, masks):
    """The choice whose masks have the highest mean Dice with the true ones."""

    def mean_dice(choice):
        found = draw(choice)
        shared = (found & masks).sum((1, 2))
        return (2 * shared / np.maximum(found.sum((1, 2)) + masks.sum((1, 2)), 1)).mean()

    return max(choices, key=mean_dice)
