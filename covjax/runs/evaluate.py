"""A trained classifier on test sets -> results.json, with baselines beside it.

Of every test set it holds a score of every image, the metrics with their intervals, the
calibration, and the overlap with what trained the classifier (covjax.data.results).
"""

import math

import numpy as np

from covjax import InputError, classifier, trained
from covjax.audit import metadata_baseline, pixel_baseline
from covjax.data import batches, datasets, lineage, results, specs
from covjax.data.results import Evaluation, Interval, Result, ScoredImage
from covjax.metrics import calibration
from covjax.metrics.intervals import bootstrap, wilson
from covjax.metrics.rates import rates
from covjax.metrics.roc import operating_point
from covjax.workdir import write_json

PRINTED = ('accuracy', 'recall', 'precision', 'specificity', 'f1', 'auc')


def run(config, workdir):
    """Scores the classifier, and the baselines, on every test set of config.tests.

    Writes results.json, and lineage.json, the lineage of the classifier.

    Raises:
        InputError: a key of the config is wrong, a data set is missing, damaged or has images
            without a label, or the protocol refuses a test set. Nothing has been scored then.
    """
    network = trained.open_run(config.classifier, 'classification', 'classifier', config.checkpoint)
    data_dir, names = trained.data_dir_of(config), specs.test_names(config)
    baselines = read_baselines(config, network.config.train, data_dir)
    tests = {spec: _labelled(spec, data_dir, network.config.image_size) for spec in names}
    # All overlaps before the first number.
    overlaps = {
        spec: lineage.check(network.lineage, test.rows, spec, config.protocol)
        for spec, test in tests.items()
    }
    found = network_results(config, network, tests, names, overlaps, data_dir)
    for spec, name in {**names, network.config.val: 'validation'}.items():
        found += baseline_results(baselines, spec, name, data_dir)
    write_json(workdir / 'lineage.json', network.lineage)
    results.write(workdir, Evaluation(str(config.classifier), config.protocol, found))


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
        [Result], one for each test set.

    Raises:
        InputError: the validation set has images without a label.
    """
    apply = classifier.score(classifier.of_run(network))
    scores_of = lambda spec, images: batches.predict(
        apply, images, config.batch_size, f'scoring {spec}'
    )
    val = network.config.val
    validation = _labelled(val, data_dir, network.config.image_size)
    scores = scores_of(val, validation.images)
    chosen = {
        'threshold': operating_point(validation.labels, scores),
        'temperature': calibration.fit_temperature(validation.labels, scores),
    }
    about = {
        'model': network.config.model,
        'kind': 'network',
        'train_set': network.config.train,
        'seed': network.config.seed,
        'step': network.step,
        'checkpoint': network.checkpoint,
    }
    found = []
    for spec, test in tests.items():
        here = {'test_set': spec, 'test_name': names[spec], 'overlap': overlaps[spec]}
        scores = scores_of(spec, test.images)
        found.append(_result(about | here, test.rows, test.labels, scores, chosen))
    return found


def _labelled(spec, data_dir, size):
    """The Examples of a test or validation set; an InputError where one has no label."""
    examples = datasets.read(spec, data_dir, size)
    if (examples.labels < 0).any():
        raise InputError(f'{spec}: has images without a label; name a data set that has labels')
    return examples


def read_baselines(config, train_set, data_dir):
    """The baselines to fit: on file metadata and pixels of config.baseline, on pixels of train_set.

    Args:
        config: of this run; without config.baseline there are no baselines.
        train_set: spec of what the network was trained on.
        data_dir: where both lie.

    Returns:
        [(Probe, spec of the data set it is to be fitted on, its [(uint8 [H, W], Row)])].

    Raises:
        InputError: config.baseline lacks facts of original files, or a class.
    """
    if not config.baseline:
        return []
    real = datasets.read_native(config.baseline, data_dir)
    if not all(row.file for _, row in real) or {row.label for _, row in real} != {0, 1}:
        raise InputError(
            f'config.baseline={config.baseline}: needs facts of original files and both classes; '
            'name a split of covid_ct'
        )
    metadata, pixels = metadata_baseline.PROBE, pixel_baseline.PROBE
    baselines = [(metadata, config.baseline, real), (pixels, config.baseline, real)]
    if train_set != config.baseline:
        baselines.append((pixels, train_set, datasets.read_native(train_set, data_dir)))
    return baselines


def baseline_results(baselines, spec, name, data_dir):
    """Yields the Result of every baseline that can be scored on a test set.

    Args:
        baselines: of `read_baselines`.
        spec: of the test set.
        name: what tables call it.
        data_dir: where it lies.
    """
    examples = datasets.read_native(spec, data_dir) if baselines else []
    rows = [row for _, row in examples]
    labels = np.array([row.label for row in rows])
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
        yield _result(about, rows, labels, probe.scores(train, examples))


def _result(about, rows, labels, scores, chosen=None):
    """The Result of one model on one test set, whose main rates are printed.

    Args:
        about: the first fields of a Result, up to `overlap`.
        rows: [Row] of the images.
        labels: int [N], 1 = covid.
        scores: P(covid) float [N].
        chosen: {'threshold', 'temperature'} that validation chose; None for a baseline.
    """
    metrics, groups = rates(labels, scores), [row.group for row in rows]
    shown = ', '.join(f'{name} {metrics[name]:.3f}' for name in PRINTED)
    print(f'{about["model"]} on {about["test_name"]}: {shown}', flush=True)
    calibrated, at_threshold = _calibration(labels, scores), {}
    if chosen and not math.isnan(chosen['threshold']):
        temperature, threshold = chosen['temperature'], chosen['threshold']
        scaled = _calibration(labels, calibration.scaled(scores, temperature))
        calibrated |= {
            'temperature': temperature,
            'brier_scaled': scaled['brier'],
            'ece_scaled': scaled['ece'],
        }
        at_threshold = {'threshold': threshold, **rates(labels, scores, threshold)}
    return Result(
        **about,
        groups=len(set(groups)),
        metrics=_without_nan(metrics),
        intervals=_intervals(bootstrap(labels, scores, groups)),
        wilson=_intervals(_wilson(metrics, len(labels))),
        calibration=_without_nan(calibrated),
        at_validation_threshold=_without_nan(at_threshold),
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
    return {name: Interval(*map(_or_none, low_high)) for name, low_high in ends.items()}


def _without_nan(values):
    return {name: _or_none(value) for name, value in values.items()}


def _or_none(value):
    """None for NaN, which JSON does not have; every other value as it is."""
    return None if isinstance(value, float) and math.isnan(value) else value
