"""A trained classifier of images or scans on test sets -> results.json, baselines beside it.

Of every test set it holds a score of every image, the metrics with their intervals, the
calibration, and the overlap with what trained the classifier (covjax.data.results). Of more than
two classes each is set against the rest in turn: its images are the positive ones, its probability
is the score, and threshold, temperature and baselines are fitted for it alone. With
config.aggregate patients are scored, too (covjax.data.patients).
"""

import math
from typing import NamedTuple

import numpy as np

from covjax import InputError, provenance, scorer, trained
from covjax.audit import metadata_baseline, pixel_baseline, scan_metadata
from covjax.audit.probe import Probe
from covjax.classes import against_rest, check_same, listed, named_in_title, positive_classes
from covjax.data import datasets, lineage, patients, results, specs
from covjax.data.results import Confusion, Evaluation, Interval, Result, ScoredImage
from covjax.metrics import calibration
from covjax.metrics.aggregate import HALF
from covjax.metrics.intervals import bootstrap, wilson
from covjax.metrics.rates import confusion, rates
from covjax.metrics.roc import operating_point
from covjax.pages import patients as page
from covjax.pages import tables
from covjax.workdir import without_nan, write_json

PRINTED = ('accuracy', 'recall', 'precision', 'specificity', 'f1', 'auc')


class Baseline(NamedTuple):
    """A regression to fit, for each class against the rest."""

    probe: Probe
    fitted_on: str  # spec of a data set
    examples: list  # its [(uint8 [H, W], Row)]


class Scored(NamedTuple):
    """A set of images as a score of one class sees it."""

    positive: str  # name of that class
    labels: np.ndarray  # int [N], 1 = positive, 0 = any other
    scores: np.ndarray  # P(positive), float [N]
    named: str  # what a printed line says of it behind the test set, '' of two classes


def run(config, workdir):
    """Scores the classifier, and the baselines, on every test set of config.tests.

    Writes results.json, and lineage.json, the lineage of the classifier; where patients are scored
    also patients.html.

    Raises:
        InputError: a key of the config is wrong, a data set is missing, damaged, has images without
            a label or other classes, or the protocol refuses a test set. Nothing has been scored
            then.
    """
    network = scorer.open_run(config.classifier, 'classifier', config.checkpoint)
    # Keys are checked before anything is read.
    ways = patients.ways(config)
    patients.units(config, [])
    data_dir, names = trained.data_dir_of(config), specs.test_names(config)
    reader = scorer.Reader(network, data_dir)
    baselines = read_baselines(config, reader)
    tests = {spec: reader.shown(spec) for spec in names}
    if ways and not scorer.sees_scans(network):
        check_slices(config, tests)
    # All overlaps before the first number.
    overlaps = {
        spec: lineage.check(network.lineage, test.members, spec, config.protocol)
        for spec, test in tests.items()
    }
    found, confusions, by_patient, shown = network_results(config, reader, tests, names, overlaps)
    if shown:
        page.write(workdir, _title(network), _rows(found, by_patient), shown)
    for spec, name in {**names, network.config.val: 'validation'}.items():
        found += baseline_results(baselines, reader, spec, name)
    evaluation = Evaluation(
        classifier=str(config.classifier),
        protocol=config.protocol,
        results=found,
        classes=network.classes,
        confusions=confusions,
        by_patient=by_patient,
        origin=provenance.of(config, classifier=provenance.network(network)),
    )
    results.write(workdir, evaluation)
    write_json(workdir / 'lineage.json', network.lineage)


def check_slices(config, tests):
    """Refuses scores of patients from the middle slice of each of their volumes.

    Args:
        config: of this run.
        tests: {spec: scorer.Shown}.

    Raises:
        InputError: a test set has volumes.
    """
    for spec, test in tests.items():
        if any(row.z is None and any(row.others.get('spacing', ())) for row in test.rows):
            raise InputError(
                f'config.aggregate={config.aggregate}: {spec} has volumes, and a classifier of '
                'slices is shown the middle one alone; name the data set of their slices, whose '
                'name ends in _slices'
            )


def network_results(config, reader, tests, names, overlaps):
    """The Results of a classifier, with the threshold and the temperature that validation chooses.

    Args:
        config: of this run.
        reader: scorer.Reader of the network.
        tests: {spec: scorer.Shown}.
        names: {spec: what tables call it}.
        overlaps: {spec: counts of data.lineage.check}.

    Returns:
        ([Result], one for each test set and positive class; (Confusion,), one for each test set of
        more than two classes; (PatientResult,), for each way of config.aggregate; {name of a test
        set: [pages.patients.Patient]} of a network of scans, or where patients are scored).

    Raises:
        InputError: the validation set has images without a label, other classes, or is not that
            which the checkpoint was chosen by.
    """
    network, classes = reader.network, reader.network.classes
    say, val = scorer.applied(network, config.batch_size), network.config.val
    validation = reader.shown(val)
    lineage.check_same(network.lineage, 'val', validation.members, val)
    said = say(validation, f'scoring {val}')
    validated = _each_against_rest(classes, validation.labels, said.scores)
    chosen = [
        {
            'threshold': operating_point(scored.labels, scored.scores),
            'temperature': calibration.fit_temperature(scored.labels, scored.scores),
        }
        for scored in validated
    ]
    about = {
        'model': network.config.model,
        'train_set': network.config.train,
        'seed': network.config.seed,
        'step': network.step,
        'checkpoint': network.checkpoint,
    }
    found, confusions, of_patients, shown = [], [], [], {}
    ways, known = patients.ways(config), patients.units(config, validation.rows)
    for spec, test in tests.items():
        here = about | {'test_set': spec, 'test_name': names[spec]}
        of_unit, units = here | {'unit': config.unit}, patients.units(config, test.rows)
        of_images = here | {'kind': 'network', 'overlap': overlaps[spec]}
        said = say(test, f'scoring {spec}')
        tested = _each_against_rest(classes, test.labels, said.scores)
        for scored, before, by_validation in zip(tested, validated, chosen):
            found.append(_result(of_images, test.rows, scored, by_validation))
            sets = (
                (scored.labels, scored.scores, units),
                (before.labels, before.scores, known),
            )
            of_patients += patients.results(ways, of_unit, scored.positive, *sets)
            _tell_patients(of_patients[len(of_patients) - len(ways) :], scored.named)
        if len(classes) > 2:
            confusions.append(_confusion(of_images, classes, test.labels, said.scores))
        if said.weights or ways:
            shown[names[spec]] = _patients(test, said, tested[-1], classes, units, of_patients)
    return found, tuple(confusions), tuple(of_patients), shown


def _title(network):
    """What the page calls a network."""
    trained_on = tables.in_words(network.config.train)
    return (
        f'{tables.NAMES.get(network.config.model, network.config.model)}, trained on {trained_on}'
    )


def _rows(found, by_patient):
    """The rows of the table of patients.html, images first, of each test set and class."""
    rows = []
    for result in found:
        known = result.at_validation_threshold or {**result.metrics, 'threshold': HALF}
        rows.append(
            page.row(
                result.name,
                f'each image, {result.positive_class}',
                len(result.images),
                {**result.metrics, **known},
                _intervals_at(result, known['threshold']),
                known['threshold'],
            )
        )
    for result in by_patient:
        name = result.test_name or result.test_set
        of = f'{result.aggregate} of a {result.unit}, {result.positive_class}'
        numbers = result.metrics, result.intervals, result.threshold
        rows.append(page.row(name, of, len(result.patients), *numbers))
    return rows


def _intervals_at(result, threshold):
    """The intervals of a Result whose images are called positive from a threshold on."""
    labels, scores, groups = zip(
        *((image.label, image.score, image.group) for image in result.images)
    )
    return _intervals(bootstrap(np.array(labels), np.array(scores), groups, threshold))


def _patients(test, said, scored, classes, units, of_patients):
    """The patients of a test set for the page, with what decided.

    Args:
        test: scorer.Shown.
        said: scorer.Said of it.
        scored: Scored of it, of the class that is shown.
        classes: their names.
        units: of each image, whose it is.
        of_patients: [PatientResult], the last of which are of this test set.

    Returns:
        [pages.patients.Patient]: scans of a network of scans, else patients by their images.
    """
    if said.weights:
        return [
            page.Patient(
                row.id,
                classes[label],
                float(score),
                [image[..., image.shape[-1] // 2] for image in images],
                weights,
                [place / max(row.others['slices'] - 1, 1) for place in places],
            )
            for row, label, score, images, weights, places in zip(
                *(test.rows, test.labels, scored.scores, test.images, said.weights, test.places)
            )
        ]
    whose, found = np.array(units), []
    for patient in of_patients[-1].patients:
        members = np.flatnonzero(whose == patient.id)
        found.append(
            page.Patient(
                patient.id,
                scored.positive if patient.label else classes[test.labels[members[0]]],
                patient.score,
                [test.images[i][..., 0] for i in members],
                scored.scores[members],
                _places([test.rows[i] for i in members]),
            )
        )
    return found


def _places(rows):
    """Where slices are in their scan, 0 to 1 of the highest that is known; None of pictures."""
    known = [row.z for row in rows if row.z is not None]
    return [None if row.z is None else row.z / max(*known, 1) for row in rows]


def _tell_patients(found, named):
    """Prints what patients come to, a line for each way."""
    for each in found:
        shown = ', '.join(f'{name} {_number(each.metrics[name])}' for name in PRINTED)
        count = len(each.patients)
        units, _ = patients.UNITS[each.unit]
        print(f'  {count} {units}{named}, {each.aggregate} of their images: {shown}', flush=True)


def _number(value):
    return 'unknown' if value is None else f'{value:.3f}'


def _each_against_rest(classes, labels, scores):
    """[Scored] of the classes that have results of their own.

    Args:
        classes: names of C classes.
        labels: int [N], 0 to C - 1.
        scores: float [N, C].
    """
    return [
        Scored(
            positive=positive,
            labels=against_rest(labels, classes, positive),
            scores=scores[:, classes.index(positive)],
            named=named_in_title(classes, positive),
        )
        for positive in positive_classes(classes)
    ]


def read_baselines(config, reader):
    """The baselines to fit.

    They are regressions on file metadata and on pixels of config.baseline, and on pixels of what
    the network was trained on. That on file metadata is left out where config.baseline has no facts
    of original files, which is printed.

    Args:
        config: of this run; without config.baseline there are no baselines.
        reader: scorer.Reader of the classifier.

    Returns:
        [Baseline].

    Raises:
        InputError: config.baseline lacks a class, or has others than the classifier.
    """
    if not config.baseline:
        return []
    network = reader.network
    named, train_set = f'config.baseline={config.baseline}', network.config.train
    try:
        real = reader.native(config.baseline)
    except InputError as error:
        raise InputError(f"{named}: {error}, or set it to '' for no baselines") from None
    check_same(named, datasets.classes(config.baseline, reader.data_dir), network.classes)
    if {row.label for _, row in real} != set(range(len(network.classes))):
        raise InputError(
            f'{named}: needs images of {listed(network.classes)}; name a data set that has them, '
            "or '' for no baselines"
        )
    baselines = [Baseline(pixel_baseline.PROBE, config.baseline, real)]
    if scorer.sees_scans(network):
        baselines.insert(0, Baseline(scan_metadata.PROBE, config.baseline, real))
    elif all(row.file for _, row in real):
        baselines.insert(0, Baseline(metadata_baseline.PROBE, config.baseline, real))
    else:
        print(f'{named}: has no metadata of original files, so there is no baseline on them')
    if train_set != config.baseline:
        train = reader.native(train_set)
        baselines.append(Baseline(pixel_baseline.PROBE, train_set, train))
    return baselines


def baseline_results(baselines, reader, spec, name):
    """Yields the Results of every baseline that can be scored on a test set.

    Of more than two classes a regression of two classes, one against the rest, is fitted for each.

    Args:
        baselines: of `read_baselines`.
        reader: scorer.Reader of the network, which tells the classes of all these sets apart.
        spec: of the test set.
        name: what tables call it.
    """
    examples = reader.native(spec) if baselines else []
    classes, data_dir = reader.network.classes, reader.data_dir
    rows = [row for _, row in examples]
    for probe, fitted_on, train in baselines:
        if probe.needs_file and not all(row.file for row in rows):
            continue  # synthetic images have no original file
        used = {'train': [row for _, row in train]}
        overlap, _ = lineage.overlap(lineage.record({'train': fitted_on}, data_dir, used), rows)
        about = {
            'model': probe.name,
            'kind': probe.kind,
            'train_set': fitted_on,
            'seed': None,
            'step': None,
            'checkpoint': None,
            'test_set': spec,
            'test_name': name,
            'overlap': overlap,
        }
        for positive in positive_classes(classes):
            yield _result(about, rows, _fitted(probe, train, examples, classes, positive))


def _fitted(probe, train, test, classes, positive):
    """The Scored of a test set by a Probe that is fitted to one class against the rest.

    Args:
        probe: Probe.
        train, test: [(uint8 [H, W], Row)].
        classes: names of the classes of both.
        positive: one of them.
    """
    labelled = [(grey, row.against_rest(classes, positive)) for grey, row in train]
    labels = against_rest([row.label for _, row in test], classes, positive)
    return Scored(positive, labels, probe.scores(labelled, test), named_in_title(classes, positive))


def _confusion(about, classes, labels, scores):
    """The Confusion of a network on a test set, which is printed.

    Args:
        about: the first fields of a Result.
        classes: names of C classes.
        labels: int [N], 0 to C - 1.
        scores: float [N, C].
    """
    counts = confusion(labels, scores).tolist()
    lines = [('', *classes), *((name, *cells) for name, cells in zip(classes, counts))]
    width = max(len(str(cell)) for line in lines for cell in line)
    print(f'{about["model"]} on {about["test_name"]}: images of (row) taken for (column)')
    for line in lines:
        print(' ', *(f'{cell!s:>{width}}' for cell in line), flush=True)
    fields = {name: about[name] for name in Confusion._fields if name != 'counts'}
    return Confusion(**fields, counts=counts)


def _result(about, rows, scored, chosen=None):
    """The Result of one model on one test set, whose main rates are printed.

    Args:
        about: the first fields of a Result, up to `overlap`.
        rows: [Row] of the images.
        scored: Scored of the images.
        chosen: {'threshold', 'temperature'} that validation chose; None for a baseline.
    """
    positive, labels, scores, named = scored
    metrics = rates(labels, scores, positive_class=positive)
    groups = [row.group for row in rows]
    shown = ', '.join(f'{name} {metrics[name]:.3f}' for name in PRINTED)
    fitted = '' if chosen else f', fitted on {tables.in_words(about["train_set"])},'
    print(f'{about["model"]}{fitted} on {about["test_name"]}{named}: {shown}', flush=True)
    calibrated, at_threshold = _calibration(labels, scores), {}
    if chosen and not math.isnan(chosen['threshold']):
        temperature, threshold = chosen['temperature'], chosen['threshold']
        scaled = _calibration(labels, calibration.scaled(scores, temperature))
        calibrated |= {
            'temperature': temperature,
            'brier_scaled': scaled['brier'],
            'ece_scaled': scaled['ece'],
        }
        at_threshold = {'threshold': threshold, **rates(labels, scores, threshold, positive)}
    return Result(
        **about,
        groups=len(set(groups)),
        metrics=without_nan(metrics),
        intervals=_intervals(bootstrap(labels, scores, groups)),
        wilson=_intervals(_wilson(metrics, len(labels))),
        calibration=without_nan(calibrated),
        at_validation_threshold=without_nan(at_threshold),
        images=[
            ScoredImage(row.id, int(label), float(np.float32(score)), row.group)
            for row, label, score in zip(rows, labels, scores)
        ],
    )


def _calibration(labels, scores):
    return {
        'brier': calibration.brier(labels, scores),
        'ece': calibration.expected_calibration_error(labels, scores),
    }


def _wilson(metrics, n):
    """{name: (low, high)} of the rates that are shares of images, by Wilson's formula."""
    shares = {
        'accuracy': (metrics['tp'] + metrics['tn'], n),
        'recall': (metrics['tp'], metrics['n_positive']),
        'specificity': (metrics['tn'], metrics['n_negative']),
        'precision': (metrics['tp'], metrics['tp'] + metrics['fp']),
    }
    return {name: wilson(*counts) for name, counts in shares.items()}


def _intervals(ends):
    """{name: (low, high)} -> {name: Interval}."""
    return {name: Interval(*without_nan(low_high)) for name, low_high in ends.items()}
