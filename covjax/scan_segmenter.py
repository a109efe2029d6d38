"""A whole scan through a trained segmentation network of slices or of volumes.

What is found lies on the voxels of the scan, whatever size of voxels the network was trained on.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from covjax import segmenter
from covjax.ct import resampling, windows
from covjax.ct.grid import Grid
from covjax.data import batches, tiles

SLICE = 256 * 256  # pixels of a slice, of which config.batch_size go through a network at a time


def predict(
    network: segmenter.Segmenter,
    image: np.ndarray,
    grid: Grid,
    batch_size: int,
    overlap: float = 0.5,
    progress: str = '',
) -> Iterator[np.ndarray]:
    """The probability of every class, slice by slice.

    A network of volumes sees the scan on cubic voxels of its own size, in tiles whose middle counts
    most where they overlap. What it finds is kept on its voxels, float32, and brought back to those
    of the scan one slice after the other.

    Args:
        network: segmenter.Segmenter.
        image: int16 HU or uint8, grey through the lung window, [z, y, x] in LPS.
        grid: ct.grid.Grid that it lies on.
        batch_size: slices of 256x256 at a time, or tiles with as many voxels, at least one.
        overlap: share of a side that neighbouring tiles have in common, below 1.
        progress: caption of a bar with rate and time left, which only a screen shows; '' for none.

    Yields:
        float32 [H, W, classes] for each slice from foot to head, the sum over the classes 1.
    """
    hidden = None if progress else True  # None: unless it is a screen
    if not network.sees_volumes:
        window = network.window if image.dtype == np.int16 else 'lung'
        found = segmenter.predict(network, as_grey(image, window), batch_size, overlap, window)
        yield from tqdm(found, progress, total=len(image), unit='slice', disable=hidden)
        return
    seen, own = image, grid
    if network.spacing:
        seen, own = resampling.to_spacing(image, grid, network.spacing)
    found = _in_tiles(network, as_grey(seen), batch_size, overlap, progress)
    yield from resampling.slices_from(found, own, grid) if network.spacing else found


def as_grey(image: np.ndarray, window: str = 'lung') -> np.ndarray:
    """uint8 through a window, of HU or of what is grey already."""
    return image if image.dtype == np.uint8 else windows.to_grey(image, windows.WINDOWS[window])


def tiles_of(network: segmenter.Segmenter, shape: tuple[int, ...], overlap: float) -> Any:
    """The corners of the tiles that cover a volume of a shape on the voxels of a network."""
    step = [max(round(n * (1 - overlap)), 1) for n in network.patch]
    return tiles.corners(shape, network.patch, step)


def _in_tiles(network, grey, batch_size, overlap, progress):
    """The probabilities float32 [z, y, x, classes] of uint8 [z, y, x], by a network of volumes."""
    corners = tiles_of(network, grey.shape, overlap)
    at_once = batch_size * SLICE // math.prod(network.patch)
    at_once = min(max(at_once, 1), len(corners))
    mean = tiles.Mean(grey.shape, network.patch, len(network.classes))
    apply = segmenter.apply_uint8(network)
    hidden = None if progress else True
    with tqdm(total=len(corners), desc=progress, unit='tile', disable=hidden) as bar:
        for start in range(0, len(corners), at_once):
            some = corners[start : start + at_once]
            cuts = np.stack([tiles.cut(grey, corner, network.patch, 0) for corner in some])
            for values, corner in zip(batches.predict(apply, cuts[..., None], at_once), some):
                mean.add(values, corner)
            bar.update(len(some))
    return mean.result()
