"""Whether a score of 0.8 means 80 %, after the temperature that validation chooses."""

import numpy as np

from covjax.audit.verdict import Verdict
from covjax.metrics.calibration import brier, expected_calibration_error, fit_temperature, scaled

NAME = 'calibration'
DRAWS, LEVEL = 1000, 0.95
LARGE = 0.05  # a smaller calibration error is none that matters


def expected_by_chance(scores, groups, seed=0):
    """The calibration error that scores which mean what they say stay below in LEVEL of all draws of labels (consistency resampling, Bröcker and Smith 2007).

    Images of one group get their labels from one draw, as those of one patient share one.
    """
    rng, group = (
        np.random.default_rng(seed),
        np.unique(np.asarray(groups, str), return_inverse=True)[1],
    )
    draws = [(rng.random(group.max() + 1)[group] < scores).astype(int) for _ in range(DRAWS)]
    return float(
        np.quantile([expected_calibration_error(labels, scores) for labels in draws], LEVEL)
    )


def check(subject):
    """Calibration errors on every test set."""
    temperature = fit_temperature(
        subject.validation.labels, subject.score(subject.validation.images)
    )
    if np.isnan(temperature):
        return Verdict(NAME, None, 'Validation has one class only.')
    rows, bad = [], []
    for test, images in subject.tests.items():
        scores = subject.score(images.images)
        cooled = scaled(scores, temperature)
        error, chance = (
            expected_calibration_error(images.labels, cooled),
            expected_by_chance(cooled, images.groups),
        )
        rows.append(
            (
                test,
                expected_calibration_error(images.labels, scores),
                error,
                chance,
                brier(images.labels, scores),
                brier(images.labels, cooled),
                temperature,
            )
        )
        if error > max(chance, LARGE):
            bad.append(f'{error:.3f} on {test}, where {chance:.3f} could be chance')
    return Verdict(
        NAME,
        bool(bad),
        f'Scores do not mean what they say, temperature {temperature:.2f}: calibration error {"; ".join(bad)}.'
        if bad
        else 'Scores mean what they say, as far as these images can tell.',
        f'Red flag when the calibration error after scaling is above {LARGE} and above what calibrated scores show in {LEVEL:.0%} of draws.',
        (
            'test',
            'calibration error',
            'after scaling',
            'could be chance',
            'Brier',
            'after scaling',
            'temperature',
        ),
        tuple(rows),
    )
