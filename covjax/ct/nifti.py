"""NIfTI-1 and NIfTI-2 (.nii, .nii.gz), read by nibabel.

nibabel does what the standard says where ITK does not: a slope of 0 means that values are as stored
(ITK applies the intercept), and NIfTI-2 is read at all.
"""

import gzip
import math
import pathlib
import zlib
from typing import NamedTuple

import nibabel
import numpy as np

from covjax import InputError
from covjax.ct import archive
from covjax.ct.grid import Grid

SUFFIXES = ('.nii.gz', '.nii')
# What nibabel raises for headers that make no sense.
WRONG = (
    nibabel.filebasedimages.ImageFileError,
    nibabel.spatialimages.HeaderDataError,
    *(OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, OverflowError),
)
TO_LPS = np.diag([-1.0, -1.0, 1.0])  # NIfTI's x runs to the right and y to the front
ASSUMED = 'x is taken to run to the left, as nibabel does'
CHUNK = 1 << 22  # bytes that are unpacked at a time
UNITS = {'meter': 1000.0, 'micron': 0.001}  # of length in mm; others are mm or not stated
SAME = 0.01  # how much two statements of the size of a voxel may differ, as a share
GZIP = b'\x1f\x8b'  # how a packed file begins


class Header(NamedTuple):
    """What a NIfTI header says, checked."""

    path: pathlib.Path
    grid: Grid
    scaling: tuple[float, float]  # slope and intercept: HU = slope x value + intercept
    remarks: tuple[str, ...]  # lines on what is not known

    packed = True  # a part of the voxels costs as much as all


def open_file(path):
    """Reads a header and checks that all voxels are there, whole. They are not kept.

    Returns:
        Header.

    Raises:
        InputError: it is no NIfTI volume of numbers, or it is truncated or damaged.
    """
    path = pathlib.Path(path)
    if not archive.is_file(path):
        raise InputError(f'{path}: no such volume')
    with archive.on_disk(path) as file:
        _check_name(path, file)
        try:
            image = nibabel.load(file)
            shape, affine, kind = image.shape, image.affine, image.get_data_dtype()
            scaling = float(image.dataobj.slope), float(image.dataobj.inter)
            begin = image.dataobj.offset
            placed = image.header['qform_code'] > 0 or image.header['sform_code'] > 0
            stated, millimetres = _stated(image.header)
        except WRONG as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise InputError(f'{path}: is truncated or damaged ({reason}); copy it again') from None
        _check_kind(path, shape, kind)
        grid = _grid(shape[:3], affine)
        _check_scale(path, grid.spacing, stated)
        grid = _grid(shape[:3], np.diag([*(millimetres,) * 3, 1.0]) @ affine)
        grid.check(path)
        _check_whole(path, file, begin + math.prod(shape) * kind.itemsize)
    remarks = () if placed else (f'{path.name}: does not say how the patient lies; {ASSUMED}',)
    return Header(path, grid, scaling, remarks)


def _check_kind(path, shape, kind):
    """Refuses what is no volume of numbers: its shape, and the dtype of its voxels."""
    if kind.names or kind.kind not in 'iuf':
        raise InputError(f'{path}: its voxels are {kind}, not numbers; give a volume of numbers')
    if len(shape) < 3 or math.prod(shape[3:]) != 1:
        raise InputError(
            f'{path}: has {len(shape)} dimensions ({" x ".join(map(str, shape))}); '
            'give a volume with 3'
        )


def _check_name(path, file):
    """Refuses a file whose name says wrongly whether it is packed; programs go by the name."""
    with open(file, 'rb') as content:
        is_packed = content.read(2) == GZIP
    if is_packed and file.suffix.lower() != '.gz':
        raise InputError(f'{path}: is packed with gzip; rename it to {path.name}.gz')
    if not is_packed and file.suffix.lower() == '.gz' and file.stat().st_size:
        raise InputError(f'{path}: is not packed with gzip; rename it to {path.stem}')


def _stated(header):
    """(pixdim of x, y, z; how many mm its unit of length is) of a nibabel header."""
    unit = header.get_xyzt_units()[0]
    return np.abs(header['pixdim'][1:4].astype(float)), UNITS.get(unit, 1.0)


def _check_scale(path, spacing, stated):
    """Refuses a header whose matrix and pixdim give voxels of other sizes.

    pixdim counts for nothing where no program has filled it in.
    """
    filled = np.isfinite(stated).all() and not np.isin(stated, (0.0, 1.0)).all()
    if filled and not np.allclose(spacing, stated, rtol=SAME):
        found, other = (' x '.join(f'{mm:.4g}' for mm in each) for each in (spacing, stated))
        raise InputError(
            f'{path}: says in its sform that voxels are {found} mm, and in its pixdim {other}; '
            'correct the header'
        )


def _grid(shape, affine):
    """The Grid of an affine matrix from voxels to NIfTI's world."""
    with np.errstate(all='ignore'):
        axes = TO_LPS @ affine[:3, :3]
        spacing = np.linalg.norm(axes, axis=0)
        direction = axes / spacing
    origin = TO_LPS @ affine[:3, 3]
    return Grid(
        tuple(map(int, shape)),
        *(tuple(map(float, v.ravel())) for v in (spacing, origin, direction)),
    )


def _check_whole(path, file, expected):
    """Compares the bytes of an unpacked file with those that its header announces."""
    opened, size = gzip.open if file.suffix.lower() == '.gz' else open, 0
    try:
        with opened(file, 'rb') as content:
            while chunk := content.read(CHUNK):
                size += len(chunk)
                if size > expected + CHUNK:
                    raise InputError(
                        f'{path}: has more voxels than its header announces; copy it again'
                    )
    except (OSError, EOFError, zlib.error):
        size = -1
    if size < expected:
        raise InputError(f'{path}: is truncated or damaged; copy it again')


def read(header):
    """Reads all stored voxels: array [z, y, x] of the dtype that is stored, not yet scaled."""
    try:
        with archive.on_disk(header.path) as file:
            stored = np.asarray(nibabel.load(file).dataobj.get_unscaled())
    except WRONG:
        raise InputError(f'{header.path}: is truncated or damaged; copy it again') from None
    return stored.reshape(header.grid.size, order='F').T
