"""Windows: the range of Hounsfield units (HU) that becomes the 256 grey levels of an image."""

from typing import Any, NamedTuple

import numpy as np


class Window(NamedTuple):
    """The HU range that is spread over the 256 grey levels."""

    low: float
    high: float


WINDOWS = {
    'lung': Window(-1000.0, 400.0),
    'wide': Window(-1024.0, 1024.0),
    'clinic': Window(-1350.0, 150.0),  # width 1500, level -600: that of most readers of lungs
    'lungmask': Window(-1024.0, 600.0),  # that of lungmask's networks
    'covid': Window(-1250.0, 250.0),  # that of COVNet, and of the 8-bit scans of COVID-19-CT-Seg
}
AIR = -1024.0  # HU of what is not in the image


def to_grey(hu: np.ndarray, window: tuple[float, float] = WINDOWS['lung']) -> np.ndarray:
    """Turns HU into grey levels: floor(256 (hu - low) / (high - low)), at most 255.

    HU are clipped to the window first, so -3024 outside the field of view is black. Volumes are
    converted slice by slice, so that one slice alone is there in floating point.

    Args:
        hu: array [...] of any dtype.
        window: Window.

    Returns:
        uint8 [...].
    """
    if np.ndim(hu) > 2:
        grey = np.empty(np.shape(hu), np.uint8)
        for part, values in zip(grey, hu):
            part[...] = to_grey(values, window)
        return grey
    low, high = window
    share = (np.clip(np.asarray(hu, np.float32), low, high) - low) / (high - low)
    return np.minimum(256 * share, 255).astype(np.uint8)


def whole_range(hu: np.ndarray) -> Any:
    """Returns the Window of one slice from its lowest to its highest HU.

    The paper's sample slices seem to be scaled so. What lies outside the field of view (-2048,
    -3024) counts as AIR, or it would take most of the range.
    """
    low, high = max(float(hu.min()), AIR), float(hu.max())
    return Window(low, max(high, low + 1))


def rewindow(
    grey: np.ndarray, stored: tuple[float, float], shown: tuple[float, float]
) -> np.ndarray:
    """The grey levels that another window gives, of an image that is grey already.

    Each grey level stands for the middle of the HU that it was made of. What is beyond the stored
    window stays at its end, so air is lighter in a window that goes lower.

    Args:
        grey: uint8 [...].
        stored: Window that made it grey.
        shown: Window that is wanted.

    Returns:
        uint8 [...].
    """
    low, high = stored
    return to_grey(low + (np.arange(256) + 0.5) * (high - low) / 256, shown)[grey]
