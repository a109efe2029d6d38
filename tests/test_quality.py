"""Distances, checkerboards and nodules beside plain computations of the same, or made up ones."""

import numpy as np
import pytest
from scipy import linalg, ndimage

from covjax import features
from covjax.data.rows import Nodule, Row
from covjax.metrics.distances import fid, fid_floor, kid, kid_value
from covjax.metrics.spectrum import checkerboard
from covjax.pages import pictures
from covjax.pages.html import Section
from covjax.runs import quality

pytestmark = pytest.mark.fast


def normal(seed, n, d=6, shift=0.0, scale=1.0):
    """Normal features float [n, d]."""
    return np.random.default_rng(seed).normal(shift, scale, (n, d))


def assert_mean_is_zero(values):
    """Within three standard errors."""
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_kid_is_the_sum_over_pairs():
    first, second = normal(0, 9), normal(1, 7, shift=0.5)
    kernel = lambda a, b: (a @ b / 6 + 1) ** 3

    def within(rows):
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j]
        return np.mean([kernel(rows[i], rows[j]) for i, j in pairs])

    between = np.mean([kernel(a, b) for a in first for b in second])
    expected = pytest.approx(within(first) + within(second) - 2 * between, rel=1e-9)
    assert kid(first, second).value == kid_value(first, second) == expected


def test_kid_is_unbiased_and_its_interval_covers():
    """Of one distribution it is 0 on average at a small size, and 0 is in nearly all intervals."""
    found = [kid(normal(2 * i, 15), normal(2 * i + 1, 20)) for i in range(200)]
    assert_mean_is_zero([distance.value for distance in found])
    assert np.mean([distance.low <= 0 <= distance.high for distance in found]) > 0.88


def test_kid_of_two_distributions_is_not_zero():
    assert kid(normal(0, 60), normal(1, 60, shift=1.0)).low > 0


def test_the_interval_of_kid_knows_groups():
    """The same images three times are no more information."""
    first, second = normal(0, 12), normal(1, 12, shift=0.3)
    thrice = lambda rows: np.repeat(rows, 3, 0) + normal(2, 36, scale=0.01)
    groups = np.repeat(np.arange(12), 3)
    width = lambda distance: distance.high - distance.low
    alone, repeated = kid(first, second), kid(thrice(first), thrice(second))
    grouped = kid(thrice(first), thrice(second), groups, groups)
    assert width(repeated) < 0.75 * width(alone)
    assert width(grouped) == pytest.approx(width(alone), rel=0.25)


def test_kid_of_a_single_group_has_no_interval():
    assert np.isnan(kid(normal(0, 12), normal(1, 12), np.zeros(12), np.arange(12)).low)


def test_kid_of_groups_is_unbiased():
    """That images of one group are alike is no distance."""
    groups = np.repeat(np.arange(10), 3), np.repeat(np.arange(14), 2)
    repeated = lambda seed, n, times: np.repeat(normal(seed, n), times, 0)
    pairs = [(repeated(2 * i, 10, 3), repeated(2 * i + 1, 14, 2)) for i in range(200)]
    assert_mean_is_zero([kid_value(first, second, *groups) for first, second in pairs])


def test_fid_is_the_formula():
    first, second = normal(0, 40), normal(1, 50, shift=0.4, scale=1.5)
    a, b = np.cov(first.T), np.cov(second.T)
    of_means = ((first.mean(0) - second.mean(0)) ** 2).sum()
    expected = of_means + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert fid(first, second) == pytest.approx(expected, rel=1e-6)
    assert fid(first, first) == pytest.approx(0, abs=1e-9)


def test_fid_is_biased_and_its_floor_shows_by_how_much():
    """Sets of one distribution are apart, the more so the smaller they are; n may be below D."""
    mean_fid = lambda n: np.mean([fid(normal(i, n, 30), normal(100 + i, n, 30)) for i in range(5)])
    small = mean_fid(20)
    assert small > 3 * mean_fid(100) > 0
    assert fid_floor(normal(0, 40, 30)) == pytest.approx(small, rel=0.3)
    assert np.isnan(fid_floor(normal(0, 3)))


@pytest.mark.parametrize('distance', [kid, fid])
@pytest.mark.parametrize(
    'first, second',
    [
        (np.zeros((1, 3)), np.zeros((5, 3))),
        (np.zeros((5, 3)), np.zeros((5, 4))),
        (np.full((5, 3), np.nan), np.zeros((5, 3))),
    ],
)
def test_distances_refuse_what_has_none(distance, first, second):
    with pytest.raises(ValueError, match='distances need'):
        distance(first, second)


@pytest.fixture(scope='module')
def smooth():
    """Smooth noise, float [20, 64, 64]."""
    noise = np.random.default_rng(0).normal(0, 30, (20, 64, 64))
    return ndimage.gaussian_filter(noise, (0, 1.5, 1.5)) * 4 + 100


def test_smooth_noise_has_no_checkerboard(smooth):
    assert abs(checkerboard(smooth[..., None])) < 3


@pytest.mark.parametrize(
    'pattern',
    [
        lambda y, x: (-1.0) ** (x + y),
        lambda y, x: (-1.0) ** x,
        lambda y, x: np.cos(np.pi * y / 2),
    ],
)
def test_checkerboards_of_both_periods_and_either_direction_are_seen(smooth, pattern):
    y, x = np.mgrid[:64, :64]
    assert checkerboard((smooth + 2 * pattern(y, x))[..., None]) > 6


def test_a_checkerboard_needs_enough_pixels():
    with pytest.raises(ValueError, match='16x16'):
        checkerboard(np.zeros((2, 8, 8, 1)))


def test_features_of_pixels_are_grey_levels_at_32x32():
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), np.uint8)
    found = features.extractor('pixels')(images)
    np.testing.assert_allclose(found, images.reshape(3, -1) / 255, atol=1e-6)
    flat = features.extractor('pixels')(np.full((2, 80, 60, 1), 51, np.uint8))
    assert flat.shape == (2, 1024) and np.allclose(flat, 0.2, atol=1e-6)


def test_contrast_of_a_nodule():
    """A disc of 150 in 40 stands out by 110, wherever it is; without a pixel there is no number."""
    image = np.full((1, 100, 100, 1), 40, np.uint8)
    y, x = np.mgrid[:100, :100] + 0.5
    image[0, np.hypot(y - 30, x - 60) < 10] = 150
    boxes = (0.2, 0.5, 0.4, 0.7), (0.301, 0.6, 0.302, 0.601)
    nodules = tuple(Nodule(diameter=10.0, row=i, box=box) for i, box in enumerate(boxes))
    found = quality.contrast(image, [Row('a', 'series', '', nodules=nodules)])
    assert found[0] == pytest.approx(110) and np.isnan(found[1])


def test_a_section_in_json_has_null_for_nan():
    rows = [['a', float('nan')], ['b', 1.5]]
    section = Section('title', 'a\nnote\n', ('what', 'value'), rows)
    rows = [['a', None], ['b', 1.5]]
    assert quality.as_json(section) == {'columns': section.columns, 'rows': rows, 'note': 'a note'}


def test_a_section_on_screen_has_no_html_and_nothing_that_is_not_known():
    columns = ['data set', 'seed', 'distance', 'images']
    section = Section('', "Otsu's", columns, [["a's & <b>", None, 0.25, 3]])
    assert quality._as_text(section).splitlines() == [
        '',
        "Otsu's",
        "  data set a's & <b>, distance 0.250, images 3",
    ]


@pytest.mark.parametrize('side, shape', [(1, (3, 5)), (5, (3, 5)), (6, (6, 10)), (120, (72, 120))])
def test_small_images_are_shown_with_whole_pixels(side, shape):
    image = np.arange(15, dtype=np.uint8).reshape(3, 5)
    large = pictures.enlarged(image, side)
    times = shape[0] // 3
    assert large.shape == shape
    np.testing.assert_array_equal(large, np.kron(image, np.ones((times, times), np.uint8)))


def test_an_outline_is_the_upper_and_left_edge_of_a_mask():
    mask = np.zeros((4, 4), bool)
    mask[1:3, 1:3] = True
    drawn = pictures.outline(np.full((4, 4), 9, np.uint8), mask)
    yellow = (drawn == pictures.YELLOW).all(-1)
    assert yellow.tolist() == [[0] * 4, [0, 1, 1, 0], [0, 1, 0, 0], [0] * 4]
    assert (drawn[~yellow] == 9).all()
