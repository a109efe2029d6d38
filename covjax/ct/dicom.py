"""CT in DICOM: a series of slices, or one file with many frames, read by pydicom.

HU are stored x slope + intercept, slice by slice; the photometric interpretation is about display
and does not matter. Compressed pixels are decoded by GDCM. Slices that are tilted against the way
that they are stacked are sheared onto a straight grid.
"""

import contextlib
import hashlib
import math
import pathlib
import warnings
import zlib
from collections import Counter
from typing import NamedTuple

import numpy as np
import pydicom
from scipy import ndimage

from covjax import InputError, counted
from covjax.ct import hounsfield
from covjax.ct.grid import MOST_VOXELS, Grid

CT_CLASSES = {pydicom.uid.CTImageStorage, pydicom.uid.EnhancedCTImageStorage}
SECONDARY_CAPTURE = '1.2.840.10008.5.1.4.1.1.7'  # how the classes of pictures of a screen begin
MAGIC = b'DICM'  # at byte 128
# How files begin that lack the 128 bytes and the magic: with group 2 or 8, in either byte order.
GROUPS = (b'\x02\x00', b'\x08\x00', b'\x00\x08')
# How far slices may lie from where evenly spaced ones would, as a share of their distance and in
# mm. Positions are often rounded to 0.1 mm.
UNEVEN, UNEVEN_MM = 0.1, 0.1
ROUNDED_MM = 0.08  # how far positions rounded to 0.1 mm may be off
DRIFT = 0.25  # pixels that all slices together may drift sideways before they are sheared
STEEPEST = 45.0  # degrees
SAME = 1e-3  # how much orientation and pixel spacing may differ between slices
AIR = -1024  # HU beside a sheared slice
MOST_PIXELS = 1 << 24  # of a slice
MOST_BYTES = 1 << 28  # of a deflated file, unpacked
CHUNK = 1 << 20  # bytes that are unpacked at a time


class Plane(NamedTuple):
    """One slice: where it is, and where its pixels are."""

    path: pathlib.Path
    frame: int | None  # None in a file with one
    shape: tuple[int, int]  # rows, columns
    position: tuple[float, ...] | None  # mm, centre of the first pixel
    orientation: tuple[float, ...]  # cosines of a row, then of a column
    spacing: tuple[float, float]  # mm between rows, between columns
    thickness: float | None  # mm
    slope: float
    intercept: float
    rescaled: bool  # whether the file says so
    kernel: str  # ConvolutionKernel of the reconstruction, '' where it is not said


class Stack(NamedTuple):
    """The Planes of a series in order along their normal, on an even grid."""

    path: pathlib.Path  # of the folder or file
    grid: Grid  # after shearing
    planes: tuple[Plane, ...]
    drift: tuple[float, float]  # pixels (x, y) from a slice to the next, sideways; 0 where straight
    remarks: tuple[str, ...]  # lines on what was left out or changed
    kernel: str  # the convolution kernel of the reconstruction, '' where it is not said

    packed = True  # read whole in any case


def is_dicom(path):
    """Whether a file is DICOM, by its content; names of such files often have no ending."""
    try:
        with open(path, 'rb') as file:
            head = file.read(132)
    except OSError:
        return False
    if head[128:] == MAGIC:
        return True
    if head[:2] not in GROUPS:
        return False
    with contextlib.suppress(Exception):  # whatever pydicom makes of bytes of any kind
        return 'SOPClassUID' in _header(path)
    return False


def _header(path):
    """The pydicom.Dataset of a file without its pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        _check_deflated(path)
        return pydicom.dcmread(path, stop_before_pixels=True, force=True)


def _check_deflated(path):
    """Refuses a deflated file that becomes too large; pydicom unpacks all of it at once."""
    try:
        meta = pydicom.filereader.read_file_meta_info(path)
    except pydicom.errors.InvalidDicomError:  # as without a preamble
        return
    if meta.get('TransferSyntaxUID') != pydicom.uid.DeflatedExplicitVRLittleEndian:
        return
    packed, size = pathlib.Path(path).read_bytes(), 0
    packed = packed[144 + int(meta.FileMetaInformationGroupLength) :]  # 144: where meta data begin
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    while chunk := stream.decompress(packed, CHUNK):
        size, packed = size + len(chunk), stream.unconsumed_tail
        if size > MOST_BYTES:
            raise InputError(f'{path}: unpacks to more than {MOST_BYTES >> 20} MiB; leave it out')


def series_of(path):
    """The SeriesInstanceUID of a DICOM file, '' where it has none."""
    return str(_header(path).get('SeriesInstanceUID', ''))


def has_ct(files):
    """Whether one of some DICOM files has CT slices; damaged ones count as such."""
    for file in files:
        try:
            if _is_ct(_header(file)) or _says_ct(_header(file)) and 'Rows' not in _header(file):
                return True
        except Exception:  # whatever pydicom raises; `open_series` tells it
            return True
    return False


def open_series(path, files):
    """Reads the headers of files and puts their slices into order. No pixel is read.

    Args:
        path: of the folder or file that was given, for messages.
        files: DICOM files; those that are no CT images are left out with a remark.

    Returns:
        Stack.

    Raises:
        InputError: they are not the slices of one CT volume, all there and evenly spaced.
    """
    headers, remarks = {}, []
    for file in files:
        try:
            headers[file] = _header(file)
        except InputError:
            raise
        except Exception as error:  # pydicom raises whatever its parsing of damaged bytes raises
            raise InputError(
                f'{file}: is damaged DICOM ({type(error).__name__}); copy it again'
            ) from None
        if 'Rows' not in headers[file] and _says_ct(headers[file]):
            raise InputError(f'{file}: is CT whose header ends early; copy it again')
    chosen = {file: header for file, header in headers.items() if _is_ct(header)}
    if others := [file.name for file in headers if file not in chosen]:
        remarks.append(
            named(others, 'DICOM file that is no CT slice', 'DICOM files that are no CT slices')
        )
    _check_one_series(path, headers, chosen)
    planes = [plane for file, header in chosen.items() for plane in _planes(file, header)]
    planes, copies = _without_copies(planes)
    if copies:
        remarks.append(named(copies, 'copy of a slice', 'copies of slices'))
    return _stack(path, planes, remarks)


def named(names, what, several=''):
    """A line that counts what was left out and names the first five, `what` as in `counted`."""
    shown = ', '.join(sorted(names)[:5]) + (', ...' if len(names) > 5 else '')
    return f'left out {counted(len(names), what, several)}: {shown}'


def _is_ct(header):
    """Whether a header is that of CT slices: no localizer, no report, no picture of a screen."""
    if header.get('Modality') != 'CT' or 'Rows' not in header:
        return False
    is_capture = str(header.get('SOPClassUID', '')).startswith(SECONDARY_CAPTURE)
    is_picture = is_capture or header.get('SamplesPerPixel', 1) != 1
    is_placed = 'ImagePositionPatient' in header
    return 'LOCALIZER' not in (header.get('ImageType') or ()) and (is_placed or not is_picture)


def _says_ct(header):
    """Whether a header, which may end early, is one of CT images."""
    stated = (header.get('SOPClassUID'), header.file_meta.get('MediaStorageSOPClassUID'))
    if kinds := [kind for kind in stated if kind]:  # raw data and reports of CT are other classes
        return not CT_CLASSES.isdisjoint(kinds)
    return header.get('Modality') == 'CT'


def _check_one_series(path, headers, chosen):
    if not chosen:
        found = sorted({str(header.get('Modality', 'unknown')) for header in headers.values()})
        raise InputError(
            f'{path}: holds no CT slices (modality {", ".join(found)}); give a CT series'
        )
    series = Counter(str(header.get('SeriesInstanceUID', '')) for header in chosen.values())
    if len(series) > 1:
        listed = '; '.join(f'{counted(n, "slice")} of {name}' for name, n in sorted(series.items()))
        raise InputError(
            f'{path}: holds {len(series)} DICOM series ({listed}); give a folder with one of them'
        )
    # Programs that make files anonymous may give the series of all patients one number.
    for key, what in (('PatientID', 'patients'), ('StudyInstanceUID', 'studies')):
        found = sorted({_text(header, key) for header in chosen.values()} - {''})
        if len(found) > 1:
            raise InputError(
                f'{path}: has slices of {len(found)} {what} under one series number ({key} '
                f'{", ".join(found[:3])}); give each a folder of its own'
            )


def _text(header, key):
    """A value of a header as text, '' where there is none or it cannot be read."""
    with contextlib.suppress(Exception):  # whatever pydicom makes of a damaged value
        return str(header.get(key) or '')
    return ''


def _planes(path, header):
    """The Planes of a file, one a frame."""
    try:
        frames = int(header.get('NumberOfFrames') or 1)
        if 'PerFrameFunctionalGroupsSequence' not in header:
            if frames > 1:
                raise InputError(f'{path}: has {frames} frames that do not say where they are')
            return [_plane(path, header, None, [header])]
        shared = list(header.get('SharedFunctionalGroupsSequence') or ())
        groups = header.PerFrameFunctionalGroupsSequence
        if len(groups) != frames:
            raise InputError(f'{path}: has {frames} frames and describes {len(groups)}')
        return [
            _plane(path, header, i, [header, *_contents(group), *_contents(*shared)])
            for i, group in enumerate(groups)
        ]
    except InputError as error:
        raise InputError(f'{error}; copy it again') from None
    except Exception as error:  # pydicom raises whatever a value of the wrong kind raises
        raise InputError(
            f'{path}: has a header that makes no sense ({type(error).__name__}: {error}); '
            'copy it again'
        ) from None


def _contents(*groups):
    """The datasets inside the sequences of functional groups."""
    return [
        item
        for group in groups
        for element in group
        if element.VR == 'SQ'
        for item in element.value
    ]


def _plane(path, header, frame, places):
    """The Plane of a frame, whose facts are in one of the datasets `places`."""

    def numbers(key, count):
        values = [place[key].value for place in places if place.get(key) is not None]
        if not values or values[0] is None:
            return None
        listed = tuple(map(float, values[0] if count > 1 else [values[0]]))
        if len(listed) != count or not all(map(math.isfinite, listed)):
            raise InputError(f'{path}: {key} {values[0]} is not {count} numbers')
        return listed

    orientation, spacing = numbers('ImageOrientationPatient', 6), numbers('PixelSpacing', 2)
    for key, value in (('ImageOrientationPatient', orientation), ('PixelSpacing', spacing)):
        if value is None:
            raise InputError(f'{path}: {key} is missing, so this slice has no position')
    one = lambda key, default: (numbers(key, 1) or (default,))[0]
    if not one('RescaleSlope', 1.0):
        raise InputError(f'{path}: RescaleSlope is 0, so it has no values')
    if not min(spacing) > 0:
        raise InputError(f'{path}: PixelSpacing is {spacing[0]:g} x {spacing[1]:g} mm')
    _check_bits(path, header)
    if int(header.Rows) * int(header.Columns) > MOST_PIXELS:
        raise InputError(f'{path}: has {header.Rows} x {header.Columns} pixels, which no CT has')
    return Plane(
        path=path,
        frame=frame,
        shape=(int(header.Rows), int(header.Columns)),
        position=numbers('ImagePositionPatient', 3),
        orientation=orientation,
        spacing=spacing,
        thickness=one('SliceThickness', None),
        slope=one('RescaleSlope', 1.0),
        intercept=one('RescaleIntercept', 0.0),
        rescaled=numbers('RescaleIntercept', 1) is not None,
        kernel=_kernel(places),
    )


def _check_bits(path, header):
    """Refuses values that do not begin at the lowest bit, which would be read as larger ones."""
    high, stored = header.get('HighBit'), header.get('BitsStored')
    if high is not None and stored is not None and int(high) != int(stored) - 1:
        raise InputError(
            f'{path}: HighBit {high} does not go with BitsStored {stored}: its values are shifted'
        )


def _kernel(places):
    """The ConvolutionKernel that the first of some datasets names; several words in one.

    It is '' where there is none, and where it is damaged: no image depends on it.
    """
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # pydicom's, of values that are too long
        for place in places:
            if value := place.get('ConvolutionKernel'):
                words = [value] if isinstance(value, str) else [*value]
                return ' '.join(word for word in words if word.isprintable()).strip()
    return ''


def _without_copies(planes):
    """(Planes, each once; names of the files that held them again).

    A copy lies at the same position and has the same pixels. Identifiers do not tell: those who
    make files anonymous often give all slices the same.
    """
    count = Counter(plane.position for plane in planes)
    seen, kept, copies = set(), [], []
    for plane in planes:
        if plane.position is None or count[plane.position] == 1:
            kept.append(plane)
            continue
        pixels = _frame(_pixels(plane.path), plane)
        key = (
            plane.position,
            plane.slope,
            plane.intercept,
            hashlib.sha256(pixels.tobytes()).digest(),
        )
        if key in seen:
            copies.append(plane.path.name)
        else:
            kept.append(plane)
        seen.add(key)
    return kept, copies


def _frame(pixels, plane):
    """The stored pixels [rows, columns] of a Plane, from those of its file."""
    if pixels.shape[-2:] != plane.shape:
        raise InputError(f'{plane.path}: its pixels do not match its header; copy it again')
    return pixels.reshape(-1, *plane.shape)[plane.frame or 0]


# ---- geometry


def _stack(path, planes, remarks):
    """The Stack of Planes in any order."""
    _check_alike(path, planes)
    row, column = np.reshape(planes[0].orientation, (2, 3))
    normal = np.cross(row, column)
    planes = sorted(planes, key=lambda plane: np.dot(plane.position, normal))
    first, step = _first_and_step(path, planes, normal)
    dy, dx = planes[0].spacing
    sideways = step - np.dot(step, normal) * normal
    drift = np.array([np.dot(sideways, row) / dx, np.dot(sideways, column) / dy])
    if np.abs(drift).max() * (len(planes) - 1) <= DRIFT:
        drift = np.zeros(2)
    else:
        angle = math.degrees(math.acos(np.dot(step, normal) / np.linalg.norm(step)))
        if angle > STEEPEST:
            raise InputError(
                f'{path}: slices are tilted by {angle:.1f} degrees; give another series'
            )
        remarks = [*remarks, f'slices are tilted by {angle:.1f} degrees; sheared straight']
    (left, top), (right, bottom) = _margins(drift, len(planes))
    height, width = planes[0].shape
    grid = Grid(
        size=(left + width + right, top + height + bottom, len(planes)),
        spacing=(dx, dy, float(np.dot(step, normal))),
        origin=tuple(map(float, first - left * dx * row - top * dy * column)),
        direction=tuple(map(float, np.stack([row, column, normal], 1).ravel())),
    )
    grid.check(path)
    kernels = dict.fromkeys(plane.kernel for plane in planes if plane.kernel)
    return Stack(path, grid, tuple(planes), tuple(drift), tuple(remarks), ' / '.join(kernels))


def _check_alike(path, planes):
    """Refuses Planes that lack a position, or differ in what a volume has once."""
    if without := [plane.path.name for plane in planes if plane.position is None]:
        raise InputError(
            f'{path}: ImagePositionPatient is missing in {counted(len(without), "slice")} '
            f'(first {min(without)}), so their order is not known; export the series again'
        )
    if bare := [plane for plane in planes if not plane.rescaled]:
        if len(bare) < len(planes):
            raise InputError(
                f'{path}: RescaleIntercept is missing in {counted(len(bare), "slice")} (first '
                f'{min(plane.path.name for plane in bare)}) and given in others, so these are not '
                'in HU; export the series again'
            )
    for name in ('shape', 'orientation', 'spacing'):
        values = np.array([getattr(plane, name) for plane in planes], float)
        if np.abs(values - values[0]).max() > SAME:
            raise InputError(f'{path}: slices differ in {name}; give one series, all of one kind')


def _first_and_step(path, planes, normal):
    """The position of the first of Planes in order and the step to the next, (x, y, z) in mm."""
    positions = np.array([plane.position for plane in planes])
    if len(planes) > 1:
        return _line(path, positions, normal)
    if not planes[0].thickness:
        raise InputError(
            f'{planes[0].path}: is one slice without SliceThickness; give the whole series'
        )
    return positions[0], normal * planes[0].thickness


def _line(path, positions, normal):
    """(first position, step) of the line through positions that are in order along a normal."""
    heights = positions @ normal
    steps = np.diff(heights)
    typical = np.median(steps)
    if steps.max() < SAME:
        raise InputError(
            f'{path}: all {len(positions)} slices are at one position, so this is not a volume; '
            'give a series that moves through the body'
        )
    index = np.arange(len(positions)) - (len(positions) - 1) / 2
    step = index @ positions / (index @ index)
    first = positions.mean(0) - (len(positions) - 1) / 2 * step
    off = np.abs(positions - first - np.arange(len(positions))[:, None] * step).max()
    # Positions are often rounded to 0.1 mm; one slice that is missing moves others by a third of a
    # step or more.
    rounded = min(ROUNDED_MM, abs(typical) / 4)
    if off > min(max(UNEVEN * abs(typical), rounded), UNEVEN_MM):
        raise InputError(
            f'{path}: slices are {steps.min():.3g} to {steps.max():.3g} mm apart and up to '
            f'{off:.3g} mm off their line, so some are missing, double or moved sideways; '
            'complete the series'
        )
    return first, step


def _margins(drift, count):
    """Pixels (x, y) that shearing adds before the first and after the last column and row."""
    ends = np.array(drift) * (count - 1)
    before = np.ceil(np.maximum(-ends, 0)).astype(int)
    after = np.ceil(np.maximum(ends, 0)).astype(int)
    return tuple(map(int, before)), tuple(map(int, after))


# ---- pixels


def read(stack, slope=1.0, intercept=0.0):
    """Reads all voxels of a Stack in HU: int16 [z, y, x].

    Args:
        stack: Stack.
        slope, intercept: of config.hu, applied to what the headers call HU.

    Raises:
        InputError: a slice is damaged.
        ValueError: a value is not finite.
    """
    hu = np.empty(stack.grid.size[::-1], np.int16)
    (left, top), _ = _margins(stack.drift, len(stack.planes))
    height, width = stack.planes[0].shape
    sheared = any(stack.drift)
    held = None, None  # the file read last and its pixels, for files with many frames
    for z, plane in enumerate(stack.planes):
        if plane.path != held[0]:
            held = plane.path, _pixels(plane.path)
        scaling = slope * plane.slope, slope * plane.intercept + intercept
        inside = hounsfield.to_int16(_frame(held[1], plane), *scaling)
        if not sheared:
            hu[z] = inside
            continue
        placed = np.full(hu.shape[1:], AIR, np.float32)
        placed[top : top + height, left : left + width] = inside
        x, y = np.array(stack.drift) * z
        hu[z] = np.rint(ndimage.shift(placed, (y, x), order=1, cval=AIR))
    return hu


def _pixels(path):
    """The stored pixels of a file: [rows, columns], or [frames, rows, columns]."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            whole = pydicom.dcmread(path, force=True)
            count = int(whole.Rows) * int(whole.Columns) * int(whole.get('NumberOfFrames') or 1)
            if count > MOST_VOXELS or int(whole.get('SamplesPerPixel') or 1) != 1:
                raise ValueError('it is no grey image of a size that CT has')
            if 'TransferSyntaxUID' not in whole.file_meta:  # as in files without a preamble
                whole.file_meta.TransferSyntaxUID = _encoding(whole)
            if 'ModalityLUTSequence' in whole:
                return pydicom.pixels.apply_modality_lut(whole.pixel_array, whole)
            return whole.pixel_array
    except Exception as error:  # decoders raise whatever they like
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error)
        if isinstance(error, AttributeError):  # of pydicom, which says it in terms of Python
            reason = f'{error.name} is missing'
        raise InputError(f'{path}: its pixels cannot be read ({reason}); copy it again') from None


def _encoding(whole):
    """The transfer syntax in which pydicom has found a dataset that states none."""
    implicit, little = whole.original_encoding
    if implicit:
        return pydicom.uid.ImplicitVRLittleEndian
    return pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian
