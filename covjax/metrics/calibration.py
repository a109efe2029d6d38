"""Whether a score of 0.8 means 80 %: Brier score, expected calibration error, reliability curve, and temperature scaling."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss

from covjax.metrics.rates import checked

BINS = 10
CLIP = 1e-6  # scores of 0 and 1 would be infinite logits
TEMPERATURES = (0.05, 20.0)


def brier(labels, scores):
    """Mean squared distance of P(covid) from the label (Brier 1950): 0 is best, 0.25 is what 0.5 for every image gives."""
    labels, scores = checked(labels, scores)
    return float(brier_score_loss(labels, scores, pos_label=1))


def reliability(labels, scores, bins=BINS):
    """(mean score, share of covid, images) of each of `bins` equal intervals of the score, those without images left out; arrays [K]. An image on a border belongs to the upper one."""
    labels, scores = checked(labels, scores)
    if scores.min() < 0 or scores.max() > 1:
        raise ValueError('calibration needs scores in 0..1')
    index = np.minimum((scores * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    filled = count > 0
    mean = lambda values: np.bincount(index, values, bins)[filled] / count[filled]
    return mean(scores), mean(labels), count[filled]


def expected_calibration_error(labels, scores, bins=BINS):
    """Mean over images of the distance between score and share of covid in their bin (Naeini et al. 2015, for the positive class)."""
    score, share, count = reliability(labels, scores, bins)
    return float(np.average(np.abs(score - share), weights=count))


def fit_temperature(labels, scores):
    """The T for which sigmoid(logit(score) / T) has the least cross-entropy (Guo et al. 2017, arXiv 1706.04599), in TEMPERATURES. For validation sets only; NaN when there is only one class."""
    labels, scores = checked(labels, scores)
    if len(np.unique(labels)) < 2:
        return float('nan')
    logits, sign = logit(np.clip(scores, CLIP, 1 - CLIP)), 1 - 2 * labels
    loss = lambda log_t: np.logaddexp(0, sign * logits / np.exp(log_t)).mean()
    return float(
        np.exp(
            minimize_scalar(
                loss, bounds=np.log(TEMPERATURES), method='bounded', options={'xatol': 1e-6}
            ).x
        )
    )


def scaled(scores, temperature):
    """Scores at another temperature; their order stays."""
    return expit(logit(np.clip(np.asarray(scores, float), CLIP, 1 - CLIP)) / temperature)
