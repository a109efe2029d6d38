"""What brightness gives away: a logistic regression on the mean, spread and percentiles of the grey levels, without any position."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from covjax.audit.probe import Probe
from covjax.audit.verdict import versus

NAME = 'grey levels (logistic regression)'
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


def features(examples):
    """[(uint8 [H, W], row)] -> float [N, 11]: mean, standard deviation, percentiles, shares of black and white."""
    return np.array(
        [
            [
                grey.mean(),
                grey.std(),
                *np.percentile(grey, PERCENTILES),
                (grey <= 5).mean(),
                (grey >= 250).mean(),
            ]
            for grey, _ in examples
        ]
    )


def scores(train, test):
    """P(covid) float [len(test)], fitted on train; both as `features` takes them, rows with `label`."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000))
    model.fit(features(train), [row.label for _, row in train])
    return model.predict_proba(features(test))[:, 1]


PROBE = Probe(NAME, 'grey', scores)


def check(subject):
    """Whether grey levels alone do as well as the network."""
    return versus(subject, NAME, PROBE, 'a regression on grey levels')
