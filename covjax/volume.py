"""Whole CT volumes, of any format that SimpleITK reads, turned the way the networks know slices and back.

Voxels are [z, y, x] with x to the patient's left, y to the back, z to the head (LPS), as in covjax.ct. No JAX.
"""
import pathlib

import numpy as np
import SimpleITK as sitk

from covjax import InputError, ct

SUFFIXES = ('.mhd', '.mha', '.nii', '.nii.gz', '.nrrd')


def suffix(path):
    """'.nii.gz', '.mhd', ... of a file that may hold a volume, or ''."""
    return next((end for end in sorted(SUFFIXES, key=len, reverse=True) if str(path).lower().endswith(end)), '')


def read(path):
    """(image in LPS, orientation code of the file) of a volume file, or of a folder with one DICOM series."""
    path = pathlib.Path(path)
    if suffix(path) == '.mhd':
        ct.open_volume(path)                                # says what is wrong with it
    try:
        with ct.without_percent(path.parent) as folder:
            image = _series(path) if path.is_dir() else sitk.ReadImage(str(folder / path.name))
    except RuntimeError as error:
        raise InputError(f'{path}: SimpleITK can not read it ({str(error).strip().splitlines()[-1]}); give a CT volume or a folder with one DICOM series') from None
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f'{path}: has {image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} values a voxel; give a CT volume in HU')
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    return sitk.DICOMOrient(image, 'LPS'), code


def _series(folder):
    reader = sitk.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise InputError(f'{folder}: holds {len(series)} DICOM series and no picture; give a folder with one series, a volume file, or a folder of pictures')
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series[0]))
    return reader.Execute()


def hu(image):
    """int16 [z, y, x] of an image in HU."""
    array = sitk.GetArrayViewFromImage(image)
    return array if array.dtype == np.int16 else np.clip(np.round(array), -32768, 32767).astype(np.int16)


def write(path, array, like, code):
    """int16 [z, y, x] with the geometry of `like`, turned back to the orientation of the file it came from."""
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(like)
    with ct.without_percent(path.parent) as folder:
        sitk.WriteImage(sitk.DICOMOrient(image, code), str(folder / path.name), useCompression=True)
