"""MetaImage: .mhd with .raw or .zraw beside it, or .mha, which has all in one file.

SimpleITK reads the voxels, but never a header that somebody else wrote: some make it crash, and it
takes '%' in the name of a data file for a pattern. The header is parsed and checked here, and
SimpleITK gets a plain one.
"""

import contextlib
import math
import pathlib
import re
import tempfile
import zlib
from typing import NamedTuple

import SimpleITK as sitk

from covjax import InputError
from covjax.ct import archive
from covjax.ct.grid import Grid

SUFFIXES = ('.mhd', '.mha')
ELEMENT_BYTES = {
    'MET_CHAR': 1,
    'MET_UCHAR': 1,
    'MET_SHORT': 2,
    'MET_USHORT': 2,
    'MET_INT': 4,
    'MET_UINT': 4,
    'MET_FLOAT': 4,
    'MET_DOUBLE': 8,
}
NEEDED = ('DimSize', 'ElementType', 'ElementDataFile')
LONGEST_HEADER = 1 << 16  # bytes
CHUNK = 1 << 20  # bytes that are unpacked at a time
# Keys that mean the same, the first that is there counts.
SPACING = ('ElementSpacing', 'ElementSize')
ORIGIN = ('Offset', 'Position', 'Origin')
DIRECTION = ('TransformMatrix', 'Rotation', 'Orientation')
IDENTITY = '1 0 0 0 1 0 0 0 1'
PLAIN = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = {big_endian}
CompressedData = {compressed}
CompressedDataSize = {bytes}
TransformMatrix = {matrix}
Offset = {origin}
ElementSpacing = {spacing}
DimSize = {size}
HeaderSize = {offset}
ElementType = {element}
ElementDataFile = voxels
"""


class Header(NamedTuple):
    """What a MetaImage header says, checked, and where its voxels are."""

    path: pathlib.Path  # of the header; it may go through a .zip archive
    grid: Grid
    element: str  # a key of ELEMENT_BYTES
    big_endian: bool
    compressed: bool
    data: pathlib.Path  # of the file with the voxels; of an .mha the same as path
    offset: int  # bytes before them
    bytes: int  # that they take there

    @property
    def packed(self):
        """Whether a part of the voxels costs as much as all."""
        return self.compressed or archive.archive_of(self.path) is not None


def open_file(path):
    """Reads a header and checks that all voxels are there. None of them is read.

    Returns:
        Header.

    Raises:
        InputError: it is no MetaImage volume of numbers, or its data file is missing or truncated.
    """
    path = pathlib.Path(path)
    fields, end = _fields(path)
    element = fields['ElementType']
    if element not in ELEMENT_BYTES:
        raise InputError(f'{path}: ElementType {element} cannot be read; save it as MET_SHORT')
    grid = _grid(path, fields)
    grid.check(path)
    data, offset = _data(path, fields, end)
    compressed, whole = _true(fields, 'CompressedData'), math.prod(grid.size)
    header = Header(
        path=path,
        grid=grid,
        element=element,
        big_endian=_true(fields, 'BinaryDataByteOrderMSB', 'ElementByteOrderMSB'),
        compressed=compressed,
        data=data,
        offset=offset,
        bytes=whole * ELEMENT_BYTES[element],
    )
    return _with_extent(header, fields)


def _fields(path):
    """({name: text}, bytes of the header) of a file that has what is needed here."""
    try:
        head = archive.head(path, LONGEST_HEADER)
    except FileNotFoundError:
        raise InputError(f'{path}: no such volume') from None
    fields, end = {}, 0
    for line in head.splitlines(keepends=True):
        end += len(line)
        key, _, value = line.decode('utf-8', 'surrogateescape').partition('=')
        fields[key.strip()] = value.strip()
        if key.strip() == 'ElementDataFile':
            break
    missing = [name for name in NEEDED if name not in fields]
    if missing:
        raise InputError(f'{path}: no {", ".join(missing)} in the header; copy it again')
    units = fields.get('DistanceUnits', 'mm')
    if units not in ('mm', '?', ''):
        raise InputError(f'{path}: DistanceUnits {units[:20]} are not mm; save it in mm')
    dimensions = fields.get('NDims', '3')
    if dimensions != '3':
        raise InputError(f'{path}: has {dimensions} dimensions; give a volume with 3')
    if fields.get('ElementNumberOfChannels', '1') != '1':
        raise InputError(f'{path}: has several values per voxel; give a volume with one')
    if 'BinaryData' in fields and not _true(fields, 'BinaryData'):
        raise InputError(f'{path}: its voxels are written as text; save it with BinaryData = True')
    return fields, end


def _true(fields, *keys):
    """Whether a key says so, as MetaIO reads it: by its first letter."""
    return any(fields.get(key, '')[:1] in ('T', 't', '1') for key in keys)


def _grid(path, fields):
    """The Grid that a header states."""
    if not any(key in fields for key in SPACING):
        raise InputError(f'{path}: no ElementSpacing in the header; add the size of a voxel in mm')
    matrix = _floats(path, fields, DIRECTION, 9, IDENTITY)
    return Grid(
        size=_whole_numbers(path, fields, 'DimSize', 3),
        spacing=_floats(path, fields, SPACING, 3),
        origin=_floats(path, fields, ORIGIN, 3, '0 0 0'),
        # A row of the file is an axis; a column of ITK is one.
        direction=tuple(matrix[3 * column + row] for row in range(3) for column in range(3)),
    )


def _whole_numbers(path, fields, key, count):
    """The whole numbers of a key, of at most nine digits each."""
    texts = fields[key].split()
    if len(texts) != count or not all(re.fullmatch(r'-?[0-9]{1,9}', text) for text in texts):
        shown = fields[key][:40]
        wanted = f'{count} whole numbers' if count > 1 else 'a whole number'
        raise InputError(
            f'{path}: {key} {shown} is not a list of numbers ({wanted}); copy it again'
        )
    return tuple(map(int, texts))


def _floats(path, fields, keys, count, default=''):
    """The finite numbers of the first of `keys` that the header has."""
    key = next((key for key in keys if key in fields), keys[0])
    text = fields.get(key, default)
    try:
        numbers = tuple(float(part) for part in text.split())
    except ValueError:
        numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise InputError(f'{path}: {key} {text[:60]} is not {count} numbers; copy it again')
    return numbers


def _data(path, fields, end):
    """(file with the voxels, bytes before them as far as the header says)."""
    name = fields['ElementDataFile']
    if name.upper() == 'LOCAL':
        return path, end
    data = path.parent / name
    if not name or not archive.is_file(data):
        raise InputError(
            f'{path}: its data file {name or "without a name"} is missing; '
            'copy it next to the header'
        )
    if 'HeaderSize' not in fields:
        return data, 0
    (offset,) = _whole_numbers(path, fields, 'HeaderSize', 1)
    return data, offset


def _with_extent(header, fields):
    """A Header whose offset and bytes are those in the file, which is long enough."""
    size, expected, offset = archive.size(header.data), header.bytes, header.offset
    if header.compressed:
        offset = max(offset, 0)
        expected = size - offset
        if 'CompressedDataSize' in fields:
            (expected,) = _whole_numbers(header.path, fields, 'CompressedDataSize', 1)
    elif offset < 0:  # -1: at the end of the file
        offset = max(size - expected, 0)
    there = size - offset
    if there < expected or expected < 1:
        raise InputError(
            f'{header.data}: truncated, {max(there, 0)} of {expected} bytes; copy it again'
        )
    stated = header.compressed or 'HeaderSize' in fields or header.data == header.path
    if there > expected and not stated:
        raise InputError(
            f'{header.data}: has {size} bytes and {header.path.name} announces {expected} '
            f'(DimSize, ElementType {header.element}); copy both again'
        )
    return header._replace(offset=offset, bytes=expected)


def read(header, index=None, size=None):
    """Reads stored voxels, all or a block of them.

    Of voxels that are not compressed nothing but the block is read.

    Args:
        header: Header.
        index: (x, y, z) of the first voxel.
        size: (x, y, z) in voxels; None is all of the volume.

    Returns:
        array [z, y, x] of the dtype that is stored.

    Raises:
        InputError: the data are damaged.
    """
    if header.compressed:
        _check_compressed(header)
    reader = sitk.ImageFileReader()
    try:
        with _plain(header) as file:
            reader.SetFileName(str(file))
            if size is not None:
                reader.SetExtractIndex([int(i) for i in index])
                reader.SetExtractSize([int(n) for n in size])
            return sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError:
        raise InputError(
            f'{header.data}: cannot be read, its data are damaged; copy the volume again'
        ) from None


@contextlib.contextmanager
def _plain(header):
    """Yields the path of an .mhd of the same volume that SimpleITK reads as it is meant."""
    text = PLAIN.format(
        big_endian=header.big_endian,
        compressed=header.compressed,
        bytes=header.bytes,
        matrix=_joined(header.grid.direction[3 * row + i] for i in range(3) for row in range(3)),
        origin=_joined(header.grid.origin),
        spacing=_joined(header.grid.spacing),
        size=_joined(header.grid.size),
        offset=0 if header.packed else header.offset,
        element=header.element,
    )
    with tempfile.TemporaryDirectory() as folder:
        voxels, file = pathlib.Path(folder) / 'voxels', pathlib.Path(folder) / 'volume.mhd'
        if header.packed:
            archive.copy(header.data, voxels, header.offset, header.bytes)
        else:
            voxels.symlink_to(header.data.resolve())
        file.write_text(text, encoding='utf-8')
        yield file


def _joined(numbers):
    return ' '.join(map(repr, numbers))


def _check_compressed(header):
    """Unpacks the voxels and compares them with their own checksum and the size announced.

    SimpleITK does not, and reads noise from a damaged file.
    """
    expected = math.prod(header.grid.size) * ELEMENT_BYTES[header.element]
    packed = archive.head(header.data, header.offset + header.bytes)[header.offset :]
    stream, size = zlib.decompressobj(), 0
    try:
        while chunk := stream.decompress(packed, CHUNK):
            size += len(chunk)
            packed = stream.unconsumed_tail
            if size > expected:
                break
    except zlib.error:
        size = None
    if size != expected or not stream.eof:
        raise InputError(f'{header.data}: the compressed data are damaged; copy the volume again')
