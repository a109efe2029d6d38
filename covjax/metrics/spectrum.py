"""Checkerboards: the pattern that upsampling leaves, seen as peaks of the spectrum."""

import numpy as np
from scipy import ndimage

NEAR, FAR = 1, 3  # bins around a peak that belong to it, and that it is compared with
# Indices (i, j) of the frequencies (i / 4, j / 4) but 0, one of each pair of mirrored ones.
QUARTERS = ((0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (2, 2))


def checkerboard(images):
    """By how much the spectrum of images stands out at periods of 2 and 4 pixels.

    A generator that doubles its maps twice can leave a pattern there. The value is that of the mean
    spectrum of all images, the highest of all directions: near 0 without a pattern, up to some
    decibels either way for few images.

    Args:
        images: uint8 or float [N, H, W, 1], H and W at least 16; what exceeds a multiple of 4 is
            cut off.

    Returns:
        float, decibels over the power of the frequencies around.

    Raises:
        ValueError: the images are too small.

    References:
        Odena et al., Deconvolution and checkerboard artifacts, Distill 2016; Durall et al., Watch
        your up-convolution, CVPR 2020 (arXiv 2003.01826).
    """
    images = np.asarray(images, float)[..., 0]
    height, width = images.shape[1:]
    if min(height, width) < 16:
        raise ValueError(
            f'the spectrum of images of {height}x{width} is too coarse; give at least 16x16'
        )
    height, width = height // 4 * 4, width // 4 * 4
    images = images[:, :height, :width]
    taper = np.hanning(height)[:, None] * np.hanning(width)
    images = (images - images.mean((1, 2), keepdims=True)) * taper
    power = (np.abs(np.fft.fft2(images)) ** 2).mean(0)
    return float(max(_excess(power, i * height // 4, j * width // 4) for i, j in QUARTERS))


def _excess(power, y, x):
    """10 log10 of the mean power near a bin over the median of the ring around it."""
    centred = np.roll(power, (FAR - y, FAR - x), (0, 1))[: 2 * FAR + 1, : 2 * FAR + 1]
    inner = np.zeros(centred.shape, bool)
    inner[FAR, FAR] = True
    inner = ndimage.binary_dilation(inner, np.ones((3, 3)), iterations=NEAR)
    floor = np.median(centred[~inner])
    return 10 * np.log10((centred[inner].mean() + 1e-12) / (floor + 1e-12))
