"""Tiles: patches that cover a whole image or scan, cut out and put together again. No JAX.

All functions take arrays of any number of dimensions; a shape, tile or corner has a number for each
of them.
"""

import itertools

import numpy as np


def corners(shape, tile, step):
    """The first corners of tiles that cover an array.

    Tiles start every `step` pixels, the last ones so that they end with the array, if it is as
    large as a tile.

    Args:
        shape: of the array.
        tile: shape of a tile.
        step: pixels between neighbouring tiles, at most those of a tile.

    Returns:
        [tuple of int], every combination.
    """
    starts = [_starts(*sizes) for sizes in zip(shape, tile, step)]
    return list(itertools.product(*starts))


def _starts(size, tile, step):
    """Where tiles start along one axis."""
    if size <= tile:
        return [0]
    last = size - tile
    return sorted({*range(0, last, step), last})


def inside(corner, tile):
    """Where a tile lies in an array, as an index of it."""
    return tuple(slice(start, start + n) for start, n in zip(corner, tile))


def cut(array, corner, tile, fill):
    """A tile of an array.

    Args:
        array: [...] with at least the dimensions of a tile; the others come last.
        corner: of the tile, may be negative.
        tile: shape of the tile.
        fill: the value of what is outside the array.

    Returns:
        Array [*tile, ...].
    """
    result = np.full((*tile, *array.shape[len(tile) :]), fill, array.dtype)
    source, target = [], []
    for start, n, size in zip(corner, tile, array.shape):
        first, end = max(start, 0), min(start + n, size)
        source.append(slice(first, max(end, first)))
        target.append(slice(first - start, max(end, first) - start))
    result[tuple(target)] = array[tuple(source)]
    return result


def gaussian(tile, share=1 / 8):
    """The weights of the pixels of a tile where tiles overlap: most in its middle.

    Args:
        tile: shape of the tile.
        share: of its side, the standard deviation; an eighth, as nnU-Net has it.

    Returns:
        float32 [*tile] with a maximum of 1, everywhere above 0.

    References:
        Isensee et al. 2021, nnU-Net, Nature Methods 18.
    """
    weights = np.ones((), np.float64)
    for n in tile:
        distance = np.arange(n) - (n - 1) / 2
        weights = weights[..., None] * np.exp(-0.5 * (distance / (share * n)) ** 2)
    return np.maximum(weights / weights.max(), 1e-3).astype(np.float32)


class Mean:
    """The results of a function on tiles, put together as they come: the mean where they overlap.

    Args:
        shape: of the whole array.
        tile: shape of a tile; it may be larger than the array, and what lies outside is left out.
        channels: of the results.
    """

    def __init__(self, shape, tile, channels):
        self.shape, self.of_tile = shape, gaussian(tile)
        self.total = np.zeros((*shape, channels), np.float32)
        self.weight = np.zeros(shape, np.float32)

    def add(self, values, corner):
        """Adds the results float [*tile, channels] of the tile at a corner, none negative."""
        tile = self.of_tile.shape
        place = inside(corner, tile)
        part = tuple(slice(0, min(n, size - c)) for c, n, size in zip(corner, tile, self.shape))
        self.total[place] += (values * self.of_tile[..., None])[part]
        self.weight[place] += self.of_tile[part]

    def result(self):
        """float32 [*shape, channels], once every pixel is in a tile; ends the sum."""
        self.total /= self.weight[..., None]
        return self.total


def joined(found, corners, shape):
    """The results of a function on tiles, put together: the mean where they overlap.

    Args:
        found: float [T, *tile, channels].
        corners: of the tiles, none negative.
        shape: of the whole array.

    Returns:
        float32 [*shape, channels].
    """
    mean = Mean(shape, found.shape[1:-1], found.shape[-1])
    for values, corner in zip(found, corners):
        mean.add(values, corner)
    return mean.result()
