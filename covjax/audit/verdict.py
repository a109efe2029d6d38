"""What every check is given and what it gives back, and the thresholds that checks share.

The thresholds are covjax's own: no standard sets them.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from covjax import CLASSES
from covjax.classes import POSITIVE, against_rest, titles
from covjax.data.results import Result
from covjax.data.rows import Row
from covjax.metrics.intervals import NO_INTERVAL, bootstrap
from covjax.metrics.roc import auc
from covjax.pages import tables
from covjax.pages.figures import Estimate
from covjax.provenance import Provenance

# AUC from which something that sees no disease tells the classes apart too well, if its whole
# interval is above 0.5 as well.
RED = 0.65
FLAGS = {True: 'red flag', False: 'no red flag', None: 'no answer'}


class Verdict(NamedTuple):
    """The answer of one check."""

    name: str  # of the check
    # True: a red flag; False: none; None: there was nothing to ask, or nothing to explain.
    flag: bool | None
    finding: str  # in a sentence, with numbers
    rule: str = ''  # when the flag is raised
    columns: tuple = ()
    rows: tuple = ()  # of the table behind the finding
    figures: tuple = ()  # of pages.html.Figure
    areas: tuple = ()  # of TestedArea


class TestedArea(NamedTuple):
    """The area under the ROC curve of something on a test set: a line of the page's forest plot."""

    test: str
    estimate: Estimate


class VerdictJson(TypedDict):
    """The parts of a verdict in audit.json that are read."""

    name: str
    flag: bool | None
    finding: str


class AuditJson(Provenance):
    """The parts of an audit.json that are read."""

    model: str
    seed: int
    train: str
    verdicts: list[VerdictJson]
    positive_class: NotRequired[str]  # where it is not covid against noncovid


class Member(NamedTuple):
    """What an image that is a member of a pair was made from."""

    pair: str  # the same of both members
    kind: str  # one of data.lesion_masks.KINDS
    gate: np.ndarray  # uint8 [H, W], where it was made anew
    before: np.ndarray  # uint8 [H, W], the untouched slice


class Images(NamedTuple):
    """A data set as a check sees it."""

    spec: str
    # uint8 [N, size, size, 1], as the network sees it; of scans bags [k, size, size, 1], an object
    # array [N].
    images: np.ndarray
    labels: np.ndarray  # int [N], 1 = positive, 0 = any other class
    rows: list[Row]
    native: list = []  # [(uint8 [H, W] at stored size, Row)]
    members: list = []  # [Member, or None of an image that is in no pair], at stored size
    places: list = []  # of scans: int [k] of each bag, which slices of the scan these are
    lesions: list = []  # of scans: bool [k] of each bag, which slices have lesions; or None
    slices: list = []  # of scans: [Row] of all examples that they are made of
    # P(positive) float [N], where a table says it and no network is asked; or None.
    scores: np.ndarray | None = None

    @property
    def examples(self) -> list[Row]:
        """The rows of all examples of the data set, by which lineage knows them."""
        return self.slices or self.rows

    @property
    def groups(self) -> list[str]:
        """The group (document and patient, or series) of each image, [str]."""
        return [row.group for row in self.rows]

    def chosen(self, indices: Any) -> 'Images':
        """The Images at indices, in their order."""
        pick = lambda each: [each[i] for i in indices] if each else each
        return self._replace(
            images=self.images[indices],
            labels=self.labels[indices],
            rows=pick(self.rows),
            native=pick(self.native),
            members=pick(self.members),
            places=pick(self.places),
            lesions=pick(self.lesions),
            scores=None if self.scores is None else self.scores[indices],
        )

    def against_rest(self, classes: Sequence[str], positive: str) -> 'Images':
        """These Images with label 1 of the positive class and 0 of any other, in rows too.

        Args:
            classes: names of the classes of the data set.
            positive: one of them.
        """
        return self._replace(
            labels=against_rest(self.labels, classes, positive),
            rows=[row.against_rest(classes, positive) for row in self.rows],
            native=[(grey, row.against_rest(classes, positive)) for grey, row in self.native],
        )


class Subject(NamedTuple):
    """A trained classifier and the data that it is asked about, one class against the rest.

    Of a classifier from elsewhere some of it may not be known, and is None.
    """

    folder: pathlib.Path  # where pictures of the audit go
    # uint8 [N, size, size, 1] -> P(positive class) float [N]; None where the `scores` of the test
    # images are all that is known.
    score: Callable | None
    train: Images | None
    validation: Images | None
    tests: dict[str, Images]  # by name, both labels in each
    real: Images | None  # pictures with facts of their files, both labels, to fit baselines on
    # {label: names of the data sets that its training images, or those of the tests, are from}
    origins: dict[int, set]
    lineage: list = []  # records of what trained it (covjax.data.lineage)
    # uint8 [N, size, size, 1] -> where the network looks, float [N, h, w], not negative; or None.
    attribute: Callable | None = None
    attribution: str = 'Grad-CAM'  # what `attribute` computes
    # Of how many images of the positive class of a test set at most; None for all of any class.
    attributed: int | None = None
    pairs: tuple = ()  # of Images of one class from two origins
    # {'controls/jpeg': results of the classifier that learned from that stand-in}
    experiments: dict[str, list[Result]] = {}
    # What people read of the positive class and of all others.
    titles: tuple[str, str] = titles(CLASSES, POSITIVE)
    lungs: str = ''  # what the classifier is shown of an image, config.lungs of its training
    # Of a classifier of scans: object array [N] of bags -> [float [k] of each], the weights of
    # slices; None of one of images.
    weigh: Callable | None = None

    @property
    def tests_and_validation(self) -> dict[str, Images]:
        """{name: Images} of the tests, and of a validation set with scores as 'validation'."""
        known = {'validation': self.validation} if self.has_validation else {}
        return {**self.tests, **known}

    @property
    def has_validation(self) -> bool:
        """Whether there are validation images with scores."""
        validation = self.validation
        return validation is not None and bool(self.score or validation.scores is not None)

    def scores(self, images: Images) -> np.ndarray:
        """P(positive class), float [N], of unchanged Images."""
        return self.score(images.images) if images.scores is None else images.scores


def ask(checks, subject):
    """Asks checks about a Subject, and prints a line of each.

    Args:
        checks: modules of covjax.audit.
        subject: Subject.

    Returns:
        [Verdict].
    """
    verdicts = []
    for check in checks:
        verdict = check.check(subject)
        print(f'{FLAGS[verdict.flag]:12}{verdict.name}: {verdict.finding}', flush=True)
        verdicts.append(verdict)
    return verdicts


def lungs_alone(subject, name):
    """The Verdict of a check of what is outside the lungs, for a classifier that never sees it.

    Args:
        subject: Subject.
        name: of the check.

    Returns:
        Verdict, or None where the classifier is shown more than the lungs.
    """
    if subject.lungs != 'mask':
        return None
    return Verdict(
        name=name,
        flag=None,
        finding='The classifier is shown the lungs alone (config.lungs=mask): nothing is outside.',
    )


class Area(NamedTuple):
    """Area under a ROC curve with its interval over groups; str() prints all three."""

    value: float
    low: float
    high: float

    def __str__(self):
        return tables.interval(*self)

    def tells(self):
        """Whether it tells the classes apart beyond chance and to an extent that matters."""
        return self.low > 0.5 and self.value >= RED


def area(scores, images):
    """The Area of scores float [N] of Images, whose label 1 is positive.

    Its interval is unknown, NaN, where a class is of one patient or series.
    """
    groups = np.array(images.groups)
    if min(len(np.unique(groups[images.labels == label])) for label in (0, 1)) < 2:
        return Area(auc(images.labels, scores), *NO_INTERVAL)
    interval = bootstrap(images.labels, scores, images.groups)['auc']
    return Area(auc(images.labels, scores), *interval)


def gain(low, high):
    """The interval of a difference as tables print it: '-0.012 to +0.034'."""
    return f'{low:+.3f} to {high:+.3f}'
