"""Every format that CT comes in, written by other libraries and read back in HU on its grid.

What is right is said by SimpleITK, nibabel, pydicom and NumPy, never by covjax.
"""

import gzip
import io
import os
import pathlib
import struct
import zlib

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from scipy import ndimage

from covjax import InputError
from covjax.ct import contents, dicom, hounsfield, volume
from covjax.phantom import chest

pytestmark = pytest.mark.fast

SPACING, ORIGIN = (0.7, 0.8, 2.5), (-10.0, 20.0, -30.0)


def phantom():
    """HU int16 [z, y, x] with lung, tissue, bone, and -3024 outside the field of view."""
    hu = np.random.default_rng(0).normal(-700, 200, (5, 14, 12)).round().astype(np.int16)
    hu[:, :2], hu[:, 9:11, 3:9], hu[2, 5:8, 5:8], hu[3, 4] = -3024, 40, 60, 1200
    return hu


def image_of(hu, code='LPS'):
    """The SimpleITK image of HU in LPS, stored in the orientation of a code."""
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    return sitk.DICOMOrient(image, code)


def read(path, hu=''):
    """(int16 HU in LPS, their Grid) of a file or of a folder with a series."""
    opened = series_in(path, hu) if path.is_dir() else volume.open_volume(path, hu)
    return volume.lps(opened)[:2]


def series_in(folder, hu=''):
    """The Volume of the series in a folder."""
    found = contents.look(folder, folder / 'run')
    contents.one_kind(found)
    return contents.open_series(found, hu)


@pytest.mark.parametrize(
    'path, name',
    [
        *(('.', 'series'), ('..', 'patient'), ('../other', 'other'), ('./', 'series')),
        *(('scan.nii.gz', 'scan'), ('../a/scan.MHD', 'scan'), ('x.zip/sub/1.2.3.mhd', '1.2.3')),
    ],
)
def test_the_name_of_a_volume_is_that_of_its_file_however_that_is_written(
    tmp_path, monkeypatch, path, name
):
    (tmp_path / 'patient' / 'series').mkdir(parents=True)
    monkeypatch.chdir(tmp_path / 'patient' / 'series')
    assert volume.Volume(pathlib.Path(path), None, None).name == name


def assert_is(path, hu, hu_key=''):
    """The file has these HU, on the grid of `image_of`."""
    actual, grid = read(path, hu_key)
    np.testing.assert_array_equal(actual, hu)
    np.testing.assert_allclose(grid.spacing, SPACING, atol=1e-5)
    np.testing.assert_allclose(grid.origin, ORIGIN, atol=1e-4)
    np.testing.assert_allclose(grid.direction, np.eye(3).ravel(), atol=1e-6)


def assert_refused(path, *words):
    """Reading fails with one line that names the file and has all words."""
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert '\n' not in message
    assert all(word in message for word in (path.name, *words)), message


# ---- MetaImage, NIfTI, NRRD


ENDINGS = ['.mhd', '.mha', '.nii', '.nii.gz', '.nrrd', '.nhdr']


@pytest.mark.parametrize('name', ['a', '100%_dose', 'covid%20scan', 'patient%d', 'ü 1.2.3'])
@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('ending', ENDINGS)
def test_files_of_every_format_and_name(tmp_path, ending, packed, name):
    sitk.WriteImage(image_of(phantom()), str(tmp_path / f'a{ending}'), useCompression=packed)
    header, file = tmp_path / f'a{ending}', tmp_path / f'{name}{ending}'
    if ending == '.mhd':  # its data file is named after it
        data = next(path for path in tmp_path.iterdir() if path.suffix in ('.raw', '.zraw'))
        data.rename(tmp_path / f'{name}{data.suffix}')
        text = header.read_text(encoding='utf-8').replace(data.name, f'{name}{data.suffix}')
        header.write_text(text, encoding='latin-1' if name.isascii() else 'utf-8')
    header.rename(file)
    assert_is(file, phantom())


@pytest.mark.parametrize('name', ['a', '100%_dose', 'covid%20scan', 'patient%d', '%s%n ü'])
@pytest.mark.parametrize('ending', ENDINGS)
def test_what_is_written_under_any_name_is_what_is_read(tmp_path, ending, name):
    """By this project and by SimpleITK; a second volume of a like name stays what it is."""
    first, second = tmp_path / f'{name}{ending}', tmp_path / f'{name.replace("%", "_")}_{ending}'
    grid, other = read(write_series(tmp_path / 'in', phantom()))[1], phantom()[:, ::-1]
    for path, array in ((first, phantom()), (second, other)):
        volume.write(path, np.ascontiguousarray(array), grid, 'LPS')
    for path, array in ((first, phantom()), (second, other)):
        np.testing.assert_array_equal(read(path)[0], array)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), array)


@pytest.mark.parametrize('ending', ENDINGS)
@pytest.mark.parametrize('code', ['RAI', 'LPI', 'PIR', 'SAL', 'RPS'])
def test_orientations(tmp_path, code, ending):
    """Stored any way, axial, sagittal or coronal; slices of the result are axial."""
    file = tmp_path / f'a{ending}'
    sitk.WriteImage(image_of(phantom(), code), str(file))
    assert_is(file, phantom())


@pytest.mark.parametrize('ending', ENDINGS)
def test_endings_in_capitals(tmp_path, ending):
    sitk.WriteImage(image_of(phantom()), str(tmp_path / f'a{ending}'))
    loud = tmp_path / f'A{ending.upper()}'
    (tmp_path / f'a{ending}').rename(loud)
    assert_is(loud, phantom())


@pytest.mark.parametrize('kind', [np.uint16, np.int32, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize('ending', ENDINGS)
def test_number_types(tmp_path, ending, kind):
    """Unsigned ones need an offset, which config.hu gives."""
    offset = 4000 if np.issubdtype(kind, np.unsignedinteger) else 0
    stored = image_of((phantom().astype(np.int64) + offset).astype(kind))
    file = tmp_path / f'a{ending}'
    sitk.WriteImage(stored, str(file))
    assert_is(file, phantom(), f'1,-{offset}' if offset else '')


@pytest.mark.parametrize('ending', ENDINGS)
def test_values_beyond_int16_stop_at_its_ends(tmp_path, ending):
    hu = phantom().astype(np.int32)
    hu[0, 5, 5], hu[1, 5, 5] = 40000, -40000
    sitk.WriteImage(image_of(hu), str(tmp_path / f'a{ending}'))
    assert_is(tmp_path / f'a{ending}', np.clip(hu, -32768, 32767))


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('ending', ENDINGS)
def test_values_that_are_not_finite(tmp_path, ending, value):
    hu = phantom().astype(np.float32)
    hu[0, 0, 0] = value
    sitk.WriteImage(image_of(hu), str(tmp_path / f'a{ending}'))
    assert_refused(tmp_path / f'a{ending}', 'not finite')


def header_of(**changes):
    """The text of an .mhd of the phantom, with keys changed, added, or left out (None)."""
    fields = {
        'ObjectType': 'Image',
        'NDims': '3',
        'BinaryData': 'True',
        'BinaryDataByteOrderMSB': 'False',
        'CompressedData': 'False',
        'TransformMatrix': '1 0 0 0 1 0 0 0 1',
        'Offset': '-10 20 -30',
        'ElementSpacing': '0.7 0.8 2.5',
        'DimSize': '12 14 5',
        'ElementType': 'MET_SHORT',
    } | changes
    fields['ElementDataFile'] = fields.pop('ElementDataFile', 'a.raw')
    return ''.join(f'{key} = {value}\n' for key, value in fields.items() if value is not None)


def write_metaimage(folder, data=None, **changes):
    """Writes a.mhd and a.raw -> the path of the first."""
    (folder / 'a.raw').write_bytes(phantom().tobytes() if data is None else data)
    (folder / 'a.mhd').write_text(header_of(**changes), encoding='utf-8')
    return folder / 'a.mhd'


BIG_ENDIAN = phantom().astype('>i2').tobytes()
PACKED = zlib.compress(phantom().tobytes())


@pytest.mark.parametrize(
    'data, changes',
    [
        (BIG_ENDIAN, {'BinaryDataByteOrderMSB': 'True'}),
        (BIG_ENDIAN, {'BinaryDataByteOrderMSB': None, 'ElementByteOrderMSB': 'True'}),
        (b'skip me' + phantom().tobytes(), {'HeaderSize': '7'}),
        (b'skip me' + phantom().tobytes(), {'HeaderSize': '-1'}),
        (PACKED, {'CompressedData': 'True'}),
        (PACKED, {'CompressedData': 'true'}),
        (PACKED, {'CompressedData': 'True', 'CompressedDataSize': str(len(PACKED))}),
        (None, {'Offset': None, 'Position': '-10 20 -30'}),
        (None, {'TransformMatrix': None}),
        (None, {'ElementSpacing': None, 'ElementSize': '0.7 0.8 2.5'}),
        (None, {'NDims': None, 'Comment': 'x = y = z'}),
    ],
)  # fmt: skip
def test_forms_of_a_metaimage_header(tmp_path, data, changes):
    assert_is(write_metaimage(tmp_path, data, **changes), phantom())


def test_a_metaimage_block_is_that_of_the_whole(tmp_path):
    for ending in ('.mhd', '.mha'):
        sitk.WriteImage(image_of(phantom()), str(tmp_path / f'a{ending}'))
        ct = volume.open_volume(tmp_path / f'a{ending}')
        assert not ct.packed
        block = volume.extract(ct, (3, 4, 1), (6, 5, 2))
        np.testing.assert_array_equal(block, phantom()[1:3, 4:9, 3:9])


HOSTILE = {
    'NDims': ['99', '-1', '0', '2', '4', '3.5', '³', ''],
    'DimSize': ['12 14 ²', '12 14', '12 14 -5', '0 14 5', '12 14 ' + '9' * 5000, '1 2 3 4', ''],
    'BinaryData': ['False'],
    'ElementType': ['MET_OTHER', 'MET_LONG_LONG', ''],
    'ElementNumberOfChannels': ['3'],
    'ElementSpacing': ['0 0.8 2.5', '-1 0.8 2.5', 'nan 1 1', '1 1', '1e9 1 1', 'a b c', None],
    'TransformMatrix': ['1 0 0 0 1 0 0 0 0', '1 1 0 0 1 0 0 0 1', '1 2', 'nan 0 0 0 1 0 0 0 1'],
    'Offset': ['1e999 0 0', 'x'],
    'HeaderSize': ['x', '99999999', '-7 1'],
    'ElementDataFile': ['LIST', 'slice%03d.raw 1 5 1', 'none.raw', '.', '/', ''],
}


@pytest.mark.parametrize('key, value', [(k, v) for k, values in HOSTILE.items() for v in values])
def test_metaimage_headers_that_make_no_sense(tmp_path, key, value):
    """Among them those that made SimpleITK abort, or allocate what is not there."""
    path = write_metaimage(tmp_path, **{key: value})
    with pytest.raises(InputError) as caught:
        read(path)
    assert '\n' not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize('value', ['x', '-1', '10000000', '1'])
def test_a_compressed_size_that_makes_no_sense(tmp_path, value):
    path = write_metaimage(tmp_path, PACKED, CompressedData='True', CompressedDataSize=value)
    with pytest.raises(InputError, match='again'):
        read(path)


@pytest.mark.parametrize('bits, shape', [(1, (4000, 4000, 100)), (16, (30000, 30000, 30000))])
def test_a_nifti_header_that_announces_too_much(tmp_path, bits, shape):
    header = nibabel.Nifti1Header()
    header.set_data_shape((2, 2, 2))
    content = bytearray(header.binaryblock + bytes(4 + 64))
    struct.pack_into('<8h', content, 40, 3, *shape, 1, 1, 1, 1)
    struct.pack_into('<2h', content, 70, {1: 1, 16: 4}[bits], bits)
    for name, opened in (('a.nii', open), ('a.nii.gz', gzip.open)):
        with opened(tmp_path / name, 'wb') as file:
            file.write(content)
        assert_refused(tmp_path / name)


def test_any_byte_of_a_nifti_header_may_be_wrong(tmp_path):
    """Each is read as something or refused; nothing else happens."""
    image = nibabel.Nifti1Image(phantom().T, np.diag([-0.7, -0.8, 2.5, 1]))
    sound = image.to_bytes()
    for at in range(0, 352, 3):
        for value in (0, 127, 255):
            content = bytearray(sound)
            content[at] = value
            (tmp_path / 'a.nii').write_bytes(content)
            try:
                read(tmp_path / 'a.nii')
            except InputError as error:
                assert '\n' not in str(error)


@pytest.mark.parametrize('ending', ['.nii', '.nii.gz'])
@pytest.mark.parametrize('missing', [1, 2, 100, 351, 352, 353, 1000])
def test_a_truncated_nifti(tmp_path, ending, missing):
    content = nibabel.Nifti1Image(phantom().T, np.diag([-0.7, -0.8, 2.5, 1])).to_bytes()[:-missing]
    (tmp_path / f'a{ending}').write_bytes(gzip.compress(content) if ending[-1] == 'z' else content)
    assert_refused(tmp_path / f'a{ending}', 'truncated')


def test_a_nifti_that_does_not_say_how_the_patient_lies(tmp_path):
    image = nibabel.Nifti1Image(phantom().T, None)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    image.to_filename(tmp_path / 'a.nii')
    assert 'does not say how the patient lies' in volume.open_volume(tmp_path / 'a.nii').remarks[0]


@pytest.mark.parametrize('unit, factor', [('mm', 1), ('meter', 1e-3), ('micron', 1e3)])
def test_units_of_length_of_a_nifti(tmp_path, unit, factor):
    """SimpleITK reads the same spacing."""
    image = nibabel.Nifti1Image(phantom().T, np.diag([-0.7, -0.8, 2.5, 1 / factor]) * factor)
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / 'a.nii')
    spacing = volume.open_volume(tmp_path / 'a.nii').spacing
    np.testing.assert_allclose(spacing, (0.7, 0.8, 2.5), rtol=1e-5)
    theirs = sitk.ReadImage(str(tmp_path / 'a.nii')).GetSpacing()
    np.testing.assert_allclose(spacing, theirs, rtol=1e-5)


@pytest.mark.parametrize('pixdim', [(0.7, 0.8, 5), (7, 8, 25), (0.7, 0.8, 0)])
def test_a_nifti_whose_two_sizes_of_a_voxel_differ(tmp_path, pixdim):
    image = nibabel.Nifti1Image(phantom().T, np.diag([-0.7, -0.8, 2.5, 1]))
    content = bytearray(image.to_bytes())
    struct.pack_into('<3f', content, 80, *pixdim)
    struct.pack_into('<h', content, 252, 0)  # qform_code
    (tmp_path / 'a.nii').write_bytes(content)
    assert_refused(tmp_path / 'a.nii', 'in its sform that voxels are 0.7 x 0.8 x 2.5', 'pixdim')
    struct.pack_into('<3f', content, 80, 1, 1, 1)  # as programs leave it that never fill it in
    (tmp_path / 'a.nii').write_bytes(content)
    np.testing.assert_allclose(volume.open_volume(tmp_path / 'a.nii').spacing, (0.7, 0.8, 2.5))


def test_units_that_are_no_millimetres(tmp_path):
    sitk.WriteImage(image_of(phantom()), str(tmp_path / 'a.nrrd'))
    content = (tmp_path / 'a.nrrd').read_bytes()
    for units, words in ((b'"mm" "mm" "mm"', ''), (b'"cm" "cm" "cm"', 'are not mm')):
        line = b'type: short\nspace units: ' + units + b'\n'
        (tmp_path / 'b.nrrd').write_bytes(content.replace(b'type: short\n', line))
        if words:
            assert_refused(tmp_path / 'b.nrrd', words)
        else:
            assert_is(tmp_path / 'b.nrrd', phantom())
    assert_refused(write_metaimage(tmp_path, DistanceUnits='cm'), 'DistanceUnits cm are not mm')


@pytest.mark.parametrize('ending', ['.nii', '.nii.gz'])
@pytest.mark.parametrize('kind', [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize('slope, intercept', [(1, 0), (2, -1000), (0, -1000), (0.5, 3)])
def test_slopes_of_nifti(tmp_path, kind, ending, slope, intercept):
    """HU are what nibabel says; a slope of 0 means that there is none."""
    affine = np.diag([-0.7, -0.8, 2.5, 1.0])
    affine[:3, 3] = 10, -20, -30
    file = tmp_path / f'a{ending}'
    image = kind(phantom().T, affine)
    image.to_filename(file)
    unpacked = bytearray(
        gzip.decompress(file.read_bytes()) if ending[-1] == 'z' else file.read_bytes()
    )
    where, form = (112, '<2f') if kind is nibabel.Nifti1Image else (176, '<2d')
    struct.pack_into(form, unpacked, where, slope, intercept)
    file.write_bytes(gzip.compress(bytes(unpacked)) if ending[-1] == 'z' else bytes(unpacked))
    expected = np.rint(np.clip(nibabel.load(file).get_fdata().T, -32768, 32767)).astype(np.int16)
    assert_is(file, expected, '1,0')


@pytest.mark.parametrize('key', ['N', 'N:', 'kinds:', '#', 'content:', 'units:', 'key:='])
def test_long_lines_of_an_nrrd_header_do_not_matter(tmp_path, key):
    """They do not reach the native code that they would kill."""
    for packed in (False, True):
        sitk.WriteImage(image_of(phantom()), str(tmp_path / 'a.nrrd'), useCompression=packed)
        content = (tmp_path / 'a.nrrd').read_bytes()
        line = key.encode() + b'x' * 9000 + b'\n'
        (tmp_path / 'a.nrrd').write_bytes(
            content.replace(b'type: short\n', b'type: short\n' + line)
        )
        assert_is(tmp_path / 'a.nrrd', phantom())


@pytest.mark.parametrize(
    'old, new',
    [
        (b'space: ', b'space: ' + b'x' * 9000 + b'\nspacx: '),
        (b'dimension: 3', b'dimension: 30'),
        (b'sizes: 12 14 5', b'sizes: 12 14 50'),
        (b'sizes: 12 14 5', b'sizes: 12 14 99999999999999999999'),
        (b'sizes: 12 14 5', '12 14 ²'.encode()),
        (b'type: short', b'type: block'),
        (b'encoding: raw', b'encoding: hex'),
        (b'encoding: raw', b'encoding: raw\nbyte skip: -1'),
        (b'encoding: raw', b'encoding: raw\ndata file: x%03d.raw 1 5 1'),
        (b'space directions: ', b'nothing: '),
        (b'NRRD000', b'NRRX000'),
    ],
)
def test_nrrd_headers_that_make_no_sense(tmp_path, old, new):
    sitk.WriteImage(image_of(phantom()), str(tmp_path / 'a.nrrd'))
    content = (tmp_path / 'a.nrrd').read_bytes()
    assert old in content
    (tmp_path / 'a.nrrd').write_bytes(content.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        read(tmp_path / 'a.nrrd')
    assert '\n' not in str(caught.value)


LINES = st.tuples(
    st.sampled_from([*HOSTILE, 'CompressedData', 'CompressedDataSize', 'Position', 'x']),
    st.one_of(
        st.text(max_size=20),
        st.lists(st.one_of(st.integers(), st.floats()), max_size=9).map(
            lambda numbers: ' '.join(map(str, numbers))
        ),
    ),
)


@settings(max_examples=200, deadline=None)
@given(lines=st.lists(LINES, max_size=4))
def test_any_metaimage_header_is_read_or_refused(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp('any')
    (folder / 'a.raw').write_bytes(phantom().tobytes())
    text = header_of().replace('ElementDataFile = a.raw\n', '')
    text += ''.join(f'{key} = {value}\n' for key, value in lines) + 'ElementDataFile = a.raw\n'
    (folder / 'a.mhd').write_text(text, encoding='utf-8', errors='surrogatepass')
    try:
        read(folder / 'a.mhd')
    except InputError as error:
        assert '\n' not in str(error)


# ---- HU


SCALES = {  # what values look like that are no HU: (slope, intercept) that makes them from HU
    'grey levels 0..255': (255 / 1400, 255 / 1.4),
    'HU + 1024': (1, 1024),
    '0..1': (1 / 1400, 1 / 1.4),
}


@pytest.mark.parametrize('ending', ENDINGS)
@pytest.mark.parametrize('scale', SCALES)
def test_what_is_not_hu_is_refused_with_its_range(tmp_path, scale, ending):
    slope, intercept = SCALES[scale]
    hu = np.clip(phantom(), -1000, 400)
    stored = slope * hu + intercept
    whole = np.round(stored).astype(np.int16) if scale != '0..1' else stored.astype(np.float32)
    file = tmp_path / f'a{ending}'
    sitk.WriteImage(image_of(whole), str(file))
    assert_refused(file, 'is not in HU', scale, 'config.hu')
    actual, _ = read(file, f'{1 / slope},{-intercept / slope}')
    assert np.abs(actual - hu).max() <= (3 if '255' in scale else 0)


@pytest.mark.parametrize('slope, intercept', hounsfield.KNOWN)
def test_the_slope_and_intercept_that_are_named_make_hu(tmp_path, slope, intercept):
    drawn = chest.render(chest.draw_chest(np.random.default_rng(0)), 0.0, 128, 2.8)
    hu = np.repeat(np.round(drawn)[None], 3, axis=0)
    file = tmp_path / 'a.nii'
    stored = np.round((hu - intercept) / slope).astype(np.int16)
    sitk.WriteImage(image_of(stored), str(file))
    named = f'{slope:g},{intercept:g}'
    assert_refused(file, 'is not in HU', f'config.hu={named}')
    assert np.abs(read(file, named)[0] - hu).max() <= slope / 2 + 0.5


@pytest.mark.parametrize('least', [-600, -650, -560])
def test_values_that_were_cut_off_are_not_taken_for_shifted_ones(tmp_path, least):
    file = tmp_path / 'a.nii'
    sitk.WriteImage(image_of(np.clip(phantom(), least, 1000)), str(file))
    with pytest.raises(InputError, match='is not in HU: values are .*config.hu=1,0') as caught:
        read(file)
    assert 'looks like' not in str(caught.value)


def test_values_beyond_the_dtype_are_not_called_hu(tmp_path):
    """HU + 32768: config.hu=1,0 would keep them cut."""
    file, hu = tmp_path / 'a.nii', np.clip(phantom(), -1024, 1200)
    sitk.WriteImage(image_of((hu.astype(np.int32) + 32768).astype(np.uint16)), str(file))
    assert_refused(file, 'they go on, and were cut at 32767', 'config.hu=SLOPE,INTERCEPT')
    np.testing.assert_array_equal(read(file, '1,-32768')[0], hu)


@pytest.mark.parametrize('wrong', [known for known in hounsfield.KNOWN if known != (1, -1024)])
def test_config_hu_is_not_believed_blindly(tmp_path, wrong):
    """The values that it makes are compared with those of a chest, unless it says 1,0."""
    file = tmp_path / 'a.nii'
    sitk.WriteImage(image_of(np.clip(phantom(), -1024, 400) + 1024), str(file))
    named = f'{wrong[0]:g},{wrong[1]:g}'
    with pytest.raises(InputError, match=f'a.nii: is not in HU with config.hu={named}: values are'):
        read(file, named)
    assert read(file, '1,0')[0].max() == 1424


@pytest.mark.parametrize('padding', [-1024, -1000, -2000])
def test_one_value_alone_is_no_air(padding):
    """What fills the image outside of the field of view."""
    hu = phantom() + 1024
    hu[:, :2] = padding
    with pytest.raises(InputError, match='not in HU'):
        hounsfield.check(np.maximum(hu, padding), 'a.nii')


@pytest.mark.parametrize('padding', [-1024, -2000, -3024])
@pytest.mark.parametrize('zoom', [0.5, 0.6, 0.75, 0.9])
def test_resampling_makes_no_air(zoom, padding):
    """Between a body in HU + 1024 and what fills the outside lie values that air has in HU."""
    hu = chest.render(chest.draw_chest(np.random.default_rng(0)), 0.0, 256, 1.4)
    outside = hu < -1500
    resampled = ndimage.zoom(np.where(outside, padding, hu + 1024), zoom, order=1)
    with pytest.raises(InputError, match='config.hu=1,-1024'):
        hounsfield.check(np.round(resampled).astype(np.int16), 'a.nii')
    honest = ndimage.zoom(np.where(outside, padding, hu), zoom, order=1)
    hounsfield.check(np.round(honest).astype(np.int16), 'a.nii')


def test_an_intercept_applied_twice(tmp_path):
    """Tissue would be taken for air, but nothing for tissue."""
    folder = write_series(tmp_path / 'in', np.clip(phantom(), -1024, 400), RescaleIntercept=-2048)
    with pytest.raises(InputError, match='not in HU'):
        read(folder)


def test_padding_does_not_count_as_air():
    hu = phantom() + 1024
    hu[:, :2] = -2000
    with pytest.raises(InputError, match='config.hu=1,-1024'):
        hounsfield.check(hu, 'a.nii')
    hounsfield.check(phantom(), 'a.nii')


@pytest.mark.parametrize('text', ['x', '1', '1,2,3', '0,1', 'nan,0', '1,inf', ','])
def test_config_hu_that_makes_no_sense(text):
    with pytest.raises(InputError, match='config.hu='):
        hounsfield.parse(text)


# ---- DICOM


def slice_of(hu, z, count=5, **changes):
    """A pydicom dataset of a CT slice: stored values with a rescale to HU."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = f'1.2.3.4.{z + 1}'
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f'1.2.3.4.{z + 1}'
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = '1.2', '1.2.3', 'CT'
    ds.ImageType = ['ORIGINAL', 'PRIMARY', 'AXIAL']
    ds.InstanceNumber = z + 1
    ds.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + SPACING[2] * z]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [SPACING[1], SPACING[0]]
    ds.SliceThickness = SPACING[2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, 'MONOCHROME2'
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 1
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.Rows, ds.Columns = hu.shape
    ds.PixelData = (hu + 1024).astype('<i2').tobytes()
    for key, value in changes.items():
        if value is None:
            delattr(ds, key)
        else:
            setattr(ds, key, value)
    return ds


def save(ds, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


def write_series(folder, hu=None, name='IM{:05d}', spoil=lambda ds, z: None, **changes):
    """One file a slice; `spoil` may change each dataset."""
    hu = phantom() if hu is None else hu
    for z in range(len(hu)):
        ds = slice_of(hu[z], z, **changes)
        spoil(ds, z)
        save(ds, folder / name.format(z + 1))
    return folder


@pytest.mark.parametrize(
    'kernels, expected',
    [
        (['B30f'] * 5, 'B30f'),
        ([None] * 5, ''),
        ([None, 'B60f', 'B60f', 'B60f', 'B60f'], 'B60f'),
        (['B45f', 'B60f', '', 'B60f', 'B60f'], 'B45f / B60f'),
        ([['Br40d', '3']] * 5, 'Br40d 3'),
        (['a kernel of more than sixteen letters'] * 5, 'a kernel of more than sixteen letters'),
    ],
    ids=['one', 'none', 'not in the first', 'two', 'two words', 'long'],
)
@pytest.mark.filterwarnings('ignore:The value length')  # as they are written
def test_the_kernel_is_what_any_slice_names(tmp_path, kernels, expected, recwarn):
    def name_kernel(ds, z):
        if kernels[z] is not None:
            ds.ConvolutionKernel = kernels[z]

    folder = write_series(tmp_path / 'in', spoil=name_kernel)
    recwarn.clear()
    assert series_in(folder).kernel == expected and not recwarn.list
    assert_is(folder, phantom())


@pytest.mark.parametrize('vr, value', [(b'XX', b'\4\0B30f'), (b'FD', b'\6\0B30f  ')])
def test_a_damaged_kernel_is_none(tmp_path, vr, value):
    """No image depends on it."""
    folder = write_series(tmp_path / 'in', ConvolutionKernel='B30f')
    written = b'\x18\x00\x10\x12SH\x04\x00B30f'
    for path in folder.iterdir():
        content = path.read_bytes()
        assert content.count(written) == 1
        path.write_bytes(content.replace(written, written[:4] + vr + value))
    assert series_in(folder).kernel == ''
    assert_is(folder, phantom())


@pytest.mark.parametrize('name', ['{}.dcm', '{}.DCM', 'IM{:05d}', '{}.IMA', '1.2.840.{}', '{}.img'])
def test_dicom_is_known_by_its_content(tmp_path, name):
    assert_is(write_series(tmp_path / 'in', name=name), phantom())


@pytest.mark.parametrize('name', ['0.dcm', 'z.IMA', 'sub/z.dcm'])
def test_a_file_that_is_dicom_by_name_alone_is_refused(tmp_path, name):
    """At either end of a series nothing else would tell that a slice is missing."""
    folder = write_series(tmp_path / 'in')
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b'x')
    assert_refused(folder, 'is no DICOM file', 'copy it again')


@pytest.mark.parametrize('kept', [0.3, 0.5, 0.7, 0.9])
def test_a_truncated_slice_is_refused_in_one_line(tmp_path, kept):
    folder = write_series(tmp_path / 'in')
    path = sorted(folder.iterdir())[0]
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError) as caught:
        read(folder)
    message = str(caught.value)
    assert message.count('IM00001') == 1 and message.count(';') == 1, message


CAPTURES = {  # pictures of a screen that some systems put beside the slices, as Modality CT
    'secondary capture': {'SOPClassUID': '1.2.840.10008.5.1.4.1.1.7'},
    'multi-frame capture': {'SOPClassUID': '1.2.840.10008.5.1.4.1.1.7.2'},
    'colour': {'SamplesPerPixel': 3, 'PhotometricInterpretation': 'RGB'},
}


@pytest.mark.parametrize('kind', CAPTURES)
def test_pictures_of_a_screen_are_left_out_with_a_line(tmp_path, kind):
    folder = write_series(tmp_path / 'in')
    picture = slice_of(phantom()[0], 20, **CAPTURES[kind])
    del picture.ImagePositionPatient, picture.ImageOrientationPatient
    save(picture, folder / 'z.dcm')
    assert_is(folder, phantom())
    remarks = contents.open_series(contents.look(folder, tmp_path / 'run')).remarks
    assert '1 DICOM file that is no CT slice: z.dcm' in '; '.join(remarks)


@pytest.mark.parametrize('stored, named', [('a.nii.gz', 'a.nii'), ('a.nii', 'a.nii.gz')])
def test_a_nifti_file_whose_name_says_wrongly_whether_it_is_packed(tmp_path, stored, named):
    sitk.WriteImage(image_of(phantom()), str(tmp_path / stored))
    (tmp_path / stored).rename(tmp_path / named)
    assert_refused(tmp_path / named, f'{named}: is', 'packed with gzip', f'rename it to {stored}')


def test_dicom_without_preamble(tmp_path):
    (tmp_path / 'in').mkdir()
    for z, hu in enumerate(phantom()):
        bare = Dataset(slice_of(hu, z))
        pydicom.dcmwrite(tmp_path / 'in' / str(z), bare, implicit_vr=True, little_endian=True)
        assert (tmp_path / 'in' / str(z)).read_bytes()[128:132] != b'DICM'
    assert_is(tmp_path / 'in', phantom())


@pytest.mark.parametrize(
    'syntax',
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless],
)
def test_transfer_syntaxes(tmp_path, syntax):
    (tmp_path / 'in').mkdir()
    for z, hu in enumerate(phantom()):
        ds = slice_of(hu, z)
        if syntax == RLELossless:
            ds.compress(RLELossless)
        elif syntax == ExplicitVRBigEndian:
            ds.PixelData = (hu + 1024).astype('>i2').tobytes()
        ds.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(tmp_path / 'in' / f'{z}', ds, enforce_file_format=True)
    assert_is(tmp_path / 'in', phantom())


def test_jpeg_2000(tmp_path):
    """Packed by Pillow, without loss."""
    (tmp_path / 'in').mkdir()
    for z, hu in enumerate(phantom()):
        ds, packed = slice_of(hu, z, PixelRepresentation=0, RescaleIntercept=-4096), io.BytesIO()
        stored = (hu.astype(int) + 4096).astype(np.uint16)
        Image.fromarray(stored).save(packed, 'JPEG2000', irreversible=False, no_jp2=True)
        ds.PixelData = pydicom.encaps.encapsulate([packed.getvalue()])
        ds['PixelData'].VR = 'OB'
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
        save(ds, tmp_path / 'in' / str(z))
    assert_is(tmp_path / 'in', phantom())


def test_photometric_interpretation_is_about_display(tmp_path):
    folder = write_series(tmp_path / 'in', PhotometricInterpretation='MONOCHROME1')
    assert_is(folder, phantom())


def test_hu_are_decoded_slice_by_slice(tmp_path):
    """The first is unsigned, the others signed; intercepts and slopes differ."""
    hu = phantom()
    hu[4] = hu[4] // 2 * 2
    hu = np.maximum(hu, -1024)

    def other(ds, z):
        if z == 0:
            ds.PixelRepresentation = 0
            ds.PixelData = (hu[0].astype(int) + 1024).astype('<u2').tobytes()
        elif z == 3:
            ds.RescaleIntercept = 0
            ds.PixelData = hu[3].astype('<i2').tobytes()
        elif z == 4:
            ds.RescaleSlope, ds.RescaleIntercept = 2, -1024
            ds.PixelData = ((hu[4].astype(int) + 1024) // 2).astype('<i2').tobytes()

    assert_is(write_series(tmp_path / 'in', hu, spoil=other), hu)


def test_a_modality_table_gives_hu(tmp_path):
    """Of stored values 0..255, as pydicom reads it."""

    def with_table(ds, z):
        stored = np.random.default_rng(z).integers(0, 256, (14, 12))
        table = Dataset()
        table.LUTDescriptor, table.ModalityLUTType = [256, 0, 16], 'HU'
        table.LUTData = (np.arange(256) * 4).astype('<u2').tobytes()
        table['LUTData'].VR = 'OW'
        ds.ModalityLUTSequence = [table]
        ds.PixelRepresentation, ds.PixelData = 0, stored.astype('<u2').tobytes()
        del ds.RescaleSlope, ds.RescaleIntercept

    folder = write_series(tmp_path / 'in', spoil=with_table)
    expected = [np.random.default_rng(z).integers(0, 256, (14, 12)) * 4 for z in range(5)]
    actual, _ = read(folder, '1,-1000')
    np.testing.assert_array_equal(actual, np.array(expected) - 1000)


def ball():
    """(HU [z, y, x] of air with a ball of tissue on a fine grid, SimpleITK image of it)."""
    z, y, x = np.mgrid[:40, :48, :44]
    hu = np.where((x - 20) ** 2 + (y - 25) ** 2 + (z - 18) ** 2 < 49, 50, -900).astype(np.float32)
    image = sitk.GetImageFromArray(hu)
    image.SetOrigin((-22.0, -24.0, -20.0))
    return image


@pytest.mark.parametrize('degrees, drift', [(15, 0), (-20, 0), (0, 1.0), (0, -0.4)])
def test_tilted_and_drifting_series_are_straightened(tmp_path, degrees, drift):
    """Slices cut out of a ball by SimpleITK; every voxel of the result lies where it says."""
    true, n, step = ball(), 26, 1.25
    angle = np.radians(degrees)
    row, column = np.array([1, 0, 0]), np.array([0, np.cos(angle), np.sin(angle)])
    begin = np.array([-20.0, -22.0, -16.0])
    for z in range(n):
        position = begin + z * np.array([drift, 0, step])
        direction = np.stack([row, column, np.cross(row, column)], 1).ravel().tolist()
        plane = sitk.Resample(
            true, (40, 44, 1), sitk.Transform(), sitk.sitkLinear,
            position.tolist(), (1.0, 1.0, 1.0), direction, -900.0,
        )  # fmt: skip
        hu = sitk.GetArrayFromImage(plane)[0].round().astype(np.int16)
        ds = slice_of(hu, z, ImagePositionPatient=position.tolist(), PixelSpacing=[1, 1])
        ds.ImageOrientationPatient = [*row.tolist(), *column.tolist()]
        save(ds, tmp_path / 'in' / str(z))
    found = contents.look(tmp_path / 'in', tmp_path)
    ct = volume.load_volume(contents.open_series(found))
    assert 'sheared' in ct.remarks[-1]
    if degrees:
        assert f'{abs(degrees)}.0 degrees' in ct.remarks[-1]
    image = ct.header.grid.place(sitk.GetImageFromArray(ct.voxels))
    expected = sitk.GetArrayFromImage(
        sitk.Resample(true, image, sitk.Transform(), sitk.sitkLinear, -900.0)
    )
    inside = ct.voxels > dicom.AIR + 100
    assert inside.mean() > 0.5
    # Two linear interpolations; a millimetre off would be 950 HU along the edge of the ball.
    assert np.abs(ct.voxels - expected)[inside].mean() < 8
    centre = np.argwhere(ct.voxels > -400).mean(0)[::-1]
    world = image.TransformContinuousIndexToPhysicalPoint(centre.tolist())
    np.testing.assert_allclose(world, (-2.0, 1.0, -2.0), atol=0.3)


def at_one_place(ds, z):
    ds.ImagePositionPatient = [0, 0, 0]


def without_position(ds, z):
    del ds.ImagePositionPatient


def one_without_position(ds, z):
    if z == 2:
        del ds.ImagePositionPatient


def double(ds, z):
    if z == 3:
        ds.ImagePositionPatient = [*ORIGIN[:2], ORIGIN[2] + 2 * SPACING[2]]


def gap(ds, z):
    if z > 2:
        ds.ImagePositionPatient[2] += SPACING[2]


def steep(ds, z):
    ds.ImagePositionPatient[0] += 10 * z


def other_size(ds, z):
    if z == 1:
        ds.Rows, ds.Columns = ds.Columns, ds.Rows


def other_spacing(ds, z):
    if z == 1:
        ds.PixelSpacing = [0.5, 0.5]


def other_orientation(ds, z):
    if z == 1:
        ds.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def no_spacing(ds, z):
    del ds.PixelSpacing


def other_series(ds, z):
    ds.SeriesInstanceUID = f'1.2.{z % 2}'


def other_patient(ds, z):
    ds.PatientID = f'person {z % 2}'


def other_study(ds, z):
    ds.StudyInstanceUID = f'1.2.{z % 2}'


def colour(ds, z):
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, 'RGB', 0
    ds.PixelData = bytes(3) * 14 * 12 * 2


def not_ct(ds, z):
    ds.Modality = 'MR'


def cut(ds, z):
    if z == 1:
        ds.PixelData = ds.PixelData[:-40]


def flat(ds, z):
    ds.RescaleSlope = 0


def large(ds, z):
    ds.Rows = ds.Columns = 20000


def huge(ds, z):
    ds.Rows = ds.Columns = 65535


def no_rescale(ds, z):
    """As of one slice that another program has written: its HU would be 1024 too high."""
    if z == 2:
        del ds.RescaleSlope, ds.RescaleIntercept


def empty_rescale(ds, z):
    ds.RescaleIntercept = '' if z == 0 else -1024


def shifted_bits(ds, z):
    ds.BitsStored = 12


def no_size(ds, z):
    ds.PixelSpacing = [0, 0]


def wrong_number(ds, z):
    ds.add_new(0x00280030, 'LO', 'wide')


@pytest.mark.parametrize(
    'spoil, words',
    [
        (at_one_place, 'not a volume'),
        (without_position, 'ImagePositionPatient is missing in 5 slices'),
        (other_patient, '2 patients under one series number (PatientID person 0, person 1)'),
        (other_study, '2 studies under one series number'),
        (one_without_position, 'ImagePositionPatient is missing in 1 slice '),
        (double, '0 to 5 mm apart'),
        (gap, '2.5 to 5 mm apart'),
        (steep, 'tilted by 7'),
        (other_size, 'differ in shape'),
        (other_spacing, 'differ in spacing'),
        (other_orientation, 'differ in orientation'),
        (no_spacing, 'PixelSpacing is missing'),
        (other_series, 'holds 2 DICOM series (3 slices of 1.2.0; 2 slices of 1.2.1)'),
        (colour, 'cannot be read'),
        (not_ct, 'modality MR'),
        (cut, 'cannot be read'),
        (flat, 'RescaleSlope is 0'),
        (large, '20000 pixels'),
        (huge, '65535 pixels'),
        (wrong_number, 'makes no sense'),
        (no_rescale, 'RescaleIntercept is missing in 1 slice (first IM00003) and given in others'),
        (empty_rescale, 'RescaleIntercept is missing in 1 slice (first IM00001)'),
        (shifted_bits, 'HighBit 15 does not go with BitsStored 12'),
        (no_size, 'PixelSpacing is 0 x 0 mm'),
    ],
)
def test_series_that_are_no_volume(tmp_path, spoil, words):
    folder = write_series(tmp_path / 'in', spoil=spoil)
    with pytest.raises(InputError) as caught:
        read(folder)
    assert words in str(caught.value) and str(folder) in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'spacing, digits', [(1.25, 1), (1.25, 2), (0.6, 1), (0.55, 1), (0.47, 1), (0.45, 1), (0.33, 1)]
)
@pytest.mark.parametrize('moved', [0.0, 0.03, 0.07])
def test_positions_may_be_rounded(tmp_path, spacing, digits, moved):
    """The line through them has the spacing; a slice that is missing is still seen."""

    def rounded(ds, z):
        height = round(ORIGIN[2] + moved + spacing * z, digits)
        ds.ImagePositionPatient = [*ORIGIN[:2], height]

    hu = np.concatenate([phantom()] * 8)
    folder = write_series(tmp_path / 'in', hu, spoil=rounded)
    ct = series_in(folder)
    assert ct.spacing[2] == pytest.approx(spacing, abs=2e-3)
    assert ct.header.grid.origin[2] == pytest.approx(ORIGIN[2] + moved, abs=0.06)
    (folder / 'IM00012').unlink()
    assert_refused(folder, 'some are missing')
    for path in sorted(folder.iterdir())[6:]:
        path.unlink()
    (folder / 'IM00002').unlink()
    assert_refused(folder, 'some are missing')


RAW = {  # what scanners write beside the slices as Modality CT, without pixels
    'raw data': '1.2.840.10008.5.1.4.1.1.66',
    'dose report': '1.2.840.10008.5.1.4.1.1.88.67',
    'private': '1.3.12.2.1107.5.9.1',
}


@pytest.mark.parametrize('kind', RAW)
def test_what_is_no_image_is_left_out_with_a_line(tmp_path, kind):
    folder = write_series(tmp_path / 'in')
    other = slice_of(phantom()[0], 20)
    del other.Rows, other.Columns, other.PixelData
    other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = RAW[kind]
    save(other, folder / 'z.dcm')
    assert_is(folder, phantom())
    remarks = series_in(folder).remarks
    assert 'left out 1 DICOM file that is no CT slice: z.dcm' in remarks


@pytest.mark.parametrize('name', ['IM00099', 'a.png', 'b.nii.gz'])
def test_a_link_to_nothing_is_refused_by_its_name(tmp_path, name):
    """As where the files of a data set have not been fetched; a slice would be missing."""
    folder = write_series(tmp_path / 'in')
    (folder / '.#lock').symlink_to('nobody@nowhere')  # of an editor
    assert_is(folder, phantom())
    (folder / name).symlink_to(tmp_path / 'gone')
    assert_refused(folder, name, 'is a link to a file that is not there')


@pytest.mark.parametrize('ending', ENDINGS)
def test_dicom_under_the_name_of_another_volume(tmp_path, ending):
    path = tmp_path / f'a{ending}'
    save(slice_of(phantom()[0], 0), path)
    assert_refused(path, 'is DICOM, whatever its name says; rename it')


def test_one_slice_takes_its_thickness(tmp_path):
    hu, grid = read(write_series(tmp_path / 'in', phantom()[:1]))
    np.testing.assert_array_equal(hu, phantom()[:1])
    np.testing.assert_allclose(grid.spacing, SPACING, atol=1e-6)
    hu, _ = read(next((tmp_path / 'in').iterdir()))
    np.testing.assert_array_equal(hu, phantom()[:1])
    thin = write_series(tmp_path / 'thin', phantom()[:1], SliceThickness=None)
    assert_refused(thin, 'SliceThickness')


@pytest.mark.parametrize('uid', ['1.2.3', ''])
def test_identifiers_do_not_tell_slices_apart(tmp_path, uid):
    """Anonymised files may all have the same; slices are told by their positions."""
    assert_is(write_series(tmp_path / 'in', SOPInstanceUID=uid), phantom())


def test_the_same_position_with_other_pixels_is_refused(tmp_path):
    folder = write_series(tmp_path / 'in')
    save(slice_of(phantom()[2], 1), folder / 'other')
    with pytest.raises(InputError, match='missing, double or moved sideways'):
        read(folder)


def test_a_series_is_known_by_its_identifier_alone(tmp_path):
    def described(ds, z):
        if z % 2:
            ds.SeriesDescription = 'chest'

    assert_is(write_series(tmp_path / 'in', spoil=described), phantom())


def test_order_is_that_of_positions(tmp_path):
    """Neither of names nor of instance numbers; feet first or head first."""
    for sign in (1, -1):

        def shuffled(ds, z, sign=sign):
            ds.InstanceNumber = [3, 1, 5, 2, 4][z]

        folder = tmp_path / f'in{sign}'
        write_series(folder, name='{}', spoil=shuffled)
        for path, name in zip(sorted(folder.iterdir())[::sign], 'ebadc'):
            path.rename(folder / name)
        assert_is(folder, phantom())


def enhanced(hu, order):
    """One file with a frame a slice, in an order."""
    ds = slice_of(hu[0], 0)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    for key in ('ImagePositionPatient', 'ImageOrientationPatient', 'PixelSpacing'):
        delattr(ds, key)
    del ds.RescaleSlope, ds.RescaleIntercept, ds.SliceThickness
    ds.NumberOfFrames = len(hu)
    ds.PixelData = b''.join((hu[z] + 1000 + z).astype('<i2').tobytes() for z in order)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    ds.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for z in order:
        frame, place, values = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [*ORIGIN[:2], ORIGIN[2] + SPACING[2] * z]
        values.RescaleSlope, values.RescaleIntercept = 1, -1000 - z
        frame.PlanePositionSequence = [place]
        frame.PixelValueTransformationSequence = [values]
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = frames
    return ds


def test_enhanced_multi_frame_ct(tmp_path):
    save(enhanced(phantom(), [3, 0, 4, 1, 2]), tmp_path / 'in' / 'many')
    assert_is(tmp_path / 'in', phantom())
    assert_is(tmp_path / 'in' / 'many', phantom())


@pytest.mark.parametrize(
    'kernel, expected',
    [(None, ''), ('', ''), ('B60f', 'B60f'), (['Br64f', '3'], 'Br64f 3'), ('LUNG ', 'LUNG')],
)
def test_the_convolution_kernel_is_known(tmp_path, kernel, expected):
    """Of files with a slice and of one with many; a series of NIfTI has none."""
    named = {} if kernel is None else {'ConvolutionKernel': kernel}
    write_series(tmp_path / 'in', **named)
    many, reconstruction = enhanced(phantom(), range(len(phantom()))), Dataset()
    for key, value in named.items():
        setattr(reconstruction, key, value)
    many.SharedFunctionalGroupsSequence[0].CTReconstructionSequence = [reconstruction]
    save(many, tmp_path / 'many')
    assert contents.open_series(contents.look(tmp_path / 'in')).kernel == expected
    assert volume.open_volume(tmp_path / 'many').kernel == expected
    sitk.WriteImage(sitk.GetImageFromArray(phantom()), str(tmp_path / 'a.nii.gz'))
    assert volume.open_volume(tmp_path / 'a.nii.gz').kernel == ''


def test_enhanced_ct_with_one_frame(tmp_path):
    save(enhanced(phantom()[:1], [0]), tmp_path / 'one')
    np.testing.assert_array_equal(read(tmp_path / 'one')[0], phantom()[:1])


def test_what_lies_beside_a_series_is_left_out_and_named(tmp_path):
    """As TCIA, macOS, scanners and people leave it there."""
    folder = write_series(tmp_path / 'in')
    for name in ('069.xml', 'LICENSE', '.DS_Store', '._IM00001', 'DICOMDIR', 'notes.txt'):
        (folder / name).write_bytes(b'x' * 200)
    localizer = slice_of(phantom()[0], 20, ImageType=['ORIGINAL', 'PRIMARY', 'LOCALIZER'])
    save(localizer, folder / 'scout')
    report = slice_of(phantom()[0], 21, Modality='SR')
    save(report, folder / 'report')
    save(slice_of(phantom()[1], 1), folder / 'again')
    (folder / 'run').mkdir()
    (folder / 'run' / 'earlier.png').write_bytes(b'x')
    assert_is(folder, phantom())
    found = contents.look(folder, folder / 'run')
    remarks = '; '.join([*found.remarks, *contents.open_series(found).remarks])
    assert '6 files that are neither pictures nor CT' in remarks and '069.xml' in remarks
    assert '2 DICOM files that are no CT slices: report, scout' in remarks
    assert '1 copy of a slice' in remarks


def test_links_are_followed_and_pipes_left_out(tmp_path):
    folder = write_series(tmp_path / 'elsewhere')
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'linked').symlink_to(folder, target_is_directory=True)
    (tmp_path / 'in' / 'round').symlink_to(tmp_path / 'in', target_is_directory=True)
    os.mkfifo(tmp_path / 'in' / 'pipe')
    assert_is(tmp_path / 'in', phantom())


def test_workdirs_of_earlier_runs_are_no_input(tmp_path):
    folder = write_series(tmp_path / 'in')
    for name in ('config.json', 'environment.json', 'translated.png'):
        (folder / 'run').mkdir(exist_ok=True)
        (folder / 'run' / name).write_text('{}', encoding='utf-8')
    found = contents.look(folder, tmp_path / 'another')
    contents.one_kind(found)
    assert not found.pictures and len(found.others) == 3


def test_half_written_folders_are_no_input(tmp_path):
    """A run that was killed has left them in its workdir."""
    folder = write_series(tmp_path / 'in')
    (folder / 'run' / 'masks.part').mkdir(parents=True)
    (folder / 'run' / 'masks.part' / 'a.png').write_bytes(b'x')
    assert_is(folder, phantom())


def test_the_workdir_of_a_run_is_no_input(tmp_path):
    for name in ('config.json', 'environment.json', 'overlay.png'):
        (tmp_path / name).write_text('{}', encoding='utf-8')
    for listed in (contents.inputs, contents.scans):
        with pytest.raises(InputError, match='is the workdir of a run; give the folder in it'):
            listed(tmp_path, '', tmp_path / 'other')


def test_names_that_are_no_text_are_refused(tmp_path):
    """As archives unpack to that were packed elsewhere; tables cannot hold them."""
    name = os.fsencode(tmp_path) + b'/x_\xfc.nii.gz'
    with open(name, 'wb') as file:
        file.write(b'x')
    with pytest.raises(InputError, match='x_.*has a name that is not text in UTF-8; rename it'):
        contents.look(tmp_path)


def test_folders_of_scouts_and_masks_beside_scans_are_left_out(tmp_path):
    scout = {'ImageType': ['ORIGINAL', 'PRIMARY', 'LOCALIZER'], 'SeriesInstanceUID': '1.2.99'}
    write_series(tmp_path / 'P1' / 'ct')
    write_series(tmp_path / 'P1' / 'scout', **scout)
    for name in ('a', 'a_mask', 'b-seg', 'mask'):
        sitk.WriteImage(image_of(phantom()), str(tmp_path / f'{name}.nii.gz'))
    files, scans, remarks = contents.scans(tmp_path, '', tmp_path / 'other')
    assert [ct.name for ct in scans] == ['ct', 'a', 'b-seg', 'mask'] and not files
    assert 'left out 1 folder without CT slices: P1/scout' in remarks
    assert 'left out 1 mask of the scan beside it: a_mask.nii.gz' in remarks
    with pytest.raises(InputError, match='holds no CT slices'):
        contents.scans(tmp_path / 'P1' / 'scout', '', tmp_path / 'other')


def test_a_deflated_file_that_becomes_too_large(tmp_path):
    """It is refused before it is unpacked; its zeros would take 500 MB."""
    ds = slice_of(phantom()[0], 0)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.add_new(0x00091010, 'OB', bytes(500 << 20))
    save(ds, tmp_path / 'a')
    assert_refused(tmp_path / 'a', 'unpacks to more than')


def test_a_mixture_is_refused(tmp_path):
    folder = write_series(tmp_path / 'in')
    (folder / 'VIEWER').mkdir()
    (folder / 'VIEWER' / 'icon.png').write_bytes(b'x')
    assert_refused(folder, 'icon.png', 'IM00001', 'different kinds')


def test_any_byte_of_a_slice_may_be_wrong(tmp_path):
    """Each is read as something or refused in one line."""
    save(slice_of(phantom()[0], 0), tmp_path / 'sound')
    sound = (tmp_path / 'sound').read_bytes()
    for at in range(132, len(sound) - phantom()[0].nbytes, 7):
        content = bytearray(sound)
        content[at] ^= 0x55
        (tmp_path / 'spoilt').write_bytes(content)
        try:
            read(tmp_path / 'spoilt')
        except InputError as error:
            assert '\n' not in str(error)


# ---- real files


def test_real_nifti_equals_simpleitk(real):
    files = sorted((real / 'covid_ct_md').rglob('*.nii.gz'))
    assert len(files) == 2
    for path in files:
        expected = sitk.DICOMOrient(sitk.ReadImage(str(path)), 'LPS')
        hu, grid = read(path)
        np.testing.assert_array_equal(hu, sitk.GetArrayViewFromImage(expected))
        assert grid.origin == pytest.approx(expected.GetOrigin(), abs=1e-3)


def test_real_jpeg_lossless_dicom_equals_simpleitk(real):
    folder = next((real / 'covid_ct_md' / 'COVID-19 subjects').iterdir())
    first = pydicom.dcmread(next(folder.iterdir()), stop_before_pixels=True)
    assert first.file_meta.TransferSyntaxUID.name.startswith('JPEG Lossless')
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    expected, (hu, grid) = reader.Execute(), read(folder)
    np.testing.assert_array_equal(hu, sitk.GetArrayViewFromImage(expected))
    assert grid.origin == pytest.approx(expected.GetOrigin(), abs=1e-3)
    assert grid.spacing == pytest.approx(expected.GetSpacing(), abs=1e-6)
