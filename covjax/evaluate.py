"""A trained classifier on test sets it was not trained on -> results.json: per image id, label, score; per test set counts, metrics, intervals."""
import math
import pathlib

import numpy as np

from covjax import InputError, checkpoint, classification, data, lineage
from covjax.audit import metadata_baseline, pixel_baseline
from covjax.metrics.intervals import bootstrap
from covjax.metrics.rates import rates
from covjax.workdir import read_json, write_json


def run(config, workdir):
    """Every test set of config.tests, with the two baselines beside it where the file facts are known."""
    trained, model, step = checkpoint.load_model(config.classifier, 'classification', 'classifier', config.checkpoint)
    records = read_json(pathlib.Path(config.classifier) / 'lineage.json')
    data_dir = config.data_dir or trained.data_dir
    if not config.tests:
        raise InputError('config.tests is empty; name data sets, for example covid_ct:test')
    baseline = _read_baseline(config.baseline, data_dir) if config.baseline else None
    tests = {spec.strip(): data.read(spec.strip(), data_dir, trained.image_size) for spec in config.tests.split(',')}
    overlaps = {}
    for spec, test in tests.items():                        # all of them before the first number
        if (test.labels < 0).any():
            raise InputError(f'config.tests: {spec} has images without a label; name data sets with one')
        overlaps[spec] = lineage.check(records, test.rows, spec, config.protocol)
    apply = classification.score(trained, model)
    results = []
    for spec, test in tests.items():
        scores = data.predict(apply, test.images, config.batch_size, f'scoring {spec}')
        about = {'model': trained.model, 'train_set': trained.train, 'test_set': spec, 'seed': trained.seed, 'step': step,
                 'checkpoint': config.checkpoint if trained.best else 'latest',
                 'overlap': overlaps[spec]}
        results.append(_result(about, test.rows, test.labels, scores))
        if baseline and all('file' in row for row in test.rows):
            examples, fitted_on = data.read_native(spec, data_dir), [row for _, row in baseline]
            overlap, _ = lineage.overlap(lineage.record({'train': config.baseline}, data_dir, {'train': fitted_on}), test.rows)
            for kind in (metadata_baseline, pixel_baseline):
                about = {'model': kind.NAME, 'train_set': config.baseline, 'test_set': spec, 'seed': None, 'checkpoint': None, 'step': None, 'overlap': overlap}
                results.append(_result(about, test.rows, test.labels, kind.scores(baseline, examples)))
    write_json(workdir / 'lineage.json', records)
    write_json(workdir / 'results.json', {'classifier': str(config.classifier), 'protocol': config.protocol, 'labels': ['noncovid', 'covid'],
                                          'results': results})


def _read_baseline(spec, data_dir):
    """What the baselines are fitted on, as data.read_native gives it."""
    examples = data.read_native(spec, data_dir)
    if any('file' not in row for _, row in examples) or {row['label'] for _, row in examples} != {0, 1}:
        raise InputError(f'config.baseline={spec}: needs facts of original files and both classes; name a split of covid_ct')
    return examples


def _result(about, rows, labels, scores):
    metrics = _without_nan(rates(labels, scores))
    intervals = {name: _without_nan(dict(low=low, high=high)) for name, (low, high) in bootstrap(labels, scores, [row['group'] for row in rows]).items()}
    print(f'{about["model"]} on {about["test_set"]}: ' + ', '.join(f'{name} {value:.3f}' if isinstance(value, float) else f'{name} {value}'
                                                               for name, value in metrics.items()), flush=True)
    images = [{'id': row['id'], 'label': int(label), 'score': float(np.float32(score))} for row, label, score in zip(rows, labels, scores)]
    return {**about, 'metrics': metrics, 'intervals': intervals, 'images': images}


def _without_nan(values):
    """JSON has no NaN: a rate without a value is null."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}
