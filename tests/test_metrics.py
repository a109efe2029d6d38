"""Rates and areas against formulas written out by hand."""
import numpy as np
import pytest

from covjax.metrics import rates, roc


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
