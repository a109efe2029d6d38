"""NRRD volumes (.nrrd, or .nhdr with a data file).

SimpleITK reads the voxels, but never a header that somebody else wrote: long lines make it crash.
The header is parsed and checked here, and SimpleITK gets a plain one.
"""

import contextlib
import gzip
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
SKIPS = ('line skip', 'lineskip', 'byte skip', 'byteskip')


# Fields that the geometry may take, and what they may hold: numbers, vectors of numbers, a name.
GEOMETRY = {
    'space': r'[a-z0-9 -]{1,60}',
    'space directions': r'[-+0-9.e(), ]{1,400}',
    'space origin': r'[-+0-9.e(), ]{1,200}',
    'spacings': r'[-+0-9.e ]{1,200}',
    'axis mins': r'[-+0-9.e ]{1,200}',
    'endian': r'little|big',
}


class Header(NamedTuple):
    """What an NRRD header says, checked, and where its voxels are."""

    path: pathlib.Path
    grid: Grid
    fields: dict[str, str]  # those that are read, in lower case
    data: pathlib.Path  # of the file with the voxels; often the same as path
    offset: int  # bytes before them

    packed = True  # read whole in any case


def open_file(path):
    """Reads a header and checks that all voxels are there, whole. They are not kept.

    Returns:
        Header.

    Raises:
        InputError: it is no NRRD volume of numbers, or it is truncated or damaged.
    """
    path = pathlib.Path(path)
    fields, end = _fields(path)
    size = _size(path, fields)
    Grid(size, (1.0,) * 3, (0.0,) * 3, (1.0, 0, 0, 0, 1, 0, 0, 0, 1)).check(path)
    data, offset = _data(path, fields, end)
    header = Header(path, None, fields, data, offset)
    _check_whole(header, math.prod(size) * BYTES[fields['type']])
    reader = sitk.ImageFileReader()
    try:
        with _plain(header) as file:
            reader.SetFileName(str(file))
            reader.ReadImageInformation()
    except RuntimeError:
        raise InputError(f'{path}: SimpleITK cannot read its header; save it again') from None
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise InputError(f'{path}: has several values per voxel; give a volume with one')
    grid = Grid.of(reader)
    grid.check(path)
    return header._replace(grid=grid)


def _fields(path):
    """({name: text}, bytes of the header) of a file that has what is needed here."""
    try:
        head = archive.head(path, LONGEST_HEADER)
    except FileNotFoundError:
        raise InputError(f'{path}: no such volume') from None
    if not head.startswith(b'NRRD000'):
        raise InputError(f'{path}: is no NRRD file; copy it again')
    fields, end = {}, 0
    for line in head.splitlines(keepends=True):
        end += len(line)
        if not line.strip():
            break
        key, _, value = line.decode('utf-8', 'surrogateescape').partition(':')
        fields[key.strip().lower()] = value.strip()
    _check_fields(path, fields)
    return fields, end


def _check_fields(path, fields):
    """Refuses {name: text} of a header that lacks something or makes no sense; lowers the case."""
    missing = [name for name in NEEDED if name not in fields]
    if missing:
        raise InputError(f'{path}: no {", ".join(missing)} in the header; copy it again')
    if 'spacings' not in fields and 'space directions' not in fields:
        raise InputError(f'{path}: its header does not say how large a voxel is; save it again')
    for name in ('type', 'encoding', *GEOMETRY):
        if name in fields:
            fields[name] = fields[name].lower()
    units = fields.get('space units', '"mm"').lower()
    if set(re.findall(r'"([^"]*)"', units)) - {'mm', 'millimeter', 'millimeters', '', '???'}:
        raise InputError(f'{path}: space units {units[:60]} are not mm; save it in mm')
    for name, pattern in GEOMETRY.items():
        if name in fields and not re.fullmatch(pattern, fields[name]):
            raise InputError(f'{path}: {name} {fields[name][:60]!r} makes no sense; save it again')


def _size(path, fields):
    """(x, y, z) in voxels of a header of a volume that can be read."""
    if fields['dimension'] != '3':
        shown = fields['dimension'][:20]
        raise InputError(f'{path}: has {shown} dimensions; give a volume with 3')
    sizes = fields['sizes'].split()
    if len(sizes) != 3 or not all(re.fullmatch(r'[0-9]{1,9}', text) for text in sizes):
        raise InputError(
            f'{path}: sizes {fields["sizes"][:40]} are not 3 whole numbers; copy it again'
        )
    if fields['type'] not in BYTES:
        shown = fields['type'][:40]
        raise InputError(f'{path}: type {shown} cannot be read; save it as short')
    if fields['encoding'] not in RAW + GZIP:
        shown = fields['encoding'][:40]
        raise InputError(f'{path}: encoding {shown} is not read; save it as raw or gzip')
    return tuple(map(int, sizes))


def _data(path, fields, end):
    """(file with the voxels, bytes before them)."""
    if any(fields.get(key, '0') != '0' for key in SKIPS):
        raise InputError(f'{path}: its header skips a part of the data; save it again')
    name = fields.get('data file') or fields.get('datafile')
    if not name:
        return path, end
    data = path.parent / name
    if not archive.is_file(data):
        raise InputError(
            f'{path}: its data file {name[:100]} is missing; copy it next to the header'
        )
    return data, 0


def _check_whole(header, expected):
    """Compares the bytes of the voxels, unpacked, with those that the header announces."""
    size = 0
    try:
        with archive.opened(header.data) as file:
            file.seek(header.offset)
            content = gzip.open(file) if header.fields['encoding'] in GZIP else file
            while (chunk := content.read(CHUNK)) and size <= expected:
                size += len(chunk)
    except (OSError, EOFError, zlib.error, InputError):
        size = -1
    if size != expected:
        raise InputError(f'{header.data}: is truncated or damaged; copy it again')


@contextlib.contextmanager
def _plain(header):
    """Yields the path of an .nhdr of the same volume that SimpleITK reads as it is meant."""
    lines = [
        f'{name}: {header.fields[name]}' for name in (*NEEDED, *GEOMETRY) if name in header.fields
    ]
    with tempfile.TemporaryDirectory() as folder:
        voxels, file = pathlib.Path(folder) / 'voxels', pathlib.Path(folder) / 'volume.nhdr'
        if archive.archive_of(header.data) or header.offset:
            archive.copy(header.data, voxels, header.offset, archive.size(header.data))
        else:
            voxels.symlink_to(header.data.resolve())
        file.write_text('\n'.join(['NRRD0004', *lines, 'data file: voxels', '']), encoding='utf-8')
        yield file


def read(header):
    """Reads all stored voxels: array [z, y, x] of the dtype that is stored.

    Raises:
        InputError: the data are damaged.
    """
    try:
        with _plain(header) as file:
            return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
    except RuntimeError:
        raise InputError(f'{header.path}: cannot be read; copy it again') from None
