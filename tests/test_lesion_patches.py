"""Squares around lesions and at the mirrored place."""

import numpy as np
import pytest
from test_lungs import drawn

from covjax.data import lesion_patches

pytestmark = pytest.mark.fast


def slice_with(*boxes, size=96):
    """(grey slice cropped to its lungs, mask of lesions in boxes (top, bottom, left, right))."""
    grey, truth = drawn(0, size)
    mask = np.zeros(truth.shape, bool)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return grey, mask & truth


def test_squares_are_inside_the_image_and_cover_their_lesions():
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = np.zeros((96, 96), bool)
        top, left = rng.integers(0, 80, 2)
        mask[top : top + rng.integers(4, 16), left : left + rng.integers(4, 16)] = True
        ((rows, columns),) = lesion_patches.squares(mask)
        assert mask[rows, columns].sum() == mask.sum()
        side = rows.stop - rows.start
        assert side == columns.stop - columns.start >= 24
        assert min(rows.start, columns.start) >= 0 and max(rows.stop, columns.stop) <= 96


def test_every_lesion_has_a_square_but_specks():
    _, mask = slice_with((40, 50, 20, 30), (60, 66, 66, 76))
    mask[5, 5] = True
    squares = lesion_patches.squares(mask)
    assert len(squares) == 2
    assert mask[squares[0]].sum() >= mask[squares[1]].sum()


def test_a_pair_is_a_lesion_and_lung_at_the_mirrored_place():
    grey, mask = slice_with((40, 52, 18, 30))
    ((lesion, healthy),) = lesion_patches.pairs(grey, mask)
    assert mask[lesion].any() and not mask[healthy].any()
    flipped = np.flip(mask, 1)
    assert flipped[healthy].sum() == mask[lesion].sum()


def test_a_lesion_opposite_to_another_has_no_pair():
    grey, mask = slice_with((40, 52, 18, 30), (20, 72, 66, 78))
    assert lesion_patches.pairs(grey, mask) == []


def test_what_is_opposite_to_no_lung_has_no_pair():
    grey, mask = slice_with((40, 52, 18, 30))
    grey = grey.copy()
    grey[:, 48:] = 200
    assert lesion_patches.pairs(grey, mask) == []
