"""Rates and areas against formulas written out by hand."""
import numpy as np
import pytest

from covjax import data, prepare
from covjax.audit import metadata_baseline, pixel_baseline
from covjax.metrics import intervals, rates, roc


@pytest.mark.parametrize('seed, levels', [(0, None), (1, 4), (2, 2)])
def test_rates_and_auc_by_counting(seed, levels):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 60)
    scores = np.clip(labels * .2 + rng.random(60) * .8, 0, 1)
    scores = scores if levels is None else np.round(scores * levels) / levels  # ties
    tp, fp = ((scores >= .5) & (labels == 1)).sum(), ((scores >= .5) & (labels == 0)).sum()
    fn, tn = ((scores < .5) & (labels == 1)).sum(), ((scores < .5) & (labels == 0)).sum()
    got = rates.rates(labels, scores)
    expected = {'n_positive': tp + fn, 'n_negative': fp + tn, 'accuracy': (tp + tn) / 60, 'recall': tp / (tp + fn), 'precision': tp / (tp + fp),
                'specificity': tn / (tn + fp), 'f1': 2 * tp / (2 * tp + fp + fn)}
    # AUC is the chance that a positive scores above a negative, ties half.
    pairs = scores[labels == 1][:, None] - scores[labels == 0][None]
    expected['auc'] = ((pairs > 0) + .5 * (pairs == 0)).mean()
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=1e-12), name
    assert got['positive_class'] == 'covid'


def test_one_class_has_no_area_and_no_precision():
    got = rates.rates([0, 0, 0], [.1, .2, .3])
    assert np.isnan(got['auc']) and np.isnan(got['recall']) and np.isnan(got['precision']) and got['specificity'] == 1.


@pytest.mark.parametrize('labels, scores', [([], []), ([0, 1], [.5, np.nan]), ([0, 1], [.5, np.inf])])
def test_no_silent_number(labels, scores):
    with pytest.raises(ValueError):
        rates.rates(labels, scores)


def test_roc_runs_from_corner_to_corner():
    x, y = roc.curve([0, 1, 0, 1], [.1, .9, .4, .35])
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1) and (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all()


def clustered(seed, n_groups=40, per_group=4, shared=True):
    """(labels, scores, groups): images of a group share their label and, where `shared`, the whole of their score."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.permutation(n_groups) % 2, per_group)
    noise = np.repeat(rng.normal(size=n_groups), per_group) if shared else rng.normal(size=n_groups * per_group)
    return labels, 1 / (1 + np.exp(-(noise + labels - .5))), np.repeat(np.arange(n_groups), per_group)


def test_bootstrap_equals_resampling_one_by_one():
    labels, scores, groups = clustered(0)
    scores = np.round(scores, 1)                                               # ties
    got = intervals.bootstrap(labels, scores, groups)
    rng, draws = np.random.default_rng(1), []
    for _ in range(600):
        index = np.concatenate([np.flatnonzero(groups == g) for g in rng.integers(0, 40, 40)])
        draws.append(rates.rates(labels[index], scores[index]))
    for name, interval in got.items():
        np.testing.assert_allclose(interval, np.quantile([draw[name] for draw in draws], (.025, .975)), atol=.03, err_msg=name)
        assert interval[0] < rates.rates(labels, scores)[name] < interval[1]


def test_groups_widen_an_interval_and_the_order_of_images_does_not_matter():
    labels, scores, groups = clustered(2)
    width = lambda groups: np.diff(intervals.bootstrap(labels, scores, groups)['auc']).item()
    assert width(groups) > 1.5 * width(np.arange(len(labels)))                 # four equal images are one piece of evidence
    order = np.random.default_rng(0).permutation(len(labels))
    for name, interval in intervals.bootstrap(labels[order], scores[order], groups[order]).items():
        np.testing.assert_allclose(interval, intervals.bootstrap(labels, scores, groups)[name], atol=1e-12)


def test_ninety_five_per_cent_of_intervals_hold_the_truth():
    """The area of two normal scores one apart is Phi(1 / sqrt 2)."""
    held = [low < 0.7602 < high for low, high in (intervals.bootstrap(*clustered(seed, 100, 2))['auc'] for seed in range(200))]
    assert .9 < np.mean(held) < .99


def test_one_class_has_an_interval_of_specificity_only():
    got = intervals.bootstrap([0, 0, 0], [.1, .6, .3], ['a', 'b', 'c'])
    assert np.isnan(got['auc']).all() and np.isnan(got['recall']).all() and 0 <= got['specificity'][0] <= got['specificity'][1] <= 1


def test_baselines_on_the_published_split(real, tmp_path):
    """Accuracy and AUC of both, on the real files, as measured independently of this code."""
    prepare.build('covid_ct', str(real / 'covid_ct'), str(tmp_path))
    train, test = (data.read_native(f'covid_ct:{split}', str(tmp_path)) for split in ('train', 'test'))
    for baseline, accuracy, auc in ((metadata_baseline, (.88, .89), (.929, .935)), (pixel_baseline, (.673, .677), (.708, .718))):
        got = rates.rates([row['label'] for _, row in test], baseline.scores(train, test))
        assert accuracy[0] < got['accuracy'] < accuracy[1] and auc[0] < got['auc'] < auc[1]
