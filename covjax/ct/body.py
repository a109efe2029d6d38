"""Where the body is in a slice, as lungmask crops to it (Hofmanninger et al. 2020)."""

import numpy as np
from scipy import ndimage

from covjax.ct import windows

LEAST_HU = -500.0  # of the body; table and clothes are thin, and go with the opening
SIDE, OPENED = 128, 2  # pixels: the slice is looked at so large, and opened by so many


def place(grey, window):
    """The box around the largest piece of the body.

    Args:
        grey: uint8 [H, W].
        window: windows.Window that made it grey.

    Returns:
        (slice of rows, slice of columns); the whole image where there is no body.
    """
    rows, columns = (np.arange(SIDE) * n // SIDE for n in grey.shape)
    tissue = grey[np.ix_(rows, columns)] > windows.to_grey(np.array(LEAST_HU), window)
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(tissue), np.ones((3, 3)))
    pieces, count = ndimage.label(ndimage.binary_erosion(filled, iterations=OPENED))
    if not count:
        return np.s_[:, :]
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    found = np.argwhere(ndimage.binary_dilation(largest, iterations=OPENED))
    scale = np.array(grey.shape) / SIDE
    first = np.floor(found.min(0) * scale).astype(int)
    end = np.ceil((found.max(0) + 1) * scale).astype(int)
    return tuple(map(slice, first.tolist(), end.tolist()))
