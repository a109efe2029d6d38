"""What a few pixels give away: a logistic regression on the image at 32x32.

It sees brightness, framing and labels but hardly any anatomy. On the published COVID-CT split it
reaches about 0.68 accuracy and 0.71 AUC.
"""

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression

from covjax.audit import probe
from covjax.audit.probe import Probe

NAME = '32x32 pixels (logistic regression)'
RULE = probe.rule_for('a regression on 32x32 pixels')
COLUMNS = probe.COLUMNS
SIZE = 32


def describe(examples):
    """What the regression sees of examples.

    Args:
        examples: [(uint8 [H, W] or [H, W, 1], Row)].

    Returns:
        float [N, 32 * 32] in 0..1, resized bilinearly.
    """
    return np.stack([_describe(grey) for grey, _ in examples])


def _describe(grey):
    image = Image.fromarray(np.asarray(grey).reshape(grey.shape[:2]))
    small = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(small, float).ravel() / 255


def scores(train, test):
    """P(positive) float [len(test)] of examples, after fitting on others; a Probe's `scores`.

    Args:
        train, test: [(uint8 [H, W], Row)]; rows of `train` with a label.
    """
    model = LogisticRegression(C=0.01, max_iter=5000)
    model.fit(describe(train), [row.label for _, row in train])
    return model.predict_proba(describe(test))[:, 1]


PROBE = Probe(NAME, scores, kind='pixels')


def check(subject):
    """The Verdict of whether 32x32 pixels do as well as the network."""
    return probe.versus(subject, PROBE, RULE)
