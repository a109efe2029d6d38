"""Scans as bags: which slices are shown, how, and what is refused."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from covjax import InputError
from covjax.ct import windows
from covjax.data import bags, specs
from covjax.data.bags import Shown
from covjax.data.rows import Row
from covjax.phantom import ct_scans
from covjax.phantom.ct_scans import write_ct_scans
from covjax.runs import prepare

pytestmark = pytest.mark.fast

NOTHING = lambda grey: np.zeros(grey.shape, bool)


def body(lungs_in, slices=12, size=40):
    """(uint8 [slices, size, size], a function that finds its lungs): in some slices only."""
    grey = np.full((slices, size, size), 140, np.uint8)
    lung = np.zeros(grey.shape, bool)
    for z in lungs_in:
        lung[z, 8:32, 6:18] = lung[z, 8:32, 22:34] = True
    grey[lung] = 30
    return grey, lambda shown: shown < 60


def chosen(grey, find, height=5.0, **fields):
    """The numbers of the slices of a bag."""
    return bags.bag_of(grey, height, Shown(**{'size': 20, 'slices': 4} | fields), find, 'a').places


# ---- which slices


@pytest.mark.parametrize(
    'slices, expected',
    [(1, [6]), (2, [4, 7]), (3, [4, 6, 8]), (6, range(3, 9)), (99, range(3, 9))],
)
def test_slices_are_spread_over_those_with_lungs(slices, expected):
    grey, find = body(range(3, 9))
    np.testing.assert_array_equal(chosen(grey, find, slices=slices), [*expected])


def test_without_lungs_the_whole_scan_counts():
    grey, _ = body([])
    images, places, found, _ = bags.bag_of(grey, 5.0, Shown(20, 3), NOTHING, 'a')
    assert not found and places.tolist() == [2, 6, 10] and images.shape == (3, 20, 20, 1)


def test_a_sliver_of_lung_does_not_count():
    """Less than a tenth of the lungs of the largest slice, as above the clavicles."""
    grey, find = body(range(3, 9))
    grey[1, 20:24, 8:12] = 30
    assert chosen(grey, find, slices=99).tolist() == [*range(3, 9)]


@pytest.mark.parametrize('step, expected', [(10.0, [3, 5, 7]), (15.0, [4, 7]), (2.0, range(3, 9))])
def test_slices_are_taken_so_many_millimetres_apart(step, expected):
    grey, find = body(range(3, 9))
    assert chosen(grey, find, slices=99, step=step).tolist() == [*expected]


# ---- how they are shown


def test_slabs_show_their_maximum():
    """That of SciPy over the slices of the thickness."""
    grey, find = body(range(2, 10))
    grey = grey + np.random.default_rng(0).integers(0, 9, grey.shape).astype(np.uint8)
    images, places, *_ = bags.bag_of(grey, 2.0, Shown(40, 99, mip=6.0), find, 'a')
    expected = ndimage.maximum_filter1d(grey, 3, axis=0)
    np.testing.assert_array_equal(images[..., 0], expected[places])


def test_hu_are_seen_through_the_window_of_the_config():
    grey, find = body(range(12))
    hu = (grey.astype(np.int16) - 150) * 8
    lungs_in = lambda shown: find(np.where(shown < 100, 30, 140))
    images, places, *_ = bags.bag_of(hu, 5.0, Shown(40, 3, window='covid'), lungs_in, 'a')
    expected = windows.to_grey(hu, windows.WINDOWS['covid'])
    np.testing.assert_array_equal(images[..., 0], expected[places])
    with pytest.raises(InputError, match='config.window=covid: a is stored .* ends in _hu'):
        bags.bag_of(grey, 5.0, Shown(40, 3, window='covid'), find, 'a')


@pytest.mark.parametrize('view', ['crop', 'mask'])
def test_one_box_around_the_lungs_of_all_slices(view):
    """With a margin of a twentieth; outside the lungs it is black, or as it was."""
    grey, find = body(range(3, 9))
    grey[4, :8] = 200
    images, *_ = bags.bag_of(grey, 5.0, Shown(100, 99, view=view), find, 'a')
    expected = np.zeros((26, 30), np.uint8) if view == 'mask' else grey[4, 7:33, 5:35]
    if view == 'mask':
        expected[1:25, 1:13] = expected[1:25, 17:29] = 30
    shown = Image.fromarray(expected).resize((100, 100), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(images[1, ..., 0], np.asarray(shown))


def test_lungs_are_looked_for_in_small_slices_and_shown_in_large_ones():
    grey, find = body(range(3, 9), size=40)
    large = grey.repeat(16, 1).repeat(16, 2)
    sizes = []

    def noted(shown):
        sizes.append(shown.shape[1])
        return find(shown)

    lung = bags.lung_of(large, noted)
    assert sizes[0] <= bags.FINDING and lung.shape == large.shape
    assert (lung[5] == (large[5] == 30)).mean() > 0.99


def test_pictures_of_any_size_are_a_bag():
    pictures = [np.full(shape, 9, np.uint8) for shape in ((30, 40), (50, 20), (40, 40))]
    images, places, found, _ = bags.bag_of(pictures, 0.0, Shown(20, 2), NOTHING, 'a')
    assert images.shape == (2, 20, 20, 1) and places.tolist() == [0, 2] and not found


@pytest.mark.parametrize('key, named', [('mip', 'mip'), ('step', 'apart')])
def test_millimetres_need_slices_that_say_how_far_apart_they_are(key, named):
    grey, find = body(range(3, 9))
    with pytest.raises(InputError, match=f'config.{named}=5: a does not say how far'):
        bags.bag_of(grey, 0.0, Shown(20, 2, **{key: 5.0}), find, 'a')


def test_bags_are_filled_with_slices_that_do_not_count():
    images = [np.full((k, 5, 5, 1), 7, np.uint8) for k in (2, 0, 4)]
    batch = bags.batch_of(images, [0, 1], 4)
    assert batch['image'].shape == (2, 4, 5, 5, 1)
    assert batch['valid'].tolist() == [[True, True, False, False], [False] * 4]
    assert (batch['image'][0, :2] == 7).all() and batch['image'].sum() == 7 * 50


# ---- from data sets


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Phantom scans as volumes and as slices, in grey and in HU."""
    folder = tmp_path_factory.mktemp('bags')
    write_ct_scans(folder / 'raw', 'covid_ct_md', slices=8)
    for config in ('covid_ct_md', 'covid_ct_md_slices', 'covid_ct_md_slices_hu'):
        prepare.build(f'ct_scans/{config}', str(folder / 'raw'), str(folder / 'data'))
    return str(folder / 'data')


def everything(config, data):
    """The spec of all splits of a config."""
    name = f'ct_scans/{config}'
    return '+'.join(f'{name}:{split}' for _, split in specs.splits(name, data))


def read(data, config):
    return bags.read(everything(config, data), data, Shown(24, 5))


@pytest.mark.parametrize('config', ['covid_ct_md_slices', 'covid_ct_md_slices_hu'])
def test_slices_make_the_scans_that_they_were_cut_from(data, config):
    whole, sliced = read(data, 'covid_ct_md'), read(data, config)
    first = {row.others['scan']: i for i, row in enumerate(whole.rows)}
    assert len(whole.rows) == len(sliced.rows) == 4
    for i, row in enumerate(sliced.rows):
        k = first[row.others['scan']]
        np.testing.assert_array_equal(sliced.images[i], whole.images[k])
        assert sliced.counts[i] == whole.counts[k] == 8
        assert sliced.labels[i] == whole.labels[k] and row.group == whole.rows[k].group
        np.testing.assert_array_equal(sliced.places[i], whole.places[k])
    assert len(sliced.members) == 32 and len(whole.members) == 4


def rows(count=4, **fields):
    """Rows of slices of one scan."""
    make = lambda z: Row(
        f'a/z{z:03d}', 'p', f'{z}', z=z, others={'scan': 'a', 'patient': 'p', 'spacing': [5, 1, 1]}
    )
    return [dataclasses.replace(make(z), **fields) for z in range(count)]


def with_others(row, **others):
    return dataclasses.replace(row, others={**row.others, **others})


def test_slices_of_one_scan_pass():
    bags.check_slices('x', 'a', rows())


@pytest.mark.parametrize(
    'spoil, message',
    [
        (
            lambda found: [*found[:2], with_others(found[2], patient='q'), found[3]],
            'scan a has slices of two patients, p and q',
        ),
        (
            lambda found: [*found[:3], with_others(found[3], spacing=[1, 1, 1])],
            'has slices of different spacing, 1 and 5 mm apart',
        ),
        (lambda found: [found[0], *found[2:]], 'lacks the slice z = 1, or has one twice'),
        (lambda found: [*found[:2], *found[1:]], 'lacks the slice z = 2, or has one twice'),
        (lambda found: found[1:], 'lacks the slice z = 0, or has one twice'),
    ],
    ids=['patients', 'spacing', 'missing', 'twice', 'without the first'],
)
def test_slices_that_are_no_scan_are_refused(spoil, message):
    with pytest.raises(InputError, match=message):
        bags.check_slices('x', 'a', spoil(rows()))


def test_framed_slices_need_not_follow_one_another():
    found = [with_others(row, frame=[0, 0, 1, 1]) for row in rows()]
    bags.check_slices('x', 'a', [found[0], found[2]])


@pytest.mark.parametrize(
    'key, shown, with_candidates',
    [
        ('mip', Shown(20, 2, mip=5.0), False),
        ('apart', Shown(20, 2, step=5.0), False),
        ('lesion_segmenter', Shown(20, 2), True),
    ],
)
def test_framed_slices_do_not_lie_on_one_another(key, shown, with_candidates):
    whole, *_ = rows()
    framed = with_others(whole, frame=[0, 0, 1, 1])
    bags.check_whole(whole, shown, with_candidates)
    bags.check_whole(framed, Shown(20, 2), False)
    with pytest.raises(InputError, match=f'config.{key}: a/z000 has framed slices.*out _framed'):
        bags.check_whole(framed, shown, with_candidates)


def test_two_labels_of_one_patient_are_refused():
    first, second, *_ = rows(label=1, label_name='covid')
    bags.check_labels('x', [first, second])
    other = dataclasses.replace(second, label=0, label_name='normal')
    with pytest.raises(InputError, match='x: patient p is covid in a/z000 and normal in a/z001'):
        bags.check_labels('x', [first, other])


def test_pictures_of_one_patient_with_two_labels_are_refused(tmp_path):
    write_ct_scans(tmp_path / 'raw', 'folder_pictures')
    table = tmp_path / 'raw' / 'scans.csv'
    first, second, *others = table.read_text().splitlines()
    table.write_text('\n'.join([first, second.replace(',Non-COVID,', ',COVID,'), *others]))
    data = str(tmp_path / 'data')
    prepare.build('ct_scans/folder', str(tmp_path / 'raw'), data)
    with pytest.raises(InputError, match='patient person 0 is covid in .* and non_covid in .*corr'):
        bags.read(everything('folder', data), data, Shown(24, 8))


def test_the_pictures_of_a_patient_are_a_bag(tmp_path):
    """Where a data set has pictures and no scans."""
    write_ct_scans(tmp_path / 'raw', 'folder_pictures')
    data = str(tmp_path / 'data')
    prepare.build('ct_scans/folder', str(tmp_path / 'raw'), data)
    found = bags.read(everything('folder', data), data, Shown(24, 8))
    assert len(found.rows) == 8 and {len(images) for images in found.images} == {2}
    assert len(found.members) == 16


def test_labelled_volumes_of_phantoms_say_who_is_ill(tmp_path):
    ct_scans.write_volumes(tmp_path / 'raw', people=(2, 2, 2), size=32, slices=6, healthy=True)
    prepare.build('ct_scans/folder', str(tmp_path / 'raw'), str(tmp_path / 'data'))
    found = bags.read('ct_scans/folder:train', str(tmp_path / 'data'), Shown(16, 4))
    assert found.classes == ('normal', 'covid') and sorted(found.labels.tolist()) == [0, 1]
    ill = {bags.patient_of(row): row.label for row in found.rows}
    assert ill == {'train_00': 0, 'train_01': 1}
