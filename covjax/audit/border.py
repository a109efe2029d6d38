"""What the border of the images gives away, an eighth of each side, where no lung lies.

Letters, tables, the crop and the black around a body are there, and disease is not.
"""

import numpy as np

from covjax.audit import grey_statistics, pixel_baseline, probe
from covjax.audit.probe import Probe
from covjax.audit.regions import BORDER, border_only
from covjax.audit.verdict import RED

NAME = 'border of the images'
RULE = (
    f'Red flag when a regression on the border alone reaches AUC {RED}, with an interval above '
    '0.5: no disease is there.'
)
COLUMNS = probe.COLUMNS_ALONE


def black_inside(grey):
    """uint8 [H, W] with all but its border black."""
    return border_only(grey[None, ..., None])[0, ..., 0]


def frame(grey):
    """The pixels of the border of uint8 [H, W], in one row: uint8 [1, N]."""
    height, width = grey.shape
    outside = np.ones(grey.shape, bool)
    above, left = round(BORDER * height), round(BORDER * width)
    outside[above : height - above, left : width - left] = False
    return grey[outside][None]


def _shown(change, probe):
    """The `scores` of a Probe that sees what `change` makes of each grey image."""
    changed = lambda examples: [(change(grey), row) for grey, row in examples]
    return lambda train, test: probe.scores(changed(train), changed(test))


PROBES = (
    Probe('its 32x32 pixels', _shown(black_inside, pixel_baseline.PROBE)),
    Probe('its grey levels', _shown(frame, grey_statistics.PROBE)),
)


def check(subject):
    """The Verdict of whether the border alone tells the classes apart."""
    return probe.alone(subject, NAME, RULE, PROBES)
