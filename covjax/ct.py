"""CT volumes: MetaImage headers, Hounsfield units, windows, world <-> voxel, axial slices, patches, nodule boxes.

SimpleITK and NumPy only, no JAX. Conventions:
  world     millimetres, patient axes (x to the left, y to the back, z to the head), as in annotations.csv of LUNA16
  voxel     continuous index (x, y, z) in the stored array, ITK's convention; NumPy arrays are [z, y, x]
  picture   an axial slice turned so that columns run to the patient's left and rows to the back, whatever way it is stored
  box       (ymin, xmin, ymax, xmax) in 0..1 of the picture, the order of TFDS BBox
"""

import io
import itertools
import math
import pathlib
import zlib
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from covjax import InputError, archive


class Window(NamedTuple):
    """The HU range that is spread over the 256 grey levels."""

    low: float
    high: float


WINDOWS = {'lung': Window(-1000.0, 400.0), 'wide': Window(-1024.0, 1024.0)}

AIR = -1024.0  # HU of what is not in the picture

ELEMENT_BYTES = {
    'MET_SHORT': 2,
    'MET_USHORT': 2,
    'MET_INT': 4,
    'MET_UINT': 4,
    'MET_FLOAT': 4,
    'MET_DOUBLE': 8,
}


class Volume(NamedTuple):
    """A MetaImage volume whose data file is known to be complete: its header, or all of it."""

    path: pathlib.Path  # of the .mhd; it may go through a .zip archive
    image: sitk.Image  # SimpleITK does the world <-> voxel algebra; one voxel with the volume's geometry, until `load`
    size: tuple[int, int, int]  # voxels, (x, y, z)
    data: str  # name of the data file
    compressed: bool

    @property
    def spacing(self):
        """Millimetres per voxel, (x, y, z)."""
        return self.image.GetSpacing()

    @property
    def packed(self):
        """Whether a part of it costs as much as the whole."""
        return self.compressed or archive.archive_of(self.path) is not None

    @property
    def flips(self):
        """Whether the stored x, y, z axes run against the world axes (some LUNA16 series are stored turned by 180 degrees)."""
        return tuple(self.image.GetDirection()[4 * axis] < 0 for axis in range(3))


def to_grey(hu, window=WINDOWS['lung']):
    """HU [...] of any dtype -> uint8 grey [...]: floor(256 (hu - low) / (high - low)), clipped first, so -3024 outside the field of view is black."""
    low, high = window
    share = (np.clip(np.asarray(hu, np.float32), low, high) - low) / (high - low)
    return np.minimum(256 * share, 255).astype(np.uint8)


def whole_range(hu):
    """The Window of one slice from its least to its greatest HU, as the paper's sample slices seem to be scaled. What lies outside the field of view
    (-2048, -3024) counts as -1024, or it would take most of the range.
    """
    low, high = max(float(hu.min()), AIR), float(hu.max())
    return Window(low, max(high, low + 1))


def find_volumes(folder):
    """{series id: path of its .mhd} of all volumes in a folder, its sub-folders and its .zip archives (flat, or subset0..subset9).

    A series that lies both in a folder and in an archive, as after unpacking, is the one in the folder. The lung masks that come with LUNA16 (seg-lungs-LUNA16) have the names of the
    series too; they are not CT and are passed over.
    """
    volumes = {}
    for path in archive.find(folder, '*.mhd'):
        if any(part.lower().startswith('seg-lungs') for part in path.relative_to(folder).parts):
            continue
        other = volumes.setdefault(path.stem, path)
        if other != path and bool(archive.archive_of(path)) == bool(archive.archive_of(other)):
            raise InputError(f'{path}: series is also at {other}; keep one of the two')
    return volumes


def open_volume(path):
    """Reads the header of a .mhd and checks that its data file is whole. No voxel is read."""
    path = pathlib.Path(path)
    fields = _mhd_fields(path)
    data = path.parent / fields['ElementDataFile']
    if not archive.is_file(data):
        raise InputError(
            f'{path}: its data file {data.name} is missing; copy it next to the header'
        )
    compressed = fields.get('CompressedData', 'False') == 'True'
    expected = int(fields.get('CompressedDataSize', 0)) if compressed else _voxel_bytes(fields)
    if archive.size(data) < expected:
        raise InputError(
            f'{data}: truncated, {archive.size(data)} of {expected} bytes; copy it again'
        )
    if archive.size(data) > expected and not compressed and 'HeaderSize' not in fields:
        raise InputError(
            f'{data}: has {archive.size(data)} bytes and {path.name} announces {expected} (DimSize, ElementType {fields["ElementType"]}); copy both again'
        )
    reader = sitk.ImageFileReader()
    try:
        with archive.on_disk(path) as header:
            reader.SetFileName(str(header))
            reader.ReadImageInformation()
    except RuntimeError:
        raise InputError(
            f'{path}: not a MetaImage header that SimpleITK can read; copy it again'
        ) from None
    if reader.GetDimension() != 3:
        raise InputError(
            f'{path}: has {reader.GetDimension()} dimensions; expected a CT volume with 3'
        )
    direction = reader.GetDirection()
    if any(abs(direction[i]) < 0.99 for i in (0, 4, 8)):
        raise InputError(
            f'{path}: slices are not axial (TransformMatrix {" ".join(map(str, direction))}); resample the volume to axial slices'
        )
    if not all(math.isfinite(mm) and mm > 0 for mm in reader.GetSpacing()):
        raise InputError(
            f'{path}: ElementSpacing {reader.GetSpacing()} is not positive; copy the volume again'
        )
    image = sitk.Image([1, 1, 1], sitk.sitkUInt8)
    image.SetOrigin(reader.GetOrigin())
    image.SetSpacing(reader.GetSpacing())
    image.SetDirection(direction)
    return Volume(path, image, reader.GetSize(), data.name, compressed)


def _mhd_fields(path):
    try:
        lines = archive.read(path).decode('latin-1').splitlines()
    except FileNotFoundError:
        raise InputError(f'{path}: no such volume') from None
    fields = {
        key.strip(): value.strip() for key, _, value in (line.partition('=') for line in lines)
    }
    missing = {'DimSize', 'ElementType', 'ElementDataFile'} - set(fields)
    if missing:
        raise InputError(f'{path}: no {", ".join(sorted(missing))} in the header; copy it again')
    if fields['ElementType'] not in ELEMENT_BYTES:
        raise InputError(
            f'{path}: ElementType {fields["ElementType"]} is not a CT number type; expected MET_SHORT'
        )
    if not all(number.isdigit() for number in fields['DimSize'].split()):
        raise InputError(
            f'{path}: DimSize {fields["DimSize"]} is not a list of numbers; copy it again'
        )
    return fields


def world_to_voxel(volume, world):
    """World (x, y, z) in mm -> continuous voxel index (x, y, z), through offset, spacing and the full direction matrix."""
    return volume.image.TransformPhysicalPointToContinuousIndex([float(w) for w in world])


def load(volume):
    """The volume with all its voxels in RAM, for many parts of one that is dear to read: compressed, or in an archive."""
    if volume.compressed:
        check_compressed(volume.path)
    try:
        with archive.on_disk(volume.path, volume.data) as path:
            return volume._replace(image=sitk.ReadImage(str(path)))
    except RuntimeError:
        raise InputError(
            f'{volume.path}: can not be read, its data are damaged; copy the volume again'
        ) from None


def _extract(volume, index, size):
    """A block of stored voxels, (x, y, z), as a SimpleITK image; size 0 drops an axis. Of an uncompressed .raw nothing else is read."""
    if volume.image.GetSize() == volume.size:
        return sitk.Extract(volume.image, size, index)
    if volume.packed:
        return sitk.Extract(load(volume).image, size, index)
    reader = sitk.ImageFileReader()
    reader.SetExtractIndex(index)
    reader.SetExtractSize(size)
    try:
        with archive.on_disk(volume.path) as path:
            reader.SetFileName(str(path))
            return reader.Execute()
    except RuntimeError:
        raise InputError(
            f'{volume.path}: can not be read at voxel {tuple(index)}, its data are damaged; copy the volume again'
        ) from None


def read_slice(volume, z):
    """HU [H, W] float32 of stored slice z as a picture."""
    hu = sitk.GetArrayFromImage(_extract(volume, [0, 0, int(z)], [*volume.size[:2], 0])).astype(
        np.float32
    )
    flip_x, flip_y, _ = volume.flips
    return hu[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


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
        _extract(volume, first.tolist(), (last - first + 1).tolist()), sitk.sitkFloat32
    )
    patch = sitk.Resample(
        sitk.Maximum(block, AIR),
        size,
        sitk.Transform(),
        sitk.sitkLinear,
        origin,
        [spacing] * 3,
        np.eye(3).ravel().tolist(),
        AIR,
    )
    hu = sitk.GetArrayFromImage(patch)
    return hu if dimensions == 3 else hu[0]


def check_compressed(path):
    """Compares the checksum that a .zraw ends with; SimpleITK does not, and reads noise from a damaged file."""
    fields = _mhd_fields(path)
    if fields.get('CompressedData', 'False') != 'True':
        return
    data, stream, size = path.parent / fields['ElementDataFile'], zlib.decompressobj(), 0
    try:
        with io.BytesIO(archive.read(data)) as file:
            while chunk := file.read(1 << 20):
                size += len(stream.decompress(chunk))
    except zlib.error:
        size = -1
    if size != _voxel_bytes(fields) or not stream.eof:
        raise InputError(f'{data}: the compressed data are damaged; copy the volume again')


def _voxel_bytes(fields):
    return math.prod(map(int, fields['DimSize'].split())) * ELEMENT_BYTES[fields['ElementType']]


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
