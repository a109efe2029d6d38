"""What every check is given and what it gives back, and the thresholds that checks share. They are covjax's own: no standard sets them."""

import pathlib
from typing import Callable, NamedTuple

import numpy as np

from covjax.metrics.intervals import auc_difference, bootstrap
from covjax.metrics.roc import auc
from covjax.pages import tables

BETTER = (
    0.05  # AUC by which a network is to be better than what sees little, with its whole interval
)


FLAGS = {True: 'red flag', False: 'no red flag', None: 'no answer'}


RED = 0.65  # AUC from which something that sees no disease tells too much, if its whole interval is above 0.5 as well


class Verdict(NamedTuple):
    """The answer of one check."""

    name: str
    flag: (
        bool | None
    )  # True: a red flag; False: none; None: could not be asked, or there was nothing to explain
    finding: str  # in a sentence, with numbers
    rule: str = ''  # when the flag is raised
    columns: tuple = ()
    rows: tuple = ()  # of the table behind the finding
    figures: tuple = ()  # (path of a PNG, what it shows)


class Images(NamedTuple):
    """A data set as a check sees it."""

    spec: str
    images: np.ndarray  # uint8 [N, size, size, 1], as the network sees it
    labels: np.ndarray  # int [N], 1 = covid
    rows: list  # id, group, sha256, ... of each image
    native: list = []  # [(uint8 [H, W] at stored size, row)]

    @property
    def groups(self):
        return [row.group for row in self.rows]


class Subject(NamedTuple):
    """A trained classifier and the data that it is asked about."""

    folder: pathlib.Path  # where pictures of the audit go
    score: Callable  # uint8 [N, size, size, 1] -> P(covid) float [N]
    train: Images
    validation: Images
    tests: dict  # {name: Images}, both classes in each
    real: Images  # pictures with facts of their files, both classes, to fit baselines on
    origins: dict  # {label: names of the data sets that its training images are from}
    lineage: list = []  # records of what trained it (covjax.lineage)
    attribute: Callable | None = (
        None  # uint8 [N, size, size, 1] -> Grad-CAM float [N, h, w], or None where there is no network
    )
    sources: tuple = ()  # pairs of Images of one class from two sources
    experiments: dict = {}  # {'controls/jpeg': results of its classifier}, the form of results.json


class Area(NamedTuple):
    """Area under a ROC curve with its interval over groups."""

    value: float
    low: float
    high: float

    def __str__(self):
        return tables.interval(*self)

    def tells(self, least=RED):
        """Whether it tells classes apart beyond chance and to an extent that matters."""
        return self.low > 0.5 and self.value >= least


def area(scores, images):
    return Area(auc(images.labels, scores), *bootstrap(images.labels, scores, images.groups)['auc'])


def versus(subject, name, probe, rule_about):
    """The Verdict of a regression that sees little, beside the network: `probe` is a module with `scores(train, test)`, fitted on what the network was trained on and on real images."""
    rows, lost = [], []
    sets = {'what the network was trained on': subject.train}
    if {row.sha256 for row in subject.train.rows} != {row.sha256 for row in subject.real.rows}:
        sets['real images'] = subject.real
    for test, images in {**subject.tests, 'validation': subject.validation}.items():
        network = subject.score(images.images)
        for about, train in sets.items():
            scores = probe.scores(train.native, images.native)
            found, gain = (
                area(scores, images),
                auc_difference(images.labels, network, scores, images.groups),
            )
            rows.append(
                (
                    test,
                    about,
                    str(area(network, images)),
                    str(found),
                    f'{gain[0]:+.3f} to {gain[1]:+.3f}',
                )
            )
            if test in subject.tests and found.tells() and gain[0] <= BETTER:
                lost.append(f'{found} on {test}, fitted on {about}')
    if not rows or all('nan' in row[3] for row in rows):
        return Verdict(name, None, 'Intervals need several patients or series in a test set.')
    finding = (
        f'Tells the classes apart at least nearly as well as the network: AUC {"; ".join(lost)}.'
        if lost
        else 'The network knows more than it, or it knows nothing.'
    )
    return Verdict(
        name,
        bool(lost),
        finding,
        f'Red flag when {rule_about} reaches AUC {RED}, its interval above 0.5, and the network is not shown to be better by {BETTER} (interval of the difference).',
        ('test', 'fitted on', 'AUC of the network', 'AUC of the regression', 'network better by'),
        tuple(rows),
    )
