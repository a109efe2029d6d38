"""Checkerboards: the pattern that upsampling leaves, seen as peaks of the spectrum (Odena et al. 2016, Durall et al. 2020, arXiv 2003.01826)."""

import numpy as np
from scipy import ndimage

NEAR, FAR = 1, 3  # bins around a peak that count as peak, and that it is compared with


def checkerboard(images):
    """uint8 or float [N, H, W, 1] -> decibels by which the power at periods of 2 and 4 pixels (the generator doubles its maps twice) exceeds that of the frequencies
    around; the highest of all directions.

    Of the mean spectrum of all images, whose sides are 16 at least. Near 0 without a pattern, up to some
    decibels either way for few images.
    """
    images = np.asarray(images, float)[..., 0]
    height, width = images.shape[1:]
    if min(height, width) < 16:
        raise ValueError(
            f'the spectrum of images of {height}x{width} is too coarse; give at least 16x16'
        )
    images = images[:, : height // 4 * 4, : width // 4 * 4]
    taper = np.hanning(images.shape[1])[:, None] * np.hanning(images.shape[2])
    images = (images - images.mean((1, 2), keepdims=True)) * taper
    power = (np.abs(np.fft.fft2(images)) ** 2).mean(0)
    return float(max(_excess(power, y, x) for y, x in _lattice(*power.shape)))


def _lattice(height, width):
    """Bins of the frequencies that are multiples of 1/4 in both directions, one of each pair of mirrored ones."""
    steps = [
        (i, j)
        for i in range(3)
        for j in range(4)
        if (i, j) != (0, 0) and not (i in (0, 2) and j == 3)
    ]
    return [(i * height // 4, j * width // 4) for i, j in steps]


def _excess(power, y, x):
    """10 log10 of the mean power near a bin over the median of the ring around it."""
    centred = np.roll(power, (FAR - y, FAR - x), (0, 1))[: 2 * FAR + 1, : 2 * FAR + 1]
    inner = np.zeros(centred.shape, bool)
    inner[FAR, FAR] = True
    inner = ndimage.binary_dilation(inner, np.ones((3, 3)), iterations=NEAR)
    floor = np.median(centred[~inner])
    return 10 * np.log10((centred[inner].mean() + 1e-12) / (floor + 1e-12))
