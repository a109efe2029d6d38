"""Masks of lesions that are drawn at random into lungs, and the gates that they become."""

import numpy as np
import pytest
from scipy import ndimage
from test_lungs import drawn as drawn_chest

from covjax.data import lesion_masks

pytestmark = pytest.mark.fast
SIZE = 96
CLASSES = ('background', 'ground_glass', 'consolidation')


@pytest.fixture(scope='module')
def lungs():
    return drawn_chest(0, SIZE)[1]


@pytest.fixture(scope='module')
def bank(lungs):
    """Two pictures: one with both kinds, one with ground glass alone."""
    y, x = np.mgrid[:SIZE, :SIZE]
    disc = lambda row, column, radius: np.hypot(y - row, x - column) < radius
    both, one = np.zeros((2, SIZE, SIZE), np.uint8)
    both[disc(60, 25, 9)] = 1
    both[disc(70, 30, 5)] = 2
    one[disc(50, 72, 7)] = 1
    return lesion_masks.Bank.of_targets([both, one], CLASSES)


def draws(lungs, bank, count=40):
    """Masks of every kind of drawing."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        yield lesion_masks.procedural(rng, lungs)
        yield lesion_masks.drawn(rng, lungs, bank, CLASSES[1 + seed % 2])


def test_a_bank_has_every_lesion_by_its_kind(bank):
    assert sorted(bank.kinds) == ['consolidation', 'ground_glass', 'ground_glass']
    assert all(mask.any() and mask.dtype == bool for mask in bank.masks)


def test_masks_lie_in_the_lungs_and_are_neither_tiny_nor_huge(lungs, bank):
    for mask in draws(lungs, bank):
        assert not (mask & ~lungs).any()
        assert lesion_masks.LEAST <= mask.mean() <= lesion_masks.MOST


def test_masks_are_a_function_of_the_rng(lungs, bank):
    for first, second in zip(draws(lungs, bank, 5), draws(lungs, bank, 5)):
        np.testing.assert_array_equal(first, second)
    assert len({mask.tobytes() for mask in draws(lungs, bank, 20)}) == 40


def test_nothing_is_drawn_where_there_are_no_lungs(bank):
    nowhere, rng = np.zeros((SIZE, SIZE), bool), np.random.default_rng(0)
    assert lesion_masks.drawn(rng, nowhere, bank, 'ground_glass') is None
    assert lesion_masks.procedural(rng, nowhere) is None


def test_most_blobs_are_at_the_wall_of_the_lungs(lungs):
    depth = ndimage.distance_transform_edt(lungs)
    shares = [
        depth[lesion_masks.procedural(np.random.default_rng(seed), lungs)].mean() / depth.max()
        for seed in range(60)
    ]
    assert np.mean(shares) < depth[lungs].mean() / depth.max()


def test_drawn_masks_have_about_the_size_of_their_originals(lungs, bank):
    """Where lungs are everywhere, so that nothing is cut off."""
    everywhere = np.ones((SIZE, SIZE), bool)
    original = np.mean([m.sum() for m, kind in zip(bank.masks, bank.kinds) if kind == CLASSES[1]])
    sizes = [
        lesion_masks.drawn(np.random.default_rng(seed), everywhere, bank, CLASSES[1]).sum()
        for seed in range(60)
    ]
    assert 0.8 < np.mean(sizes) / original < 1.4


def test_a_gate_is_whole_inside_its_mask_and_closed_away_from_it(lungs, bank):
    for mask in draws(lungs, bank, 10):
        gate = lesion_masks.gate(mask)
        assert gate.dtype == np.float32 and gate.min() == 0 and gate.max() == 1
        assert (gate[mask] == 1).all()
        away = ndimage.distance_transform_edt(~mask) > 6 * lesion_masks.FEATHER * SIZE
        assert (gate[away] == 0).all()
        soft = (gate > 0) & (gate < 1)
        assert soft.any() and not (soft & mask).any()
