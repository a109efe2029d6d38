"""Distances, copies, checkerboards and anatomy beside plain computations of the same, and the stage on translated phantoms."""

import numpy as np
import pytest
from scipy import linalg

from covjax import features
from covjax.metrics.distances import fid, fid_floor, kid, kid_value
from covjax.metrics.spectrum import checkerboard
from covjax.runs import quality


def normal(seed, n, d=6, shift=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(shift, scale, (n, d))


def test_kid_is_the_sum_over_pairs():
    one, other = normal(0, 9), normal(1, 7, shift=0.5)
    kernel = lambda a, b: (a @ b / 6 + 1) ** 3
    within = lambda rows: np.mean(
        [kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
    )
    expected = within(one) + within(other) - 2 * np.mean([kernel(a, b) for a in one for b in other])
    assert kid(one, other).value == kid_value(one, other) == pytest.approx(expected, rel=1e-9)


def test_kid_is_unbiased_and_its_interval_covers():
    """Of one distribution: 0 on average at a small size, and in nearly all intervals; of two: not."""
    pairs = [kid(normal(2 * i, 15), normal(2 * i + 1, 20)) for i in range(200)]
    values = np.array([pair.value for pair in pairs])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    assert np.mean([pair.low <= 0 <= pair.high for pair in pairs]) > 0.88
    assert kid(normal(0, 60), normal(1, 60, shift=1.0)).low > 0


def test_the_interval_of_kid_knows_groups():
    """The same images three times are no more information, and their being alike is no distance."""
    one, other = normal(0, 12), normal(1, 12, shift=0.3)
    thrice = lambda rows: np.repeat(rows, 3, 0) + np.random.default_rng(2).normal(0, 0.01, (36, 6))
    groups, width = np.repeat(np.arange(12), 3), lambda found: found.high - found.low
    alone, repeated = kid(one, other), kid(thrice(one), thrice(other))
    grouped = kid(thrice(one), thrice(other), groups, groups)
    assert width(repeated) < 0.75 * width(alone) and width(grouped) == pytest.approx(
        width(alone), rel=0.25
    )
    assert np.isnan(kid(one, other, np.zeros(12), np.arange(12)).low)
    values = np.array(
        [
            kid_value(
                np.repeat(normal(2 * i, 10), 3, 0),
                np.repeat(normal(2 * i + 1, 14), 2, 0),
                np.repeat(np.arange(10), 3),
                np.repeat(np.arange(14), 2),
            )
            for i in range(200)
        ]
    )
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))


def test_fid_is_the_formula():
    one, other = normal(0, 40), normal(1, 50, shift=0.4, scale=1.5)
    a, b = np.cov(one.T), np.cov(other.T)
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(
        a + b - 2 * linalg.sqrtm(a @ b).real
    )
    assert fid(one, other) == pytest.approx(expected, rel=1e-6) and fid(one, one) == pytest.approx(
        0, abs=1e-9
    )


def test_fid_is_biased_and_says_so():
    """More features than images work, and sets of one distribution are apart, the more so the smaller they are."""
    small, large = (
        np.mean([fid(normal(i, n, 30), normal(100 + i, n, 30)) for i in range(5)])
        for n in (20, 200)
    )
    assert (
        small > 3 * large > 0
        and fid_floor(normal(0, 40, 30)) == pytest.approx(small, rel=0.3)
        and np.isnan(fid_floor(normal(0, 3)))
    )


@pytest.mark.parametrize(
    'first, second',
    [
        (np.zeros((1, 3)), np.zeros((5, 3))),
        (np.zeros((5, 3)), np.zeros((5, 4))),
        (np.full((5, 3), np.nan), np.zeros((5, 3))),
    ],
)
def test_distances_refuse_what_has_none(first, second):
    for distance in (kid, fid):
        with pytest.raises(ValueError, match='distances need'):
            distance(first, second)


def test_checkerboard_sees_the_pattern_of_upsampling():
    """Smooth noise has none; doubled pixels weighted unevenly have, at both periods and in either direction."""
    from scipy import ndimage

    smooth = (
        ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 30, (20, 64, 64)), (0, 1.5, 1.5))
        * 4
        + 100
    )
    assert abs(checkerboard(smooth[..., None])) < 3
    y, x = np.mgrid[:64, :64]
    for pattern in ((-1.0) ** (x + y), (-1.0) ** x, np.cos(np.pi * y / 2)):
        assert checkerboard((smooth + 2 * pattern)[..., None]) > 6
    with pytest.raises(ValueError, match='16x16'):
        checkerboard(np.zeros((2, 8, 8, 1)))


def test_features():
    """Pixels are grey levels at 32x32."""
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), np.uint8)
    np.testing.assert_allclose(
        features.extractor('pixels')(images), images.reshape(3, -1) / 255, atol=1e-6
    )
    flat = features.extractor('pixels')(np.full((2, 80, 60, 1), 51, np.uint8))
    assert flat.shape == (2, 1024) and np.allclose(flat, 0.2, atol=1e-6)


def test_contrast_of_a_nodule():
    """A disc of 150 in 40 stands out by 110, whatever its place; without ring or disc there is no number."""
    image = np.full((1, 100, 100, 1), 40, np.uint8)
    y, x = np.mgrid[:100, :100] + 0.5
    image[0, np.hypot(y - 30, x - 60) < 10] = 150
    rows = [{'nodules': [{'box': [0.2, 0.5, 0.4, 0.7]}, {'box': [0.301, 0.6, 0.302, 0.601]}]}]
    found = quality.contrast(image, rows)
    assert found[0] == pytest.approx(110) and np.isnan(found[1])
