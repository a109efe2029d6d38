"""Whole scans through networks of slices and of volumes, whose masks are known."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from segmenters import DARK, write_run

from covjax import InputError, pair_pictures, scan_segmenter, segmenter
from covjax.ct import resampling, windows
from covjax.ct.grid import Grid
from covjax.lung_view import finder

pytestmark = pytest.mark.fast
CLASSES = ('background', 'lung')
SPACING = (2.5, 0.9, 0.8)


class Showing(NamedTuple):
    """A network that a function stands in for."""

    apply: Callable


def of_voxels(spacing=0.0, patch=(8, 8, 8), seen=None):
    """A Segmenter whose P(lung) is the grey level of a voxel, which notes shapes of batches."""

    def apply(variables, images):
        if seen is not None:
            seen.append(images.shape)
        share = (images[..., 0] + 1) / 2
        return jnp.log(jnp.stack([1 - share, share], -1) + 1e-7)

    return segmenter.Segmenter(Showing(apply), {}, CLASSES, 32, patch, spacing)


def image(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def found_in(network, grey, grid=None, batch_size=8, overlap=0.5):
    grid = grid or Grid.straight(grey.shape, SPACING)
    return np.stack([*scan_segmenter.predict(network, grey, grid, batch_size, overlap)])


@pytest.mark.parametrize('shape', [(1, 1, 1), (8, 8, 8), (3, 9, 20), (17, 8, 5), (9, 37, 2)])
@pytest.mark.parametrize('overlap', [0, 0.5, 0.9])
def test_tiles_of_any_size_give_what_each_voxel_gives(shape, overlap):
    grey = image(shape)
    found = found_in(of_voxels(), grey, overlap=overlap)
    np.testing.assert_allclose(found[..., 1], grey / 255, atol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize('spacing', [0.7, 1.5, 4.0])
def test_a_network_sees_its_own_voxels_and_finds_on_those_of_the_scan(spacing):
    grey, grid = image((6, 20, 30)), Grid.straight((6, 20, 30), SPACING)
    own, own_grid = resampling.to_spacing(grey, grid, spacing)
    share = np.stack([1 - own / 255, own / 255], -1).astype(np.float32)
    expected = np.stack([*resampling.slices_from(share, own_grid, grid)])
    found = found_in(of_voxels(spacing), grey, grid)
    assert found.shape == (*grey.shape, 2)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_hu_are_seen_through_the_lung_window_after_they_are_resampled():
    """As data sets of such voxels are prepared."""
    hu, grid = image((4, 12, 12)).astype(np.int16) * 12 - 1200, Grid.straight((4, 12, 12), SPACING)
    own, own_grid = resampling.to_spacing(hu, grid, 1.5)
    share = np.stack([0 * own, windows.to_grey(own) / 255], -1).astype(np.float32)
    expected = np.stack([*resampling.slices_from(share, own_grid, grid)])[..., 1]
    np.testing.assert_allclose(found_in(of_voxels(1.5), hu, grid)[..., 1], expected, atol=1e-5)


@pytest.mark.parametrize('batch_size, most', [(1, 1), (8, 2), (100, 24)])
def test_no_more_voxels_go_through_at_a_time_than_in_so_many_slices(batch_size, most):
    seen = []
    found_in(of_voxels(patch=(64, 64, 64), seen=seen), image((70, 70, 200)), batch_size=batch_size)
    assert {shape[0] for shape in seen} == {most}


@pytest.mark.parametrize('batch_size', [1, 3])
def test_slices_are_those_of_the_network_of_slices(tmp_path, batch_size):
    write_run(tmp_path)
    network, grey = segmenter.load(tmp_path), image((5, 40, 36))
    expected = np.stack([*segmenter.predict(network, grey, batch_size)])
    np.testing.assert_array_equal(found_in(network, grey, batch_size=batch_size), expected)


def test_a_run_of_volumes_is_opened_with_its_spacing(tmp_path):
    write_run(tmp_path, model='vnet', patch=(8, 16, 16), spacing=1.5)
    network, grey = segmenter.load(tmp_path), image((9, 20, 18))
    assert network.sees_volumes and (network.spacing, network.patch) == (1.5, (8, 16, 16))
    found = found_in(network, grey, Grid.straight(grey.shape, (1.5, 1.5, 1.5)))
    np.testing.assert_array_equal(segmenter.decided(found), grey < DARK)


def test_networks_of_volumes_are_refused_where_slices_are_seen(tmp_path):
    write_run(tmp_path, model='vnet', patch=(8, 16, 16))
    message = f'config.lungs={tmp_path}: sees volumes; give a segmenter of slices'
    with pytest.raises(InputError, match=message):
        finder(str(tmp_path), 'lungs')
    config = ConfigDict({'masks': 'predicted', 'lesion_segmenter': str(tmp_path)})
    with pytest.raises(InputError, match='sees volumes; give a segmenter of slices'):
        pair_pictures.segmenter_of(config)
