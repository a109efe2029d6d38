"""What brightness gives away: a logistic regression on grey levels, without any position.

It sees their mean, spread and percentiles, and the shares of black and white.
"""

import numpy as np

from covjax.audit import probe
from covjax.audit.probe import Probe

NAME = 'grey levels (logistic regression)'
RULE = probe.rule_for('a regression on grey levels')
COLUMNS = probe.COLUMNS
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


def describe(examples):
    """What the regression sees of examples.

    Args:
        examples: [(uint8 [H, W], Row)], at stored size.

    Returns:
        float [N, 11]: mean, standard deviation, percentiles, shares of black and white.
    """
    return np.array([_describe(grey) for grey, _ in examples])


def _describe(grey):
    black, white = (grey <= 5).mean(), (grey >= 250).mean()
    return [grey.mean(), grey.std(), *np.percentile(grey, PERCENTILES), black, white]


PROBE = Probe(NAME, probe.regression(describe))


def check(subject):
    """The Verdict of whether grey levels alone do as well as the network."""
    return probe.versus(subject, PROBE, RULE)
