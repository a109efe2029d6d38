"""Augmentation against scipy, and its invariances."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from covjax.data import augment

pytestmark = pytest.mark.fast

ON = {'scale': 0.1, 'flip': True, 'rotate': 15.0, 'crop': 0.1}


def images(n=4, size=24):
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 1), np.uint8)


@functools.cache
def compiled(size, **settings):
    """augment as the step compiles it, with these settings on and the others off."""
    return jax.jit(partial(augment.augment, settings=augment.OFF | settings, size=size))


def augmented(seed, batch, size, **settings):
    return np.asarray(compiled(size, **settings)(jax.random.key(seed), batch))


def test_off_is_the_identity():
    expected = augment.to_float(jnp.asarray(images()))
    np.testing.assert_allclose(augmented(0, images(), 24), expected, atol=1e-5)


def test_uint8_survives_the_round_trip():
    levels = jnp.arange(256, dtype=jnp.uint8)
    np.testing.assert_array_equal(augment.to_uint8(augment.to_float(levels)), levels)


random_matrix = jax.jit(partial(augment.random_matrix, settings=ON, size=24))
warp = jax.jit(partial(augment.warp, size=24))


@pytest.mark.parametrize('seed', range(5))
def test_warp_equals_scipy(seed):
    """The same matrix in pixel units through scipy.ndimage.affine_transform, borders left out."""
    size = 24
    matrix = np.asarray(random_matrix(jax.random.key(seed)), float)
    # From the index of a pixel to [-1, 1].
    to_unit = np.array([[2 / size, 0, 1 / size - 1], [0, 2 / size, 1 / size - 1], [0, 0, 1]])
    pixels = np.linalg.inv(to_unit) @ matrix @ to_unit

    def by_scipy(image, outside):
        return ndimage.affine_transform(
            image, pixels[:2, :2], pixels[:2, 2], order=1, mode='constant', cval=outside
        )

    image = images(1)[0, :, :, 0] / 127.5 - 1
    expected = by_scipy(image, -1.0)
    warped = warp(jnp.float32(image)[..., None], jnp.float32(matrix))[..., 0]
    inside = by_scipy(np.ones_like(image), 0.0) > 0.999  # borders are rounded differently
    assert inside.mean() > 0.4
    np.testing.assert_allclose(np.asarray(warped)[inside], expected[inside], atol=1e-3)


def test_flip_mirrors_left_and_right_or_nothing():
    image = np.asarray(augment.to_float(jnp.asarray(images(1))))
    outputs = [augmented(seed, images(1), 24, flip=True) for seed in range(12)]
    same = np.array([np.allclose(output, image, atol=1e-5) for output in outputs])
    mirrored = [np.allclose(output, image[:, :, ::-1], atol=1e-5) for output in outputs]
    assert (same != mirrored).all() and same.any() and not same.all()


def test_crop_stays_inside_the_image():
    output = augmented(0, np.full((50, 24, 24, 1), 200, np.uint8), 24, crop=0.3)
    np.testing.assert_allclose(output, 200 / 127.5 - 1, atol=1e-5)


def test_crop_alone_takes_whole_pixels():
    """286 to 256 as in the original: outputs are windows of the input, and no pixel is blended."""
    image = images(1, 30)
    offsets = [(i, j) for i in range(7) for j in range(7)]
    window = lambda i, j: augment.to_float(jnp.asarray(image[:, i : i + 24, j : j + 24]))
    windows = np.stack([window(*offset) for offset in offsets])
    crops = augmented(0, np.repeat(image, 60, 0), 24, crop=1 - 24 / 30)
    found = set()
    for output in crops:
        (match,) = np.flatnonzero(np.isclose(output, windows, atol=1e-4).all((1, 2, 3, 4)))
        found.add(offsets[match])
    assert len(found) > 15
    assert {i for i, _ in found} == {j for _, j in found} == set(range(7))


def test_an_image_becomes_the_same_on_any_number_of_devices():
    rng, apply = jax.random.key(3), compiled(16, **ON)
    whole = apply(rng, images())
    halves = [apply(rng, images()[i : i + 2], first=i) for i in (0, 2)]
    np.testing.assert_allclose(whole, np.concatenate(halves), atol=1e-6)
    assert whole.shape == (4, 16, 16, 1)


def test_each_image_gets_a_brightness_and_contrast_of_its_own_wherever_it_is():
    images = jnp.asarray(np.random.default_rng(0).uniform(-0.4, 0.4, (4, 8, 8, 1)), jnp.float32)
    settings = {'brightness': 0.2, 'contrast': 0.3}
    whole = augment.recoloured_each(jax.random.key(0), images, settings)
    half = augment.recoloured_each(jax.random.key(0), images[2:], settings, first=2)
    np.testing.assert_allclose(whole[2:], half, atol=1e-6)
    fits = [np.polyfit(a.ravel(), b.ravel(), 1) for a, b in zip(images, whole)]
    for image, changed, (gain, shift) in zip(images, whole, fits):
        np.testing.assert_allclose(changed, gain * image + shift, atol=1e-5)
        assert np.exp(-0.3) <= gain <= np.exp(0.3) and abs(shift) <= 0.2
    assert len({round(float(gain), 4) for gain, _ in fits}) == 4


# ---- what a discriminator sees


def framed(n=6, size=24):
    """Grey levels within a square, 0 outside, and the square itself."""
    gate = np.zeros((n, size, size, 1), np.float32)
    gate[:, 6:18, 8:20] = 1
    grey = np.random.default_rng(0).uniform(0.3, 1.7, gate.shape)
    return jnp.asarray(np.concatenate([grey * gate, gate], -1), jnp.float32)


def seen(images, *changes, seed=0, first=0):
    return augment.seen_by_discriminator(jax.random.key(seed), images, changes, first)


def test_without_changes_a_discriminator_sees_the_images():
    assert seen(framed()) is not None
    np.testing.assert_array_equal(seen(framed()), framed())


@pytest.mark.parametrize('change', augment.DIFFERENTIABLE)
def test_grey_levels_and_gate_are_changed_together_and_nothing_comes_in_from_outside(change):
    for seed in range(5):
        grey, gate = np.moveaxis(np.asarray(seen(framed(), change, seed=seed)), -1, 0)
        assert (grey[gate == 0] == 0).all()
        assert {*np.unique(gate)} <= {0.0, 1.0}


@pytest.mark.parametrize('change', augment.DIFFERENTIABLE)
def test_what_is_seen_depends_on_the_index_in_the_global_batch_alone(change):
    together = seen(framed(), change)
    for i in range(6):
        alone = seen(framed()[i : i + 1], change, first=i)[0]
        np.testing.assert_allclose(alone, together[i], atol=1e-6)
    assert (np.ptp(together[..., 0] - framed()[..., 0], axis=0) > 0).any()


@pytest.mark.parametrize('change', augment.DIFFERENTIABLE)
def test_gradients_reach_what_is_seen(change):
    """Finite differences agree, so that a generator learns through the change."""
    images = framed(n=1)
    value = lambda x: (seen(x, change, seed=3) ** 2).sum()
    slope = np.asarray(jax.grad(value)(images))[0, ..., 0]
    assert np.isfinite(slope).all() and (slope != 0).any()
    for place in ((8, 10), (12, 14)):
        step = jnp.zeros_like(images).at[(0, *place, 0)].set(1e-2)
        numeric = (value(images + step) - value(images - step)) / 2e-2
        assert slope[place] == pytest.approx(float(numeric), abs=2e-2)


def test_shading_keeps_the_order_of_grey_levels_and_a_shift_their_values():
    before = np.asarray(framed()[..., 0])
    for one, shaded in zip(before, np.asarray(seen(framed(), 'shade')[..., 0])):
        inside = one > 0
        assert (np.argsort(one[inside]) == np.argsort(shaded[inside])).all()
    for one, shifted in zip(before, np.asarray(seen(framed(), 'shift')[..., 0])):
        np.testing.assert_array_equal(np.sort(one.ravel()), np.sort(shifted.ravel()))
