"""Kinds of lesions, and masks of them at random: blobs by a rule, or those of real lesions.

Lesions and shams (healthy lung made anew) get their masks from here alike, so that no mask tells
which of the two it is. Masks are of framed slices (ct/framing.py), in which lungs take the same
place; lengths are shares of the side. NumPy and SciPy; images of lungs are bool [S, S].
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

SHAM = 'sham'
# The kinds of lesions by where their masks are from; an opacity may be any.
LESIONS = {
    'drawn': ('ground_glass', 'consolidation'),
    'outlined': ('opacity',),
    'predicted': ('opacity',),
    'procedural': ('opacity',),
}
KINDS = (SHAM, *LESIONS['drawn'], *LESIONS['procedural'])
# The share of the slice that a mask takes: what is smaller nobody sees, what is larger leaves
# little of the lungs.
LEAST, MOST = 0.005, 0.2
TRIES = 50  # draws until a mask has such a share
# Blobs: how many, their half axes, and how likely one is at the wall of the lung.
MOST_BLOBS, HALF_AXES, PERIPHERAL = 3, (0.05, 0.13), 0.7
WALL = 0.3  # share of the depth of the lungs within which a place is at the wall
WOBBLE, SMOOTH = 0.28, (0.02, 0.05)  # of the outline of a blob, and the scales of its noise
# Doctors' masks: how far they are turned (degrees), scaled, moved and bent.
TURN, ZOOM, MOVE, BEND, BEND_SCALE = 25.0, 0.25, 0.12, 0.03, 0.08
FEATHER = 0.012  # width of the soft edge of a gate
SUPPORT = 1 / 255  # gates below change no grey level
HALF = 128  # a stored gate, of 255 parts, from which on a pixel is lesion
APART = 0.02  # of the side of an image, between what counts as healthy lung and any lesion


class Bank(NamedTuple):
    """The lesions of annotated or segmented slices, each a mask of one kind."""

    masks: tuple[np.ndarray, ...]  # bool [S, S]
    kinds: tuple[str, ...]

    @classmethod
    def of_targets(cls, targets, classes):
        """The lesions of targets.

        Args:
            targets: [uint8 [S, S]], an index in `classes` for each pixel.
            classes: their names, the background first.
        """
        found = [
            (target == index, name)
            for target in targets
            for index, name in enumerate(classes)
            if index and (target == index).any()
        ]
        return cls(tuple(mask for mask, _ in found), tuple(kind for _, kind in found))


def procedural(rng, lungs):
    """One to three blobs, mostly at the wall of the lungs, as phantoms have opacities.

    Args:
        rng: numpy.random.Generator.
        lungs: bool [S, S], in which the mask is to lie.

    Returns:
        bool [S, S], or None where the lungs are too small for any.
    """
    depth = ndimage.distance_transform_edt(lungs)
    wall = lungs & (depth <= max(WALL * depth.max(), 1))  # of thin lungs the outline

    def draw():
        mask = np.zeros(lungs.shape, bool)
        for _ in range(rng.integers(1, MOST_BLOBS + 1)):
            places = np.argwhere(wall if rng.random() < PERIPHERAL else lungs)
            mask |= _blob(rng, lungs.shape, places[rng.integers(len(places))])
        return mask

    return _fitting(draw, lungs)


def drawn(rng, inside, bank, kind):
    """A real lesion of a bank, mirrored, turned, scaled, moved and bent at random.

    Args:
        rng: numpy.random.Generator.
        inside: bool [S, S], in which the mask is to lie: the lungs, or a part of them.
        bank: Bank of masks [S, S].
        kind: of its lesions.

    Returns:
        bool [S, S], or None where none of the tries lies there.
    """
    masks = [mask for mask, its_kind in zip(bank.masks, bank.kinds) if its_kind == kind]
    return _fitting(lambda: _deformed(rng, masks[rng.integers(len(masks))]), inside)


def gate(mask):
    """How much of each pixel is regenerated: 1 inside the mask, a soft edge around it.

    It depends on the mask alone.

    Args:
        mask: bool [S, S].

    Returns:
        float32 [S, S] in 0..1, 0 where nothing may change.
    """
    soft = ndimage.gaussian_filter(mask.astype(np.float32), FEATHER * mask.shape[0])
    soft = np.maximum(np.minimum(2 * soft, 1), mask)
    return np.where(soft > SUPPORT, soft, 0).astype(np.float32)


def _fitting(draw, inside):
    """The first of TRIES draws of which enough lies inside a region, cut off by it; or None."""
    for _ in range(TRIES if inside.any() else 0):
        mask = draw() & inside
        if LEAST <= mask.mean() <= MOST:
            return mask
    return None


def _blob(rng, shape, centre):
    """An ellipse with a wobbling outline around a pixel: bool of a shape."""
    side = shape[0]
    y, x = np.indices(shape) - np.reshape(centre, (2, 1, 1))
    angle, (a, b) = rng.uniform(0, np.pi), side * rng.uniform(*HALF_AXES, 2)
    along, across = (
        x * np.cos(angle) + y * np.sin(angle),
        y * np.cos(angle) - x * np.sin(angle),
    )
    wobble = sum(_noise(rng, shape, scale * side) for scale in SMOOTH) / np.sqrt(len(SMOOTH))
    return np.hypot(along / a, across / b) < 1 + WOBBLE * wobble


def _noise(rng, shape, scale):
    """Smooth noise of unit standard deviation, `scale` pixels wide."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), scale, mode='wrap')
    return noise / noise.std()


def _deformed(rng, mask):
    """A mask mirrored, turned, scaled, moved and bent at random: bool of its shape."""
    side = mask.shape[0]
    angle = np.deg2rad(rng.uniform(-TURN, TURN))
    zoom, mirror = np.exp(rng.uniform(-ZOOM, ZOOM)), rng.choice([-1, 1])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array((side - 1) / 2)
    grid = np.indices(mask.shape).reshape(2, -1) - middle
    places = turn @ (grid * [[1], [mirror]]) / zoom
    bend = np.stack([_noise(rng, mask.shape, BEND_SCALE * side).ravel() for _ in range(2)])
    moved = middle + places + side * (BEND * bend + rng.uniform(-MOVE, MOVE, (2, 1)))
    soft = ndimage.map_coordinates(mask.astype(np.float32), moved, order=1, cval=0.0)
    return soft.reshape(mask.shape) > 0.5
