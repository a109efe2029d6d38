"""A trained classifier on test sets -> results.json: a score of every image; metrics, intervals, calibration and overlap with training of every test set; baselines."""

import math
import pathlib

import numpy as np

from covjax import InputError, checkpoint, classification, data, lineage
from covjax.audit import metadata_baseline, pixel_baseline
from covjax.metrics import calibration
from covjax.metrics.intervals import bootstrap, wilson
from covjax.metrics.rates import CLASSES, rates
from covjax.metrics.roc import operating_point
from covjax.workdir import read_json, write_json


def run(config, workdir):
    """Every test set of config.tests, with baselines beside it."""
    trained, model, step = checkpoint.load_model(
        config.classifier, 'classification', 'classifier', config.checkpoint
    )
    records = read_json(pathlib.Path(config.classifier) / 'lineage.json')
    data_dir, names = config.data_dir or trained.data_dir, test_names(config)
    baselines = fit_baselines(config, trained.train, data_dir)
    tests = {spec: _labelled(spec, data_dir, trained.image_size) for spec in names}
    overlaps = {
        spec: lineage.check(records, test.rows, spec, config.protocol)
        for spec, test in tests.items()
    }  # all of them before the first number
    apply, validation = (
        classification.score(trained, model),
        _labelled(trained.val, data_dir, trained.image_size),
    )
    on_validation = data.predict(
        apply, validation.images, config.batch_size, f'scoring {trained.val}'
    )
    chosen = {
        'threshold': operating_point(validation.labels, on_validation),
        'temperature': calibration.fit_temperature(validation.labels, on_validation),
    }
    about = {
        'model': trained.model,
        'train_set': trained.train,
        'seed': trained.seed,
        'step': step,
        'checkpoint': config.checkpoint if trained.best else 'latest',
    }
    results = []
    for spec, test in tests.items():
        scores = data.predict(apply, test.images, config.batch_size, f'scoring {spec}')
        results.append(
            _result(
                {**about, 'test_set': spec, 'test_name': names[spec], 'overlap': overlaps[spec]},
                test.rows,
                test.labels,
                scores,
                chosen,
            )
        )
    for spec, name in {**names, trained.val: 'validation'}.items():
        results += _baseline_results(baselines, spec, name, data_dir)
    write_json(workdir / 'lineage.json', records)
    write_json(
        workdir / 'results.json',
        {
            'classifier': str(config.classifier),
            'protocol': config.protocol,
            'labels': list(CLASSES),
            'results': results,
        },
    )


def test_names(config):
    """{spec: what tables call it} of config.tests."""
    specs = [spec.strip() for spec in config.tests.split(',') if spec.strip()]
    if not specs:
        raise InputError('config.tests is empty; name data sets, for example covid_ct:test')
    names = (
        [name.strip() for name in config.get('names', '').split(',')]
        if config.get('names', '')
        else specs
    )
    if len(names) != len(specs):
        raise InputError(
            f'config.names={config.names}: names {len(names)} of {len(specs)} test sets of config.tests; give a name for each, or none'
        )
    if len(set(names)) < len(names):
        raise InputError(
            f'config.names={config.names}: two test sets have one name; give each its own'
        )
    return dict(zip(specs, names))


def _labelled(spec, data_dir, size):
    examples = data.read(spec, data_dir, size)
    if (examples.labels < 0).any():
        raise InputError(
            f'config.tests: {spec} has images without a label; name data sets with one'
        )
    return examples


def fit_baselines(config, train_set, data_dir):
    """[(kind, data set it is fitted on, its examples)]: file metadata and pixels on config.baseline, and pixels on what the network was trained on."""
    if not config.baseline:
        return []
    real = data.read_native(config.baseline, data_dir)
    if any('file' not in row for _, row in real) or {row['label'] for _, row in real} != {0, 1}:
        raise InputError(
            f'config.baseline={config.baseline}: needs facts of original files and both classes; name a split of covid_ct'
        )
    same = (
        []
        if train_set == config.baseline
        else [(pixel_baseline, train_set, data.read_native(train_set, data_dir))]
    )
    return [
        (metadata_baseline, config.baseline, real),
        (pixel_baseline, config.baseline, real),
        *same,
    ]


def _baseline_results(baselines, spec, name, data_dir):
    examples = data.read_native(spec, data_dir) if baselines else []
    rows = [row for _, row in examples]
    for kind, fitted_on, train in baselines:
        if kind is metadata_baseline and not all('file' in row for row in rows):
            continue  # synthetic pictures have no original file
        overlap, _ = lineage.overlap(
            lineage.record({'train': fitted_on}, data_dir, {'train': [row for _, row in train]}),
            rows,
        )
        about = {
            'model': kind.NAME,
            'train_set': fitted_on,
            'seed': None,
            'step': None,
            'checkpoint': None,
            'test_set': spec,
            'test_name': name,
            'overlap': overlap,
        }
        yield _result(
            about, rows, np.array([row['label'] for row in rows]), kind.scores(train, examples)
        )


def _result(about, rows, labels, scores, chosen=None):
    """One entry of results.json; `chosen` is what validation chose, where there is a validation set."""
    metrics = rates(labels, scores)
    intervals = {
        name: _without_nan(dict(low=low, high=high))
        for name, (low, high) in bootstrap(labels, scores, [row['group'] for row in rows]).items()
    }
    print(
        f'{about["model"]} on {about["test_name"]}: '
        + ', '.join(
            f'{name} {metrics[name]:.3f}'
            for name in ('accuracy', 'recall', 'precision', 'specificity', 'f1', 'auc')
        ),
        flush=True,
    )
    right = {
        'accuracy': (metrics['tp'] + metrics['tn'], len(labels)),
        'recall': (metrics['tp'], metrics['n_positive']),
        'specificity': (metrics['tn'], metrics['n_negative']),
        'precision': (metrics['tp'], metrics['tp'] + metrics['fp']),
    }
    result = {
        **about,
        'groups': len({row['group'] for row in rows}),
        'metrics': _without_nan(metrics),
        'intervals': intervals,
        'wilson': {
            name: _without_nan(dict(zip(('low', 'high'), wilson(*counts))))
            for name, counts in right.items()
        },
        'calibration': _without_nan(
            {
                'brier': calibration.brier(labels, scores),
                'ece': calibration.expected_calibration_error(labels, scores),
            }
        ),
    }
    if chosen and not math.isnan(chosen['threshold']):
        cooled = calibration.scaled(scores, chosen['temperature'])
        result['calibration'] |= {
            'temperature': chosen['temperature'],
            'brier_scaled': calibration.brier(labels, cooled),
            'ece_scaled': calibration.expected_calibration_error(labels, cooled),
        }
        result['at_validation_threshold'] = {
            'threshold': chosen['threshold'],
            **_without_nan(rates(labels, scores, chosen['threshold'])),
        }
    return result | {
        'images': [
            {
                'id': row['id'],
                'label': int(label),
                'score': float(np.float32(score)),
                'group': row['group'],
            }
            for row, label, score in zip(rows, labels, scores)
        ]
    }


def _without_nan(values):
    """JSON has no NaN: a rate without a value is null."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in values.items()
    }
