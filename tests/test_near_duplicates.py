"""Copies are found whatever was done to them, and nothing else is."""

import io

import numpy as np
from PIL import Image, ImageEnhance

from covjax.data import datasets
from covjax.data.near_duplicates import SAME_DETAIL, SIZE, across_groups, detail, near_duplicates
from covjax.runs import prepare


def small(image):
    return np.asarray(image.convert('L').resize((SIZE, SIZE), Image.Resampling.BILINEAR))[..., None]


def smooth(seed):
    """A random picture with the coarse structure of one."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9), np.uint8)).resize(
        (200, 180), Image.Resampling.BICUBIC
    )


def recompressed(image):
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=30)
    return Image.open(buffer)


def test_planted_copies_are_found():
    changes = (
        lambda image: image,
        lambda image: image.resize((91, 120)),
        recompressed,
        lambda image: ImageEnhance.Brightness(image).enhance(0.6),
        lambda image: ImageEnhance.Contrast(image).enhance(0.5),
    )
    pictures = [smooth(seed) for seed in range(40)]
    images = np.stack(
        [
            small(picture)
            for picture in [*pictures, *(change(pictures[i]) for i, change in enumerate(changes))]
        ]
    )
    assert {(i, j) for _, i, j in near_duplicates(images)} == {
        (i, 40 + i) for i in range(len(changes))
    }


def test_constant_pictures_are_like_none():
    images = np.stack([np.full((SIZE, SIZE, 1), grey, np.uint8) for grey in (0, 0, 255)])
    assert near_duplicates(images) == []


def test_fine_structure_tells_copies_from_likeness():
    """The same coarse picture under another texture is like it at 32x32, and no copy."""
    rng = np.random.default_rng(0)
    coarse, textures = (
        np.asarray(smooth(0), float),
        [
            np.asarray(
                Image.fromarray(rng.integers(0, 60, (60, 60), np.uint8)).resize(
                    (200, 180), Image.Resampling.BICUBIC
                ),
                float,
            )
            for _ in range(2)
        ],
    )
    one, other = (
        Image.fromarray(np.clip(coarse * 0.7 + texture, 0, 255).astype(np.uint8))
        for texture in textures
    )
    assert len(near_duplicates(np.stack([small(one), small(other)]), 0.9)) == 1
    copy = np.asarray(recompressed(ImageEnhance.Brightness(one).enhance(0.8)).resize((150, 140)))
    assert (
        detail(np.asarray(one), np.asarray(other))
        < 0.5
        < SAME_DETAIL
        < detail(np.asarray(one), copy)
    )


def test_copies_of_one_patient_are_told_apart():
    images = np.stack([small(smooth(0))] * 3)
    rows = [{'group': 'a'}, {'group': 'a'}, {'group': 'b'}]
    pairs = near_duplicates(images)
    assert len(pairs) == 3 and {(i, j) for _, i, j in across_groups(pairs, rows)} == {
        (0, 2),
        (1, 2),
    }


def test_real_covid_ct(real, tmp_path):
    """Between patients exactly the two that are in train as non-COVID and in test as COVID."""
    prepare.build('covid_ct', real / 'covid_ct', str(tmp_path))
    examples = datasets.read('covid_ct:train+validation+test', str(tmp_path), SIZE)
    found = {
        tuple(sorted((examples.rows[i]['id'], examples.rows[j]['id'])))
        for _, i, j in across_groups(near_duplicates(examples.images), examples.rows)
    }
    assert found == {
        ('covid/kjr-21-e24-p5-29.png', 'noncovid/71%0.jpg'),
        ('covid/kjr-21-e24-p5-31.png', 'noncovid/71%1.jpg'),
    }
    native = {
        row['id']: grey for grey, row in datasets.read_native('covid_ct:train+test', str(tmp_path))
    }
    assert all(detail(native[one], native[other]) > SAME_DETAIL for one, other in found)
