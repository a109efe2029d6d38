"""Augmentation against scipy, and its invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from covjax.data import augment

ON = dict(scale=0.1, flip=True, rotate=15.0, crop=0.1)


def images(n=4, size=24):
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 1), np.uint8)


def test_off_is_the_identity():
    out = augment.augment(jax.random.key(0), images(), augment.OFF, 24)
    np.testing.assert_allclose(out, augment.to_float(jnp.asarray(images())), atol=1e-5)


def test_uint8_survives_the_round_trip():
    every = jnp.arange(256, dtype=jnp.uint8)
    np.testing.assert_array_equal(augment.to_uint8(augment.to_float(every)), every)


@pytest.mark.parametrize('seed', range(5))
def test_warp_equals_scipy(seed):
    """The same matrix in pixel units through scipy.ndimage.affine_transform."""
    matrix = np.asarray(augment.random_matrix(jax.random.key(seed), ON, 24), float)
    size = 24
    to_unit = np.array(
        [[2 / size, 0, 1 / size - 1], [0, 2 / size, 1 / size - 1], [0, 0, 1]]
    )  # pixel index -> [-1, 1]
    pixels = np.linalg.inv(to_unit) @ matrix @ to_unit
    image = images(1)[0, :, :, 0] / 127.5 - 1
    expected = ndimage.affine_transform(
        image, pixels[:2, :2], pixels[:2, 2], order=1, mode='constant', cval=-1.0
    )
    out = augment.warp(
        jnp.asarray(image, jnp.float32)[..., None], jnp.asarray(matrix, jnp.float32), size
    )[..., 0]
    inside = (
        ndimage.affine_transform(
            np.ones_like(image), pixels[:2, :2], pixels[:2, 2], order=1, mode='constant'
        )
        > 0.999
    )  # borders are rounded differently
    assert inside.mean() > 0.4
    np.testing.assert_allclose(np.asarray(out)[inside], expected[inside], atol=1e-3)


def test_flip_mirrors_left_and_right():
    settings = augment.OFF | {'flip': True}
    outs = [
        np.asarray(augment.augment(jax.random.key(seed), images(1), settings, 24))
        for seed in range(12)
    ]
    image = np.asarray(augment.to_float(jnp.asarray(images(1))))
    same = [np.allclose(out, image, atol=1e-5) for out in outs]
    mirrored = [np.allclose(out, image[:, :, ::-1], atol=1e-5) for out in outs]
    assert all(a != b for a, b in zip(same, mirrored)) and any(same) and any(mirrored)


def test_crop_stays_inside_the_image():
    out = augment.augment(
        jax.random.key(0), np.full((50, 24, 24, 1), 200, np.uint8), augment.OFF | {'crop': 0.3}, 24
    )
    np.testing.assert_allclose(out, 200 / 127.5 - 1, atol=1e-5)


def test_crop_alone_takes_whole_pixels():
    """286 to 256 as in the original: every output is a window of the input, not a blend of its pixels, and the windows differ."""
    image = images(1, 30)
    windows = {
        (i, j): augment.to_float(jnp.asarray(image[:, i : i + 24, j : j + 24]))
        for i in range(7)
        for j in range(7)
    }
    settings = augment.OFF | {'crop': 1 - 24 / 30}
    found = set()
    for seed in range(30):
        out = augment.augment(jax.random.key(seed), image, settings, 24)
        found.add(next(at for at, window in windows.items() if np.allclose(out, window, atol=1e-4)))
    assert len(found) > 15 and {i for i, _ in found} == {j for _, j in found} == set(range(7))


def test_an_image_becomes_the_same_on_any_number_of_devices():
    whole = augment.augment(jax.random.key(3), images(), ON, 16)
    halves = [
        augment.augment(jax.random.key(3), images()[i : i + 2], ON, 16, first=i) for i in (0, 2)
    ]
    np.testing.assert_allclose(whole, np.concatenate(halves), atol=1e-6)
    assert whole.shape == (4, 16, 16, 1)
