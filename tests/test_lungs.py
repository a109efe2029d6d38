"""Lung masks beside the lungs that phantoms are drawn with."""

import numpy as np
import pytest
from PIL import Image

from covjax.ct import lungs, windows
from covjax.phantom import chest

pytestmark = pytest.mark.fast


def drawn(seed, size=128, z=0.0):
    """(grey slice, the lungs it was drawn with)."""
    person = chest.draw_chest(np.random.default_rng(seed), nodules=1, opacities=2 * (seed % 2))
    axis = (np.arange(size) - (size - 1) / 2) * 345 / size
    distance = chest.lung_distance(person.lungs, person.heart, axis[None, :], axis[:, None], z)
    return windows.to_grey(chest.render(person, z, size, 345 / size)), distance < 0


def test_masks_are_the_lungs_of_phantoms():
    images, truth = map(np.stack, zip(*(drawn(seed) for seed in range(6))))
    found = lungs.masks(images[..., None])
    assert lungs.plausible(found).all()
    assert (lungs.dice(found, truth) > 0.93).all()


@pytest.mark.parametrize(
    'change',
    [
        lambda grey: np.clip(grey * 0.6 + 40, 0, 255).astype(np.uint8),
        lambda grey: grey[6:-6, 4:-8],
        lambda grey: grey[:, ::-1],
        lambda grey: grey[::-1],
    ],
    ids=['window', 'frame', 'mirrored', 'upside down'],
)
def test_window_frame_and_side_do_not_matter(change):
    grey, truth = drawn(1)
    changed_truth = change(np.where(truth, 200, 0).astype(np.uint8)) > 100
    assert lungs.dice(lungs.mask(change(grey))[None], changed_truth[None]) > 0.93


BODY = np.hypot(*np.mgrid[-1:1:64j, -1:1:64j]) < 0.8


@pytest.mark.parametrize(
    'grey',
    [np.zeros((64, 64)), np.full((64, 64), 255), BODY * 180],
    ids=['black', 'white', 'a head without air'],
)
def test_nothing_plausible_is_found_where_there_are_no_lungs(grey):
    assert not lungs.plausible(lungs.mask(grey.astype(np.uint8))[None])[0]


def test_noise_has_a_mask_too():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    assert lungs.mask(noise).shape == (64, 64)


def test_dice():
    first, second = np.zeros((2, 2, 4, 4), bool)
    first[0, :2], second[0, 1:3] = True, True
    np.testing.assert_allclose(lungs.dice(first, second), [0.5, np.nan])


def test_most_real_slices_have_plausible_lungs(real):
    """Some have none: they are below the lungs."""
    files = sorted((real / 'luna16_slices').glob('**/*.png'))[::25]
    assert len(files) >= 20
    masks = [lungs.mask(np.asarray(Image.open(file).convert('L'))) for file in files]
    assert np.mean([lungs.plausible(mask[None])[0] for mask in masks]) > 0.8


@pytest.mark.fast
def test_the_hull_of_lungs_has_what_lies_between_their_points():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 5:20] = mask[10:30, 40:55] = True
    mask[15:25, 5:12] = False  # consolidation at the pleura
    mask[2, 2] = True  # a third piece, too small to be a lung
    found = lungs.hull(mask)
    expected = mask.copy()
    expected[10:30, 5:20] = True
    np.testing.assert_array_equal(found, expected)


@pytest.mark.fast
@pytest.mark.parametrize('seed', range(5))
def test_the_hull_is_convex_and_the_smallest_one(seed):
    """By its definition: a pixel is in it when it is a mean of points of the lung."""
    from scipy.optimize import linprog

    rng = np.random.default_rng(seed)
    mask = np.zeros((12, 12), bool)
    mask[tuple(rng.integers(2, 10, (2, 14)))] = True
    mask = lungs.largest(mask[None], 1)[0]
    points = np.argwhere(mask)
    found = lungs.hull(mask)
    if len(points) < 3 or np.linalg.matrix_rank(points - points[0]) < 2:
        assert (found == mask).all()
        return
    for pixel in np.ndindex(mask.shape):
        sums = np.vstack([points.T, np.ones(len(points))])
        mean = linprog(np.zeros(len(points)), A_eq=sums, b_eq=[*pixel, 1])
        assert found[pixel] == (mean.status == 0)


@pytest.mark.fast
def test_a_mask_without_lungs_has_no_hull():
    for mask in (np.zeros((9, 9), bool), np.eye(9, dtype=bool)):
        np.testing.assert_array_equal(lungs.hull(mask), mask)


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('shift', [-9, 0, 9])
def test_the_left_lung_of_phantoms_is_the_one_that_was_drawn(seed, shift):
    """Wherever in the image they lie."""
    truth = np.stack([drawn(seed, z=z)[1] for z in (-30, -10, 10, 30)])
    expected = truth & (np.arange(truth.shape[2]) >= truth.shape[2] / 2)
    found = lungs.left(np.roll(truth, shift, 2))
    np.testing.assert_array_equal(found, np.roll(expected, shift, 2))


def test_lungs_that_touch_are_parted_and_what_crosses_the_middle_stays_with_its_lung():
    both = np.zeros((3, 20, 40), bool)
    both[:, 2:18, 4:18] = both[:, 2:18, 22:36] = True
    both[1, 9:11, 18:22] = True  # they touch in front of the heart
    both[2, 2:4, 18:21] = True  # the right one reaches across
    both[2, 2:18, 21:23] = False
    expected = both.copy()
    expected[:2, :, :18], expected[2, :, :21] = False, False
    expected[1, 9:11, 18] = False
    found = lungs.left(both)
    assert (found & both == found).all()
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[2], expected[2])
    assert (found[1] != expected[1]).sum() <= 8  # within the bridge


@pytest.mark.parametrize('mask', [np.zeros((2, 8, 8), bool), np.ones((1, 4, 1), bool)], ids=str)
def test_the_left_of_nothing_is_nothing(mask):
    assert lungs.left(mask).shape == mask.shape
    assert not lungs.left(mask & False).any()
