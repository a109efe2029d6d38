"""Tiles: they cover every pixel, and what is put together again is what was cut."""

import numpy as np
import pytest
from scipy import ndimage

from covjax.data import tiles

pytestmark = pytest.mark.fast

TILE = (8, 6)


def tile_by_tile(function, array, tile, step):
    """What a function of tiles gives for an array."""
    corners = tiles.corners(array.shape, tile, step)
    found = np.stack([function(tiles.cut(array, corner, tile, 0)) for corner in corners])
    return tiles.joined(found, corners, array.shape)


every_shape = pytest.mark.parametrize('shape', [(n, 38 - n) for n in range(1, 38)], ids=str)


def random(shape):
    return np.random.default_rng(0).random(shape).astype(np.float32)


@every_shape
def test_tiles_side_by_side_hold_every_pixel_and_end_with_the_array(shape):
    corners = tiles.corners(shape, TILE, TILE)
    held = np.zeros(shape, int)
    for corner in corners:
        held[tiles.inside(corner, TILE)] += 1
        assert all(c + n <= max(size, n) for c, n, size in zip(corner, TILE, shape))
    assert held.min() == 1
    assert len(corners) == np.prod([-(-size // n) for size, n in zip(shape, TILE)])


@every_shape
@pytest.mark.parametrize('step', [(4, 3), (8, 6), (5, 5)], ids=str)
def test_what_a_function_of_pixels_gives_tile_by_tile_is_what_it_gives_at_once(shape, step):
    array = random(shape)
    squared = lambda x: np.stack([x, x**2], -1)
    found = tile_by_tile(squared, array, TILE, step)
    np.testing.assert_allclose(found, squared(array), rtol=1e-5)


def test_volumes_are_tiled_like_images():
    array = random((5, 19, 17))
    found = tile_by_tile(lambda x: x[..., None] + 1, array, (4, 8, 6), (2, 4, 3))
    np.testing.assert_allclose(found[..., 0], array + 1, rtol=1e-5)


def test_where_tiles_overlap_the_middle_of_a_tile_counts_more_than_its_edge():
    weights = tiles.gaussian((9, 9))
    assert weights.max() == weights[4, 4] == 1 and weights.min() > 0
    np.testing.assert_allclose(weights, weights[::-1, ::-1].T, rtol=1e-6)
    exact = np.zeros(17)
    exact[8] = 1
    side = ndimage.gaussian_filter1d(exact, 9 / 8)[4:13]
    np.testing.assert_allclose(weights[4, 3:6], side[3:6] / side.max(), rtol=1e-2)


def test_a_convolution_tile_by_tile_is_the_whole_one_away_from_edges():
    """With tiles that overlap by half: what a tile sees at its edge has next to no weight."""
    array, kernel = random((40, 40)), np.ones((3, 3)) / 9
    blurred = lambda x: ndimage.convolve(x, kernel, mode='constant')[..., None]
    found = tile_by_tile(blurred, array, (16, 16), (8, 8))[4:-4, 4:-4, 0]
    np.testing.assert_allclose(found, blurred(array)[4:-4, 4:-4, 0], atol=0.02)


def test_a_tile_beyond_the_array_is_filled():
    array = np.ones((3, 4, 2), np.uint8)
    tile = tiles.cut(array, (-1, 2), (5, 5), 7)
    assert tile.shape == (5, 5, 2) and tile.dtype == np.uint8
    inside = np.zeros((5, 5), bool)
    inside[1:4, :2] = True
    np.testing.assert_array_equal(tile[..., 0], np.where(inside, 1, 7))
