"""What the files of a data set give away: a regression on their size and format, no pixel seen.

Of volumes it sees how they were scanned: slices, spacing, kernel and date.
"""

import numpy as np

from covjax.audit import probe, scan_metadata
from covjax.audit.probe import Probe
from covjax.audit.verdict import RED, Verdict

NAME = 'facts of the files'
RULE = (
    f'Red flag when a regression on facts of the files reaches AUC {RED}, with an interval above '
    '0.5: whatever makes the files, such as the program that saved them, differs between classes.'
)
COLUMNS = probe.COLUMNS_ALONE


def describe(examples):
    """What the regression sees of pictures.

    Args:
        examples: [(uint8 [H, W], Row with facts of its file)].

    Returns:
        (numbers float [N, 3]: height, width and their ratio; container and mode, str [N, 1]).
    """
    files = [row.file for _, row in examples]
    sizes = [(file['height'], file['width'], file['width'] / file['height']) for file in files]
    return np.array(sizes, float), np.array([[f'{f["container"]} {f["mode"]}'] for f in files])


PROBE = Probe('size and format', probe.regression_with_words(describe), needs_file=True)


def check(subject):
    """The Verdict of whether files alone tell the classes apart."""
    rows = [row for images in subject.tests.values() for row in images.rows]
    if all(row.file for row in rows):
        chosen = PROBE
    elif all('slices' in row.others for row in rows):
        chosen = scan_metadata.PROBE
    else:
        return Verdict(name=NAME, flag=None, finding='Nothing is known of the files.')
    return probe.alone(subject, NAME, RULE, [chosen])
