"""Copies are found whatever was done to them, and nothing else is."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from covjax.data.near_duplicates import SAME_DETAIL, SIZE, across_groups, detail, near_duplicates
from covjax.data.rows import Row

pytestmark = pytest.mark.fast


def small(image):
    """uint8 [SIZE, SIZE, 1] of a PIL image."""
    return np.asarray(image.convert('L').resize((SIZE, SIZE), Image.Resampling.BILINEAR))[..., None]


def blurred_noise(rng, cells, most, size=(200, 180)):
    """A PIL image of a few random grey levels below `most`, enlarged smoothly."""
    noise = Image.fromarray(rng.integers(0, most, (cells, cells), np.uint8))
    return noise.resize(size, Image.Resampling.BICUBIC)


def smooth(seed):
    """An image with the coarse structure of a slice."""
    return blurred_noise(np.random.default_rng(seed), 9, 256)


def recompressed(image):
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=30)
    return Image.open(buffer)


CHANGES = (
    lambda image: image,
    lambda image: image.resize((91, 120)),
    recompressed,
    lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    lambda image: ImageEnhance.Contrast(image).enhance(0.5),
)


def test_planted_copies_are_found():
    originals = [smooth(seed) for seed in range(40)]
    copies = [change(originals[i]) for i, change in enumerate(CHANGES)]
    images = np.stack([small(image) for image in originals + copies])
    found = {(i, j) for _, i, j in near_duplicates(images)}
    assert found == {(i, 40 + i) for i in range(len(CHANGES))}


def test_constant_images_are_like_none():
    images = np.stack([np.full((SIZE, SIZE, 1), grey, np.uint8) for grey in (0, 0, 255)])
    assert near_duplicates(images) == []


def test_fine_structure_tells_copies_from_likeness():
    """The same coarse image under another texture is like it at 32x32, and no copy."""
    rng, coarse = np.random.default_rng(0), np.asarray(smooth(0), float)
    textures = [np.asarray(blurred_noise(rng, 60, 60), float) for _ in range(2)]
    first, second = (
        Image.fromarray(np.clip(coarse * 0.7 + texture, 0, 255).astype(np.uint8))
        for texture in textures
    )
    assert len(near_duplicates(np.stack([small(first), small(second)]), 0.9)) == 1
    copy = recompressed(ImageEnhance.Brightness(first).enhance(0.8)).resize((150, 140))
    first, second, copy = map(np.asarray, (first, second, copy))
    assert detail(first, second) < 0.5 < SAME_DETAIL < detail(first, copy)


def test_copies_of_one_patient_are_left_out():
    images = np.stack([small(smooth(0))] * 3)
    rows = [Row('x', group, '') for group in ('a', 'a', 'b')]
    pairs = near_duplicates(images)
    assert len(pairs) == 3
    assert {(i, j) for _, i, j in across_groups(pairs, rows)} == {(0, 2), (1, 2)}
