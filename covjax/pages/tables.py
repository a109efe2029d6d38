"""Evaluations -> the published Table 2 with intervals, as CSV, Markdown and LaTeX, and comparisons of every network with the baselines."""

import csv
from typing import NamedTuple

import numpy as np

from covjax.metrics.intervals import bootstrap
from covjax.metrics.rates import POSITIVE
from covjax.metrics.significance import delong, holm, mcnemar

PRINTED = (
    'accuracy',
    'recall',
    'precision',
    'f1',
    'specificity',
    'auc',
)  # the first four are the published ones
NAMES = {
    'vgg16': 'VGG16',
    'resnet50': 'ResNet-50',
    'inception_v3': 'Inception-v3',
    'inception_resnet_v2': 'Inception-ResNet-v2',
    'densenet169': 'DenseNet-169',
}
HEADS = {
    'accuracy': 'Accuracy',
    'recall': 'Recall',
    'precision': 'Precision',
    'f1': 'F1',
    'specificity': 'Specificity',
    'auc': 'AUC',
}

BASELINES = ('file metadata (logistic regression)', '32x32 pixels (logistic regression)')


class Row(NamedTuple):
    """All seeds of one model on one test set."""

    protocol: str
    test: str
    test_set: str
    model: str
    train_set: str
    checkpoint: str
    seeds: tuple
    n_positive: int
    n_negative: int
    overlap: dict  # the greatest of the seeds
    mean: dict  # of PRINTED over seeds, None where there is no value
    low: dict  # 95 % interval of that mean
    high: dict
    least: dict  # of the seeds
    most: dict


def table2(evaluations):
    """[Row] in the order of the evaluations, baselines last."""
    grouped = {}
    for evaluation in evaluations:
        for result in evaluation['results']:
            key = (
                evaluation['protocol'],
                _name(result),
                result['test_set'],
                result['model'],
                result['train_set'],
                result['checkpoint'] or '',
            )
            grouped.setdefault(key, {})[result['seed']] = (
                result  # several evaluations bring the same baseline
            )
    rows = [_row(key, list(results.values())) for key, results in grouped.items()]
    return sorted(rows, key=lambda row: (is_baseline(row.model), row.model == BASELINES[1]))


def _name(result):
    return result.get('test_name') or result['test_set']


def is_baseline(model):
    return model in BASELINES


def _row(key, results):
    values = {name: [result['metrics'][name] for result in results] for name in PRINTED}
    known = {name: None not in these for name, these in values.items()}
    of = lambda function: {
        name: float(function(these)) if known[name] else None for name, these in values.items()
    }
    low, high = _interval(results)
    first = results[0]['metrics']
    overlap = {
        kind: max(result['overlap'][kind] for result in results) for kind in results[0]['overlap']
    }
    return Row(
        *key,
        tuple(result['seed'] for result in results if result['seed'] is not None),
        first['n_positive'],
        first['n_negative'],
        overlap,
        of(np.mean),
        low,
        high,
        of(min),
        of(max),
    )


def _interval(results):
    """Of the mean over seeds; of one seed it is the one that evaluate has computed."""
    if len(results) == 1 or 'group' not in results[0]['images'][0]:
        stored = results[0].get('intervals', {}) if len(results) == 1 else {}
        return tuple(
            {name: stored.get(name, {}).get(end) for name in PRINTED} for end in ('low', 'high')
        )
    images = results[0]['images']
    scores = [[image['score'] for image in result['images']] for result in results]
    ends = bootstrap(
        [image['label'] for image in images], scores, [image['group'] for image in images]
    )
    return tuple(
        {name: None if np.isnan(ends[name][k]) else ends[name][k] for name in PRINTED}
        for k in (0, 1)
    )


def cell(row, name, digits=3):
    """'0.812 (0.755 to 0.861)', or '' where there is no value."""
    if row.mean[name] is None:
        return ''
    interval = (
        ''
        if row.low[name] is None
        else f' ({row.low[name]:.{digits}f} to {row.high[name]:.{digits}f})'
    )
    return f'{row.mean[name]:.{digits}f}{interval}'


def caption(row):
    """What one table is about."""
    return (
        f'{row.protocol} protocol, {row.test}: {row.n_positive} COVID, {row.n_negative} non-COVID'
    )


def by_test(rows):
    """{caption: rows}, a table each."""
    tables = {}
    for row in rows:
        tables.setdefault(caption(row), []).append(row)
    return tables


def labels_of_training_sets(rows):
    """{data set: 'A'}: short names, told once."""
    return {
        train_set: chr(ord('A') + i) if i < 26 else str(i)
        for i, train_set in enumerate(dict.fromkeys(row.train_set for row in rows))
    }


def columns(row, letters):
    """What stands before the rates: model, training set, checkpoint, seeds, overlap."""
    overlap = ', '.join(f'{n} {kind}' for kind, n in row.overlap.items() if n) or 'none'
    return [
        NAMES.get(row.model, row.model),
        letters[row.train_set],
        row.checkpoint,
        ', '.join(map(str, row.seeds)),
        overlap,
    ]


LEAD = ('Model', 'Trained on', 'Checkpoint', 'Seeds', 'Overlap')


def write(folder, rows):
    """table2.csv (one line a row and metric end), table2.md and table2.tex."""
    with (folder / 'table2.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                'protocol',
                'test',
                'test_set',
                'model',
                'train_set',
                'checkpoint',
                'seeds',
                'positive_class',
                'n_positive',
                'n_negative',
                *(f'overlap_{kind}' for kind in ('images', 'groups', 'documents', 'validation')),
                *(
                    f'{name}{end}'
                    for name in PRINTED
                    for end in ('', '_low', '_high', '_least_seed', '_greatest_seed')
                ),
            ]
        )
        for row in rows:
            writer.writerow(
                [
                    *row[:6],
                    ' '.join(map(str, row.seeds)),
                    POSITIVE,
                    row.n_positive,
                    row.n_negative,
                    *(
                        row.overlap.get(kind)
                        for kind in ('images', 'groups', 'documents', 'validation')
                    ),
                    *(
                        part[name]
                        for name in PRINTED
                        for part in (row.mean, row.low, row.high, row.least, row.most)
                    ),
                ]
            )
    letters = labels_of_training_sets(rows)
    (folder / 'table2.md').write_text(
        '\n\n'.join(
            [
                *(_markdown(title, these, letters) for title, these in by_test(rows).items()),
                _legend(letters),
            ]
        )
        + '\n',
        encoding='utf-8',
    )
    (folder / 'table2.tex').write_text(
        '\n\n'.join(_latex(title, these, letters) for title, these in by_test(rows).items()) + '\n',
        encoding='utf-8',
    )


def _legend(letters):
    return (
        'Trained on '
        + '; '.join(f'{letter}: {name}' for name, letter in letters.items())
        + '. COVID is the positive class; threshold 0.5; mean over seeds with its 95 % interval over '
        'patients, documents or series. Not for diagnosis.'
    )


def _markdown(title, rows, letters):
    lines = [
        f'**{title}**',
        '',
        '| ' + ' | '.join([*LEAD, *HEADS.values()]) + ' |',
        '|' + '---|' * (len(LEAD) + len(HEADS)),
    ]
    return '\n'.join(
        lines
        + [
            '| '
            + ' | '.join([*columns(row, letters), *(cell(row, name) for name in PRINTED)])
            + ' |'
            for row in rows
        ]
    )


def _latex(title, rows, letters):
    escaped = lambda text: (
        str(text)
        .replace('\\', r'\textbackslash ')
        .replace('%', r'\%')
        .replace('_', r'\_')
        .replace('&', r'\&')
        .replace('#', r'\#')
    )
    body = [
        ' & '.join([*map(escaped, columns(row, letters)), *(cell(row, name) for name in PRINTED)])
        + r' \\'
        for row in rows
    ]
    return '\n'.join(
        [
            r'\begin{table}',
            rf'\caption{{{escaped(title)}. COVID is the positive class; mean over seeds and 95\,\% interval.}}',
            rf'\begin{{tabular}}{{{"l" * (len(LEAD) + len(HEADS))}}}',
            r'\hline',
            ' & '.join([*LEAD, *HEADS.values()]) + r' \\',
            r'\hline',
            *body,
            r'\hline',
            r'\end{tabular}',
            r'\end{table}',
        ]
    )


COMPARED = (
    'protocol',
    'test',
    'model',
    'seed',
    'baseline',
    'fitted_on',
    'auc_difference',
    'delong_p',
    'delong_p_holm',
    'accuracy_difference',
    'mcnemar_p',
    'mcnemar_p_holm',
)


def comparisons(evaluations):
    """Rows of COMPARED: every network of the first seed against every baseline on the same images: DeLong of the areas, McNemar of the decisions at 0.5, each adjusted (Holm) for the
    number of networks compared with that baseline on that test. Images count as independent, which patients with several images are not: p values are too small.
    """
    groups = {}
    for evaluation in evaluations:
        networks = [result for result in evaluation['results'] if not is_baseline(result['model'])]
        baselines = [result for result in evaluation['results'] if is_baseline(result['model'])]
        for result, other in (
            (result, other)
            for result in networks
            for other in baselines
            if other['test_set'] == result['test_set']
        ):
            group = groups.setdefault(
                (evaluation['protocol'], _name(result), other['model'], other['train_set']), {}
            )
            group.setdefault(
                (result['model'], result['train_set'], result['checkpoint']), (result, other)
            )  # later seeds are left out
    rows = []
    for (protocol, test, baseline, train_set), group in groups.items():
        pairs = list(group.values())
        areas, decisions = zip(
            *(_compare(result['images'], other['images']) for result, other in pairs)
        )
        adjusted = zip(
            holm([area.p for area in areas]), holm([decision.p for decision in decisions])
        )
        for (result, _), area, decision, (area_p, decision_p) in zip(
            pairs, areas, decisions, adjusted
        ):
            rows.append(
                dict(
                    zip(
                        COMPARED,
                        (
                            protocol,
                            test,
                            result['model'],
                            result['seed'],
                            baseline,
                            train_set,
                            area.difference,
                            area.p,
                            area_p,
                            decision.difference,
                            decision.p,
                            decision_p,
                        ),
                    )
                )
            )
    return rows


def _compare(first, second):
    if [image['id'] for image in first] != [image['id'] for image in second]:
        raise ValueError('two results of one test set are of other images')
    labels, one, other = (
        [image[key] for image in images]
        for images, key in ((first, 'label'), (first, 'score'), (second, 'score'))
    )
    decide = lambda scores: (np.asarray(scores) >= 0.5).astype(int)
    return delong(labels, one, other), mcnemar(labels, decide(one), decide(other))


def interval(value, low, high):
    """'0.812 (0.755 to 0.861)'"""
    return f'{value:.3f} ({low:.3f} to {high:.3f})'
