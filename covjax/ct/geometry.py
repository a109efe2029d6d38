"""World and voxel coordinates of a volume, patches around a point, nodules and their boxes.

world     millimetres in patient axes (x to the left, y to the back, z to the head), as in
          annotations.csv of LUNA16
voxel     continuous index (x, y, z) in the stored array, ITK's convention; arrays are [z, y, x]
image     the array of an axial slice, turned so that columns run to the patient's left and rows
          to the back, whatever way it is stored
box       (ymin, xmin, ymax, xmax) in 0..1 of the image, the order of TFDS BBox
"""

import itertools
import math

import numpy as np
import SimpleITK as sitk

from covjax import InputError
from covjax.ct import windows
from covjax.ct.volume import extract


def world_to_voxel(volume, world):
    """Returns the continuous voxel index (x, y, z) of a world point (x, y, z) in mm.

    Goes through the offset, the spacing and the full direction matrix of the volume.
    """
    return volume.image.TransformPhysicalPointToContinuousIndex([float(w) for w in world])


def patch(volume, world, millimetres, spacing, dimensions):
    """Resamples a square or cube around a point, in patient axes.

    Linear interpolation through origin, spacing and direction: the point is the exact centre,
    whatever way the volume is stored. What lies outside the volume or the field of view is
    windows.AIR.

    Args:
        volume: Volume.
        world: the point (x, y, z) in mm.
        millimetres: a side of the patch.
        spacing: mm a pixel of the patch.
        dimensions: 2 for an axial patch, or 3.

    Returns:
        HU float32 [n, n], or [n, n, n] (z, y, x), where n = round(millimetres / spacing).
    """
    n = round(millimetres / spacing)
    size = [n, n, n if dimensions == 3 else 1]
    origin = [centre - (count - 1) / 2 * spacing for centre, count in zip(world, size)]
    resampled = sitk.Resample(
        sitk.Maximum(_block(volume, origin, size, spacing), windows.AIR),
        size,
        sitk.Transform(),
        sitk.sitkLinear,
        origin,
        [spacing] * 3,
        np.eye(3).ravel().tolist(),
        windows.AIR,
    )
    hu = sitk.GetArrayFromImage(resampled)
    return hu if dimensions == 3 else hu[0]


def _block(volume, origin, size, spacing):
    """The stored voxels that a grid in patient axes needs: HU, as a float32 SimpleITK image."""
    ends = [(low, low + (count - 1) * spacing) for low, count in zip(origin, size)]
    corners = np.array([world_to_voxel(volume, corner) for corner in itertools.product(*ends)])
    limit = np.array(volume.size) - 1
    first = np.clip(np.floor(corners.min(0)), 0, limit).astype(int)
    last = np.clip(np.ceil(corners.max(0)), 0, limit).astype(int)
    hu = extract(volume, first.tolist(), (last - first + 1).tolist())
    block = volume.header.grid.place(sitk.GetImageFromArray(hu.astype(np.float32)))
    block.SetOrigin(volume.image.TransformIndexToPhysicalPoint(first.tolist()))
    return block


def check_inside(volume, row):
    """Checks that a row of a table lies inside its volume.

    Args:
        volume: Volume.
        row: luna16.Annotation or luna16.Candidate.

    Raises:
        InputError: it lies outside.
    """
    voxel = world_to_voxel(volume, row.world)
    if not all(-0.5 <= v < n - 0.5 for v, n in zip(voxel, volume.size)):
        rounded = tuple(round(v, 1) for v in voxel)
        raise InputError(
            f'{volume.path}: row {row.row} of the table lies outside the volume '
            f'at voxel {rounded}; the table belongs to another volume'
        )


def nodule_slice(volume, nodule):
    """Returns the index of the axial slice that is nearest to the centre of a luna16.Annotation.

    Raises:
        InputError: the nodule lies outside the volume.
    """
    check_inside(volume, nodule)
    return int(round(world_to_voxel(volume, nodule.world)[2]))


def disc(diameter, distance):
    """Returns the diameter of the disc in which a plane cuts a sphere; 0 where the plane misses it.

    Args:
        diameter: of the sphere, mm.
        distance: of the plane from the centre of the sphere, mm.
    """
    return 2 * math.sqrt(max((diameter / 2) ** 2 - distance**2, 0.0))


def chord(volume, nodule, z):
    """Returns the diameter in mm of the disc in which slice z cuts a nodule; 0 where it misses it.

    The nodule is a luna16.Annotation, and stands for a sphere.
    """
    return disc(nodule.diameter, (world_to_voxel(volume, nodule.world)[2] - z) * volume.spacing[2])


def square(centre, side, extent):
    """Returns a square as a box of an image, clipped to it; None where nothing of it is left.

    Args:
        centre: of the square, (y, x) in mm from the upper left corner of the image.
        side: of the square, mm.
        extent: of the image, (y, x) in mm.
    """
    (ymin, ymax), (xmin, xmax) = (
        ((c - side / 2) / whole, (c + side / 2) / whole) for c, whole in zip(centre, extent)
    )
    box = tuple(min(max(float(v), 0.0), 1.0) for v in (ymin, xmin, ymax, xmax))
    return box if box[2] > box[0] and box[3] > box[1] else None


def nodule_box(volume, nodule, z):
    """Returns the box of a nodule in slice z: the square around the disc that the slice cuts.

    Args:
        volume: Volume.
        nodule: luna16.Annotation.
        z: index of the slice.

    Returns:
        (ymin, xmin, ymax, xmax) in 0..1 of the image, clipped to it; None where the slice misses
        the nodule, or where nothing of the square is in the image.
    """
    voxel = world_to_voxel(volume, nodule.world)
    centre = []
    for axis in (1, 0):
        # Voxel i covers [i, i + 1) of the image.
        if volume.flips[axis]:
            place = volume.size[axis] - voxel[axis] - 0.5
        else:
            place = voxel[axis] + 0.5
        centre.append(place * volume.spacing[axis])
    extent = [volume.size[axis] * volume.spacing[axis] for axis in (1, 0)]
    return square(centre, chord(volume, nodule, z), extent)
