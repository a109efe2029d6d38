"""Rates and areas against formulas written out by hand."""

import numpy as np
import pytest
from scipy.stats import binom, norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from covjax.audit import metadata_baseline, pixel_baseline
from covjax.data import datasets
from covjax.metrics import calibration, intervals, rates, roc, significance
from covjax.runs import prepare


@pytest.mark.parametrize('seed, levels', [(0, None), (1, 4), (2, 2)])
def test_rates_and_auc_by_counting(seed, levels):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 60)
    scores = np.clip(labels * 0.2 + rng.random(60) * 0.8, 0, 1)
    scores = scores if levels is None else np.round(scores * levels) / levels  # ties
    tp, fp = ((scores >= 0.5) & (labels == 1)).sum(), ((scores >= 0.5) & (labels == 0)).sum()
    fn, tn = ((scores < 0.5) & (labels == 1)).sum(), ((scores < 0.5) & (labels == 0)).sum()
    got = rates.rates(labels, scores)
    expected = {
        'n_positive': tp + fn,
        'n_negative': fp + tn,
        'accuracy': (tp + tn) / 60,
        'recall': tp / (tp + fn),
        'precision': tp / (tp + fp),
        'specificity': tn / (tn + fp),
        'f1': 2 * tp / (2 * tp + fp + fn),
    }
    # AUC is the chance that a positive scores above a negative, ties half.
    pairs = scores[labels == 1][:, None] - scores[labels == 0][None]
    expected['auc'] = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=1e-12), name
    assert got['positive_class'] == 'covid'


def test_one_class_has_no_area_and_no_precision():
    got = rates.rates([0, 0, 0], [0.1, 0.2, 0.3])
    assert (
        np.isnan(got['auc'])
        and np.isnan(got['recall'])
        and np.isnan(got['precision'])
        and got['specificity'] == 1.0
    )


@pytest.mark.parametrize(
    'labels, scores', [([], []), ([0, 1], [0.5, np.nan]), ([0, 1], [0.5, np.inf])]
)
def test_no_silent_number(labels, scores):
    with pytest.raises(ValueError):
        rates.rates(labels, scores)


def test_roc_runs_from_corner_to_corner():
    x, y = roc.curve([0, 1, 0, 1], [0.1, 0.9, 0.4, 0.35])
    assert (
        (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
        and (np.diff(x) >= 0).all()
        and (np.diff(y) >= 0).all()
    )


def clustered(seed, n_groups=40, per_group=4, shared=True):
    """(labels, scores, groups): images of a group share their label and, where `shared`, the whole of their score."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.permutation(n_groups) % 2, per_group)
    noise = (
        np.repeat(rng.normal(size=n_groups), per_group)
        if shared
        else rng.normal(size=n_groups * per_group)
    )
    return (
        labels,
        1 / (1 + np.exp(-(noise + labels - 0.5))),
        np.repeat(np.arange(n_groups), per_group),
    )


def test_bootstrap_equals_resampling_one_by_one():
    labels, scores, groups = clustered(0)
    scores = np.round(scores, 1)  # ties
    got = intervals.bootstrap(labels, scores, groups)
    rng, draws = np.random.default_rng(1), []
    for _ in range(600):
        index = np.concatenate([np.flatnonzero(groups == g) for g in rng.integers(0, 40, 40)])
        draws.append(rates.rates(labels[index], scores[index]))
    for name, interval in got.items():
        np.testing.assert_allclose(
            interval,
            np.quantile([draw[name] for draw in draws], (0.025, 0.975)),
            atol=0.03,
            err_msg=name,
        )
        assert interval[0] < rates.rates(labels, scores)[name] < interval[1]


def test_groups_widen_an_interval_and_the_order_of_images_does_not_matter():
    labels, scores, groups = clustered(2)
    width = lambda groups: np.diff(intervals.bootstrap(labels, scores, groups)['auc']).item()
    assert width(groups) > 1.5 * width(
        np.arange(len(labels))
    )  # four equal images are one piece of evidence
    order = np.random.default_rng(0).permutation(len(labels))
    for name, interval in intervals.bootstrap(labels[order], scores[order], groups[order]).items():
        np.testing.assert_allclose(
            interval, intervals.bootstrap(labels, scores, groups)[name], atol=1e-12
        )


def test_ninety_five_per_cent_of_intervals_hold_the_truth():
    """The area of two normal scores one apart is Phi(1 / sqrt 2)."""
    held = [
        low < 0.7602 < high
        for low, high in (
            intervals.bootstrap(*clustered(seed, 100, 2))['auc'] for seed in range(200)
        )
    ]
    assert 0.9 < np.mean(held) < 0.99


def test_one_class_has_an_interval_of_specificity_only():
    got = intervals.bootstrap([0, 0, 0], [0.1, 0.6, 0.3], ['a', 'b', 'c'])
    assert (
        np.isnan(got['auc']).all()
        and np.isnan(got['recall']).all()
        and 0 <= got['specificity'][0] <= got['specificity'][1] <= 1
    )


def test_both_classes_and_either_as_positive():
    rng = np.random.default_rng(3)
    labels, scores = rng.integers(0, 2, 50), rng.random(50)
    covid, noncovid = (
        rates.rates(labels, scores, positive_class=name) for name in ('covid', 'noncovid')
    )
    swapped = rates.rates(1 - labels, 1 - scores)  # ties with the threshold are not there
    for name in (
        'n_positive',
        'tp',
        'fn',
        'recall',
        'precision',
        'f1',
        'specificity',
        'precision_negative',
        'f1_negative',
        'accuracy',
    ):
        assert noncovid[name] == pytest.approx(swapped[name]), name
    assert (
        covid['recall'] == noncovid['specificity']
        and covid['f1_negative'] == noncovid['f1']
        and covid['precision_negative'] == noncovid['precision']
    )
    assert (
        covid['tp'] + covid['fp'] + covid['fn'] + covid['tn'] == 50
        and noncovid['positive_class'] == 'noncovid'
    )
    with pytest.raises(ValueError, match='positive_class'):
        rates.rates(labels, scores, positive_class='1')


@pytest.mark.parametrize(
    'labels, scores',
    [
        ([], []),
        ([0, 1], [0.5, np.nan]),
        ([0, 1], [0.5]),
        ([0, 2], [0.5, 0.5]),
        ([[0, 1]], [[0.5, 0.5]]),
        ([0.0, 0.5], [0.1, 0.2]),
    ],
)
@pytest.mark.parametrize(
    'metric',
    [
        rates.rates,
        calibration.brier,
        calibration.expected_calibration_error,
        calibration.fit_temperature,
        lambda labels, scores: significance.delong(labels, scores, scores),
        lambda labels, scores: significance.mcnemar(labels, scores, scores),
        lambda labels, scores: intervals.bootstrap(labels, scores, ['a'] * len(labels)),
    ],
)
def test_no_metric_of_nothing(metric, labels, scores):
    with pytest.raises(ValueError):
        metric(labels, scores)


def test_area_by_the_trapezoid_rule_equals_scikit_learn():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels, scores = rng.permutation(np.arange(80) % 2), rng.integers(0, 7, 80) / 7  # many ties
        assert abs(roc.auc(labels, scores) - roc_auc_score(labels, scores)) < 1e-12
    assert roc.auc([0, 1, 0, 1], [0.3] * 4) == 0.5  # all ties


def test_operating_point():
    labels, scores = [0, 0, 0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.35, 0.5, 0.6, 0.9]
    threshold = roc.operating_point(labels, scores)
    assert 0.3 < threshold < 0.35  # recall 1, specificity 3/4
    best = max(
        rates.rates(labels, scores, t)['recall'] + rates.rates(labels, scores, t)['specificity']
        for t in np.arange(0, 1, 0.01)
    )
    got = rates.rates(labels, scores, threshold)
    assert got['recall'] + got['specificity'] == pytest.approx(best)
    assert (
        np.isnan(roc.operating_point([1, 1], [0.2, 0.4]))
        and roc.operating_point([0, 1], [0.5, 0.5]) > 0.5
    )


def test_mean_of_runs_has_an_interval_of_its_own():
    labels, scores, groups = clustered(4)
    noisy = np.stack(
        [
            np.clip(scores + np.random.default_rng(seed).normal(0, 0.1, len(scores)), 0, 1)
            for seed in range(3)
        ]
    )
    together = intervals.bootstrap(labels, noisy, groups)
    alone = [intervals.bootstrap(labels, row, groups) for row in noisy]
    for (
        name
    ) in intervals.NAMES:  # the same draws, so the mean of the ends is near the ends of the mean
        np.testing.assert_allclose(
            together[name], np.mean([one[name] for one in alone], axis=0), atol=0.03
        )
    for name, ends in intervals.bootstrap(labels, [noisy[0]] * 2, groups).items():
        np.testing.assert_allclose(ends, alone[0][name])


def test_wilson_against_a_worked_example():
    """Newcombe 1998 (Statistics in Medicine 17, 857), table I, method 3."""
    for successes, n, expected in (
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ):
        np.testing.assert_allclose(intervals.wilson(successes, n), expected, atol=5e-5)
    assert np.isnan(intervals.wilson(0, 0)).all()


def brute_delong(labels, first, second):
    """Equations of DeLong et al. 1988, pair by pair."""
    labels = np.asarray(labels)
    psi = [
        (
            (s[labels == 1][:, None] > s[labels == 0])
            + 0.5 * (s[labels == 1][:, None] == s[labels == 0])
        )
        for s in (np.asarray(first), np.asarray(second))
    ]
    v10, v01 = np.array([p.mean(1) for p in psi]), np.array([p.mean(0) for p in psi])
    covariance = np.cov(v10) / v10.shape[1] + np.cov(v01) / v01.shape[1]
    contrast = np.array([1, -1])
    difference = psi[0].mean() - psi[1].mean()
    return difference, 2 * norm.sf(abs(difference) / np.sqrt(contrast @ covariance @ contrast))


def test_delong():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.arange(70) % 2)
        first, second = (
            np.round(labels * gain + rng.normal(size=70), 1) for gain in (1.2, 0.6)
        )  # ties
        np.testing.assert_allclose(
            significance.delong(labels, first, second),
            brute_delong(labels, first, second),
            rtol=1e-9,
        )
        assert significance.delong(labels, first, first) == (0, 1)
    assert np.isnan(significance.delong([1, 1], [0.1, 0.2], [0.2, 0.3])).all()  # one class
    assert significance.delong([0, 1], [0.1, 0.9], [0.9, 0.1])[0] == 1 and np.isnan(
        significance.delong([0, 1], [0.1, 0.9], [0.9, 0.1]).p
    )


def test_delong_keeps_its_level():
    """Two equally good classifiers differ at 5 % in about 5 % of samples."""

    def p(seed):
        rng = np.random.default_rng(seed)
        labels, signal = np.arange(120) % 2, rng.normal(size=120)
        return significance.delong(
            labels, *(labels + signal + rng.normal(size=120) for _ in range(2))
        ).p

    assert 0.02 < np.mean([p(seed) < 0.05 for seed in range(400)]) < 0.09


def test_mcnemar():
    """Agresti, Categorical Data Analysis, approval ratings: 150 and 86 of 1600 changed their mind."""
    labels, first, second = np.ones(1600, int), np.ones(1600, int), np.ones(1600, int)
    first[:86], second[86:236] = 0, 0
    difference, p = significance.mcnemar(labels, first, second)
    assert (
        difference == pytest.approx((150 - 86) / 1600)
        and p == pytest.approx(2 * binom.cdf(86, 236, 0.5))
        and p < 1e-4
    )
    assert significance.mcnemar([0, 1], [0, 1], [0, 1]) == (0, 1)


def test_holm():
    """Holm's step-down by hand: 4, 3, 2, 1 times the sorted values, never falling."""
    np.testing.assert_allclose(
        significance.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02]
    )
    np.testing.assert_allclose(significance.holm([0.5, np.nan, 0.01]), [0.5, np.nan, 0.02])
    assert significance.holm([0.9, 0.8]) == [1, 1] and significance.holm([]) == []


def test_calibration():
    rng = np.random.default_rng(0)
    scores = rng.random(20000)
    labels = (rng.random(20000) < scores).astype(int)  # says what it means
    assert calibration.expected_calibration_error(labels, scores) < 0.02
    assert calibration.brier(labels, scores) == pytest.approx(((labels - scores) ** 2).mean())
    score, share, count = calibration.reliability(labels, scores)
    expected_share, expected_score = calibration_curve(labels, scores, n_bins=10)
    np.testing.assert_allclose(share, expected_share)
    np.testing.assert_allclose(score, expected_score)
    assert count.sum() == 20000
    by_hand = sum(
        abs(
            scores[(scores >= low) & (scores < low + 0.1)].mean()
            - labels[(scores >= low) & (scores < low + 0.1)].mean()
        )
        * ((scores >= low) & (scores < low + 0.1)).mean()
        for low in np.arange(10) / 10
    )
    assert calibration.expected_calibration_error(labels, scores) == pytest.approx(
        by_hand, abs=1e-3
    )


def test_temperature_undoes_what_was_done():
    rng = np.random.default_rng(1)
    scores = rng.random(20000)
    labels = (rng.random(20000) < scores).astype(int)
    kept = (scores > 0.05) & (scores < 0.95)  # beyond, logits times three are clipped
    for temperature in (0.5, 1, 3):
        sharp = calibration.scaled(scores, 1 / temperature)  # logits times the temperature
        assert calibration.fit_temperature(labels, sharp) == pytest.approx(temperature, rel=0.05)
        np.testing.assert_allclose(
            calibration.scaled(sharp, temperature)[kept], scores[kept], atol=1e-6
        )
    assert np.isnan(calibration.fit_temperature([1, 1], [0.5, 0.6]))
    assert np.isfinite(
        calibration.fit_temperature([0, 1, 0], [0.0, 1.0, 1.0])
    )  # certain, and once wrong


def test_baselines_on_the_published_split(real, tmp_path):
    """Accuracy and AUC of both, on the real files, as measured independently of this code."""
    prepare.build('covid_ct', str(real / 'covid_ct'), str(tmp_path))
    train, test = (
        datasets.read_native(f'covid_ct:{split}', str(tmp_path)) for split in ('train', 'test')
    )
    for baseline, accuracy, auc in (
        (metadata_baseline, (0.88, 0.89), (0.929, 0.935)),
        (pixel_baseline, (0.673, 0.677), (0.708, 0.718)),
    ):
        got = rates.rates([row['label'] for _, row in test], baseline.scores(train, test))
        assert accuracy[0] < got['accuracy'] < accuracy[1] and auc[0] < got['auc'] < auc[1]
