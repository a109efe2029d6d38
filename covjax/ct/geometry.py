"""World and voxel coordinates of a volume, patches around a point, nodules in a slice and their boxes.

world     millimetres, patient axes (x to the left, y to the back, z to the head), as in annotations.csv of LUNA16
voxel     continuous index (x, y, z) in the stored array, ITK's convention; NumPy arrays are [z, y, x]
picture   an axial slice turned so that columns run to the patient's left and rows to the back, whatever way it is stored
box       (ymin, xmin, ymax, xmax) in 0..1 of the picture, the order of TFDS BBox
"""

import itertools
import math

import numpy as np
import SimpleITK as sitk

from covjax import InputError
from covjax.ct import windows
from covjax.ct.volume import extract


def world_to_voxel(volume, world):
    """World (x, y, z) in mm -> continuous voxel index (x, y, z), through offset, spacing and the full direction matrix."""
    return volume.image.TransformPhysicalPointToContinuousIndex([float(w) for w in world])


def patch(volume, world, millimetres, spacing, dimensions):
    """HU float32 [n, n] or [n, n, n] (z, y, x) around a point: `millimetres` a side, resampled to `spacing` mm a pixel, in patient axes.

    Linear interpolation, through origin, spacing and direction: the point is the exact centre, whatever way the volume is stored. What lies outside the
    volume or the field of view is AIR.
    """
    n = round(millimetres / spacing)
    size = [n, n, n if dimensions == 3 else 1]
    origin = [centre - (count - 1) / 2 * spacing for centre, count in zip(world, size)]
    ends = np.array(
        [
            world_to_voxel(volume, corner)
            for corner in itertools.product(
                *((low, low + (count - 1) * spacing) for low, count in zip(origin, size))
            )
        ]
    )
    first = np.clip(np.floor(ends.min(0)), 0, np.array(volume.size) - 1).astype(int)
    last = np.clip(np.ceil(ends.max(0)), 0, np.array(volume.size) - 1).astype(int)
    block = sitk.Cast(
        extract(volume, first.tolist(), (last - first + 1).tolist()), sitk.sitkFloat32
    )
    patch = sitk.Resample(
        sitk.Maximum(block, windows.AIR),
        size,
        sitk.Transform(),
        sitk.sitkLinear,
        origin,
        [spacing] * 3,
        np.eye(3).ravel().tolist(),
        windows.AIR,
    )
    hu = sitk.GetArrayFromImage(patch)
    return hu if dimensions == 3 else hu[0]


def check_inside(volume, row):
    """An error when the place of a Nodule or Candidate lies outside the volume."""
    voxel = world_to_voxel(volume, row.world)
    if not all(-0.5 <= v < n - 0.5 for v, n in zip(voxel, volume.size)):
        raise InputError(
            f'{volume.path}: row {row.row} of the table lies outside the volume at voxel {tuple(round(v, 1) for v in voxel)}; '
            'the table belongs to another volume'
        )


def nodule_slice(volume, nodule):
    """The index of the axial slice through a nodule's centre, the nearest one."""
    check_inside(volume, nodule)
    return int(round(world_to_voxel(volume, nodule.world)[2]))


def disc(diameter, distance):
    """Diameter in mm of the disc in which a plane cuts a sphere at a distance from its centre; 0 when it misses it."""
    return 2 * math.sqrt(max((diameter / 2) ** 2 - distance**2, 0.0))


def chord(volume, nodule, z):
    """Diameter in mm of the disc in which slice z cuts the sphere of a nodule; 0 when it misses it."""
    return disc(nodule.diameter, (world_to_voxel(volume, nodule.world)[2] - z) * volume.spacing[2])


def square(centre, side, extent):
    """The square of a side around a centre (y, x) as a box of a picture that spans `extent` (y, x), all mm, clipped to it; None when nothing of it is left."""
    (ymin, ymax), (xmin, xmax) = (
        ((c - side / 2) / whole, (c + side / 2) / whole) for c, whole in zip(centre, extent)
    )
    box = tuple(min(max(float(v), 0.0), 1.0) for v in (ymin, xmin, ymax, xmax))
    return box if box[2] > box[0] and box[3] > box[1] else None


def nodule_box(volume, nodule, z):
    """The square around that disc, as a box of the picture of slice z; None when the slice misses the nodule."""
    voxel = world_to_voxel(volume, nodule.world)
    # Voxel i covers [i, i + 1) of the picture.
    place = [
        (volume.size[axis] - voxel[axis] - 0.5 if volume.flips[axis] else voxel[axis] + 0.5)
        * volume.spacing[axis]
        for axis in (1, 0)
    ]
    return square(
        place,
        chord(volume, nodule, z),
        [volume.size[axis] * volume.spacing[axis] for axis in (1, 0)],
    )
