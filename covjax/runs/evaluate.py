"""A trained classifier on test sets -> results.json: a score of every image; metrics, intervals, calibration and overlap with training of every test set; baselines."""

import math

import numpy as np

from covjax import CLASSES, InputError, classifier, trained
from covjax.audit import metadata_baseline, pixel_baseline
from covjax.data import batches, datasets, lineage, specs
from covjax.metrics import calibration
from covjax.metrics.intervals import bootstrap, wilson
from covjax.metrics.rates import rates
from covjax.metrics.roc import operating_point
from covjax.workdir import write_json

PRINTED = ('accuracy', 'recall', 'precision', 'specificity', 'f1', 'auc')


def run(config, workdir):
    """Scores every test set of config.tests, with baselines beside it."""
    network = trained.open_run(config.classifier, 'classification', 'classifier', config.checkpoint)
    data_dir, names = trained.data_dir_of(config), specs.test_names(config)
    baselines = read_baselines(config, network.config.train, data_dir)
    tests = {spec: _labelled(spec, data_dir, network.config.image_size) for spec in names}
    # All overlaps before the first number.
    overlaps = {
        spec: lineage.check(network.lineage, test.rows, spec, config.protocol)
        for spec, test in tests.items()
    }
    results = network_results(config, network, tests, names, overlaps, data_dir)
    for spec, name in {**names, network.config.val: 'validation'}.items():
        results += baseline_results(baselines, spec, name, data_dir)
    document = {
        'classifier': str(config.classifier),
        'protocol': config.protocol,
        'labels': list(CLASSES),
        'results': results,
    }
    write_json(workdir / 'lineage.json', network.lineage)
    write_json(workdir / 'results.json', document)


def network_results(config, network, tests, names, overlaps, data_dir):
    """[entry of results.json] of a classification run, one a test set.

    Args:
        config: of this run.
        network: trained.Trained.
        tests: {spec: Examples}.
        names: {spec: what tables call it}.
        overlaps: {spec: counts of data.lineage.check}.
        data_dir: where the validation set lies.
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
    results = []
    for spec, test in tests.items():
        here = {'test_set': spec, 'test_name': names[spec], 'overlap': overlaps[spec]}
        scores = scores_of(spec, test.images)
        results.append(_result(about | here, test.rows, test.labels, scores, chosen))
    return results


def _labelled(spec, data_dir, size):
    examples = datasets.read(spec, data_dir, size)
    if (examples.labels < 0).any():
        raise InputError(
            f'config.tests: {spec} has images without a label; name data sets with one'
        )
    return examples


def read_baselines(config, train_set, data_dir):
    """[(Probe, data set it is to be fitted on, its examples)]: file metadata and pixels on config.baseline, and pixels on what the network was trained on."""
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
    """Yields the entries of results.json of the baselines (read_baselines) on a test set and its name."""
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
    """One entry of results.json; `chosen` is what validation chose, where there is a validation set."""
    metrics, groups = rates(labels, scores), [row.group for row in rows]
    shown = ', '.join(f'{name} {metrics[name]:.3f}' for name in PRINTED)
    print(f'{about["model"]} on {about["test_name"]}: {shown}', flush=True)
    result = {
        **about,
        'groups': len(set(groups)),
        'metrics': _without_nan(metrics),
        'intervals': _intervals(bootstrap(labels, scores, groups)),
        'wilson': _intervals(_wilson(metrics, len(labels))),
        'calibration': _without_nan(
            {
                'brier': calibration.brier(labels, scores),
                'ece': calibration.expected_calibration_error(labels, scores),
            }
        ),
    }
    if chosen and not math.isnan(chosen['threshold']):
        scaled = calibration.scaled(scores, chosen['temperature'])
        result['calibration'] |= {
            'temperature': chosen['temperature'],
            'brier_scaled': calibration.brier(labels, scaled),
            'ece_scaled': calibration.expected_calibration_error(labels, scaled),
        }
        at_threshold = _without_nan(rates(labels, scores, chosen['threshold']))
        result['at_validation_threshold'] = {'threshold': chosen['threshold'], **at_threshold}
    result['images'] = [
        {'id': row.id, 'label': int(label), 'score': float(np.float32(score)), 'group': row.group}
        for row, label, score in zip(rows, labels, scores)
    ]
    return result


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
    """{name: (low, high)} -> {name: {'low', 'high'}}, as JSON keeps them."""
    return {name: _without_nan({'low': low, 'high': high}) for name, (low, high) in ends.items()}


def _without_nan(values):
    """JSON has no NaN: a rate without a value is null."""
    is_nan = lambda value: isinstance(value, float) and math.isnan(value)
    return {name: None if is_nan(value) else value for name, value in values.items()}
