"""CT volumes: MetaImage headers, Hounsfield units, windows, world <-> voxel, axial slices, nodule boxes.

SimpleITK and NumPy only, no JAX. Conventions:
  world     millimetres, patient axes (x to the left, y to the back, z to the head), as in annotations.csv of LUNA16
  voxel     continuous index (x, y, z) in the stored array, ITK's convention; NumPy arrays are [z, y, x]
  picture   an axial slice turned so that columns run to the patient's left and rows to the back, whatever way it is stored
  box       (ymin, xmin, ymax, xmax) in 0..1 of the picture, the order of TFDS BBox
"""
import contextlib
import csv
import hashlib
import math
import os
import pathlib
import tempfile
import zlib
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from covjax import InputError


class Window(NamedTuple):
    """The HU range that is spread over the 256 grey levels."""
    low: float
    high: float


WINDOWS = {'lung': Window(-1000., 400.), 'wide': Window(-1024., 1024.)}

ELEMENT_BYTES = {'MET_CHAR': 1, 'MET_UCHAR': 1, 'MET_SHORT': 2, 'MET_USHORT': 2, 'MET_INT': 4, 'MET_UINT': 4, 'MET_FLOAT': 4, 'MET_DOUBLE': 8}


class Nodule(NamedTuple):
    """One row of annotations.csv."""
    row: int                              # 0-based, the number the paper names its slices by
    series: str
    world: tuple[float, float, float]     # mm
    diameter: float                       # mm, in 3-D
    malignancy: int = -1                  # 1 malignant, 0 benign by the mean rating of the radiologists, -1 not known


class Volume(NamedTuple):
    """The header of a MetaImage volume whose data file is known to be complete."""
    path: pathlib.Path
    image: sitk.Image                     # one voxel with the volume's geometry: SimpleITK does the world <-> voxel algebra
    size: tuple[int, int, int]            # voxels, (x, y, z)

    @property
    def spacing(self):
        """Millimetres per voxel, (x, y, z)."""
        return self.image.GetSpacing()

    @property
    def flips(self):
        """Whether the stored x, y, z axes run against the world axes (some LUNA16 series are stored turned by 180 degrees)."""
        return tuple(self.image.GetDirection()[4 * axis] < 0 for axis in range(3))


def to_grey(hu, window=WINDOWS['lung']):
    """HU [...] of any dtype -> uint8 grey [...]: floor(256 (hu - low) / (high - low)), clipped first, so -3024 outside the field of view is black."""
    low, high = window
    share = (np.clip(np.asarray(hu, np.float32), low, high) - low) / (high - low)
    return np.minimum(256 * share, 255).astype(np.uint8)


def whole_range(hu):
    """The Window of one slice from its least to its greatest HU, as the paper's sample slices seem to be scaled. What lies outside the field of view
    (-2048, -3024) counts as -1024, or it would take most of the range.
    """
    low, high = max(float(hu.min()), -1024.), float(hu.max())
    return Window(low, max(high, low + 1))


def series_split(series):
    """The split of a series, from a stable hash of its id: 80 % train, 10 % validation, 10 % test.

    A function of the id alone, so a series never trains in one data set and tests in another.
    """
    tenth = int.from_bytes(hashlib.sha256(series.encode()).digest()[:8], 'big') % 10
    return {8: 'validation', 9: 'test'}.get(tenth, 'train')


def find_volumes(folder):
    """{series id: path of its .mhd} of all volumes in a folder and in its sub-folders (flat, or subset0..subset9)."""
    volumes = {}
    for path in sorted(pathlib.Path(folder).rglob('*.mhd')):
        if path.stem in volumes:
            raise InputError(f'{path}: series is also at {volumes[path.stem]}; keep one of the two')
        volumes[path.stem] = path
    return volumes


def read_text(path):
    """A table or list in UTF-8, with or without byte order mark."""
    try:
        return pathlib.Path(path).read_text(encoding='utf-8-sig')
    except UnicodeDecodeError:
        raise InputError(f'{path}: is not UTF-8 text; save it as UTF-8') from None


def read_annotations(path):
    """annotations.csv of LUNA16 (seriesuid, coordX, coordY, coordZ, diameter_mm) -> list of Nodule in file order."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f'{path}: no such annotations file; give its path as config.annotations')
    rows = csv.DictReader(read_text(path).splitlines())
    missing = {'seriesuid', 'coordX', 'coordY', 'coordZ', 'diameter_mm'} - set(rows.fieldnames or ())
    if missing:
        raise InputError(f'{path}: no column {", ".join(sorted(missing))}; expected the comma-separated header of LUNA16')
    return [_nodule(path, i, row) for i, row in enumerate(rows)]


def with_malignancy(nodules, path):
    """The nodules with the ratings of annotations_with_malignancy.csv (seriesuid, coordX, coordY, coordZ, mal_bool) of those within 1 mm of a row there."""
    rows = csv.DictReader(read_text(path).splitlines())
    missing = {'seriesuid', 'coordX', 'coordY', 'coordZ', 'mal_bool'} - set(rows.fieldnames or ())
    if missing:
        raise InputError(f'{path}: no column {", ".join(sorted(missing))}; remove the file, or take the one with these columns')
    rated = {}
    for i, row in enumerate(rows):
        if row['mal_bool'] not in ('True', 'False'):
            raise InputError(f'{path}: row {i}: mal_bool is {row["mal_bool"]}; expected True or False')
        nodule = _nodule(path, i, {'diameter_mm': 1, **row})
        rated.setdefault(nodule.series, []).append((np.array(nodule.world), int(row['mal_bool'] == 'True')))
    def rating(nodule):
        near = [(np.abs(world - nodule.world).max(), value) for world, value in rated.get(nodule.series, ())]
        return next((value for distance, value in sorted(near) if distance < 1), -1)
    return [nodule._replace(malignancy=rating(nodule)) for nodule in nodules]


def challenge_fold(path):
    """K of the folder subsetK that a volume lies in, the fold of the LUNA16 challenge; -1 elsewhere."""
    name = pathlib.Path(path).parent.name
    return int(name[6:]) if name.startswith('subset') and name[6:].isdigit() else -1


def _nodule(path, i, row):
    try:
        world = tuple(float(row[key]) for key in ('coordX', 'coordY', 'coordZ'))
        diameter = float(row['diameter_mm'])
    except (TypeError, ValueError):
        raise InputError(f'{path}: row {i}: coordinates or diameter are not numbers; repair or remove the row') from None
    if not (all(map(math.isfinite, world)) and math.isfinite(diameter) and diameter > 0):
        raise InputError(f'{path}: row {i}: coordinates and diameter must be finite and the diameter positive; repair or remove the row')
    return Nodule(i, row['seriesuid'], world, diameter)


@contextlib.contextmanager
def without_percent(folder):
    """A path to a folder that has no '%' in it: ITK's MetaImage code takes '%' for a printf pattern and reads or writes the wrong bytes."""
    if '%' not in str(folder):
        yield pathlib.Path(folder)
        return
    with tempfile.TemporaryDirectory() as shelter:
        link = pathlib.Path(shelter) / 'folder'
        link.symlink_to(pathlib.Path(folder).resolve(), target_is_directory=True)
        yield link


def open_volume(path):
    """Reads the header of a .mhd and checks that its data file is whole. No voxel is read."""
    path = pathlib.Path(path)
    fields = _mhd_fields(path)
    data = path.parent / fields['ElementDataFile']
    if not data.is_file():
        raise InputError(f'{path}: its data file {data.name} is missing; copy it next to the header')
    if fields.get('CompressedData', 'False') == 'True':
        expected = int(fields.get('CompressedDataSize', 0))
    else:
        expected = math.prod(map(int, fields['DimSize'].split())) * ELEMENT_BYTES[fields['ElementType']]
    if os.path.getsize(data) < expected:
        raise InputError(f'{data}: truncated, {os.path.getsize(data)} of {expected} bytes; copy it again')
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise InputError(f'{path}: not a MetaImage header that SimpleITK can read; copy it again') from None
    if reader.GetDimension() != 3:
        raise InputError(f'{path}: has {reader.GetDimension()} dimensions; expected a CT volume with 3')
    direction = reader.GetDirection()
    if any(abs(direction[i]) < 0.99 for i in (0, 4, 8)):
        raise InputError(f'{path}: slices are not axial (TransformMatrix {" ".join(map(str, direction))}); resample the volume to axial slices')
    if not all(math.isfinite(mm) and mm > 0 for mm in reader.GetSpacing()):
        raise InputError(f'{path}: ElementSpacing {reader.GetSpacing()} is not positive; copy the volume again')
    image = sitk.Image([1, 1, 1], sitk.sitkUInt8)
    image.SetOrigin(reader.GetOrigin())
    image.SetSpacing(reader.GetSpacing())
    image.SetDirection(direction)
    return Volume(path, image, reader.GetSize())


def _mhd_fields(path):
    try:
        lines = path.read_text(encoding='latin-1').splitlines()
    except FileNotFoundError:
        raise InputError(f'{path}: no such volume') from None
    fields = {key.strip(): value.strip() for key, _, value in (line.partition('=') for line in lines)}
    missing = {'DimSize', 'ElementType', 'ElementDataFile'} - set(fields)
    if missing:
        raise InputError(f'{path}: no {", ".join(sorted(missing))} in the header; copy it again')
    if fields['ElementType'] not in ELEMENT_BYTES:
        raise InputError(f'{path}: ElementType {fields["ElementType"]} is not a CT number type; expected MET_SHORT')
    if not all(number.isdigit() for number in fields['DimSize'].split()):
        raise InputError(f'{path}: DimSize {fields["DimSize"]} is not a list of numbers; copy it again')
    return fields


def world_to_voxel(volume, world):
    """World (x, y, z) in mm -> continuous voxel index (x, y, z), through offset, spacing and the full direction matrix."""
    return volume.image.TransformPhysicalPointToContinuousIndex([float(w) for w in world])


def read_slice(volume, z):
    """HU [H, W] float32 of stored slice z as a picture. From an uncompressed .raw only this slice is read."""
    check_compressed(volume.path)
    reader = sitk.ImageFileReader()
    reader.SetExtractIndex([0, 0, int(z)])
    reader.SetExtractSize([*volume.size[:2], 0])
    try:
        with without_percent(volume.path.parent) as folder:
            reader.SetFileName(str(folder / volume.path.name))
            hu = sitk.GetArrayFromImage(reader.Execute()).astype(np.float32)
    except RuntimeError:
        raise InputError(f'{volume.path}: slice {z} can not be read, its data are damaged; copy the volume again') from None
    flip_x, flip_y, _ = volume.flips
    return hu[::-1 if flip_y else 1, ::-1 if flip_x else 1]


def check_compressed(path):
    """Compares the checksum that a .zraw ends with; SimpleITK does not, and reads noise from a damaged file."""
    fields = _mhd_fields(path)
    if fields.get('CompressedData', 'False') != 'True':
        return
    stream, size = zlib.decompressobj(), 0
    try:
        with (path.parent / fields['ElementDataFile']).open('rb') as file:
            while chunk := file.read(1 << 20):
                size += len(stream.decompress(chunk))
    except zlib.error:
        size = -1
    if size != math.prod(map(int, fields['DimSize'].split())) * ELEMENT_BYTES[fields['ElementType']] or not stream.eof:
        raise InputError(f'{path.parent / fields["ElementDataFile"]}: the compressed data are damaged; copy the volume again')


def nodule_slice(volume, nodule):
    """The index of the axial slice through a nodule's centre, nearest one; an error when the nodule lies outside the volume."""
    voxel = world_to_voxel(volume, nodule.world)
    if not all(-0.5 <= v < n - 0.5 for v, n in zip(voxel, volume.size)):
        raise InputError(f'{volume.path}: annotation row {nodule.row} lies outside the volume at voxel {tuple(round(v, 1) for v in voxel)}; '
                         'the annotations belong to another volume')
    return int(round(voxel[2]))


def chord(volume, nodule, z):
    """Diameter in mm of the disc in which slice z cuts the sphere of a nodule; 0 when it misses it."""
    distance = (world_to_voxel(volume, nodule.world)[2] - z) * volume.spacing[2]
    return 2 * math.sqrt(max((nodule.diameter / 2) ** 2 - distance ** 2, 0.))


def nodule_box(volume, nodule, z):
    """The square around that disc, as a box of the picture of slice z, clipped to it; None when the slice misses the nodule."""
    side = chord(volume, nodule, z)
    if not side:
        return None
    edges = []
    for axis in (1, 0):                                     # y, then x
        n = volume.size[axis]
        centre = world_to_voxel(volume, nodule.world)[axis] + 0.5            # voxel i covers [i, i + 1) of the picture
        centre = n - centre if volume.flips[axis] else centre
        half = side / 2 / volume.spacing[axis]
        edges.append(((centre - half) / n, (centre + half) / n))
    (ymin, ymax), (xmin, xmax) = edges
    box = tuple(min(max(v, 0.), 1.) for v in (ymin, xmin, ymax, xmax))
    return box if box[2] > box[0] and box[3] > box[1] else None
