"""Lung masks beside the lungs that phantoms are drawn with."""

import numpy as np
import pytest

from covjax.ct import lungs, windows
from covjax.phantom import chest


def drawn(seed, size=128, z=0.0):
    """(grey slice, the lungs it was drawn with)."""
    person = chest.draw_chest(np.random.default_rng(seed), nodules=1, opacities=2 * (seed % 2))
    axis = (np.arange(size) - (size - 1) / 2) * 345 / size
    truth = chest._lung_distance(person.lungs, person.heart, axis[None, :], axis[:, None], z) < 0
    return windows.to_grey(chest.render(person, z, size, 345 / size)), truth


def test_masks_are_the_lungs_of_phantoms():
    greys, truth = map(np.stack, zip(*(drawn(seed) for seed in range(6))))
    found = lungs.masks(greys[..., None])
    assert lungs.plausible(found).all() and (lungs.dice(found, truth) > 0.93).all()


@pytest.mark.parametrize(
    'change',
    [
        lambda grey: np.clip(grey * 0.6 + 40, 0, 255).astype(np.uint8),
        lambda grey: grey[6:-6, 4:-8],
        lambda grey: grey[:, ::-1],
        lambda grey: grey[::-1],
    ],
)
def test_window_frame_and_side_do_not_matter(change):
    grey, truth = drawn(1)
    as_truth = change(np.where(truth, 200, 0).astype(np.uint8)) > 100
    assert lungs.dice(lungs.mask(change(grey))[None], as_truth[None]) > 0.93


def test_where_there_are_none():
    """A blank picture, noise, and a head without air: nothing, or nothing plausible."""
    body = np.hypot(*np.mgrid[-1:1:64j, -1:1:64j]) < 0.8
    for grey in (np.zeros((64, 64)), np.full((64, 64), 255), body * 180):
        assert not lungs.plausible(lungs.mask(grey.astype(np.uint8))[None])[0]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    assert lungs.mask(noise).shape == (64, 64)


def test_dice():
    one, other = np.zeros((2, 2, 4, 4), bool)
    one[0, :2], other[0, 1:3] = True, True
    np.testing.assert_allclose(lungs.dice(one, other), [0.5, np.nan])


def test_on_real_slices(real):
    """Most have plausible lungs; in some slices there are none, which are below the lungs."""
    from PIL import Image

    files = sorted((real / 'luna16_slices').glob('**/*.png'))[::25]
    masks = [lungs.mask(np.asarray(Image.open(file).convert('L'))) for file in files]
    assert len(files) >= 20 and np.mean([lungs.plausible(mask[None])[0] for mask in masks]) > 0.8
