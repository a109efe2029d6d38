"""Slices cropped to their lungs: where, in which window; boxes and masks follow."""

import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from test_lungs import drawn

from covjax import InputError
from covjax.ct import framing, luna16, windows
from covjax.data import datasets
from covjax.phantom import ct_scans as phantoms
from covjax.runs import prepare

fast = pytest.mark.fast


def pixels_of(box, shape):
    """The pixels (rows, columns) that a box in 0..1 covers."""
    height, width = shape
    ends = np.round(np.multiply(box, [height, width, height, width])).astype(int)
    return slice(ends[0], ends[2]), slice(ends[1], ends[3])


def examples_of(name, folder):
    """{id: example} of all splits."""
    sources = [
        tfds.data_source(name, split=split, data_dir=str(folder))
        for split in tfds.builder(name, data_dir=str(folder)).info.splits
    ]
    return {example['id']: example for source in sources for example in source}


# ---- the frame of a slice


@fast
@pytest.mark.parametrize('seed', range(6))
def test_frame_of_a_phantom_is_the_box_of_its_lungs_and_a_margin(seed):
    grey, truth = drawn(seed, 256)
    for found, axis in zip(framing.frame(grey), (1, 0), strict=True):
        inside = np.flatnonzero(truth.any(axis))
        length = inside[-1] + 1 - inside[0]
        margin = framing.MARGIN * length
        assert abs(inside[0] - margin - found.start) <= 0.02 * length
        assert abs(inside[-1] + 1 + margin - found.stop) <= 0.02 * length


@fast
@pytest.mark.parametrize('level', [0, 128, 255])
def test_nothing_is_framed_where_there_are_no_lungs(level):
    assert framing.frame(np.full((64, 48), level, np.uint8)) is None


@fast
def test_what_is_marked_by_a_box_is_marked_by_the_moved_box():
    rng = np.random.default_rng(0)
    height, width = shape = (60, 90)
    visible = 0
    for _ in range(400):
        top, left = rng.integers(0, (height - 8, width - 8))
        part = slice(top, top + 8 + rng.integers(height - top - 7)), slice(left, width)
        first = rng.integers(0, (height - 3, width - 3))
        last = first + rng.integers(1, 4, 2)
        box = (*(first / shape), *(last / shape))
        image = np.zeros(shape, bool)
        image[first[0] : last[0], first[1] : last[1]] = True
        shown, moved = image[part], framing.moved(box, part, shape)
        assert (moved is None) == (not shown.any())
        if moved is not None:
            visible += 1
            again = np.zeros(shown.shape, bool)
            again[pixels_of(moved, shown.shape)] = True
            np.testing.assert_array_equal(again, shown)
    assert visible > 50


@fast
def test_whole_image_leaves_boxes_where_they_are():
    shape, box = (37, 53), (0.1, 0.2, 0.4, 0.9)
    part = framing.whole(shape)
    np.testing.assert_allclose(framing.moved(box, part, shape), box)
    assert framing.as_box(part, shape) == (0, 0, 1, 1)


@fast
def test_a_stored_box_is_the_frame_that_it_was_made_of():
    rng = np.random.default_rng(0)
    for _ in range(300):
        shape = rng.integers(2, 900, 2)
        part = tuple(slice(*sorted(rng.choice(n + 1, 2, replace=False).tolist())) for n in shape)
        stored = np.float32(framing.as_box(part, shape)).tolist()
        assert framing.of_box(stored, shape) == part


# ---- the window of a slice


@fast
def test_another_window_of_grey_levels_is_that_of_their_hu():
    stored, shown = windows.WINDOWS['lung'], windows.WINDOWS['clinic']
    hu = np.arange(-1000, 400)
    again = windows.rewindow(windows.to_grey(hu, stored), stored, shown)
    # A grey level of 1400 / 256 HU is at most one of 1500 / 256 HU away from its middle.
    assert np.abs(again.astype(int) - windows.to_grey(hu, shown)).max() <= 1


@fast
def test_same_window_again_changes_nothing():
    grey = np.arange(256, dtype=np.uint8)
    for window in windows.WINDOWS.values():
        np.testing.assert_array_equal(windows.rewindow(grey, window, window), grey)


@fast
@pytest.mark.parametrize('window', [(-1000, 400), (-1250, 250), (-1100, 100), (-1600, 500)])
def test_a_picture_in_any_window_is_levelled_to_that_of_the_clinic(window):
    rng = np.random.default_rng(0)
    lung = np.zeros((64, 64), bool)
    lung[8:56, 4:28] = lung[8:56, 36:60] = True
    hu = np.where(lung, framing.LUNG_HU, framing.TISSUE_HU) + rng.normal(0, 25, lung.shape)
    shown = windows.to_grey(hu, windows.Window(*window))
    expected = windows.to_grey(hu, windows.WINDOWS[framing.WINDOW]).astype(int)
    levelled = framing.levelled(shown, lung)
    assert np.abs(levelled - expected).mean() < 2


@fast
def test_what_has_no_lung_or_no_contrast_is_not_levelled():
    grey = np.random.default_rng(0).integers(0, 30, (16, 16), np.uint8)
    half = np.zeros(grey.shape, bool)
    half[:8] = True
    bright = np.where(half, grey, 200).astype(np.uint8)
    assert (framing.levelled(bright, half) != bright).any()
    for image, lung, counted in (
        (grey, half, True),
        (bright, ~half & half, True),
        (bright, half, half),
    ):
        np.testing.assert_array_equal(framing.levelled(image, lung, counted), image)


# ---- the data sets


def test_framed_nodules_are_crops_of_the_slices_and_boxes_follow(raw, tmp_path):
    for name in ('nodules_hu', 'nodules_framed'):
        prepare.build(f'luna16_patches/{name}', raw / 'luna16', str(tmp_path))
    whole = examples_of('luna16_patches/nodules_hu', tmp_path)
    framed = examples_of('luna16_patches/nodules_framed', tmp_path)
    assert 0 < len(framed) <= len(whole)
    boxes = 0
    for key, example in framed.items():
        slice_ = whole[key]
        grey = windows.to_grey(slice_['image'][..., 0], windows.WINDOWS['clinic'])
        part = pixels_of(example['frame'], grey.shape)
        np.testing.assert_array_equal(example['image'][..., 0], grey[part])
        np.testing.assert_array_equal(example['spacing'], slice_['spacing'])
        before = dict(zip(slice_['nodules']['row'], slice_['nodules']['box']))
        for row, box in zip(example['nodules']['row'], example['nodules']['box']):
            moved = framing.moved(before[row], part, grey.shape)
            np.testing.assert_allclose(box, moved, atol=1e-6)
            boxes += 1
    assert boxes >= len(framed) / 2


def test_slices_without_lungs_are_left_out_of_framed_slices(raw, tmp_path, capsys):
    folder = tmp_path / 'slices'
    folder.mkdir()
    for i in range(12):
        grey = drawn(i)[0] if i % 3 else np.zeros((128, 128), np.uint8)
        Image.fromarray(grey).save(folder / f'1.2.{i}.mhd_7.png')
    prepare.build('luna16_patches/slices_framed', folder, str(tmp_path / 'data'))
    assert 'left out 4 slices without plausible lungs' in capsys.readouterr().out
    framed = examples_of('luna16_patches/slices_framed', tmp_path / 'data')
    assert {key.decode() for key in framed} == {f'1.2.{i}_z0007' for i in range(12) if i % 3}


def test_split_without_any_lungs_is_left_out_and_a_set_without_any_refused(tmp_path):
    folder = tmp_path / 'slices'
    folder.mkdir()
    black = lambda i: Image.new('L', (64, 64)).save(folder / f'1.2.{i}.mhd_7.png')
    for i in range(12):
        black(i)
    with pytest.raises(InputError, match='no slice shows plausible lungs'):
        prepare.build('luna16_patches/slices_framed', folder, str(tmp_path / 'data'))
    train = [i for i in range(12) if luna16.series_split(f'1.2.{i}') == 'train']
    assert 0 < len(train) < 12
    for i in train:
        Image.fromarray(drawn(i)[0]).save(folder / f'1.2.{i}.mhd_7.png')
    builder = prepare.build('luna16_patches/slices_framed', folder, str(tmp_path / 'data'))
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {
        'train': len(train)
    }


def test_framed_pictures_of_covid_ct_are_crops_or_whole(raw, tmp_path):
    for name in ('official', 'official_framed'):
        prepare.build(f'covid_ct/{name}', raw / 'covid_ct', str(tmp_path))
    whole = examples_of('covid_ct/official', tmp_path)
    framed = examples_of('covid_ct/official_framed', tmp_path)
    assert list(framed) == list(whole)
    cropped = 0
    for key, example in framed.items():
        grey = whole[key]['image'][..., 0]
        part = framing.frame(grey) or framing.whole(grey.shape)
        assert pixels_of(example['frame'], grey.shape) == part
        np.testing.assert_array_equal(example['image'][..., 0], grey[part])
        cropped += part != framing.whole(grey.shape)
    assert cropped > len(framed) / 2


@pytest.fixture(scope='module')
def scans(tmp_path_factory):
    """A folder of phantoms in a layout of pictures and in one of volumes, both with masks."""
    folder = tmp_path_factory.mktemp('scans')
    for layout in ('covid_semiseg', 'luna16_lungs'):
        phantoms.write_ct_scans(folder / layout, layout, seed=3)
    return folder


@pytest.mark.parametrize('layout, ending', [('covid_semiseg', ''), ('luna16_lungs', '_slices')])
def test_masks_of_framed_images_are_cropped_alike(layout, ending, scans, tmp_path, capsys):
    folder = scans / layout
    images = {}
    for name in (f'{layout}{ending}', f'{layout}{ending}_framed'):
        prepare.build(f'ct_scans/{name}', folder, str(tmp_path))
        images[name] = {
            record.row.id: record
            for split in tfds.builder(f'ct_scans/{name}', data_dir=str(tmp_path)).info.splits
            for record in datasets.records(f'ct_scans/{name}:{split}', str(tmp_path))
        }
    whole, framed = images.values()
    assert framed and set(framed) <= set(whole)
    reported = re.findall(r'left out (\d+) of \d+ slices', capsys.readouterr().err)
    assert sum(map(int, reported)) == len(whole) - len(framed)
    for key, record in framed.items():
        mask = datasets.volume(whole[key].mask)
        part = pixels_of(record.row.others['frame'], mask.shape)
        np.testing.assert_array_equal(datasets.volume(record.mask), mask[part])
        assert datasets.volume(record.image).shape == mask[part].shape


@pytest.mark.parametrize('name', ['luna16_lungs_framed', 'luna16_lungs_slices_hu_framed'])
def test_volumes_and_hu_are_not_framed(name, scans, tmp_path):
    with pytest.raises(InputError, match='choose ct_scans/luna16_lungs_slices_framed'):
        prepare.build(f'ct_scans/{name}', scans / 'luna16_lungs', str(tmp_path))
