"""Maps of a network drawn over the image that they are about."""

import matplotlib
import numpy as np

PICTURE, MAP = 0.55, 0.45  # what each contributes to the brightness


def overlay(grey, heat):
    """A map in colour over a grey image.

    Args:
        grey: uint8 [H, W].
        heat: float [H, W], not negative; its highest value gets the brightest colour.

    Returns:
        uint8 RGB [H, W, 3].
    """
    colour = matplotlib.colormaps['inferno'](heat / max(heat.max(), 1e-12))[..., :3] * 255
    return np.round(PICTURE * np.repeat(grey[..., None], 3, 2) + MAP * colour).astype(np.uint8)
