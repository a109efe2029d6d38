"""Whether a score of 0.8 means 80 %, after the temperature that validation chooses."""

import numpy as np

from covjax.audit.verdict import Verdict
from covjax.metrics.calibration import brier, expected_calibration_error, fit_temperature, scaled

NAME = 'calibration'
DRAWS, LEVEL = 1000, 0.95
LEAST = 5  # patients or series, of which a calibration error can be told
LARGE = 0.05  # a smaller calibration error is none that matters
RULE = (
    f'Red flag when the calibration error after scaling is above {LARGE} and above what calibrated '
    f'scores show in {LEVEL:.0%} of draws.'
)
COLUMNS = (
    *('test', 'calibration error', 'after scaling', 'could be chance'),
    *('Brier', 'after scaling', 'temperature'),
)


def expected_by_chance(scores, groups, seed=0):
    """The calibration error below which calibrated scores stay in LEVEL of all draws.

    Labels are drawn from the scores (consistency resampling, Bröcker and Smith 2007). Images of
    one group get their labels from one draw, as those of one patient share one.

    Args:
        scores: P(positive) float [N].
        groups: [N] of str.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    group = np.unique(np.asarray(groups, str), return_inverse=True)[1]
    draws = [(rng.random(group.max() + 1)[group] < scores).astype(int) for _ in range(DRAWS)]
    errors = [expected_calibration_error(labels, scores) for labels in draws]
    return float(np.quantile(errors, LEVEL))


def check(subject):
    """The Verdict of calibration errors on every test set."""
    temperature = _temperature(subject)
    if np.isnan(temperature):
        return Verdict(name=NAME, flag=None, finding='Validation has only one class.')
    rows, off = [], []
    for test, images in subject.tests.items():
        if len(set(images.groups)) < LEAST:
            continue
        scores = subject.scores(images)
        rescaled = scaled(scores, temperature)
        before = expected_calibration_error(images.labels, scores)
        after = expected_calibration_error(images.labels, rescaled)
        chance = expected_by_chance(rescaled, images.groups)
        briers = brier(images.labels, scores), brier(images.labels, rescaled)
        rows.append((test, before, after, chance, *briers, temperature))
        if after > max(chance, LARGE):
            off.append(f'{after:.3f} on {test}, where {chance:.3f} could be chance')
    if not rows:
        finding = f'Fewer than {LEAST} patients or series cannot tell.'
        return Verdict(name=NAME, flag=None, finding=finding)
    if off:
        finding = (
            f'Scores do not mean what they say, {_scaling(subject, temperature)}: '
            f'calibration error {"; ".join(off)}.'
        )
    else:
        finding = 'Scores mean what they say, as far as these images can tell.'
    return Verdict(
        name=NAME,
        flag=bool(off),
        finding=finding,
        rule=RULE,
        columns=COLUMNS,
        rows=tuple(rows),
    )


def _temperature(subject):
    """That which validation chooses, 1 where no validation images are known, NaN of one class."""
    if not subject.has_validation:
        return 1.0
    return fit_temperature(subject.validation.labels, subject.scores(subject.validation))


def _scaling(subject, temperature):
    """How scores were scaled, in words."""
    if not subject.has_validation:
        return 'unscaled, as no validation scores are known'
    return f'temperature {temperature:.2f}'
