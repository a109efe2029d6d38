"""Volumes on voxels of another size, and what was found there brought back. No JAX.

Values are interpolated linearly, each the mean of a triangle that is as wide as a new voxel where
that is the larger one, so that no slice is passed over; it is the filter with which pictures are
resized (BILINEAR of Pillow). Both grids begin at the same edge.
"""

import numpy as np


def to_spacing(array, grid, spacing):
    """A volume on cubic voxels.

    Args:
        array: int16 or uint8 [z, y, x].
        grid: grid.Grid that it lies on.
        spacing: mm a side of the new voxels.

    Returns:
        (array of the same dtype [z', y', x'], its grid.Grid).
    """
    target = grid.resampled(spacing)
    between = [_weights(*axes) for axes in _axes(grid, target)]
    slices = np.stack([_in_plane(between, plane) for plane in array])
    mixed = np.tensordot(between[0], slices, 1)
    return np.rint(mixed, out=mixed).astype(array.dtype), target


def classes_to_spacing(mask, grid, spacing):
    """A mask on the voxels of `to_spacing`, each of the class that lies in its middle.

    Args:
        mask: uint8 [z, y, x].
        grid: grid.Grid that it lies on.
        spacing: mm a side of the new voxels.

    Returns:
        uint8 [z', y', x'].
    """
    nearest = [
        np.clip(np.floor(_middles(*axes) + 0.5).astype(int), 0, axes[0] - 1)
        for axes in _axes(grid, grid.resampled(spacing))
    ]
    return mask[np.ix_(*nearest)]


def slices_from(found, grid, target):
    """What was found on one grid on the slices of another, one after the other.

    Args:
        found: float32 [z, y, x, channels].
        grid: grid.Grid that it lies on.
        target: grid.Grid of which the slices are, which begins at the same edge.

    Yields:
        float32 [H, W, channels].
    """
    between = [_weights(*axes) for axes in _axes(grid, target)]
    for weights in between[0]:
        near = np.flatnonzero(weights)
        mixed = np.tensordot(weights[near], found[near[0] : near[-1] + 1], 1)
        yield np.stack([_in_plane(between, plane) for plane in np.moveaxis(mixed, -1, 0)], -1)


def _axes(grid, target):
    """(size, spacing, new size, new spacing) of the axes z, y and x of two grids."""
    return [(grid.size[i], grid.spacing[i], target.size[i], target.spacing[i]) for i in (2, 1, 0)]


def _middles(size, spacing, new_size, new_spacing):
    """Where the middles of new voxels lie, in old voxels from the middle of the first."""
    return (np.arange(new_size) + 0.5) * new_spacing / spacing - 0.5


def _weights(size, spacing, new_size, new_spacing):
    """The share of every old voxel in every new one, along one axis: float32 [new, old]."""
    middles = _middles(size, spacing, new_size, new_spacing)
    distance = np.abs(np.arange(size) - middles[:, None])
    weights = np.maximum(1 - distance / max(new_spacing / spacing, 1), 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _in_plane(between, plane):
    """One plane [y, x] with the weights of its two axes: float32 [y', x']."""
    return between[1] @ plane.astype(np.float32) @ between[2].T
