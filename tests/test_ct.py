"""Geometry of CT against SimpleITK and against phantoms whose nodules are known."""

import pathlib
import re
import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk

from covjax import InputError
from covjax.ct import archive, geometry, luna16, picture, windows
from covjax.ct.volume import find_volumes, open_volume, read_slice

pytestmark = pytest.mark.fast

# LIDC-IDRI-0001 and another series of which slices are published.
FIRST = '1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192'
SECOND = '1.3.6.1.4.1.14519.5.2.1.6279.6001.619372068417051974713149104919'
IO = pathlib.Path('/proc/self/io')


@pytest.fixture(scope='module')
def paths(raw):
    """The .mhd files of the phantoms."""
    return list(find_volumes(raw / 'luna16').values())


@pytest.fixture(scope='module')
def nodules(raw):
    """[(Volume, Annotation)] of the phantoms."""
    paths = find_volumes(raw / 'luna16')
    annotations = luna16.read_nodules(raw / 'luna16' / 'annotations.csv')
    return [(open_volume(paths[annotation.series]), annotation) for annotation in annotations]


def read_whole(path):
    with archive.on_disk(path) as plain:
        return sitk.ReadImage(str(plain))


def test_world_to_voxel_equals_simpleitk(paths):
    for path in paths:
        image, volume = read_whole(path), open_volume(path)
        for world in np.random.default_rng(0).uniform(-100, 100, (5, 3)):
            expected = image.TransformPhysicalPointToContinuousIndex(world.tolist())
            actual = geometry.world_to_voxel(volume, world)
            np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_slice_equals_whole_volume(paths):
    for path in paths:
        whole, volume = sitk.GetArrayFromImage(read_whole(path)), open_volume(path)
        flip_x, flip_y, _ = volume.flips
        expected = whole[1, :: -1 if flip_y else 1, :: -1 if flip_x else 1]
        np.testing.assert_array_equal(read_slice(volume, 1), expected)


def test_boxes_lie_on_nodules_whatever_way_the_volume_is_stored(nodules):
    assert {volume.flips[0] for volume, _ in nodules} == {True, False}
    for volume, nodule in nodules:
        z = geometry.nodule_slice(volume, nodule)
        hu = read_slice(volume, z)
        ymin, xmin, ymax, xmax = np.array(geometry.nodule_box(volume, nodule, z)) * len(hu)
        chord = geometry.chord(volume, nodule, z)
        assert (ymax - ymin) * volume.spacing[1] == pytest.approx(chord, rel=1e-5)
        y, x = (ymin + ymax) / 2 - 0.5, (xmin + xmax) / 2 - 0.5
        middle = hu[round(y) - (y < round(y)) : round(y) + 1, round(x) : round(x) + 1].mean()
        place = f'{volume.path.stem} row {nodule.row}'
        assert middle > -400, f'{place}: {middle} HU in the middle of the box'


def test_the_couch_is_below_the_patient_in_turned_series_too(paths):
    for path in paths:
        hu = read_slice(open_volume(path), 0)
        rows = np.flatnonzero((hu > -600).any(1))
        middle = hu[:, len(hu) // 2 - 4 : len(hu) // 2 + 4]
        assert (middle[: rows[0]] > -600).sum() == 0
        assert rows[-1] > len(hu) * 0.7


def test_grey_levels():
    hu = np.arange(-3024, 3000)
    expected = np.minimum(np.floor(256 * (np.clip(hu, -1000, 400) + 1000) / 1400), 255)
    np.testing.assert_array_equal(windows.to_grey(hu), expected)


def test_a_volume_becomes_grey_with_one_slice_in_floating_point():
    hu = np.random.default_rng(0).integers(-3024, 3000, (30, 256, 256)).astype(np.int16)
    tracemalloc.start()
    grey = windows.to_grey(hu)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(grey, [windows.to_grey(part) for part in hu])
    assert peak < 1.5 * grey.nbytes


def test_split_is_stable_and_near_80_10_10():
    splits = [luna16.series_split(f'1.2.{i}') for i in range(5000)]
    assert luna16.series_split('1.2.3') == splits[3]
    for name, share in {'train': 0.8, 'validation': 0.1, 'test': 0.1}.items():
        assert splits.count(name) / 5000 == pytest.approx(share, abs=0.02)


def test_chord_of_a_sphere(nodules):
    volume, nodule = nodules[0]
    z = geometry.nodule_slice(volume, nodule)
    assert geometry.chord(volume, nodule, z) <= nodule.diameter
    assert geometry.chord(volume, nodule, z + 100) == 0
    assert geometry.nodule_box(volume, nodule, z + 100) is None


def test_annotation_outside_the_volume(nodules):
    volume, nodule = nodules[0]
    with pytest.raises(InputError, match='outside the volume'):
        geometry.nodule_slice(volume, nodule._replace(world=(1e4, 0, 0)))


def test_real_nodule_lies_in_its_box(real):
    """LIDC-IDRI-0001: soft tissue inside 0.8 r, air around 1.3 to 2 r."""
    volume = open_volume(real / 'volumes' / f'{FIRST}.mhd')
    annotations = luna16.read_nodules(real / 'luna16_csv' / 'annotations.csv')
    (nodule,) = (annotation for annotation in annotations if annotation.series == FIRST)
    z = geometry.nodule_slice(volume, nodule)
    hu = read_slice(volume, z)
    ymin, xmin, ymax, xmax = np.array(geometry.nodule_box(volume, nodule, z)) * 512
    y, x = np.mgrid[:512, :512] + 0.5
    distance = np.hypot(y - (ymin + ymax) / 2, x - (xmin + xmax) / 2) / ((ymax - ymin) / 2)
    assert hu[distance < 0.8].mean() > -300
    assert np.median(hu[(distance > 1.3) & (distance < 2)]) < -600


def test_real_slices_equal_the_published_pictures(real):
    """K in the name of a published picture is the 0-based z index, ascending.

    The volumes here are cropped, and begin at another slice.
    """
    compared = 0
    for series, begin in ((FIRST, 40), (SECOND, 142)):
        volume = open_volume(real / 'volumes' / f'{series}.mhd')
        for path in (real / 'luna16_slices_512').glob(f'{series}.mhd_*.png'):
            z = int(path.stem.rpartition('_')[2]) - begin
            if 0 <= z < volume.size[2]:
                grey = windows.to_grey(read_slice(volume, z)).astype(int)
                assert np.abs(grey - picture.read(path)).max() <= 2
                compared += 1
    assert compared


@pytest.mark.skipif(not IO.exists(), reason='counts the bytes that Linux says were read')
def test_one_slice_is_read_not_the_volume(tmp_path):
    """Of an uncompressed volume at most 2 % is read for a slice, wherever it lies."""
    array = np.random.default_rng(0).integers(-1000, 400, (150, 128, 128)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / 'a.mhd'))
    volume = open_volume(tmp_path / 'a.mhd')
    read_slice(volume, 1)  # libraries load with the first
    count = lambda: int(re.search(r'rchar: (\d+)', IO.read_text())[1])
    for z in (0, 75, 149):
        before = count()
        hu = read_slice(volume, z)
        assert count() - before < 0.02 * array.nbytes
        np.testing.assert_array_equal(hu, array[z])


@pytest.mark.parametrize(
    'content, message',
    [
        ('seriesuid,coordX\na,1\n', 'no column coordY, coordZ, mal_bool'),
        ('seriesuid,coordX,coordY,coordZ,mal_bool\na,1,2,3,maybe\n', 'mal_bool is maybe'),
        ('seriesuid,coordX,coordY,coordZ,mal_bool\na,1,x,3,True\n', 'must be numbers'),
    ],
)
def test_wrong_ratings(tmp_path, content, message):
    table = tmp_path / 'annotations_with_malignancy.csv'
    table.write_text(content)
    with pytest.raises(InputError, match=message):
        luna16.with_malignancy([], table)


def test_real_ratings(real):
    """Of the 1186 published nodules 1182 are rated, at the same places; 378 malignant."""
    tables = real / 'luna16_csv'
    annotations = luna16.read_nodules(tables / 'annotations.csv')
    rated = luna16.with_malignancy(annotations, tables / 'annotations_with_malignancy.csv')
    _, counts = np.unique([nodule.malignancy for nodule in rated], return_counts=True)
    assert counts.tolist() == [4, 804, 378]
