"""Whole CT volumes of any format, turned the way the networks know slices, and back.

Formats are MetaImage, NIfTI, and a folder with one DICOM series. Voxels are [z, y, x] with x to the
patient's left, y to the back, z to the head (LPS). No JAX. SimpleITK reads damaged files silently,
so each format is checked first.
"""

import gzip
import math
import pathlib
import struct
import zlib

import numpy as np
import SimpleITK as sitk

from covjax import InputError
from covjax.ct import archive
from covjax.ct.volume import check_compressed, open_volume

SUFFIXES = ('.nii.gz', '.nii', '.mhd')


def suffix(path):
    """Returns '.nii.gz', '.nii' or '.mhd' of a file that may hold a volume, or ''."""
    return next((end for end in SUFFIXES if str(path).lower().endswith(end)), '')


def read(path):
    """Reads a volume file, or a folder with one DICOM series.

    Returns:
        (SimpleITK image in LPS, orientation code of the file such as 'RAI').

    Raises:
        InputError: it is no CT volume, or it is damaged or incomplete.
    """
    path = pathlib.Path(path)
    if not path.is_dir() and not suffix(path):
        raise InputError(
            f'{path}: is neither a picture nor a volume; give .png or .jpg files, '
            f'{", ".join(SUFFIXES)}, or a folder with one DICOM series'
        )
    try:
        image = _read_series(path) if path.is_dir() else _read_file(path)
    except RuntimeError as error:
        raise InputError(
            f'{path}: SimpleITK cannot read it ({_last_line(error)}); give a CT volume'
        ) from None
    dimensions, values = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if dimensions != 3 or values != 1:
        raise InputError(
            f'{path}: has {dimensions} dimensions and {values} values a voxel; '
            'give a CT volume in HU'
        )
    if not np.isfinite(sitk.GetArrayViewFromImage(image)).all():
        raise InputError(f'{path}: has voxels that are not finite; give a CT volume in HU')
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    return sitk.DICOMOrient(image, 'LPS'), code


def _read_file(path):
    CHECKS[suffix(path)](path)
    with archive.on_disk(path) as file:
        return sitk.ReadImage(str(file))


def _check_metaimage(path):
    open_volume(path)
    check_compressed(path)


def _check_nifti(path):
    """Compares the bytes there are with those that the NIfTI-1 header announces."""
    damaged = InputError(f'{path}: is truncated or damaged; copy it again')
    opened = gzip.open if suffix(path) == '.nii.gz' else open
    try:
        with opened(path, 'rb') as file:
            header = file.read(352)
            if len(header) < 348:
                raise damaged
            expected, size = _announced_bytes(header), len(header)
            while chunk := file.read(1 << 22):
                size += len(chunk)
    except (OSError, EOFError, zlib.error):
        raise damaged from None
    if size < expected:
        raise damaged


def _announced_bytes(header):
    """The size of a file by its NIfTI-1 header: dim at byte 40, bitpix at 72, vox_offset at 108."""
    order = '<' if struct.unpack('<i', header[:4])[0] == 348 else '>'
    dimensions = struct.unpack_from(order + '8h', header, 40)
    (bits,) = struct.unpack_from(order + 'h', header, 72)
    (offset,) = struct.unpack_from(order + 'f', header, 108)
    return offset + math.prod(dimensions[1 : dimensions[0] + 1]) * bits // 8


CHECKS = {'.mhd': _check_metaimage, '.nii': _check_nifti, '.nii.gz': _check_nifti}


def _read_series(folder):
    """The image of a folder that holds one complete DICOM series and nothing else."""
    reader = sitk.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise InputError(
            f'{folder}: holds {len(series)} DICOM series and no picture; '
            'give a folder with one series, a volume file, or a folder of pictures'
        )
    names = reader.GetGDCMSeriesFileNames(str(folder), series[0])
    _check_nothing_else(folder, names)
    _check_no_gap(folder, names)
    reader.SetFileNames(names)
    return reader.Execute()


def _check_nothing_else(folder, names):
    """Whatever GDCM does not take for a slice of the series is a damaged slice, or a stranger."""
    files = {path.name for path in folder.iterdir() if path.is_file()}
    files = {name for name in files if name != 'DICOMDIR' and not name.startswith('.')}
    others = files - {pathlib.Path(name).name for name in names}
    if others:
        raise InputError(
            f'{folder / min(others)}: is not a slice of the DICOM series beside it; '
            'copy it again or remove it'
        )


def _check_no_gap(folder, names):
    """Compares the distances between neighbouring slices."""
    heights = []
    for name in names:
        header = sitk.ImageFileReader()
        header.SetFileName(name)
        header.ReadImageInformation()
        normal = np.reshape(header.GetDirection(), (3, 3))[:, 2]
        heights.append(np.dot(header.GetOrigin(), normal))
    steps = np.abs(np.diff(heights))
    if len(steps) and steps.max() > 1.02 * steps.min() + 0.01:
        raise InputError(
            f'{folder}: slices are {steps.min():.3g} to {steps.max():.3g} mm apart, '
            'so some are missing or double; complete the series'
        )


def hu(image):
    """Returns the HU of an image: int16 [z, y, x], rounded and clipped to that dtype."""
    array = sitk.GetArrayViewFromImage(image)
    if array.dtype == np.int16:
        return array
    return np.clip(np.round(array), -32768, 32767).astype(np.int16)


def write(path, array, like, code):
    """Writes a volume in the orientation of the file that it came from.

    Args:
        path: of the file; its suffix names the format.
        array: int16 [z, y, x] in LPS.
        like: SimpleITK image whose geometry it gets, as `read` returns it.
        code: orientation of the file, as `read` returns it.

    Raises:
        InputError: the file cannot be written.
    """
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(like)
    try:
        with archive.on_disk(path) as file:
            sitk.WriteImage(sitk.DICOMOrient(image, code), str(file), useCompression=True)
    except RuntimeError as error:
        raise InputError(f'{path}: cannot be written ({_last_line(error)})') from None


def _last_line(error):
    """What SimpleITK says at the end of its long messages."""
    return str(error).strip().splitlines()[-1]
