"""Pictures for people: what is drawn into them, and what is left alone."""

import numpy as np
import pytest

from covjax.ct import masks
from covjax.pages import pictures

pytestmark = pytest.mark.fast


def grey_tile(value=100, size=8):
    return np.full((size, size, 3), value, np.uint8)


def test_pixels_without_a_class_are_not_tinted():
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 3:7] = 1
    tinted = pictures.tint(grey_tile(), mask)
    np.testing.assert_array_equal((tinted != 100).any(2), mask > 0)


def test_each_class_has_a_colour_of_its_own():
    mask = np.arange(len(masks.COLOURS), dtype=np.uint8)[None].repeat(2, 0)
    tinted = pictures.tint(np.full((*mask.shape, 3), 100, np.uint8), mask)
    assert len({tuple(colour) for colour in tinted[0].tolist()}) == mask.shape[1]


def test_a_mask_of_another_size_is_stretched_over_the_image():
    mask = np.array([[0, 1], [0, 0]], np.uint8)
    tinted = (pictures.tint(grey_tile(), mask) != 100).any(2)
    np.testing.assert_array_equal(tinted, np.kron(mask, np.ones((4, 4))) > 0)


def test_structures_are_seen_through_a_tint():
    tile, mask = grey_tile(40), np.ones((8, 8), np.uint8)
    tile[4] = 220
    tinted = pictures.tint(tile, mask).astype(int)
    assert (tinted[4] - tinted[3] > 90).all()


def test_more_classes_than_colours_begin_anew():
    many = np.full((2, 2), len(masks.COLOURS), np.uint8)
    tile = grey_tile(size=2)
    np.testing.assert_array_equal(
        pictures.tint(tile, many), pictures.tint(tile, np.ones_like(many))
    )
