"""The grid that the voxels of a volume lie on: checked before anything is allocated.

World coordinates are those of DICOM and ITK: millimetres, x to the patient's left, y to the back,
z to the head.
"""

import math
from typing import NamedTuple

import numpy as np

from covjax import InputError

MOST_VOXELS = 2**30  # 512 x 512 x 4096; 2 GiB as int16
SPACINGS = (0.01, 30.0)  # mm that neighbouring voxels can be apart
# How far axes may be from unit length and right angles: files state cosines to a few digits.
TOLERANCE = 1e-3


class Grid(NamedTuple):
    """Where the voxels of a volume are."""

    size: tuple[int, int, int]  # voxels, (x, y, z)
    spacing: tuple[float, float, float]  # mm per voxel
    origin: tuple[float, float, float]  # mm, the centre of voxel (0, 0, 0)
    direction: tuple[float, ...]  # 3 x 3 cosines by rows; columns are the axes x, y, z

    @classmethod
    def of(cls, header):
        """The Grid of a SimpleITK image, or of a reader that has read a header."""
        return cls(header.GetSize(), header.GetSpacing(), header.GetOrigin(), header.GetDirection())

    @classmethod
    def straight(cls, shape, spacing):
        """The Grid of an array in LPS whose place in the scanner is not known.

        Args:
            shape: of the array, (z, y, x).
            spacing: mm between its voxels, (z, y, x).
        """
        mm = tuple(map(float, spacing))
        return cls(tuple(shape)[::-1], mm[::-1], (0.0,) * 3, (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))

    def check(self, path):
        """Refuses what cannot be the grid of a CT volume.

        Raises:
            InputError: it has too many voxels, or numbers that no scanner writes.
        """
        if min(self.size) < 1 or math.prod(self.size) > MOST_VOXELS:
            shape = ' x '.join(map(str, self.size))
            raise InputError(
                f'{path}: has {shape} voxels; a volume has at least 1 and at most '
                f'{MOST_VOXELS:,} voxels: give another, or crop it'
            )
        low, high = SPACINGS
        if not all(low <= mm <= high for mm in self.spacing):
            shape = ' x '.join(f'{mm:g}' for mm in self.spacing)
            raise InputError(
                f'{path}: voxels of {shape} mm are not plausible; '
                f'expected {low:g} to {high:g} mm: correct the spacing'
            )
        axes = np.reshape(self.direction, (3, 3))
        numbers = [*self.origin, *self.direction]
        if not np.isfinite(numbers).all() or np.abs(axes.T @ axes - np.eye(3)).max() > TOLERANCE:
            cosines = ' '.join(f'{cosine:g}' for cosine in self.direction)
            raise InputError(
                f'{path}: its axes are not at right angles (direction {cosines}); '
                'resample the volume to a straight grid'
            )

    def shifts(self, other):
        """How far voxels are from those of another Grid of the same size, by what differs.

        Returns:
            {'direction', 'spacing', 'origin': the largest distance in voxels of the other that the
            difference in it makes}; the first two move the origin of a volume that is turned too.
        """
        spacing, extent = np.array(other.spacing), np.array(other.size) - 1
        apart = lambda name: np.abs(np.subtract(getattr(self, name), getattr(other, name)))
        turned = apart('direction').reshape(3, 3) @ (extent * spacing)
        return {
            'direction': float((turned / spacing.min()).max()),
            'spacing': float((apart('spacing') * extent / spacing).max()),
            'origin': float((apart('origin') / spacing.min()).max()),
        }

    def resampled(self, spacing):
        """The Grid of cubic voxels that begins at the same edge and ends nearest to the other.

        Args:
            spacing: mm a side of the new voxels.
        """
        old, new = np.array(self.spacing), np.full(3, float(spacing))
        size = np.maximum(np.rint(self.size * old / new), 1).astype(int)
        origin = np.array(self.origin) + np.reshape(self.direction, (3, 3)) @ ((new - old) / 2)
        return Grid(tuple(size.tolist()), (float(spacing),) * 3, tuple(origin), self.direction)

    def place(self, image):
        """Gives a SimpleITK image of any size this origin, spacing and direction."""
        image.SetOrigin(self.origin)
        image.SetSpacing(self.spacing)
        image.SetDirection(self.direction)
        return image
