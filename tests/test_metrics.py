"""Rates, areas, intervals and tests beside formulas written out by hand and published examples."""

import numpy as np
import pytest
from scipy.stats import binom, norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from covjax.metrics import calibration, intervals, power, rates, roc, significance

pytestmark = pytest.mark.fast


def counted(labels, scores, threshold=0.5):
    """{name: rate} by the definitions, label 1 positive; NaN where a denominator is 0."""
    labels, scores = np.asarray(labels), np.asarray(scores)
    positive, called = labels == 1, scores >= threshold
    tp, fp = np.sum(positive & called), np.sum(~positive & called)
    fn, tn = np.sum(positive & ~called), np.sum(~positive & ~called)
    # The area is the chance that a positive scores above a negative, ties half.
    pairs = scores[positive][:, None] - scores[~positive]
    fractions = {
        'accuracy': (tp + tn, len(labels)),
        'recall': (tp, tp + fn),
        'precision': (tp, tp + fp),
        'specificity': (tn, tn + fp),
        'f1': (2 * tp, 2 * tp + fp + fn),
        'precision_negative': (tn, tn + fn),
        'f1_negative': (2 * tn, 2 * tn + fn + fp),
        'auc': (np.sum(pairs > 0) + 0.5 * np.sum(pairs == 0), pairs.size),
    }
    shares = {name: part / whole if whole else np.nan for name, (part, whole) in fractions.items()}
    return {'n_positive': tp + fn, 'n_negative': fp + tn, **shares}


def clustered(seed, n_groups=40, per_group=4):
    """(labels, scores, groups): the images of a group share their label and their score."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.permutation(n_groups) % 2, per_group)
    noise = np.repeat(rng.normal(size=n_groups), per_group)
    scores = 1 / (1 + np.exp(-(noise + labels - 0.5)))
    return labels, scores, np.repeat(np.arange(n_groups), per_group)


@pytest.mark.parametrize('seed, levels', [(0, None), (1, 4), (2, 2)])
def test_rates_and_area_are_what_counting_gives(seed, levels):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 60)
    scores = np.clip(labels * 0.2 + rng.random(60) * 0.8, 0, 1)
    scores = scores if levels is None else np.round(scores * levels) / levels  # ties
    found = rates.rates(labels, scores)
    for name, value in counted(labels, scores).items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    assert found['positive_class'] == 'covid'


def test_one_class_has_no_area_and_no_precision():
    found = rates.rates([0, 0, 0], [0.1, 0.2, 0.3])
    assert np.isnan([found['auc'], found['recall'], found['precision']]).all()
    assert found['specificity'] == 1.0


@pytest.mark.parametrize('name', ['covid', 'noncovid', 'cap'])
def test_rates_say_which_class_is_positive_and_do_not_depend_on_its_name(name):
    rng = np.random.default_rng(3)
    labels, scores = rng.integers(0, 2, 50), rng.random(50)
    found = rates.rates(labels, scores, positive_class=name)
    assert found == rates.rates(labels, scores) | {'positive_class': name}


@pytest.mark.parametrize('n', [2, 3, 4])
def test_rates_of_one_class_against_the_rest_are_those_of_scikit_learn(n):
    rng = np.random.default_rng(n)
    labels, scores = rng.permutation(np.arange(80) % n), rng.dirichlet(np.ones(n), 80)
    called = scores >= 0.4
    for k in range(n):
        found = rates.rates(labels == k, scores[:, k], 0.4)
        precision, recall, f1, count = precision_recall_fscore_support(
            labels == k, called[:, k], labels=[False, True], zero_division=np.nan
        )
        rest, positive = zip(precision, recall, f1, count)
        names = ('precision', 'recall', 'f1', 'n_positive')
        assert [found[name] for name in names] == pytest.approx(positive, nan_ok=True)
        names = ('precision_negative', 'specificity', 'f1_negative', 'n_negative')
        assert [found[name] for name in names] == pytest.approx(rest, nan_ok=True)
        assert found['auc'] == pytest.approx(roc_auc_score(labels == k, scores[:, k]))


def test_the_rates_of_one_class_are_the_negative_ones_of_the_other():
    rng = np.random.default_rng(3)
    labels, scores = rng.integers(0, 2, 50), rng.random(50)
    covid = rates.rates(labels, scores)
    # No score is on the threshold.
    noncovid = rates.rates(1 - labels, 1 - scores, positive_class='noncovid')
    assert covid['recall'] == noncovid['specificity']
    assert covid['f1_negative'] == noncovid['f1']
    assert covid['precision_negative'] == noncovid['precision']
    assert sum(covid[name] for name in ('tp', 'fp', 'fn', 'tn')) == 50


@pytest.mark.parametrize(
    'labels, scores',
    [
        ([], []),
        ([0, 1], [0.5, np.nan]),
        ([0, 1], [0.5, np.inf]),
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
        lambda labels, scores: intervals.auc_difference(
            labels, scores, scores, ['a'] * len(labels)
        ),
    ],
)
def test_no_metric_of_nothing(metric, labels, scores):
    with pytest.raises(ValueError):
        metric(labels, scores)


def test_the_mean_of_equal_runs_has_the_interval_of_one():
    rng = np.random.default_rng(0)
    values, groups = rng.random(60), [f'patient{i // 2}' for i in range(60)]
    values[7] = np.nan
    one = intervals.mean_interval(values, groups)
    np.testing.assert_allclose(intervals.mean_over_runs([values] * 5, groups), one, rtol=1e-12)
    assert np.isnan(intervals.mean_over_runs([values], ['one'] * 60)).all()


@pytest.mark.parametrize('of_runs, of_groups', [(0.0, 1.0), (0.3, 1.0), (1.0, 0.1)])
def test_intervals_over_runs_and_groups_hold_the_truth_as_often_as_they_say(of_runs, of_groups):
    """Of new runs on new groups; with few runs the bootstrap is a little too narrow."""
    rng, held, trials = np.random.default_rng(0), 0, 150
    groups = [f'patient{i}' for i in range(30)]
    for _ in range(trials):
        values = rng.normal(0, of_runs, (10, 1)) + rng.normal(0, of_groups, 30)
        low, high = intervals.mean_over_runs(values + rng.normal(0, 0.3, (10, 30)), groups)
        held += low <= 0 <= high
    assert 0.85 < held / trials


def test_runs_that_differ_widen_the_interval_of_a_difference_of_areas():
    rng = np.random.default_rng(0)
    labels, groups = np.arange(40) % 2, [f'patient{i}' for i in range(40)]
    scores = lambda shift: np.stack(
        [1 / (1 + np.exp(-(s * labels + rng.normal(0, 1, 40)))) for s in shift]
    )
    first, second = scores([0, 0.5, 1, 3, 4]), scores([1] * 5)
    width = lambda over_runs: np.ptp(
        intervals.auc_difference(labels, first, second, groups, over_runs=over_runs)
    )
    assert width(True) > 1.2 * width(False)
    same = intervals.auc_difference(labels, first[:1], second[:1], groups, over_runs=True)
    assert same == intervals.auc_difference(labels, first[:1], second[:1], groups)


@pytest.mark.parametrize('deviation, count', [(0.1, 25), (1.0, 100)])
def test_a_resolved_mean_is_found_with_the_power_that_is_said(deviation, count):
    rng, trials = np.random.default_rng(0), 4000
    mean = power.of_mean(deviation, count)
    drawn = rng.normal(mean, deviation, (trials, count)).mean(1)
    found = abs(drawn) > norm.ppf(1 - power.LEVEL / 2) * deviation / np.sqrt(count)
    assert abs(found.mean() - power.POWER) < 0.03


@pytest.mark.parametrize('positives, negatives', [(40, 40), (100, 30)])
@pytest.mark.parametrize('ratio', [1.5, 4.0])
def test_the_error_of_an_area_is_that_of_simulated_scores(positives, negatives, ratio):
    """For scores of exponential distributions, whose means have a ratio, it is exact."""
    rng, labels = np.random.default_rng(0), np.repeat([1, 0], [positives, negatives])
    means = np.where(labels == 1, ratio, 1.0)
    areas = [roc.auc(labels, rng.exponential(means)) for _ in range(2000)]
    error = power.auc_error(ratio / (1 + ratio), positives, negatives)
    assert abs(np.std(areas) / error - 1) < 0.06


def test_areas_that_share_their_examples_resolve_smaller_differences():
    found = [power.of_auc(0.8, 40, 40, correlation) for correlation in (0.0, 0.5, 0.9)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(power.of_error(power.auc_error(0.8, 40, 40) * np.sqrt(2)))


def test_roc_runs_from_corner_to_corner():
    x, y = roc.curve([0, 1, 0, 1], [0.1, 0.9, 0.4, 0.35])
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all()


def test_area_by_the_trapezoid_rule_equals_scikit_learn():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels, scores = rng.permutation(np.arange(80) % 2), rng.integers(0, 7, 80) / 7  # many ties
        assert abs(roc.auc(labels, scores) - roc_auc_score(labels, scores)) < 1e-12
    assert roc.auc([0, 1, 0, 1], [0.3] * 4) == 0.5  # all ties


def test_operating_point_has_the_greatest_recall_and_specificity():
    labels, scores = [0, 0, 0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.35, 0.5, 0.6, 0.9]
    youden = lambda found: found['recall'] + found['specificity']
    threshold = roc.operating_point(labels, scores)
    assert 0.3 < threshold < 0.35  # recall 1, specificity 3/4
    best = max(youden(counted(labels, scores, t)) for t in np.arange(0, 1, 0.01))
    assert youden(rates.rates(labels, scores, threshold)) == pytest.approx(best)


def test_operating_point_of_one_class_and_of_ties():
    assert np.isnan(roc.operating_point([1, 1], [0.2, 0.4]))
    assert roc.operating_point([0, 1], [0.5, 0.5]) > 0.5


def test_bootstrap_equals_resampling_one_by_one():
    labels, scores, groups = clustered(0)
    scores = np.round(scores, 1)  # ties
    rng, draws = np.random.default_rng(1), []
    for _ in range(600):
        index = np.concatenate([np.flatnonzero(groups == g) for g in rng.integers(0, 40, 40)])
        draws.append(counted(labels[index], scores[index]))
    value = rates.rates(labels, scores)
    for name, interval in intervals.bootstrap(labels, scores, groups).items():
        ends = np.quantile([draw[name] for draw in draws], (0.025, 0.975))
        np.testing.assert_allclose(interval, ends, atol=0.03, err_msg=name)
        assert interval[0] < value[name] < interval[1]


def test_groups_widen_an_interval():
    """Four equal images are one piece of evidence."""
    labels, scores, groups = clustered(2)
    width = lambda groups: np.diff(intervals.bootstrap(labels, scores, groups)['auc']).item()
    assert width(groups) > 1.5 * width(np.arange(len(labels)))


def test_the_order_of_images_does_not_matter_to_an_interval():
    labels, scores, groups = clustered(2)
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = intervals.bootstrap(labels[order], scores[order], groups[order])
    for name, interval in intervals.bootstrap(labels, scores, groups).items():
        np.testing.assert_allclose(shuffled[name], interval, atol=1e-12)


def test_ninety_five_per_cent_of_intervals_hold_the_truth(monkeypatch):
    """The area of two normal scores one apart is Phi(1 / sqrt 2)."""
    monkeypatch.setattr(intervals, 'DRAWS', 400)
    areas = [intervals.bootstrap(*clustered(seed, 100, 2))['auc'] for seed in range(200)]
    held = [low < norm.cdf(1 / np.sqrt(2)) < high for low, high in areas]
    assert 0.9 < np.mean(held) < 0.99


def test_one_class_has_an_interval_of_specificity_only():
    found = intervals.bootstrap([0, 0, 0], [0.1, 0.6, 0.3], ['a', 'b', 'c'])
    low, high = found['specificity']
    assert np.isnan(found['auc']).all() and np.isnan(found['recall']).all()
    assert 0 <= low <= high <= 1


def test_mean_of_runs_has_an_interval_of_its_own():
    labels, scores, groups = clustered(4)
    noise = [np.random.default_rng(seed).normal(0, 0.1, len(scores)) for seed in range(3)]
    runs = np.clip(scores + np.stack(noise), 0, 1)
    together = intervals.bootstrap(labels, runs, groups)
    alone = [intervals.bootstrap(labels, run, groups) for run in runs]
    for name in intervals.NAMES:
        # The same draws, so the mean of the ends is near the ends of the mean.
        ends = np.mean([interval[name] for interval in alone], axis=0)
        np.testing.assert_allclose(together[name], ends, atol=0.03)


def test_the_mean_of_a_run_and_itself_has_the_interval_of_the_run():
    labels, scores, groups = clustered(4)
    alone = intervals.bootstrap(labels, scores, groups)
    for name, ends in intervals.bootstrap(labels, [scores] * 2, groups).items():
        np.testing.assert_allclose(ends, alone[name])


@pytest.mark.parametrize(
    'successes, n, expected',
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_against_a_published_example(successes, n, expected):
    """Newcombe 1998 (Statistics in Medicine 17, 857), table I, method 3."""
    np.testing.assert_allclose(intervals.wilson(successes, n), expected, atol=5e-5)


def test_wilson_of_no_image():
    assert np.isnan(intervals.wilson(0, 0)).all()


def delong_by_pairs(labels, first, second):
    """(difference, p) by the equations of DeLong et al. 1988, pair by pair."""
    labels = np.asarray(labels)
    right = []
    for scores in (first, second):
        positive, negative = scores[labels == 1][:, None], scores[labels == 0]
        right.append((positive > negative) + 0.5 * (positive == negative))
    v10, v01 = np.array([r.mean(1) for r in right]), np.array([r.mean(0) for r in right])
    covariance = np.cov(v10) / v10.shape[1] + np.cov(v01) / v01.shape[1]
    contrast = np.array([1, -1])
    difference = right[0].mean() - right[1].mean()
    return difference, 2 * norm.sf(abs(difference) / np.sqrt(contrast @ covariance @ contrast))


@pytest.mark.parametrize('seed', range(5))
def test_delong_equals_its_equations(seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(70) % 2)
    draw = lambda gain: np.round(labels * gain + rng.normal(size=70), 1)  # ties
    first, second = draw(1.2), draw(0.6)
    found = significance.delong(labels, first, second)
    np.testing.assert_allclose(found, delong_by_pairs(labels, first, second), rtol=1e-9)
    assert significance.delong(labels, first, first) == (0, 1)


def test_delong_of_too_little():
    assert np.isnan(significance.delong([1, 1], [0.1, 0.2], [0.2, 0.3])).all()  # one class
    two_images = significance.delong([0, 1], [0.1, 0.9], [0.9, 0.1])
    assert two_images.difference == 1 and np.isnan(two_images.p)


def test_delong_keeps_its_level():
    """Two equally good classifiers differ at 5 % in about 5 % of samples."""
    labels = np.arange(120) % 2

    def p(seed):
        rng = np.random.default_rng(seed)
        signal = labels + rng.normal(size=120)
        first, second = signal + rng.normal(size=120), signal + rng.normal(size=120)
        return significance.delong(labels, first, second).p

    assert 0.02 < np.mean([p(seed) < 0.05 for seed in range(400)]) < 0.09


def test_mcnemar_of_a_published_example():
    """Agresti, Categorical Data Analysis: 150 and 86 of 1600 changed their mind on approval."""
    labels, first, second = np.ones(1600, int), np.ones(1600, int), np.ones(1600, int)
    first[:86], second[86:236] = 0, 0
    difference, p = significance.mcnemar(labels, first, second)
    assert difference == pytest.approx((150 - 86) / 1600)
    assert p == pytest.approx(2 * binom.cdf(86, 236, 0.5)) and p < 1e-4
    assert significance.mcnemar([0, 1], [0, 1], [0, 1]) == (0, 1)


def test_holm_by_hand():
    """Step-down: 4, 3, 2, 1 times the sorted values, never falling."""
    adjusted = significance.holm([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(significance.holm([0.5, np.nan, 0.01]), [0.5, np.nan, 0.02])
    assert significance.holm([0.9, 0.8]) == [1, 1] and significance.holm([]) == []


@pytest.fixture(scope='module')
def calibrated():
    """(labels, scores) of 20,000 images of which as many are covid as the scores say."""
    rng = np.random.default_rng(0)
    scores = rng.random(20000)
    return (rng.random(20000) < scores).astype(int), scores


def test_reliability_equals_scikit_learn(calibrated):
    score, share, count = calibration.reliability(*calibrated)
    expected_share, expected_score = calibration_curve(*calibrated, n_bins=10)
    np.testing.assert_allclose(share, expected_share)
    np.testing.assert_allclose(score, expected_score)
    assert count.sum() == 20000


def test_calibration_error_and_brier_score_by_hand(calibrated):
    labels, scores = calibrated
    bins = [(scores >= low) & (scores < low + 0.1) for low in np.arange(10) / 10]
    by_hand = sum(abs(scores[b].mean() - labels[b].mean()) * b.mean() for b in bins)
    error = calibration.expected_calibration_error(labels, scores)
    assert error == pytest.approx(by_hand, abs=1e-3) and error < 0.02
    assert calibration.brier(labels, scores) == pytest.approx(((labels - scores) ** 2).mean())


@pytest.mark.parametrize('temperature', [0.5, 1, 3])
def test_temperature_undoes_what_was_done(calibrated, temperature):
    labels, scores = calibrated
    sharp = calibration.scaled(scores, 1 / temperature)  # logits times the temperature
    assert calibration.fit_temperature(labels, sharp) == pytest.approx(temperature, rel=0.05)
    kept = (scores > 0.05) & (scores < 0.95)  # beyond, logits times three are clipped
    undone = calibration.scaled(sharp, temperature)
    np.testing.assert_allclose(undone[kept], scores[kept], atol=1e-6)


def test_temperature_of_one_class_and_of_certain_scores():
    assert np.isnan(calibration.fit_temperature([1, 1], [0.5, 0.6]))
    assert np.isfinite(calibration.fit_temperature([0, 1, 0], [0.0, 1.0, 1.0]))  # once wrong
