"""Geometry of CT against SimpleITK and against phantoms whose nodules are known."""

import pathlib
import re

import numpy as np
import pytest
import SimpleITK as sitk

from covjax import InputError
from covjax.ct import archive, geometry, luna16, windows
from covjax.ct.volume import find_volumes, open_volume, read_slice


def nodule_volumes(folder):
    nodules = luna16.read_nodules(folder / 'annotations.csv')
    paths = find_volumes(folder)
    return [(open_volume(paths[nodule.series]), nodule) for nodule in nodules]


def read_whole(path):
    with archive.on_disk(path) as plain:
        return sitk.ReadImage(str(plain))


def test_world_to_voxel_equals_simpleitk(raw):
    for path in find_volumes(raw / 'luna16').values():
        image, volume = read_whole(path), open_volume(path)
        for world in np.random.default_rng(0).uniform(-100, 100, (5, 3)):
            np.testing.assert_allclose(
                geometry.world_to_voxel(volume, world),
                image.TransformPhysicalPointToContinuousIndex(world.tolist()),
                atol=1e-6,
            )


def test_slice_equals_whole_volume(raw):
    for path in find_volumes(raw / 'luna16').values():
        whole, volume = sitk.GetArrayFromImage(read_whole(path)), open_volume(path)
        flip_x, flip_y, _ = volume.flips
        np.testing.assert_array_equal(
            read_slice(volume, 1), whole[1, :: -1 if flip_y else 1, :: -1 if flip_x else 1]
        )


def test_boxes_lie_on_nodules_whatever_way_the_volume_is_stored(raw):
    pairs = nodule_volumes(raw / 'luna16')
    assert {volume.flips[0] for volume, _ in pairs} == {True, False}
    for volume, nodule in pairs:
        z = geometry.nodule_slice(volume, nodule)
        hu = read_slice(volume, z)
        ymin, xmin, ymax, xmax = np.array(geometry.nodule_box(volume, nodule, z)) * len(hu)
        cy, cx = (ymin + ymax) / 2 - 0.5, (xmin + xmax) / 2 - 0.5
        assert (ymax - ymin) * volume.spacing[1] == pytest.approx(
            geometry.chord(volume, nodule, z), rel=1e-5
        )
        middle = hu[round(cy) - (cy < round(cy)) : round(cy) + 1, round(cx) : round(cx) + 1].mean()
        assert middle > -400, (
            f'{volume.path.stem} row {nodule.row}: {middle} HU in the middle of the box'
        )


def test_orientation_is_the_same_for_turned_series(raw):
    """The couch is below the patient in every picture."""
    for path in find_volumes(raw / 'luna16').values():
        hu = read_slice(open_volume(path), 0)
        rows = np.flatnonzero((hu > -600).any(1))
        middle = hu[:, len(hu) // 2 - 4 : len(hu) // 2 + 4]
        assert (middle[: rows[0]] > -600).sum() == 0 and rows[-1] > len(hu) * 0.7


def test_grey_levels():
    hu = np.arange(-3024, 3000)
    expected = np.minimum(np.floor(256 * (np.clip(hu, -1000, 400) + 1000) / 1400), 255)
    np.testing.assert_array_equal(windows.to_grey(hu), expected)


def test_split_is_stable_and_near_80_10_10():
    splits = [luna16.series_split(f'1.2.{i}') for i in range(5000)]
    assert luna16.series_split('1.2.3') == luna16.series_split('1.2.3')
    for name, share in {'train': 0.8, 'validation': 0.1, 'test': 0.1}.items():
        assert splits.count(name) / 5000 == pytest.approx(share, abs=0.02)


def test_chord_of_a_sphere(raw):
    volume, nodule = nodule_volumes(raw / 'luna16')[0]
    z = geometry.nodule_slice(volume, nodule)
    assert geometry.chord(volume, nodule, z) <= nodule.diameter
    assert (
        geometry.chord(volume, nodule, z + 100) == 0
        and geometry.nodule_box(volume, nodule, z + 100) is None
    )


def test_annotation_outside_the_volume(raw):
    volume, nodule = nodule_volumes(raw / 'luna16')[0]
    with pytest.raises(InputError, match='outside the volume'):
        geometry.nodule_slice(volume, nodule._replace(world=(1e4, 0, 0)))


def test_real_nodule_lies_in_its_box(real):
    """LIDC-IDRI-0001: soft tissue inside 0.8 r, air around 1.3 to 2 r."""
    series = '1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192'
    volume = open_volume(real / 'volumes' / f'{series}.mhd')
    (nodule,) = (
        n
        for n in luna16.read_nodules(real / 'luna16_csv' / 'annotations.csv')
        if n.series == series
    )
    z = geometry.nodule_slice(volume, nodule)
    hu = read_slice(volume, z)
    ymin, xmin, ymax, xmax = np.array(geometry.nodule_box(volume, nodule, z)) * 512
    y, x = np.mgrid[:512, :512] + 0.5
    distance = np.hypot(y - (ymin + ymax) / 2, x - (xmin + xmax) / 2) / ((ymax - ymin) / 2)
    assert hu[distance < 0.8].mean() > -300
    assert np.median(hu[(distance > 1.3) & (distance < 2)]) < -600


def test_real_slices_equal_the_published_pictures(real):
    """K in the name of a published picture is the 0-based z index, ascending; the cropped volumes begin at `first`."""
    from covjax.ct.picture import read

    compared = 0
    for series, first in (
        ('1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192', 40),
        ('1.3.6.1.4.1.14519.5.2.1.6279.6001.619372068417051974713149104919', 142),
    ):
        volume = open_volume(real / 'volumes' / f'{series}.mhd')
        for path in (real / 'luna16_slices_512').glob(f'{series}.mhd_*.png'):
            z = int(path.stem.rpartition('_')[2]) - first
            if 0 <= z < volume.size[2]:
                assert (
                    np.abs(windows.to_grey(read_slice(volume, z)).astype(int) - read(path)).max()
                    <= 2
                )
                compared += 1
    assert compared


@pytest.mark.skipif(
    not pathlib.Path('/proc/self/io').exists(), reason='counts the bytes that Linux says were read'
)
def test_one_slice_is_read_not_the_volume(tmp_path):
    """Of an uncompressed volume at most 2 % is read for a slice, wherever it lies."""
    array = np.random.default_rng(0).integers(-1000, 400, (150, 128, 128)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / 'a.mhd'))
    volume = open_volume(tmp_path / 'a.mhd')
    read_slice(volume, 1)  # libraries load with the first
    count = lambda: int(re.search(r'rchar: (\d+)', pathlib.Path('/proc/self/io').read_text())[1])
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
    (tmp_path / 'annotations_with_malignancy.csv').write_text(content)
    with pytest.raises(InputError, match=message):
        luna16.with_malignancy([], tmp_path / 'annotations_with_malignancy.csv')


def test_real_ratings(real):
    """Of the 1186 published nodules 1182 are rated, at the same places; 378 malignant."""
    nodules = luna16.with_malignancy(
        luna16.read_nodules(real / 'luna16_csv' / 'annotations.csv'),
        real / 'luna16_csv' / 'annotations_with_malignancy.csv',
    )
    assert np.unique([nodule.malignancy for nodule in nodules], return_counts=True)[1].tolist() == [
        4,
        804,
        378,
    ]
