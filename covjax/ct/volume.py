"""CT volumes of any format in HU: the one reader, for whole volumes and for parts.

Formats are MetaImage, NIfTI, NRRD and DICOM, each in a file of its own that checks headers before
anything is allocated. What all have in common is checked here. No JAX.
"""

import hashlib
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk

from covjax import InputError
from covjax.ct import archive, dicom, hounsfield, metaimage, nifti, nrrd
from covjax.ct.grid import Grid

WITH_DATA_FILE = ('.mhd', '.nhdr')  # headers with the voxels beside them
# By ending, in lower case; the longer ones first.
FORMATS = {end: form for form in (nifti, metaimage, nrrd) for end in form.SUFFIXES}
GIVE_CT = 'give a CT volume in HU'
GIVE_MASK = 'save the mask with whole numbers from 0 to 32767, one for each region'


class Volume(NamedTuple):
    """A CT volume that is known to be whole and to lie on a plausible grid."""

    path: pathlib.Path  # of the file, which may go through a .zip archive, or of a DICOM folder
    # What its format needs to read it: one of metaimage.Header, nifti.Header, nrrd.Header,
    # dicom.Stack.
    header: Any
    image: sitk.Image  # one voxel with the geometry of the volume, for world <-> voxel algebra
    hu: tuple[float, float] | None = None  # slope and intercept of config.hu, None where not given
    exact: bool = False  # whether values are numbers of regions, which may not be rounded or cut
    voxels: np.ndarray | None = None  # int16 HU [z, y, x], where `load_volume` has put them

    @property
    def name(self) -> str:
        """The name of its file or folder without the ending; of LUNA16 the series id."""
        name = pathlib.Path(os.path.abspath(self.path)).name  # of '.' and '..' too
        return name[: len(name) - len(suffix(name))]

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels, (x, y, z)."""
        return self.header.grid.size

    @property
    def spacing(self) -> tuple[float, ...]:
        """Millimetres per voxel, (x, y, z)."""
        return self.header.grid.spacing

    @property
    def packed(self) -> bool:
        """Whether a part of it costs as much as the whole."""
        return self.header.packed

    @property
    def kernel(self) -> str:
        """The convolution kernel of the reconstruction, as its maker names it; '' if not known."""
        return getattr(self.header, 'kernel', '')

    @property
    def remarks(self) -> list[str]:
        """Lines on what was left out or changed."""
        return getattr(self.header, 'remarks', ())

    @property
    def flips(self) -> Any:
        """Whether the stored x, y, z axes run against the world axes.

        Some LUNA16 series are stored turned by 180 degrees.
        """
        return tuple(self.header.grid.direction[4 * axis] < 0 for axis in range(3))


def suffix(path: pathlib.Path) -> str:
    """Returns '.nii.gz', '.mhd' or another ending of a volume file in lower case, or ''."""
    name = pathlib.Path(path).name.lower()
    return next((end for end in FORMATS if name.endswith(end)), '')


def find_volumes(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Finds all volume files in a folder, its sub-folders and its .zip archives.

    The folder may be flat, or hold subset0 to subset9. A series that lies both in a folder and in
    an archive, as after unpacking, is the one in the folder. The lung masks that come with LUNA16
    (seg-lungs-LUNA16) have the names of the series too; they are not CT and are passed over.

    Returns:
        {series id: path of its file}.

    Raises:
        InputError: a series is there twice.
    """
    volumes = {}
    for path in archive.find(folder, '*'):
        if not suffix(path):
            continue
        if any(part.lower().startswith('seg-lungs') for part in path.relative_to(folder).parts):
            continue
        other = volumes.setdefault(path.name[: -len(suffix(path))], path)
        if other != path and bool(archive.archive_of(path)) == bool(archive.archive_of(other)):
            raise InputError(f'{path}: series is also at {other}; keep one of the two')
    return volumes


def open_volume(path: str | pathlib.Path, hu: str = '') -> Volume:
    """Reads the header of a volume file and checks that its data are there. No voxel is kept.

    Args:
        path: of the file, in MetaImage, NIfTI or NRRD, or of one DICOM file.
        hu: config.hu: '', or 'SLOPE,INTERCEPT' for values that are not HU.

    Returns:
        Volume.

    Raises:
        InputError: it is not there, not whole, or no CT volume.
    """
    path = pathlib.Path(path)
    form = FORMATS.get(suffix(path))
    if form and path.is_file() and dicom.is_dicom(path):
        raise InputError(f'{path}: is DICOM, whatever its name says; rename it to end in .dcm')
    if form:
        return of_header(form.open_file(path), hu)
    if path.is_file() and dicom.is_dicom(path):
        return of_header(dicom.open_series(path, [path]), hu)
    raise InputError(
        f'{path}: is no volume; give DICOM, or a file that ends in {", ".join(FORMATS)}'
    )


def of_header(header: Any, hu: str = '') -> Volume:
    """The Volume of a header that a format has read and checked."""
    image = header.grid.place(sitk.Image([1, 1, 1], sitk.sitkUInt8))
    return Volume(header.path, header, image, hounsfield.parse(hu))


def check_axial(volume: Volume) -> None:
    """Refuses a volume whose stored slices are not axial.

    Raises:
        InputError: they are not.
    """
    direction = volume.header.grid.direction
    if any(abs(direction[i]) < 0.99 for i in (0, 4, 8)):
        cosines = ' '.join(f'{cosine:g}' for cosine in direction)
        raise InputError(
            f'{volume.path}: slices are not axial (direction {cosines}); '
            'resample the volume to axial slices'
        )


def load_volume(volume: Volume) -> np.ndarray:
    """Reads all voxels of a Volume into RAM and checks that they are HU.

    Returns:
        Volume with its voxels.

    Raises:
        InputError: the data are damaged, or no HU.
    """
    if volume.voxels is not None:
        return volume
    voxels = _read(volume)
    _check_hu(volume, voxels)
    return volume._replace(voxels=voxels)


def _read(volume, **block):
    """HU of a Volume, or of a block of one that is not packed: int16 [z, y, x]."""
    slope, intercept = volume.hu or hounsfield.AS_STORED
    try:
        if isinstance(volume.header, dicom.Stack):
            return dicom.read(volume.header, slope, intercept)
        stored = FORMATS[suffix(volume.path)].read(volume.header, **block)
        # What the file itself says of its values comes first.
        scale, offset = getattr(volume.header, 'scaling', hounsfield.AS_STORED)
        values = slope * scale, slope * offset + intercept
        return hounsfield.to_int16(stored, *values, exact=volume.exact)
    except InputError:  # a ValueError too, and complete
        raise
    except ValueError as error:
        give = GIVE_MASK if volume.exact else GIVE_CT
        raise InputError(f'{volume.path}: {error}; {give}') from None


def _check_hu(volume, hu):
    if volume.hu is None:
        hounsfield.check(hu, volume.path)
    elif not volume.exact and volume.hu != hounsfield.AS_STORED:  # which says that they are
        hounsfield.check(hu, volume.path, ','.join(f'{part:g}' for part in volume.hu))


def extract(volume: Volume, index: Any, size: Any) -> np.ndarray:
    """Reads a block of voxels. Of a volume that is not packed nothing else is read.

    Args:
        volume: Volume.
        index: (x, y, z) of the first voxel.
        size: (x, y, z) in voxels.

    Returns:
        HU int16 [z, y, x].

    Raises:
        InputError: the data are damaged.
    """
    if volume.voxels is None and not volume.packed:
        return _read(volume, index=index, size=size)
    voxels = load_volume(volume).voxels
    return voxels[tuple(slice(i, i + n) for i, n in zip(index[::-1], size[::-1]))]


def read_slice(volume: Volume, z: int) -> np.ndarray:
    """Reads stored slice z of an axial Volume as an image: HU float32 [H, W].

    Columns run to the patient's left and rows to the back, whatever way the volume is stored.

    Raises:
        InputError: the data are damaged, or the slice is not in HU.
    """
    hu = extract(volume, (0, 0, int(z)), (*volume.size[:2], 1))[0]
    _check_hu(volume, hu)
    flip_x, flip_y, _ = volume.flips
    return hu[:: -1 if flip_y else 1, :: -1 if flip_x else 1].astype(np.float32)


def lps(volume: Volume) -> tuple[np.ndarray, Any, str]:
    """All voxels of a Volume, turned so that x runs to the left, y to the back, z to the head.

    Returns:
        (HU int16 [z, y, x] in LPS, their Grid, orientation code of the file such as 'RAI').

    Raises:
        InputError: the data are damaged, or no HU.
    """
    image = volume.header.grid.place(sitk.GetImageFromArray(load_volume(volume).voxels))
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    image = sitk.DICOMOrient(image, 'LPS')
    return sitk.GetArrayFromImage(image), Grid.of(image), code


def write(path: str | pathlib.Path, array: np.ndarray, grid: Any, code: str) -> None:
    """Writes a volume in the orientation of the file that it came from.

    Args:
        path: of the file; its ending names the format.
        array: int16 HU [z, y, x] in LPS.
        grid: Grid of the array, as `lps` returns it.
        code: orientation of the file, as `lps` returns it.

    Raises:
        InputError: the file cannot be written.
    """
    image = grid.place(sitk.GetImageFromArray(array))
    try:
        with archive.on_disk(path) as file:
            plain = file.with_name(_plain_name(file))
            sitk.WriteImage(sitk.DICOMOrient(image, code), str(plain), useCompression=True)
            plain.rename(file)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f'{path}: cannot be written ({reason})') from None


def _plain_name(path):
    """The name under which a file is written before it is renamed, mostly its own.

    A header with a data file beside it names that after itself, and libraries take '%' there for a
    pattern: they write one file a slice, crash, or read what they wrote wrongly. The data file
    keeps the plain name.
    """
    if path.suffix.lower() not in WITH_DATA_FILE or '%' not in path.name:
        return path.name
    digest = hashlib.sha256(path.name.encode()).hexdigest()[:8]  # 'a%' and 'a_' may both be there
    return f'{path.stem.replace("%", "_")}_{digest}{path.suffix}'
