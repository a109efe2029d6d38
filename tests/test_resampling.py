"""Volumes on other voxels, against SimpleITK and Pillow."""

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from scipy.ndimage import gaussian_filter

from covjax.ct import resampling
from covjax.ct.grid import Grid

pytestmark = pytest.mark.fast
LPS = (1.0, 0, 0, 0, 1, 0, 0, 0, 1)
# Turned in the plane of slices and tilted, as a gantry is.
TURNED = tuple(np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1]]).ravel())
SHAPES = [
    ((9, 12, 11), (5.0, 0.8, 0.7)),
    ((20, 7, 9), (0.6, 1.0, 2.5)),
    ((8, 9, 7), (1.2, 1.0, 0.8)),
    ((1, 5, 5), (8.0, 1, 1)),
]


def volume(shape, spacing, direction=LPS, seed=0):
    """(smooth int16 HU [z, y, x], Grid)."""
    noise = np.random.default_rng(seed).normal(size=shape)
    hu = np.rint(4000 * gaussian_filter(noise, 1)).astype(np.int16)
    return hu, Grid(shape[::-1], spacing[::-1], (-20.0, 5.0, 100.0), direction)


def as_image(array, grid):
    return grid.place(sitk.GetImageFromArray(array))


@pytest.mark.parametrize('direction', [LPS, TURNED], ids=['straight', 'turned'])
@pytest.mark.parametrize('shape, spacing', SHAPES)
def test_voxels_that_become_smaller_are_interpolated_as_simpleitk_does(shape, spacing, direction):
    hu, grid = volume(shape, spacing, direction)
    new, target = resampling.to_spacing(hu, grid, 0.5)
    image = as_image(hu.astype(np.float32), grid)
    place = as_image(np.zeros(new.shape, np.float32), target)
    expected = sitk.Resample(image, place, sitk.Transform(), sitk.sitkLinear, -30000.0)
    expected = sitk.GetArrayFromImage(expected)
    inside = expected > -30000  # beyond the middles of the outermost voxels SimpleITK has nothing
    assert inside.mean() > 0.5 or shape[0] == 1
    np.testing.assert_allclose(new[inside], expected[inside], atol=0.51)
    assert new.dtype == np.int16 and target.spacing == (0.5, 0.5, 0.5)


def test_voxels_that_become_larger_are_means_as_pillow_takes_them():
    hu, grid = volume((1, 60, 40), (2.0, 0.5, 0.5))
    new, target = resampling.to_spacing(hu, grid, 2.0)
    plane = Image.fromarray(hu[0].astype(np.float32))
    expected = plane.resize((10, 15), Image.Resampling.BILINEAR)
    assert new.shape == (1, 15, 10) and target.size == (10, 15, 1)
    np.testing.assert_allclose(new[0], np.asarray(expected), atol=0.51)


def test_no_slice_is_passed_over():
    hu, grid = volume((40, 4, 4), (1.0, 1.0, 1.0))
    bright = np.zeros((40, 4, 4), np.int16)
    for z in range(40):
        bright[:] = 0
        bright[z] = 1000
        assert resampling.to_spacing(bright, grid, 5.0)[0].max() > 100


@pytest.mark.parametrize('direction', [LPS, TURNED], ids=['straight', 'turned'])
@pytest.mark.parametrize('shape, spacing', SHAPES)
@pytest.mark.parametrize('new', [0.5, 1.5, 3.0])
def test_both_grids_begin_at_the_same_edge_and_end_within_half_a_voxel(
    shape, spacing, direction, new
):
    hu, grid = volume(shape, spacing, direction)
    array, target = resampling.to_spacing(hu, grid, new)
    before, after = as_image(hu, grid), as_image(array, target)
    corner = (-0.5, -0.5, -0.5)
    np.testing.assert_allclose(
        before.TransformContinuousIndexToPhysicalPoint(corner),
        after.TransformContinuousIndexToPhysicalPoint(corner),
        atol=1e-9,
    )
    extents = np.multiply(target.size, new), np.multiply(grid.size, grid.spacing)
    assert (np.abs(np.subtract(*extents)) <= new / 2 + 1e-9).all() or min(target.size) == 1


@pytest.mark.parametrize('shape, spacing', SHAPES)
def test_masks_have_the_class_in_the_middle_of_each_voxel(shape, spacing):
    hu, grid = volume(shape, spacing)
    mask = (np.abs(hu) % 4).astype(np.uint8)
    new = resampling.classes_to_spacing(mask, grid, 0.7)
    target = grid.resampled(0.7)
    place = as_image(np.zeros(new.shape, np.uint8), target)
    near = sitk.Resample(as_image(mask, grid), place, sitk.Transform(), sitk.sitkNearestNeighbor)
    inside = sitk.Resample(
        as_image(np.ones_like(mask), grid), place, sitk.Transform(), sitk.sitkNearestNeighbor
    )
    inside = sitk.GetArrayFromImage(inside) > 0
    assert (new == sitk.GetArrayFromImage(near))[inside].all() and inside.mean() > 0.8


@pytest.mark.parametrize('shape, spacing', SHAPES)
def test_what_is_brought_back_is_what_it_was_where_it_is_smooth(shape, spacing):
    """A ramp is linear, so that interpolation keeps it but near the edges, and a mean almost."""
    _, grid = volume(shape, spacing)
    target = grid.resampled(1.5)
    places = [(np.arange(n) + 0.5) * mm for n, mm in zip(target.size[::-1], target.spacing[::-1])]
    ramp = sum(np.meshgrid(*places, indexing='ij')).astype(np.float32)[..., None]
    back = np.stack([*resampling.slices_from(ramp, target, grid)])[..., 0]
    own = [(np.arange(n) + 0.5) * mm for n, mm in zip(shape, spacing)]
    expected = sum(np.meshgrid(*own, indexing='ij'))
    # Where all voxels that a mean is of are there.
    reach = [max(1.5, mm) for mm in spacing]
    kept = np.ix_(
        *(
            (place >= near) & (place <= n * 1.5 - near)
            for place, near, n in zip(own, reach, target.size[::-1])
        )
    )
    assert back.shape == shape
    wrong = 1e-4 if max(spacing) <= 1.5 else 0.1 * max(spacing)
    np.testing.assert_allclose(back[kept], expected[kept], atol=wrong)


def test_shares_stay_shares():
    _, grid = volume((9, 12, 11), (5.0, 0.8, 0.7))
    found = np.random.default_rng(0).dirichlet((1, 1, 1), grid.resampled(1.5).size[::-1])
    for plane in resampling.slices_from(found.astype(np.float32), grid.resampled(1.5), grid):
        np.testing.assert_allclose(plane.sum(-1), 1, rtol=1e-5)
        assert plane.min() >= 0
