"""What the file alone gives away: a logistic regression that never looks at anatomy.

It sees size, container, mode and grey statistics. On the published COVID-CT split it reaches about
0.89 accuracy and 0.93 AUC, so a network's score means little without it beside it.
"""

import numpy as np

from covjax.audit import probe
from covjax.audit.probe import OTHERS, TRAINING, Probe, scores_after, short
from covjax.audit.verdict import RED, TestedArea, Verdict, area
from covjax.pages.figures import Estimate

NAME = 'file metadata (logistic regression)'
RULE = (
    f'Red flag when files alone reach AUC {RED} on a test set, with an interval above 0.5: a score '
    'on it proves little.'
)
COLUMNS = ('test', 'AUC')


def describe(examples):
    """What the regression sees of examples.

    Args:
        examples: [(uint8 [H, W] at stored size, Row with facts of its file)].

    Returns:
        (numbers float [N, 8], modes str [N, 1]).
    """
    numbers = np.array([_numbers(grey, row.file) for grey, row in examples], float)
    return numbers, np.array([[row.file['mode']] for _, row in examples])


def _numbers(grey, file):
    height, width = file['height'], file['width']
    is_jpeg = file['container'] == 'JPEG'
    black, white = (grey <= 5).mean(), (grey >= 250).mean()
    return [height, width, width / height, grey.mean(), grey.std(), is_jpeg, black, white]


scores = probe.regression_with_words(describe)
PROBE = Probe(NAME, scores, kind='metadata', needs_file=True)


def check(subject):
    """The Verdict of whether files give the class away, in every test set of real pictures."""
    known = lambda images: images is None or all(row.file for row in images.rows)
    tests = {test: images for test, images in subject.tests_and_validation.items() if known(images)}
    if not known(subject.real) or not set(tests) & set(subject.tests):
        finding = 'No test set has metadata of its original files.'
        return Verdict(name=NAME, flag=None, finding=finding)
    said = {test: scores_after(PROBE, subject.real, images) for test, images in tests.items()}
    areas = {test: area(of, tests[test]) for test, of in said.items() if of is not None}
    if not areas:
        finding = 'A regression needs several patients or series of each class.'
        return Verdict(name=NAME, flag=None, finding=finding)
    fitted_on = _fitted_on(subject)
    flagged = [
        f'{reached} on {test}'
        for test, reached in areas.items()
        if test in subject.tests and reached.tells()
    ]
    if flagged:
        reached = '; '.join(flagged)
        finding = f'Size, container and grey statistics alone reach AUC {reached}.'
    else:
        finding = 'Size, container and grey statistics are not shown to tell the classes apart.'
    return Verdict(
        name=NAME,
        flag=bool(flagged),
        finding=finding,
        rule=RULE,
        columns=COLUMNS,
        rows=tuple((test, str(reached)) for test, reached in areas.items()),
        areas=tuple(
            TestedArea(
                test, Estimate(f'{short(NAME)},\nfitted on {fitted_on}', *reached, 'regression')
            )
            for test, reached in areas.items()
        ),
    )


def _fitted_on(subject):
    """What the regression is fitted on, in words."""
    if subject.real is None:
        return OTHERS
    return TRAINING if subject.real is subject.train else 'real images'
