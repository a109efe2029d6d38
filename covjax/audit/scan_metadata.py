"""What the scanner and the reconstruction give away of a scan: a regression that sees no pixel.

It sees the number of slices, their size and spacing, the convolution kernel and the date, as far as
a data set keeps them. Scans of another class often come from another machine or another year.
"""

import numpy as np

from covjax.audit import probe
from covjax.audit.probe import Probe

NAME = 'scan metadata (logistic regression)'
RULE = probe.rule_for('a regression on numbers of slices, spacing, kernel and date')
COLUMNS = probe.COLUMNS
NO_KERNELS = (
    'No scan names its convolution kernel: only DICOM has it, and data sets of scans keep it from '
    'version 1.1.0 on.'
)


def describe(examples):
    """What the regression sees of scans.

    Args:
        examples: [(one slice uint8 [H, W] at stored size, Row of the scan)].

    Returns:
        (numbers float [N, 7], kernels str [N, 1]).
    """
    numbers = np.array([_numbers(grey, row) for grey, row in examples], float)
    return numbers, np.array([[row.others.get('kernel', '')] for _, row in examples])


def _numbers(grey, row):
    """Slices, mm between them, height in mm, mm of a pixel, its sides, and the year and month."""
    between, _, pixel = row.others.get('spacing', (0.0, 0.0, 0.0))
    slices = row.others['slices']
    date = row.others.get('date', '')  # YYYYMMDD
    when = int(date[:4]) + int(date[4:6]) / 12 if len(date) == 8 and date.isdigit() else 0.0
    return [slices, between, slices * between, pixel, *grey.shape, when]


scores = probe.regression_with_words(describe)
PROBE = Probe(NAME, scores, kind='metadata')


def check(subject):
    """The Verdict of whether the way a scan was made does as well as the network."""
    verdict = probe.versus(subject, PROBE, RULE)
    sets = [images for images in (subject.train, *subject.tests.values()) if images is not None]
    if any(row.others.get('kernel') for images in sets for _, row in images.native):
        return verdict
    return verdict._replace(finding=f'{verdict.finding} {NO_KERNELS}')
