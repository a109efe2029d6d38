"""Candidates for lesions: pieces of a mask, patches around them, and their place in the lungs."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from segmenters import write_run

from configs import scans as config_file
from covjax import InputError, scan_classifier, trained
from covjax.data import bags, candidates
from covjax.phantom import ct_scans
from covjax.runs import prepare, train
from covjax.training import scans

SPACING = (5.0, 2.0, 2.0)


def empty():
    return np.zeros((12, 60, 60), bool)


@pytest.mark.fast
def test_pieces_are_those_of_simpleitk():
    """Of random masks: components that touch at corners, of 100 mm3 at least, the largest first."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        noise = ndimage.gaussian_filter(rng.normal(size=(12, 40, 40)), 1.5)
        mask = noise > 2 * noise.std()
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing(SPACING[::-1])
        parts = sitk.ConnectedComponent(image, True)
        shape = sitk.LabelShapeStatisticsImageFilter()
        shape.Execute(parts)
        large = [n for n in shape.GetLabels() if shape.GetPhysicalSize(n) >= 100]
        large.sort(key=lambda n: -shape.GetPhysicalSize(n))
        numbers = sitk.GetArrayFromImage(parts)
        found = [numbers[middle] for middle in candidates.pieces(mask, SPACING)]
        sizes = [shape.GetPhysicalSize(int(n)) for n in found]
        assert sorted(found) == sorted(large) and sizes == sorted(sizes, reverse=True)


@pytest.mark.fast
def test_the_middle_of_a_piece_lies_in_it():
    """Of a ring too, whose centre is empty."""
    mask = empty()
    rows, columns = np.indices(mask.shape[1:]) - 30
    distance = np.hypot(rows, columns)
    mask[5] = (distance > 8) & (distance < 12)
    ((z, y, x),) = candidates.pieces(mask, SPACING)
    assert mask[z, y, x] and z == 5
    ball = empty()
    ball[3:8, 10:21, 30:41] = True
    assert candidates.pieces(ball, SPACING) == [(5, 15, 35)]


@pytest.mark.fast
def test_without_a_mask_there_are_no_candidates():
    grey = np.zeros(empty().shape, np.uint8)
    patches, places, slices = candidates.of_scan(grey, empty(), empty(), SPACING, 32, 5)
    assert patches.shape == (0, 32, 32, 3) and not len(places) and not len(slices)


@pytest.mark.fast
def test_patches_are_those_of_simpleitk():
    """The middle slice and its neighbours, 64 mm wide at any spacing; black beyond the scan."""
    grey = np.random.default_rng(0).integers(50, 250, (4, 60, 60)).astype(np.uint8)
    grey = ndimage.gaussian_filter(grey, (0, 2, 2))
    for middle in ((2, 30, 25), (0, 5, 55)):
        found = candidates.patch(grey, middle, SPACING, 32)
        for channel, step in enumerate((-1, 0, 1)):
            z = middle[0] + step
            if not 0 <= z < len(grey):
                assert not found[..., channel].any()
                continue
            image = sitk.GetImageFromArray(grey[z].astype(np.float32))
            image.SetSpacing(SPACING[:0:-1])
            # The middle of the voxel is the middle of the patch; its 32 pixels are 2 mm wide.
            origin = [2.0 * n - 31.0 for n in middle[:0:-1]]
            moved = sitk.Resample(
                image, (32, 32), sitk.Transform(), sitk.sitkLinear, origin, (2.0, 2.0)
            )
            expected = sitk.GetArrayFromImage(moved)
            known = expected > 0
            apart = np.abs(found[..., channel].astype(float) - expected)[known]
            assert known.mean() > 0.2 and np.quantile(apart, 0.95) < 2


@pytest.mark.fast
@pytest.mark.parametrize('scale', [1.0, 2.5])
def test_the_location_is_the_relative_distance_from_the_edge(scale):
    """In the middle of a rectangle half its shorter side, in shares of its diagonal."""
    lung, spacing = empty(), (5.0, 2.0 * scale, 2.0 * scale)
    lung[4, 10:51, 5:26] = True  # 41 x 21 voxels
    diagonal = np.hypot(41, 21)
    found = candidates.location(lung, (4, 30, 15), spacing)
    assert found == pytest.approx(11 / diagonal)
    assert candidates.location(lung, (4, 30, 5), spacing) == pytest.approx(1 / diagonal)
    assert candidates.location(lung, (4, 30, 40), spacing) == 0
    assert candidates.location(lung, (3, 30, 15), spacing) == 0


@pytest.mark.fast
def test_so_many_candidates_are_kept_and_the_largest():
    mask, grey = empty(), np.zeros(empty().shape, np.uint8)
    for i in range(6):
        mask[2 * i, 5 : 8 + 2 * i, 5:25] = True
    _, _, slices = candidates.of_scan(grey, mask, mask, SPACING, 16, 3)
    assert slices.tolist() == [10, 8, 6]


# ---- networks that see them


@pytest.fixture(scope='module')
def places(tmp_path_factory):
    """Phantom scans, and a segmenter that calls what is dark a lesion."""
    folder = tmp_path_factory.mktemp('candidates')
    ct_scans.write_volumes(folder / 'raw', people=(4, 4, 4), size=48, slices=6, healthy=True)
    prepare.build('ct_scans/folder', str(folder / 'raw'), str(folder / 'data'))
    for name, classes in (('lesions', ('background', 'lesion')), ('lungs', ('background', 'lung'))):
        (folder / name).mkdir()
        write_run(folder / name, classes, val='', best='')
    return folder


def config_of(places, **fields):
    config = config_file.get_config('location')
    config.update({
        **{'train': 'ct_scans/folder:train', 'val': 'ct_scans/folder:validation'},
        **{'data_dir': str(places / 'data'), 'lesion_segmenter': str(places / 'lesions')},
        **{'model': 'plain8', 'bn': 'frozen', 'image_size': 32, 'slices': 3, 'batch_size': 2},
        **{'steps': 2, 'eval_every': 2, 'warmup_steps': 0},
        **fields,
    })  # fmt: skip
    return config


def test_a_network_learns_from_candidates_and_their_places(places, tmp_path):
    config = config_of(places)
    (tmp_path / 'config.json').write_text(config.to_json())
    train.run(config, tmp_path)
    run = trained.open_run(tmp_path, 'scans', 'classifier')
    params = run.variables['net']['params']
    assert params['location']['dense3']['kernel'].shape == (17, 16)
    assert (tmp_path / 'lesions.safetensors').is_file()
    found = scan_classifier.read('ct_scans/folder:test', config.data_dir, run.config)
    assert all(images.shape[1:] == (32, 32, 3) for images in found.images)
    assert all(0 <= place <= 1 for each in found.locations for place in each)
    loaded = scan_classifier.load(tmp_path)
    scores = scan_classifier.predict(loaded, found).scores
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)
    # A scan without candidates is one without disease.
    nothing = found._replace(
        images=[images[:0] for images in found.images],
        locations=[each[:0] for each in found.locations],
    )
    scores = scan_classifier.predict(loaded, nothing).scores
    assert (scores[:, found.classes.index('normal')] > 0.999).all()


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'pooling': 'max'}, 'config.pooling=max: a scan may have no candidate for a lesion'),
        ({'lesion_segmenter': 'nowhere'}, 'nowhere'),
        ({'window': 'covid'}, 'config.window=covid: patches .* leave it .lung.'),
        ({'mip': 5.0}, 'config.mip=5.0: patches around candidates'),
        ({'apart': 5.0}, 'config.apart=5.0: patches around candidates'),
        ({'lungs': 'crop'}, 'config.lungs=crop: patches around candidates'),
    ],
)
def test_what_candidates_need(places, fields, message):
    with pytest.raises(InputError, match=message):
        scans.make(config_of(places, **fields))


def test_scans_without_any_candidate_are_counted(places, capsys):
    spec, data, shown = 'ct_scans/folder:train', str(places / 'data'), bags.Shown(32, 3)
    once = iter([True, *[False] * 3])
    found = bags.read(spec, data, shown, find_lesions=lambda grey: np.full(grey.shape, next(once)))
    assert [len(images) for images in found.images] == [1, 0, 0, 0]
    assert f'{spec}: 1 candidates, none in 3 of 4 scans' in capsys.readouterr().out


def test_a_training_needs_a_candidate(places, monkeypatch):
    nothing = lambda named: lambda grey: np.zeros(grey.shape, bool)
    monkeypatch.setattr(scan_classifier, '_lesion_finder', nothing)
    with pytest.raises(InputError, match='config.lesion_segmenter=.*: finds no lesion in any scan'):
        scans.make(config_of(places))


def test_the_variant_names_the_segmenter_that_it_needs():
    config = config_file.get_config('location')
    with pytest.raises(InputError, match='config.lesion_segmenter=runs/lesions: no config.json'):
        scan_classifier.read('ct_scans/folder:train', '', config)


def test_a_segmenter_of_lungs_finds_no_lesions(places):
    config = config_of(places, lesion_segmenter=str(places / 'lungs'))
    with pytest.raises(InputError, match='config.lesion_segmenter=.* finds lung and no lesions'):
        scans.make(config)
