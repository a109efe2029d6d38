"""Whole CT volumes (MetaImage, NIfTI, a folder with one DICOM series), turned the way the networks know slices and back.

Voxels are [z, y, x] with x to the patient's left, y to the back, z to the head (LPS), as in covjax.ct. No JAX. SimpleITK reads damaged files without a word,
so each kind is checked first.
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
    """'.nii.gz', '.nii' or '.mhd' of a file that may hold a volume, or ''."""
    return next((end for end in SUFFIXES if str(path).lower().endswith(end)), '')


def read(path):
    """(image in LPS, orientation code of the file)."""
    path = pathlib.Path(path)
    if not path.is_dir() and not suffix(path):
        raise InputError(
            f'{path}: is neither a picture nor a volume; give .png or .jpg files, {", ".join(SUFFIXES)}, or a folder with one DICOM series'
        )
    try:
        if path.is_dir():
            image = _read_series(path)
        else:
            CHECKS[suffix(path)](path)
            with archive.on_disk(path) as file:
                image = sitk.ReadImage(str(file))
    except RuntimeError as error:
        raise InputError(
            f'{path}: SimpleITK can not read it ({str(error).strip().splitlines()[-1]}); give a CT volume'
        ) from None
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f'{path}: has {image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} values a voxel; give a CT volume in HU'
        )
    if not np.isfinite(sitk.GetArrayViewFromImage(image)).all():
        raise InputError(f'{path}: has voxels that are not finite; give a CT volume in HU')
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    return sitk.DICOMOrient(image, 'LPS'), code


def _check_metaimage(path):
    open_volume(path)
    check_compressed(path)


def _check_nifti(path):
    """Compares the bytes there are with those that the NIfTI-1 header announces."""
    damaged = InputError(f'{path}: is truncated or damaged; copy it again')
    try:
        with (gzip.open if suffix(path) == '.nii.gz' else open)(path, 'rb') as file:
            header = file.read(352)
            if len(header) < 348:
                raise damaged
            order = '<' if struct.unpack('<i', header[:4])[0] == 348 else '>'
            dimensions, bits, offset = (
                struct.unpack_from(order + form, header, at)
                for form, at in (('8h', 40), ('h', 72), ('f', 108))
            )
            expected, size = (
                offset[0] + math.prod(dimensions[1 : dimensions[0] + 1]) * bits[0] // 8,
                len(header),
            )
            while chunk := file.read(1 << 22):
                size += len(chunk)
    except (OSError, EOFError, zlib.error):
        raise damaged from None
    if size < expected:
        raise damaged


CHECKS = {'.mhd': _check_metaimage, '.nii': _check_nifti, '.nii.gz': _check_nifti}


def _read_series(folder):
    reader = sitk.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise InputError(
            f'{folder}: holds {len(series)} DICOM series and no picture; give a folder with one series, a volume file, or a folder of pictures'
        )
    names = reader.GetGDCMSeriesFileNames(str(folder), series[0])
    others = {
        path.name
        for path in folder.iterdir()
        if path.is_file() and path.name != 'DICOMDIR' and not path.name.startswith('.')
    } - {pathlib.Path(name).name for name in names}
    if others:
        raise InputError(
            f'{folder / min(others)}: is not a slice of the DICOM series beside it; copy it again or remove it'
        )
    heights = []
    for name in names:
        header = sitk.ImageFileReader()
        header.SetFileName(name)
        header.ReadImageInformation()
        heights.append(np.dot(header.GetOrigin(), np.reshape(header.GetDirection(), (3, 3))[:, 2]))
    steps = np.abs(np.diff(heights))
    if len(steps) and steps.max() > 1.02 * steps.min() + 0.01:
        raise InputError(
            f'{folder}: slices are {steps.min():.3g} to {steps.max():.3g} mm apart, so some are missing or double; complete the series'
        )
    reader.SetFileNames(names)
    return reader.Execute()


def hu(image):
    """int16 [z, y, x] of an image in HU."""
    array = sitk.GetArrayViewFromImage(image)
    return (
        array
        if array.dtype == np.int16
        else np.clip(np.round(array), -32768, 32767).astype(np.int16)
    )


def write(path, array, like, code):
    """int16 [z, y, x] with the geometry of `like`, turned back to the orientation of the file it came from."""
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(like)
    try:
        with archive.on_disk(path) as file:
            sitk.WriteImage(sitk.DICOMOrient(image, code), str(file), useCompression=True)
    except RuntimeError as error:
        raise InputError(
            f'{path}: can not be written ({str(error).strip().splitlines()[-1]})'
        ) from None
