"""NRRD volumes (.nrrd, or .nhdr with a data file), read by SimpleITK after a look at the header."""

import gzip
import math
import pathlib
import zlib
from typing import NamedTuple

import SimpleITK as sitk

from covjax import InputError
from covjax.ct import archive
from covjax.ct.grid import Grid

SUFFIXES = ('.nrrd', '.nhdr')
LONGEST_HEADER = 1 << 16  # bytes
CHUNK = 1 << 22  # bytes that are unpacked at a time
NEEDED = ('type', 'dimension', 'sizes', 'encoding')
BYTES = {  # of a voxel, by the names that a type can have
    **dict.fromkeys(('signed char', 'int8', 'int8_t', 'uchar', 'unsigned char'), 1),
    **dict.fromkeys(('uint8', 'uint8_t'), 1),
    **dict.fromkeys(('short', 'short int', 'signed short', 'signed short int', 'int16'), 2),
    **dict.fromkeys(('int16_t', 'ushort', 'unsigned short', 'unsigned short int', 'uint16'), 2),
    **dict.fromkeys(('uint16_t',), 2),
    **dict.fromkeys(('int', 'signed int', 'int32', 'int32_t', 'uint', 'unsigned int'), 4),
    **dict.fromkeys(('uint32', 'uint32_t', 'float'), 4),
    'double': 8,
}
RAW, GZIP = ('raw',), ('gzip', 'gz')


class Header(NamedTuple):
    """What an NRRD header says, checked."""

    path: pathlib.Path
    grid: Grid

    packed = True  # read whole in any case


def open_file(path):
    """Reads a header and checks that all voxels are there, whole. They are not kept.

    Returns:
        Header.

    Raises:
        InputError: it is no NRRD volume of numbers, or it is truncated or damaged.
    """
    path = pathlib.Path(path)
    if archive.archive_of(path):
        raise InputError(f'{path}: is packed; unpack {archive.archive_of(path).name} yourself')
    fields, end = _fields(path)
    size = _size(path, fields)
    Grid(size, (1.0,) * 3, (0.0,) * 3, (1.0, 0, 0, 0, 1, 0, 0, 0, 1)).check(path)
    _check_whole(path, fields, end, math.prod(size) * BYTES[fields['type']])
    reader = sitk.ImageFileReader()
    try:
        with archive.on_disk(path) as file:
            reader.SetFileName(str(file))
            reader.ReadImageInformation()
    except RuntimeError:
        raise InputError(f'{path}: SimpleITK cannot read its header; save it again') from None
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise InputError(f'{path}: has several values a voxel; give a CT volume in HU')
    grid = Grid.of(reader)
    grid.check(path)
    return Header(path, grid)


def _fields(path):
    """({name: text}, bytes of the header) of a file that has what is needed here."""
    try:
        head = archive.head(path, LONGEST_HEADER)
    except FileNotFoundError:
        raise InputError(f'{path}: no such volume') from None
    if not head.startswith(b'NRRD000'):
        raise InputError(f'{path}: is no NRRD file; give a CT volume')
    fields, end = {}, 0
    for line in head.splitlines(keepends=True):
        end += len(line)
        if not line.strip():
            break
        key, _, value = line.decode('latin-1').partition(':')
        fields[key.strip().lower()] = value.strip()
    missing = [name for name in NEEDED if name not in fields]
    if missing:
        raise InputError(f'{path}: no {", ".join(missing)} in the header; copy it again')
    if 'spacings' not in fields and 'space directions' not in fields:
        raise InputError(f'{path}: its header does not say how large a voxel is; save it again')
    return fields, end


def _size(path, fields):
    """(x, y, z) in voxels of a header of a volume that can be read."""
    if fields['dimension'] != '3':
        raise InputError(f'{path}: has {fields["dimension"]} dimensions; give a CT volume with 3')
    sizes = fields['sizes'].split()
    if len(sizes) != 3 or not all(text.isascii() and text.isdigit() for text in sizes):
        raise InputError(f'{path}: sizes {fields["sizes"][:40]} are not 3 whole numbers')
    if fields['type'] not in BYTES:
        raise InputError(f'{path}: type {fields["type"]} is not a CT number type; expected short')
    if fields['encoding'] not in RAW + GZIP:
        raise InputError(
            f'{path}: encoding {fields["encoding"]} is not read; save it as raw or gzip'
        )
    return tuple(int(text[:10]) for text in sizes)


def _check_whole(path, fields, end, expected):
    """Compares the bytes of the voxels, unpacked, with those that the header announces."""
    data, begin = path, end
    name = fields.get('data file') or fields.get('datafile')
    if name:
        data, begin = path.parent / name, 0
        if not data.is_file():
            raise InputError(f'{path}: its data file {name} is missing; copy it next to the header')
    if any(
        fields.get(key, '0') != '0' for key in ('line skip', 'lineskip', 'byte skip', 'byteskip')
    ):
        raise InputError(f'{path}: its header skips a part of the data; save it again')
    size = 0
    try:
        with open(data, 'rb') as file:
            file.seek(begin)
            content = gzip.open(file) if fields['encoding'] in GZIP else file
            while (chunk := content.read(CHUNK)) and size <= expected:
                size += len(chunk)
    except (OSError, EOFError, zlib.error):
        size = -1
    if size != expected:
        raise InputError(f'{data}: is truncated or damaged; copy it again')


def read(header):
    """Reads all stored voxels: array [z, y, x] of the dtype that is stored.

    Raises:
        InputError: the data are damaged.
    """
    try:
        with archive.on_disk(header.path) as file:
            return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
    except RuntimeError:
        raise InputError(f'{header.path}: cannot be read; copy it again') from None
