"""Scores of masks beside definitions written by hand, other libraries, and published numbers."""

import itertools
import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import f1_score, jaccard_score

from covjax.metrics import segmentation
from covjax.metrics.intervals import mean_interval

pytestmark = pytest.mark.fast

quick = settings(max_examples=60, deadline=None)
SYMMETRIC = ('dice', 'iou', 'hd95_mm', 'nsd_1mm', 'nsd_3mm', 'absolute_volume_error_ml')


@st.composite
def pairs(draw, dims=(2, 3), both=False):
    """(prediction, truth, spacing): small random masks, some of them empty, some full."""
    ndim = draw(st.sampled_from(dims))
    shape = draw(st.tuples(*[st.integers(1, 6)] * ndim))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    densities = draw(st.tuples(*[st.sampled_from((0, 0.1, 0.5, 0.9, 1))] * 2))
    masks = [rng.random(shape) < density for density in densities]
    if both:
        for mask in masks:
            mask[tuple(rng.integers(0, shape))] = True
    spacing = draw(st.tuples(*[st.sampled_from((0.4, 0.7, 1, 2.5))] * ndim))
    return *masks, spacing


def box(shape, *sides):
    """A mask that is True from low to high, exclusive, along each axis."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


def neighbours(voxel, corners):
    """The voxels that share a corner with one, or a face only."""
    for step in itertools.product((-1, 0, 1), repeat=len(voxel)):
        if any(step) and (corners or np.abs(step).sum() == 1):
            yield tuple(np.add(voxel, step))


def border_by_hand(mask):
    """The voxels of a mask with a neighbour outside of it, in the order of argwhere."""
    inside = set(map(tuple, np.argwhere(mask)))
    return [v for v in sorted(inside) if not inside.issuperset(neighbours(v, corners=False))]


def distances_by_hand(prediction, truth, spacing):
    """border_distances, every voxel against every other."""
    borders = [np.array(border_by_hand(mask)) for mask in (prediction, truth)]
    if not all(map(len, borders)):
        return [np.full(len(points), np.inf) for points in borders]
    apart = (borders[0][:, None] - borders[1][None]) * np.array(spacing)
    apart = np.sqrt((apart**2).sum(-1))
    return [apart.min(1), apart.min(0)]


def components_by_hand(mask):
    """[set of voxels] that hang together by corners."""
    left, components = set(map(tuple, np.argwhere(mask))), []
    while left:
        found, edge = set(), {left.pop()}
        while edge:
            found |= edge
            edge = {n for v in edge for n in neighbours(v, corners=True)} & left
            left -= edge
        components.append(found)
    return components


def lesions_by_hand(prediction, truth, smallest):
    """The four counts of lesion_scores; smallest in voxels."""
    predicted, true = components_by_hand(prediction), components_by_hand(truth)
    found, right = [], []
    for lesion in true:
        touching = [component for component in predicted if component & lesion]
        union = set().union(*touching)
        if len(union & lesion) >= 0.1 * len(union | lesion):
            found.append(lesion)
            right += [component for component in touching if component not in right]
    counted = lambda components: sum(len(component) >= smallest for component in components)
    return {
        'true_lesions': counted(true),
        'found_lesions': counted(found),
        'predicted_lesions': counted(predicted),
        'false_lesions': counted(predicted) - counted(right),
    }


def ball(radius, size=41):
    """A ball of voxels in the middle of a cube."""
    offsets = np.indices((size,) * 3) - size // 2
    return (offsets**2).sum(0) <= radius**2


CASES = {
    # prediction, truth, spacing -> Dice, HD95 in mm, NSD at 1 mm
    'a box of 20 voxels shifted by two': (
        (box((40,) * 3, (7, 27), (5, 25), (5, 25)), box((40,) * 3, (5, 25), (5, 25), (5, 25))),
        (1, 1, 1),
        (0.9, 2.0, 0.6974),
    ),
    'a box shifted by one thick slice': (
        (box((40,) * 3, (6, 26), (5, 25), (5, 25)), box((40,) * 3, (5, 25), (5, 25), (5, 25))),
        (2.5, 0.7, 0.7),
        (0.95, 2.5, 0.6974),
    ),
    'a ball in a larger one': ((ball(15), ball(17)), (1, 1, 1), (0.8171, 2.236, 0.0)),
}


@pytest.mark.parametrize('case', CASES)
def test_scores_are_those_that_monai_and_metrics_reloaded_give(case):
    masks, spacing, expected = CASES[case]
    found = segmentation.scan_scores(*masks, spacing)
    np.testing.assert_allclose(
        [found[name] for name in ('dice', 'hd95_mm', 'nsd_1mm')], expected, atol=5e-4
    )
    assert found['nsd_3mm'] == 1


@quick
@given(pairs())
def test_dice_and_iou_are_f1_and_jaccard_of_the_voxels(pair):
    prediction, truth, _ = pair
    flat = truth.ravel(), prediction.ravel()
    close = lambda found, expected: np.testing.assert_allclose(found, expected, atol=1e-12)
    close(segmentation.dice(prediction, truth), f1_score(*flat, zero_division=np.nan))
    empty = not (prediction | truth).any()
    close(segmentation.iou(prediction, truth), np.nan if empty else jaccard_score(*flat))


@quick
@given(pairs())
def test_borders_and_distances_are_those_of_every_voxel_against_every_other(pair):
    prediction, truth, spacing = pair
    assert [*map(tuple, np.argwhere(segmentation.border(truth)))] == border_by_hand(truth)
    found = segmentation.border_distances(prediction, truth, spacing)
    for side, expected in zip(found, distances_by_hand(prediction, truth, spacing), strict=True):
        np.testing.assert_allclose(side, expected)


@quick
@given(pairs(both=True), st.sampled_from((0, 0.7, 1.2, 2.5)))
def test_surface_scores_are_percentiles_and_shares_of_the_distances(pair, tolerance):
    first, second = distances_by_hand(*pair)
    greater = max(np.percentile(first, 95), np.percentile(second, 95))
    assert segmentation.hd95(*pair) == pytest.approx(greater)
    near = np.concatenate([first, second]) < tolerance + 1e-9
    assert segmentation.nsd(*pair, tolerance) == pytest.approx(near.mean())


@pytest.mark.parametrize('tolerance, expected', [(1.2, 1), (1.19, 0)])
def test_a_distance_that_equals_the_tolerance_is_within_it(tolerance, expected):
    prediction, truth = np.eye(9, dtype=bool)[[7]], np.eye(9, dtype=bool)[[4]]
    assert 7 * 0.4 - 4 * 0.4 > 1.2  # as floats
    assert segmentation.nsd(prediction, truth, (1, 0.4), tolerance) == expected


@quick
@given(pairs(dims=(3,)))
def test_which_mask_is_the_truth_does_not_matter_to_agreement(pair):
    prediction, truth, spacing = pair
    forth = segmentation.scan_scores(prediction, truth, spacing)
    back = segmentation.scan_scores(truth, prediction, spacing)
    for name in SYMMETRIC:
        np.testing.assert_equal(back[name], forth[name])
    assert back['volume_error_ml'] == -forth['volume_error_ml']


@quick
@given(pairs(), st.sampled_from((0.1, 0.3, 7)), st.sampled_from((0.4, 0.7, 2.5)))
def test_a_larger_spacing_scales_distances_and_nothing_else(pair, factor, tolerance):
    prediction, truth, spacing = pair
    scaled = np.multiply(spacing, factor)
    distance = segmentation.hd95(prediction, truth, spacing)
    np.testing.assert_allclose(segmentation.hd95(prediction, truth, scaled), factor * distance)
    share = segmentation.nsd(prediction, truth, spacing, tolerance)
    np.testing.assert_equal(segmentation.nsd(prediction, truth, scaled, factor * tolerance), share)


@quick
@given(pairs(dims=(3,)), st.permutations(range(3)), st.sampled_from((-1, 1)))
def test_turning_masks_with_their_spacing_changes_no_score(pair, axes, direction):
    prediction, truth, spacing = pair
    turn = lambda mask: mask.transpose(axes)[::direction]
    turned = segmentation.scan_scores(turn(prediction), turn(truth), np.take(spacing, axes))
    for name, value in segmentation.scan_scores(prediction, truth, spacing).items():
        np.testing.assert_allclose(turned[name], value, err_msg=name)


@quick
@given(pairs(both=True))
def test_background_around_a_scan_changes_no_score(pair):
    prediction, truth, spacing = pair
    padded = segmentation.scan_scores(np.pad(prediction, 3), np.pad(truth, 3), spacing)
    assert padded == pytest.approx(
        segmentation.scan_scores(prediction, truth, spacing), nan_ok=True
    )


@quick
@given(pairs(both=True))
def test_a_mask_agrees_with_itself(pair):
    mask, _, spacing = pair
    scores = segmentation.scan_scores(mask, mask, spacing, smallest=0)
    full = ('dice', 'iou', 'nsd_1mm', 'lesion_sensitivity', 'lesion_precision', 'lesion_f1')
    assert {scores[name] for name in full} == {1.0}
    assert scores['hd95_mm'] == 0 and scores['false_lesions'] == 0


def test_two_empty_masks_have_no_agreement():
    nothing = np.zeros((4, 5, 6), bool)
    scores = segmentation.scan_scores(nothing, nothing, (1, 1, 1))
    assert scores['both_empty']
    unknown = {name for name, value in scores.items() if np.isnan(value)}
    shares = {f'lesion_{name}' for name in ('sensitivity', 'precision', 'f1')}
    assert unknown == {'dice', 'iou', 'hd95_mm', 'nsd_1mm', 'nsd_3mm'} | shares
    assert scores['volume_error_ml'] == 0


@pytest.mark.parametrize('missed', [True, False])
def test_one_empty_mask_has_the_worst_scores(missed):
    nothing, lesion = np.zeros((4, 5, 6), bool), box((4, 5, 6), (1, 3), (1, 3), (1, 3))
    masks = (nothing, lesion) if missed else (lesion, nothing)
    scores = segmentation.scan_scores(*masks, (3, 2, 1), smallest=0)
    assert not scores['both_empty']
    assert [scores[name] for name in ('dice', 'iou', 'nsd_3mm', 'lesion_f1')] == [0, 0, 0, 0]
    assert scores['hd95_mm'] == pytest.approx(np.sqrt(12**2 + 10**2 + 6**2))


@quick
@given(pairs(both=True))
def test_no_distance_is_worse_than_that_of_an_empty_mask(pair):
    _, truth, spacing = pair
    assert segmentation.hd95(*pair) < segmentation.hd95(np.zeros_like(truth), truth, spacing)


@quick
@given(pairs(), st.sampled_from((1, 2, 5)))
def test_lesions_are_found_as_by_walking_from_voxel_to_voxel(pair, voxels):
    prediction, truth, spacing = pair
    smallest = voxels * np.prod(spacing) / 10**truth.ndim
    found = segmentation.lesion_scores(prediction, truth, spacing, smallest)
    expected = lesions_by_hand(prediction, truth, voxels)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize('shape', [(40, 40), (12, 12, 12)])
def test_components_are_those_of_simpleitk(shape):
    for density in (0.02, 0.1, 0.25):
        mask = np.random.default_rng(0).random(shape) < density
        labels = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), True)
        expected = sitk.GetArrayViewFromImage(labels).max()
        found = segmentation.lesion_scores(mask, mask, np.ones(len(shape)), smallest=0)
        assert found['true_lesions'] == found['predicted_lesions'] == expected > 1


def test_lesion_rates_are_shares_of_their_counts():
    truth = box((9, 40), (1, 4), (1, 4)) | box((9, 40), (1, 4), (11, 14)) | box((9, 40), (6, 8))
    prediction = box((9, 40), (1, 4), (2, 5)) | box((9, 40), (1, 4), (31, 34))
    assert segmentation.lesion_scores(prediction, truth, (1, 1)) == {
        **{'true_lesions': 3, 'found_lesions': 1, 'predicted_lesions': 2, 'false_lesions': 1},
        'lesion_sensitivity': pytest.approx(1 / 3),
        'lesion_precision': 0.5,
        'lesion_f1': pytest.approx(2 / (3 + 2)),
    }


@pytest.mark.parametrize('length, found', [(100, 1), (101, 0)])
def test_a_lesion_is_found_from_a_tenth_of_the_union_on(length, found):
    lesion, piece = box((3, 120), (1, 2), (2, 2 + length)), box((3, 120), (1, 2), (5, 15))
    assert segmentation.lesion_scores(piece, lesion, (1, 1))['found_lesions'] == found


def test_a_prediction_that_floods_the_slice_finds_no_lesion():
    truth = box((30, 30), (2, 6), (2, 6)) | box((30, 30), (20, 24), (20, 24))
    found = segmentation.lesion_scores(np.ones_like(truth), truth, (1, 1))
    assert found['found_lesions'] == 0 and found['false_lesions'] == 1


def test_pieces_find_a_lesion_together():
    truth = box((10, 40), (0, 10), (0, 20))
    pieces = [
        box((10, 40), (row, row + 1), (0, 10)) for row in (1, 4, 8)
    ]  # each has an IoU of 0.05
    alone = segmentation.lesion_scores(pieces[0], truth, (1, 1))
    together = segmentation.lesion_scores(np.any(pieces, axis=0), truth, (1, 1))
    assert (alone['found_lesions'], together['found_lesions']) == (0, 1)
    assert together['false_lesions'] == 0


@pytest.mark.parametrize('length, counted', [(9, 0), (10, 1)])
def test_a_lesion_of_a_scan_counts_from_a_tenth_of_a_millilitre(length, counted):
    lesion = box((20, 20, 20), (3, 3 + length), (4, 14), (5, 6))
    found = segmentation.lesion_scores(np.zeros_like(lesion), lesion, (1, 1, 1))
    assert found['true_lesions'] == counted
    found = segmentation.lesion_scores(lesion, np.zeros_like(lesion), (1, 1, 1))
    assert found['false_lesions'] == counted


def test_a_piece_too_small_to_count_still_finds_the_lesion_that_it_hits():
    lesion, piece = (box((20, 20, 20), (3, z), (4, 14), (5, 6)) for z in (13, 10))
    found = segmentation.lesion_scores(piece, lesion, (1, 1, 1))
    assert (found['found_lesions'], found['predicted_lesions']) == (1, 0)


def test_sizes_are_in_millilitres_and_square_centimetres():
    assert segmentation.size(np.ones((10, 20, 20), bool), (2, 0.5, 0.5)) == pytest.approx(2)
    assert segmentation.size(np.ones((20, 20), bool), (1, 0.5)) == pytest.approx(2)


def test_errors_of_size_are_negative_where_too_little_is_predicted():
    lungs = box((10, 20, 20), (0, 10), (0, 20), (0, 10))
    truth, prediction = (box((10, 20, 20), (0, 10), (0, x), (0, 5)) for x in (10, 6))
    scores = segmentation.scan_scores(prediction, truth, (1, 1, 1), lungs=lungs)
    assert scores['volume_error_ml'] == pytest.approx(-0.2)
    assert scores['absolute_volume_error_ml'] == pytest.approx(0.2)
    assert scores['infection_percentage_error'] == pytest.approx(15 - 25)
    assert scores['absolute_infection_percentage_error'] == pytest.approx(10)


def test_without_lungs_there_is_no_percentage_of_infection():
    lesion = np.ones((3, 3), bool)
    assert np.isnan(segmentation.infection_percentage(lesion, ~lesion))
    assert 'infection_percentage_error' not in segmentation.scan_scores(lesion, lesion, (1, 1))


def test_a_small_lesion_in_a_large_scan_takes_little_more_memory_than_the_scan():
    truth = box((200, 256, 256), (90, 110), (100, 130), (100, 130))
    prediction = np.roll(truth, 2, axis=0)
    tracemalloc.start()
    segmentation.scan_scores(prediction, truth, (1, 0.7, 0.7))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * truth.nbytes  # a distance transform of it all takes 50 times as much


MASK = np.ones((4, 4), bool)


@pytest.mark.parametrize(
    'prediction, truth, spacing, options, message',
    [
        (MASK * 255, MASK, (1, 1), {}, 'bool array, not int64'),
        (MASK, MASK.astype(float), (1, 1), {}, 'bool array, not float64'),
        (MASK, MASK[:3], (1, 1), {}, r'one shape, not \(4, 4\), \(3, 4\)'),
        (MASK[0], MASK[0], (1,), {}, 'two or three dimensions'),
        (MASK, MASK, (1, 1, 1), {}, '2 positive numbers'),
        (MASK, MASK, (1, 0), {}, '2 positive numbers'),
        (MASK, MASK, (1, np.nan), {}, '2 positive numbers'),
        (MASK, MASK, (1, 1), {'tolerances': (-1,)}, 'tolerance'),
        (MASK, MASK, (1, 1), {'smallest': -1}, 'smallest'),
        (MASK, MASK, (1, 1), {'lungs': MASK[:3]}, 'one shape'),
    ],
)
def test_what_is_no_mask_has_no_score(prediction, truth, spacing, options, message):
    with pytest.raises(ValueError, match=message):
        segmentation.scan_scores(prediction, truth, spacing, **options)


def scores_of(*dices):
    """Scores of scans that have a Dice only."""
    return [{'both_empty': bool(np.isnan(dice)), 'dice': dice} for dice in dices]


def test_a_summary_is_a_mean_over_scans_and_not_over_voxels():
    shape = (20, 20)
    large, small = box(shape, (0, 20), (0, 10)), box(shape, (0, 1), (0, 1))
    scores = [
        segmentation.scan_scores(large, large, (1, 1)),
        segmentation.scan_scores(np.zeros(shape, bool), small, (1, 1)),
    ]
    assert segmentation.summary(scores, ['a', 'b']).means['dice'].value == 0.5


def test_a_summary_counts_what_it_leaves_out():
    found = segmentation.summary(scores_of(0.5, np.nan, 1.0, np.nan), list('abcd'))
    assert (found.scans, found.both_empty) == (4, 2)
    assert found.means['dice'].counted == 2 and found.means['dice'].value == 0.75
    nothing = segmentation.summary(scores_of(np.nan, np.nan), list('ab')).means['dice']
    assert nothing.counted == 0 and np.isnan(nothing[:3]).all()


def test_the_interval_of_a_summary_draws_patients():
    dices, patients = np.random.default_rng(0).random(12), list('aaabbbcccddd')
    found = segmentation.summary(scores_of(*dices), patients, seed=3).means['dice']
    assert (found.low, found.high) == mean_interval(dices, patients, seed=3)
    assert np.isnan(segmentation.summary(scores_of(0.5, 0.7), ['a', 'a']).means['dice'].low)


@pytest.mark.parametrize(
    'scores, groups, message',
    [
        ([], [], 'at least one scan'),
        (scores_of(0.5, 0.6), ['a'], 'patient of each'),
        ([*scores_of(0.5), {'both_empty': False, 'iou': 0.5}], ['a', 'b'], 'same scores'),
    ],
)
def test_no_summary_of_scores_that_do_not_belong_together(scores, groups, message):
    with pytest.raises(ValueError, match=message):
        segmentation.summary(scores, groups)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_dice_by_threshold_is_dice_at_each_level_of_a_picture(dtype):
    rng = np.random.default_rng(0)
    grey, truth = rng.integers(0, 256, (32, 32), np.uint8), rng.random((32, 32)) < 0.3
    found = segmentation.dice_by_threshold(grey.astype(dtype) / dtype(255), truth)
    expected = [segmentation.dice(grey >= level, truth) for level in range(255, -1, -1)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_soft_map_with_a_perfect_mask_has_less_than_a_perfect_mean():
    truth = box((16, 16), (2, 9), (3, 8))
    scores = segmentation.soft_scores(np.where(truth, 0.75, 0.25), truth)
    assert scores['dice_at_0.5'] == 1
    everything = 2 * truth.sum() / (truth.sum() + truth.size)
    # 64 thresholds are above 0.75, 128 between, and 64 up to 0.25.
    assert scores['dice_mean_of_256_thresholds'] == pytest.approx((128 + 64 * everything) / 256)


def test_soft_maps_follow_the_rule_of_empty_masks():
    lesion, nothing = box((8, 8), (2, 5), (2, 5)), np.zeros((8, 8), bool)
    score = lambda value, truth: segmentation.soft_scores(np.full((8, 8), value), truth)
    mean_of = lambda scores: scores['dice_mean_of_256_thresholds']
    assert score(0.2, nothing)['both_empty'] and np.isnan(score(0.2, nothing)['dice_at_0.5'])
    assert score(0.9, nothing)['dice_at_0.5'] == score(0.2, lesion)['dice_at_0.5'] == 0
    assert np.isnan([mean_of(score(value, nothing)) for value in (0.0, 0.9, 1.0)]).all()
    assert np.isnan(segmentation.dice_by_threshold(np.zeros((8, 8)), nothing)[:-1]).all()


@pytest.mark.parametrize(
    'soft', [MASK * 255, MASK * 255.0, MASK * np.nan, MASK * -0.1, np.ones((3, 4))]
)
def test_what_is_no_soft_map_has_no_score(soft):
    with pytest.raises(ValueError, match='a soft map'):
        segmentation.soft_scores(soft, MASK)


def test_a_stretched_map_runs_from_zero_to_one():
    soft = np.random.default_rng(0).random((8, 8)).astype(np.float32) * 0.3 + 0.2
    found = segmentation.stretched(soft)
    assert (found.min(), found.max(), found.dtype) == (0, 1, np.float32)
    assert (np.argsort(found, axis=None) == np.argsort(soft, axis=None)).all()
    assert not segmentation.stretched(np.full((8, 8), 0.7)).any()


@pytest.mark.parametrize(
    'network, mean_of_thresholds, at_half',
    [
        ('Inf-Net', 0.682, 0.738),
        ('Semi-Inf-Net', 0.739, 0.770),
        ('UNet', 0.439, 0.541),
        ('UNet++', 0.581, 0.706),
    ],
)
def test_real_maps_of_inf_net_have_their_published_dice(real, network, mean_of_thresholds, at_half):
    folder, scores = real / 'covid_semiseg', []
    if not folder.is_dir():
        pytest.skip('COVJAX_DATA has no covid_semiseg')
    for path in sorted((folder / 'test' / 'GT').glob('*.png')):
        truth = np.asarray(Image.open(path)) > 128
        grey = np.asarray(Image.open(folder / 'predictions' / network / path.name))
        scores.append(segmentation.soft_scores(segmentation.stretched(grey / 255), truth))
    found = segmentation.summary(scores, range(48))
    assert (found.scans, found.both_empty) == (48, 0)
    assert found.means['dice_mean_of_256_thresholds'].value == pytest.approx(
        mean_of_thresholds, abs=5e-4
    )
    assert found.means['dice_at_0.5'].value == pytest.approx(at_half, abs=5e-4)


@pytest.mark.parametrize('spacing', [(1, 1, 1), (2.5, 0.7, 0.7), (0.5, 1.5)])
def test_scores_are_those_of_monai(spacing):
    metrics = pytest.importorskip('monai.metrics')
    torch = pytest.importorskip('torch')
    rng = np.random.default_rng(0)
    for density in (0.01, 0.3, 0.9):
        masks = [rng.random((9, 12, 14)[: len(spacing)]) < density for _ in range(2)]
        for mask in masks:
            mask[tuple(rng.integers(0, mask.shape))] = True
        tensors = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in masks]
        surface = {'include_background': True, 'spacing': spacing}
        found = segmentation.scan_scores(*masks, spacing)
        expected = {
            'dice': metrics.compute_dice(*tensors),
            'iou': metrics.compute_iou(*tensors),
            'hd95_mm': metrics.compute_hausdorff_distance(*tensors, percentile=95, **surface),
            'nsd_1mm': metrics.compute_surface_dice(*tensors, [1.0], **surface),
            'nsd_3mm': metrics.compute_surface_dice(*tensors, [3.0], **surface),
        }
        for name, value in expected.items():
            assert found[name] == pytest.approx(value.item(), rel=1e-5), name
