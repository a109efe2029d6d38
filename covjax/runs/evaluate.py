"""A trained classifier on test sets -> results.json, with baselines beside it.

Of every test set it holds a score of every image, the metrics with their intervals, the
calibration, and the overlap with what trained the classifier (covjax.data.results). Of more than
two classes each is set against the rest in turn: its images are the positive ones, its probability
is the score, and threshold, temperature and baselines are fitted for it alone.
"""

import math
from typing import NamedTuple

import numpy as np

from covjax import InputError, classifier, lung_view, provenance, trained
from covjax.audit import metadata_baseline, pixel_baseline
from covjax.audit.probe import Probe
from covjax.classes import against_rest, check_same, listed, named_in_title, positive_classes
from covjax.data import batches, datasets, lineage, results, specs
from covjax.data.results import Confusion, Evaluation, Interval, Result, ScoredImage
from covjax.metrics import calibration
from covjax.metrics.intervals import bootstrap, wilson
from covjax.metrics.rates import confusion, rates
from covjax.metrics.roc import operating_point
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

    Writes results.json, and lineage.json, the lineage of the classifier.

    Raises:
        InputError: a key of the config is wrong, a data set is missing, damaged, has images without
            a label or other classes, or the protocol refuses a test set. Nothing has been scored
            then.
    """
    network = trained.open_run(config.classifier, 'classification', 'classifier', config.checkpoint)
    data_dir, names = trained.data_dir_of(config), specs.test_names(config)
    baselines = read_baselines(config, network, data_dir)
    tests = {spec: _labelled(spec, data_dir, network) for spec in names}
    # All overlaps before the first number.
    overlaps = {
        spec: lineage.check(network.lineage, test.rows, spec, config.protocol)
        for spec, test in tests.items()
    }
    found, confusions = network_results(config, network, tests, names, overlaps, data_dir)
    for spec, name in {**names, network.config.val: 'validation'}.items():
        found += baseline_results(baselines, network.classes, spec, name, data_dir)
    evaluation = Evaluation(
        classifier=str(config.classifier),
        protocol=config.protocol,
        results=found,
        classes=network.classes,
        confusions=confusions,
        origin=provenance.of(config, classifier=provenance.network(network)),
    )
    results.write(workdir, evaluation)
    write_json(workdir / 'lineage.json', network.lineage)


def network_results(config, network, tests, names, overlaps, data_dir):
    """The Results of a classifier, with the threshold and the temperature that validation chooses.

    Args:
        config: of this run.
        network: trained.Trained.
        tests: {spec: Examples}.
        names: {spec: what tables call it}.
        overlaps: {spec: counts of data.lineage.check}.
        data_dir: where the validation set lies.

    Returns:
        ([Result], one for each test set and positive class; (Confusion,), one for each test set of
        more than two classes).

    Raises:
        InputError: the validation set has images without a label, other classes, or is not that
            which the checkpoint was chosen by.
    """
    apply, classes = classifier.scores(classifier.of_run(network)), network.classes
    scores_of = lambda spec, images: batches.predict(
        apply, images, config.batch_size, f'scoring {spec}'
    )
    val = network.config.val
    validation = _labelled(val, data_dir, network)
    lineage.check_same(network.lineage, 'val', validation.rows, val)
    chosen = [
        {
            'threshold': operating_point(labels, scores),
            'temperature': calibration.fit_temperature(labels, scores),
        }
        for _, labels, scores, _ in _each_against_rest(
            classes, validation.labels, scores_of(val, validation.images)
        )
    ]
    about = {
        'model': network.config.model,
        'kind': 'network',
        'train_set': network.config.train,
        'seed': network.config.seed,
        'step': network.step,
        'checkpoint': network.checkpoint,
    }
    found, confusions = [], []
    for spec, test in tests.items():
        here = {'test_set': spec, 'test_name': names[spec], 'overlap': overlaps[spec]}
        scores = scores_of(spec, test.images)
        for scored, by_validation in zip(_each_against_rest(classes, test.labels, scores), chosen):
            found.append(_result(about | here, test.rows, scored, by_validation))
        if len(classes) > 2:
            confusions.append(_confusion(about | here, classes, test.labels, scores))
    return found, tuple(confusions)


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


def _labelled(spec, data_dir, network):
    """The Examples of a test or validation set of a classifier (trained.Trained).

    An InputError where one has no label, or where their classes are not those of the classifier.
    """
    view = lung_view.of_run(network)
    examples = lung_view.read(spec, data_dir, network.config.image_size, view)
    if (examples.labels < 0).any():
        raise InputError(f'{spec}: has images without a label; name a data set that has labels')
    check_same(spec, examples.classes, network.classes)
    return examples


def read_baselines(config, network, data_dir):
    """The baselines to fit.

    They are regressions on file metadata and on pixels of config.baseline, and on pixels of what
    the network was trained on. That on file metadata is left out where config.baseline has no facts
    of original files, which is printed.

    Args:
        config: of this run; without config.baseline there are no baselines.
        network: trained.Trained of the classifier.
        data_dir: where the data sets lie.

    Returns:
        [Baseline].

    Raises:
        InputError: config.baseline lacks a class, or has others than the classifier.
    """
    if not config.baseline:
        return []
    named, train_set = f'config.baseline={config.baseline}', network.config.train
    try:
        real = datasets.read_native(config.baseline, data_dir)
    except InputError as error:
        raise InputError(f"{named}: {error}, or set it to '' for no baselines") from None
    check_same(named, datasets.classes(config.baseline, data_dir), network.classes)
    if {row.label for _, row in real} != set(range(len(network.classes))):
        raise InputError(
            f'{named}: needs images of {listed(network.classes)}; name a data set that has them, '
            "or '' for no baselines"
        )
    baselines = [Baseline(pixel_baseline.PROBE, config.baseline, real)]
    if all(row.file for _, row in real):
        baselines.insert(0, Baseline(metadata_baseline.PROBE, config.baseline, real))
    else:
        print(f'{named}: has no metadata of original files, so there is no baseline on them')
    if train_set != config.baseline:
        train = datasets.read_native(train_set, data_dir)
        baselines.append(Baseline(pixel_baseline.PROBE, train_set, train))
    return baselines


def baseline_results(baselines, classes, spec, name, data_dir):
    """Yields the Results of every baseline that can be scored on a test set.

    Of more than two classes a regression of two classes, one against the rest, is fitted for each.

    Args:
        baselines: of `read_baselines`.
        classes: names of the classes of all these sets.
        spec: of the test set.
        name: what tables call it.
        data_dir: where it lies.
    """
    examples = datasets.read_native(spec, data_dir) if baselines else []
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
