"""MetaImage volumes (.mhd with .raw or .zraw): checked, then read whole or in parts, in HU.

SimpleITK and NumPy only, no JAX. SimpleITK reads damaged files silently, so they are checked first.
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
NEEDED = {'DimSize', 'ElementType', 'ElementDataFile'}


class Volume(NamedTuple):
    """A MetaImage volume whose data file is known to be complete: its header, or all of it."""

    path: pathlib.Path  # of the .mhd; it may go through a .zip archive
    # For the world <-> voxel algebra: one voxel with the geometry of the volume, until
    # `load_volume` puts all voxels there.
    image: sitk.Image
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
        """Whether the stored x, y, z axes run against the world axes.

        Some LUNA16 series are stored turned by 180 degrees.
        """
        return tuple(self.image.GetDirection()[4 * axis] < 0 for axis in range(3))


def find_volumes(folder):
    """Finds all volumes in a folder, its sub-folders and its .zip archives.

    The folder may be flat, or hold subset0 to subset9. A series that lies both in a folder and in
    an archive, as after unpacking, is the one in the folder. The lung masks that come with LUNA16
    (seg-lungs-LUNA16) have the names of the series too; they are not CT and are passed over.

    Returns:
        {series id: path of its .mhd}.

    Raises:
        InputError: a series is there twice.
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
    """Reads the header of an .mhd and checks that its data file is whole. No voxel is read.

    Returns:
        Volume.

    Raises:
        InputError: the volume is not there, not whole, or no axial CT.
    """
    path = pathlib.Path(path)
    fields = _mhd_fields(path)
    _check_data_file(path, fields)
    header = _read_header(path)
    image = sitk.Image([1, 1, 1], sitk.sitkUInt8)
    image.SetOrigin(header.GetOrigin())
    image.SetSpacing(header.GetSpacing())
    image.SetDirection(header.GetDirection())
    data = path.parent / fields['ElementDataFile']
    return Volume(path, image, header.GetSize(), data.name, _is_compressed(fields))


def _mhd_fields(path):
    """{name: text} of an .mhd header, which has what is needed here."""
    try:
        lines = archive.read(path).decode('latin-1').splitlines()
    except FileNotFoundError:
        raise InputError(f'{path}: no such volume') from None
    parts = [line.partition('=') for line in lines]
    fields = {key.strip(): value.strip() for key, _, value in parts}
    missing = NEEDED - set(fields)
    if missing:
        raise InputError(f'{path}: no {", ".join(sorted(missing))} in the header; copy it again')
    element, dimensions = fields['ElementType'], fields['DimSize']
    if element not in ELEMENT_BYTES:
        raise InputError(
            f'{path}: ElementType {element} is not a CT number type; expected MET_SHORT'
        )
    if not all(number.isdigit() for number in dimensions.split()):
        raise InputError(f'{path}: DimSize {dimensions} is not a list of numbers; copy it again')
    return fields


def _check_data_file(path, fields):
    """Compares the size of the data file with the one that the header of `path` announces."""
    data = path.parent / fields['ElementDataFile']
    if not archive.is_file(data):
        raise InputError(
            f'{path}: its data file {data.name} is missing; copy it next to the header'
        )
    size = archive.size(data)
    if _is_compressed(fields):
        expected = int(fields.get('CompressedDataSize', 0))
    else:
        expected = _voxel_bytes(fields)
    if size < expected:
        raise InputError(f'{data}: truncated, {size} of {expected} bytes; copy it again')
    if size > expected and not _is_compressed(fields) and 'HeaderSize' not in fields:
        raise InputError(
            f'{data}: has {size} bytes and {path.name} announces {expected} '
            f'(DimSize, ElementType {fields["ElementType"]}); copy both again'
        )


def _read_header(path):
    """A SimpleITK reader that knows the geometry of a volume, which is axial CT."""
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
    direction, spacing = reader.GetDirection(), reader.GetSpacing()
    if any(abs(direction[i]) < 0.99 for i in (0, 4, 8)):
        raise InputError(
            f'{path}: slices are not axial (TransformMatrix {" ".join(map(str, direction))}); '
            'resample the volume to axial slices'
        )
    if not all(math.isfinite(mm) and mm > 0 for mm in spacing):
        raise InputError(f'{path}: ElementSpacing {spacing} is not positive; copy the volume again')
    return reader


def load_volume(volume):
    """Reads all voxels of a Volume into RAM, for many parts of one that is packed.

    Returns:
        Volume whose image has all voxels.

    Raises:
        InputError: the data are damaged.
    """
    if volume.compressed:
        check_compressed(volume.path)
    try:
        with archive.on_disk(volume.path, volume.data) as path:
            return volume._replace(image=sitk.ReadImage(str(path)))
    except RuntimeError:
        raise InputError(
            f'{volume.path}: cannot be read, its data are damaged; copy the volume again'
        ) from None


def extract(volume, index, size):
    """Reads a block of stored voxels. Of an uncompressed .raw nothing else is read.

    Args:
        volume: Volume.
        index: (x, y, z) of the first voxel.
        size: (x, y, z) in voxels; 0 drops an axis.

    Returns:
        SimpleITK image.

    Raises:
        InputError: the data are damaged.
    """
    if volume.image.GetSize() == volume.size:
        return sitk.Extract(volume.image, size, index)
    if volume.packed:
        return sitk.Extract(load_volume(volume).image, size, index)
    reader = sitk.ImageFileReader()
    reader.SetExtractIndex(index)
    reader.SetExtractSize(size)
    try:
        with archive.on_disk(volume.path) as path:
            reader.SetFileName(str(path))
            return reader.Execute()
    except RuntimeError:
        raise InputError(
            f'{volume.path}: cannot be read at voxel {tuple(index)}, its data are damaged; '
            'copy the volume again'
        ) from None


def read_slice(volume, z):
    """Reads stored slice z of a Volume as an image: HU float32 [H, W].

    Columns run to the patient's left and rows to the back, whatever way the volume is stored.
    """
    stored = extract(volume, [0, 0, int(z)], [*volume.size[:2], 0])
    hu = sitk.GetArrayFromImage(stored).astype(np.float32)
    flip_x, flip_y, _ = volume.flips
    return hu[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def check_compressed(path):
    """Checks the .zraw of an .mhd against its own checksum and the size that the header announces.

    SimpleITK does not, and reads noise from a damaged file.

    Raises:
        InputError: the data are damaged.
    """
    fields = _mhd_fields(path)
    if not _is_compressed(fields):
        return
    data = path.parent / fields['ElementDataFile']
    stream, size = zlib.decompressobj(), 0
    try:
        with io.BytesIO(archive.read(data)) as file:
            while chunk := file.read(1 << 20):
                size += len(stream.decompress(chunk))
    except zlib.error:
        size = None
    if size != _voxel_bytes(fields) or not stream.eof:
        raise InputError(f'{data}: the compressed data are damaged; copy the volume again')


def _is_compressed(fields):
    return fields.get('CompressedData', 'False') == 'True'


def _voxel_bytes(fields):
    return math.prod(map(int, fields['DimSize'].split())) * ELEMENT_BYTES[fields['ElementType']]
