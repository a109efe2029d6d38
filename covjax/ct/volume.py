"""MetaImage volumes (.mhd with .raw or .zraw): headers checked, axial slices in HU, whole or in parts.

SimpleITK and NumPy only, no JAX.
"""

import io
import math
import pathlib
import zlib
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from covjax import InputError
from covjax.ct import archive

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


def extract(volume, index, size):
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
    hu = sitk.GetArrayFromImage(extract(volume, [0, 0, int(z)], [*volume.size[:2], 0])).astype(
        np.float32
    )
    flip_x, flip_y, _ = volume.flips
    return hu[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


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
