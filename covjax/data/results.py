"""What an evaluation found: results.json.

It has one entry for each model and test set, which is about the positive class against the rest; of
more than two classes one entry for each of them, and a confusion matrix of each network beside.

A value that does not exist, such as the precision of a model that calls nothing covid, is None here
and null in the file, since JSON has no NaN. Files of version 0.5.0 have no `kind`, and still older
ones lack more keys; `read` accepts them all.
"""

import dataclasses
import pathlib
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import msgspec

from covjax import CLASSES, provenance
from covjax.classes import POSITIVE
from covjax.provenance import Provenance
from covjax.workdir import write_json

FILE = 'results.json'
# What a result can be of, in the order in which tables list them.
KINDS = ('network', 'metadata', 'pixels')
# The baselines of files that have no `kind`.
KIND_OF_NAME = {
    'file metadata (logistic regression)': 'metadata',
    '32x32 pixels (logistic regression)': 'pixels',
}


class Interval(NamedTuple):
    """The ends of a 95 % interval; None where there is none."""

    low: float | None = None
    high: float | None = None


class ScoredImage(NamedTuple):
    """One image of a test set and the score that a model gave it."""

    id: str
    label: int  # 1 = positive class (covid), 0 = any other
    score: float  # P(positive class)
    group: str | None = None  # 'document/patient' or a CT series; None in old files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One entry of results.json: one model on one test set, about one class against the rest.

    The fields are its keys, in their order.
    """

    model: str  # key of a network, or the name of a baseline
    kind: str  # one of KINDS
    train_set: str  # spec of the data set that the model was trained or fitted on
    seed: int | None  # of the training; None for a baseline, like step and checkpoint
    step: int | None
    checkpoint: str | None  # 'best' or 'latest'
    test_set: str  # spec
    test_name: str = ''  # what tables call the test set
    overlap: dict[str, int]  # images shared with training, by what they share (data.lineage)
    groups: int | None = None  # patients, documents or series in the test set
    # Of metrics.rates, at threshold 0.5; 'positive_class' names the class that the entry is about.
    metrics: dict[str, float | int | str | None]
    intervals: dict[str, Interval] = dataclasses.field(default_factory=dict)  # by bootstrap
    wilson: dict[str, Interval] = dataclasses.field(default_factory=dict)
    calibration: dict[str, float | None] = dataclasses.field(default_factory=dict)
    # The threshold that validation chose and the rates at it; of a baseline there is no such key.
    at_validation_threshold: dict = dataclasses.field(default_factory=dict)
    images: list[ScoredImage]

    @property
    def is_baseline(self):
        """Whether the model is a baseline, which sees file facts or few pixels but no anatomy."""
        return self.kind != 'network'

    @property
    def name(self):
        """What to call the test set: its name, or its spec where it has none."""
        return self.test_name or self.test_set

    @property
    def positive_class(self):
        """The name of the class whose labels are 1 and whose probability is the score."""
        return self.metrics.get('positive_class', POSITIVE)

    @property
    def labels(self):
        """[label] of the images."""
        return [image.label for image in self.images]

    @property
    def scores(self):
        """[P(positive class)] of the images."""
        return [image.score for image in self.images]

    @classmethod
    def from_json(cls, values):
        """The Result of an entry of results.json (dict); unknown keys are ignored."""
        known = {field.name for field in dataclasses.fields(cls)}
        fields = {key: value for key, value in values.items() if key in known}
        fields.setdefault('kind', KIND_OF_NAME.get(values['model'], 'network'))
        for key in ('intervals', 'wilson'):
            ends = fields.get(key, {})
            fields[key] = {name: Interval(**low_high) for name, low_high in ends.items()}
        fields['images'] = [ScoredImage(**image) for image in values['images']]
        return cls(**fields)

    def as_json(self):
        """The entry of results.json, a dict."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for key in ('intervals', 'wilson'):
            values[key] = {name: ends._asdict() for name, ends in values[key].items()}
        values['images'] = [image._asdict() for image in self.images]
        if not self.at_validation_threshold:
            del values['at_validation_threshold']
        return values


class ScoredPatient(NamedTuple):
    """One patient of a test set and the score that the slices or scans came to."""

    id: str  # the group of the images
    label: int  # 1 where any of the images is of the positive class
    score: float
    images: int  # of the patient


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatientResult:
    """What a network says of the patients of a test set, about one class against the rest.

    The fields are the keys of an entry of `by_patient` in results.json, in their order.
    """

    model: str
    train_set: str
    seed: int | None
    step: int | None
    checkpoint: str | None
    test_set: str
    test_name: str
    unit: str  # a key of data.patients.UNITS: what is called a patient here
    aggregate: str  # a key of metrics.aggregate.AGGREGATES
    image_threshold: float | None  # of an image, which validation chose; of 'share' alone
    threshold: float | None  # of a patient, which validation chose; of 'majority' it is 0.5
    # Of metrics.rates at that threshold, and their intervals over patients.
    metrics: dict[str, float | int | str | None]
    intervals: dict[str, Interval]
    patients: list[ScoredPatient]

    @property
    def positive_class(self):
        """The name of the class that the entry is about."""
        return self.metrics.get('positive_class', POSITIVE)

    @classmethod
    def from_json(cls, values):
        """The PatientResult of an entry of results.json (dict)."""
        known = {field.name: values[field.name] for field in dataclasses.fields(cls)}
        known['intervals'] = {name: Interval(**ends) for name, ends in known['intervals'].items()}
        known['patients'] = [ScoredPatient(**each) for each in known['patients']]
        return cls(**known)

    def as_json(self):
        """The entry of results.json, a dict."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values['intervals'] = {name: ends._asdict() for name, ends in self.intervals.items()}
        values['patients'] = [patient._asdict() for patient in self.patients]
        return values


class Confusion(NamedTuple):
    """The classes that a network assigns to the images of a test set."""

    model: str
    train_set: str
    seed: int
    step: int
    checkpoint: str
    test_set: str
    test_name: str
    # Row: class of the images, column: class of their highest score, in the order of the classes.
    counts: list[list[int]]


class IntervalJson(TypedDict):
    """An Interval as results.json has it."""

    low: float | None
    high: float | None


class ScoredImageJson(TypedDict):
    """A ScoredImage as results.json has it."""

    id: str
    label: Literal[0, 1]
    score: Annotated[float, msgspec.Meta(ge=0, le=1)]
    group: NotRequired[str | None]


class ResultJson(TypedDict):
    """A Result as results.json has it; files of old versions lack the keys that may be missing."""

    model: str
    kind: NotRequired[Literal[KINDS]]
    train_set: str
    seed: int | None
    step: int | None
    checkpoint: str | None
    test_set: str
    test_name: NotRequired[str]
    overlap: dict[str, int]
    groups: NotRequired[int | None]
    metrics: dict[str, float | int | str | None]
    intervals: NotRequired[dict[str, IntervalJson]]
    wilson: NotRequired[dict[str, IntervalJson]]
    calibration: NotRequired[dict[str, float | None]]
    at_validation_threshold: NotRequired[dict[str, Any]]
    images: Annotated[list[ScoredImageJson], msgspec.Meta(min_length=1)]


class ConfusionJson(TypedDict):
    """A Confusion as results.json has it."""

    model: str
    train_set: str
    seed: int
    step: int
    checkpoint: str
    test_set: str
    test_name: str
    counts: list[list[int]]


class ScoredPatientJson(TypedDict):
    """A ScoredPatient as results.json has it."""

    id: str
    label: Literal[0, 1]
    score: Annotated[float, msgspec.Meta(ge=0, le=1)]
    images: Annotated[int, msgspec.Meta(ge=1)]


class PatientResultJson(TypedDict):
    """A PatientResult as results.json has it."""

    model: str
    train_set: str
    seed: int | None
    step: int | None
    checkpoint: str | None
    test_set: str
    test_name: str
    unit: str
    aggregate: str
    image_threshold: float | None
    threshold: float | None
    metrics: dict[str, float | int | str | None]
    intervals: dict[str, IntervalJson]
    patients: Annotated[list[ScoredPatientJson], msgspec.Meta(min_length=1)]


class EvaluationJson(Provenance):
    """The content of results.json."""

    classifier: str
    protocol: str
    labels: NotRequired[Annotated[list[str], msgspec.Meta(min_length=2)]]
    results: list[ResultJson]
    confusions: NotRequired[list[ConfusionJson]]  # of more than two classes
    by_patient: NotRequired[list[PatientResultJson]]


class Background(NamedTuple):
    """What is known of the classifier of an evaluation besides its results."""

    lineage: list = []  # records of what trained it (data.lineage)
    data_dir: str = ''  # where the test sets lie, as data.specs takes it
    config: dict = {}  # of its training, or {} where that workdir is gone
    environment: dict = {}  # environment.json of its training, or {}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What one run of `evaluate` found."""

    classifier: str  # workdir of the run that was scored
    protocol: str  # one of data.lineage.PROTOCOLS
    results: list[Result]
    background: Background = Background()
    classes: tuple[str, ...] = CLASSES  # names of the classes that the classifier tells apart
    confusions: tuple[Confusion, ...] = ()  # of more than two classes, one for each test set
    by_patient: tuple[PatientResult, ...] = ()
    origin: Provenance = dataclasses.field(default_factory=dict)


def write(folder, evaluation):
    """Writes results.json of an Evaluation, without its background, into a folder."""
    document = {
        **evaluation.origin,
        'classifier': evaluation.classifier,
        'protocol': evaluation.protocol,
        'labels': list(evaluation.classes),
        'results': [result.as_json() for result in evaluation.results],
    }
    if evaluation.confusions:
        document['confusions'] = [confusion._asdict() for confusion in evaluation.confusions]
    if evaluation.by_patient:
        document['by_patient'] = [result.as_json() for result in evaluation.by_patient]
    write_json(pathlib.Path(folder) / FILE, document)


def read(folder):
    """The Evaluation in the workdir of a run of `evaluate`, without its background.

    Raises:
        InputError: results.json is missing or damaged, or was made with another config than the
            one beside it.
    """
    document = provenance.read(folder, FILE, EvaluationJson)
    results = [Result.from_json(values) for values in document['results']]
    known = lambda values: {field: values[field] for field in Confusion._fields}
    return Evaluation(
        classifier=document['classifier'],
        protocol=document['protocol'],
        results=results,
        classes=tuple(document.get('labels', CLASSES)),
        confusions=tuple(Confusion(**known(each)) for each in document.get('confusions', ())),
        by_patient=tuple(map(PatientResult.from_json, document.get('by_patient', ()))),
        origin={key: document[key] for key in Provenance.__annotations__ if key in document},
    )
