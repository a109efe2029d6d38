"""What brightness gives away: a logistic regression on grey levels, without any position.

It sees their mean, spread and percentiles, and the shares of black and white.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from covjax.audit import probe
from covjax.audit.probe import Probe

NAME = 'grey levels (logistic regression)'
RULE = probe.rule('a regression on grey levels')
COLUMNS = probe.COLUMNS
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


def describe(examples):
    """What the regression sees of examples.

    Args:
        examples: [(uint8 [H, W], Row)].

    Returns:
        float [N, 11]: mean, standard deviation, percentiles, shares of black and white.
    """
    return np.array([_describe(grey) for grey, _ in examples])


def _describe(grey):
    black, white = (grey <= 5).mean(), (grey >= 250).mean()
    return [grey.mean(), grey.std(), *np.percentile(grey, PERCENTILES), black, white]


def scores(train, test):
    """P(covid) float [len(test)] of examples, after fitting on others; a Probe's `scores`.

    Args:
        train, test: [(uint8 [H, W], Row)]; rows of `train` with a label.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000))
    model.fit(describe(train), [row.label for _, row in train])
    return model.predict_proba(describe(test))[:, 1]


PROBE = Probe(NAME, 'grey', scores)


def check(subject):
    """The Verdict of whether grey levels alone do as well as the network."""
    return probe.versus(subject, PROBE, RULE)
