"""What a few pixels give away: a logistic regression on the image at 32x32, which sees brightness, framing and labels but hardly any anatomy.

On the published COVID-CT split it reaches about 0.68 accuracy and 0.71 AUC.
"""

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression

from covjax.audit.probe import Probe
from covjax.audit.verdict import versus

NAME = '32x32 pixels (logistic regression)'
SIZE = 32


def features(examples):
    """[(uint8 [H, W], row)] -> float [N, 32 * 32] in 0..1, resized bilinearly."""
    shrink = lambda grey: (
        np.asarray(
            Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BILINEAR), float
        ).ravel()
        / 255
    )
    return np.stack([shrink(np.asarray(grey).reshape(grey.shape[:2])) for grey, _ in examples])


def scores(train, test):
    """P(covid) float [len(test)], fitted on train; both as `features` takes them (data.read_native), rows with `label`."""
    model = LogisticRegression(C=0.01, max_iter=5000)
    model.fit(features(train), [row.label for _, row in train])
    return model.predict_proba(features(test))[:, 1]


PROBE = Probe(NAME, 'pixels', scores)


def check(subject):
    """Whether 32x32 pixels do as well as the network."""
    return versus(subject, NAME, PROBE, 'a regression on 32x32 pixels')
