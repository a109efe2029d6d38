"""Tables and comparisons of evaluations that are made up, so that every number is known."""

import csv
import re

import numpy as np
import pytest

from covjax.audit import metadata_baseline, pixel_baseline
from covjax.metrics.intervals import bootstrap
from covjax.metrics.rates import rates
from covjax.metrics.significance import delong, holm
from covjax.pages import tables

LABELS = np.arange(40) % 2
GROUPS = [f'patient {i // 2}' for i in range(40)]


def result(
    model, seed, gain, train_set='covid_ct:train', test='real test', checkpoint='best', overlap=0
):
    scores = 1 / (
        1
        + np.exp(-(LABELS * gain + np.random.default_rng([len(model), seed or 0]).normal(size=40)))
    )
    return {
        'model': model,
        'train_set': train_set,
        'test_set': 'covid_ct:test',
        'test_name': test,
        'seed': seed,
        'step': 5,
        'checkpoint': checkpoint,
        'overlap': {'images': overlap, 'groups': 0, 'documents': 0, 'validation': 0},
        'metrics': rates(LABELS, scores),
        'intervals': {
            name: dict(zip(('low', 'high'), ends))
            for name, ends in bootstrap(LABELS, scores, GROUPS).items()
        },
        'images': [
            {'id': f'i{i}', 'label': int(label), 'score': float(score), 'group': group}
            for i, (label, score, group) in enumerate(zip(LABELS, scores, GROUPS))
        ],
    }


@pytest.fixture(scope='module')
def evaluations():
    baselines = [
        result(metadata_baseline.NAME, None, 2.0, checkpoint=None),
        result(pixel_baseline.NAME, None, 0.5, checkpoint=None),
    ]
    return [
        {
            'protocol': 'clean',
            'results': [
                result(model, seed, gain, 'synthetic_covid_ct:train', overlap=seed),
                *baselines,
            ],
        }
        for model, gain in (('resnet50', 1.0), ('vgg16', 0.0))
        for seed in (0, 1, 2)
    ]


def test_rows_are_means_over_seeds(evaluations):
    rows = tables.table2(evaluations)
    assert [row.model for row in rows] == [
        'resnet50',
        'vgg16',
        metadata_baseline.NAME,
        pixel_baseline.NAME,
    ]
    resnet = rows[0]
    of_seeds = [evaluation['results'][0] for evaluation in evaluations[:3]]
    assert resnet.seeds == (0, 1, 2) and rows[2].seeds == () and resnet.overlap['images'] == 2
    for name in tables.PRINTED:
        assert resnet.mean[name] == pytest.approx(
            np.mean([one['metrics'][name] for one in of_seeds])
        )
        assert (
            resnet.least[name] <= resnet.mean[name] <= resnet.most[name]
            and resnet.low[name] < resnet.mean[name] < resnet.high[name]
        )
    assert resnet.low['auc'] == pytest.approx(
        bootstrap(
            LABELS, [[image['score'] for image in one['images']] for one in of_seeds], GROUPS
        )['auc'][0]
    )
    assert rows[2].low['auc'] == evaluations[0]['results'][1]['intervals']['auc']['low']


def test_the_three_files_say_the_same(evaluations, tmp_path):
    rows = tables.table2(evaluations)
    tables.write(tmp_path, rows)
    written = list(csv.DictReader((tmp_path / 'table2.csv').open()))
    assert [row['model'] for row in written] == [row.model for row in rows] and {
        row['positive_class'] for row in written
    } == {'covid'}
    markdown, latex = ((tmp_path / f'table2.{end}').read_text() for end in ('md', 'tex'))
    for row in rows:
        for text in (markdown, latex):
            assert tables.cell(row, 'auc') in text and tables.cell(row, 'f1') in text
    assert markdown.count('| ResNet-50 |') == 1 and '20 COVID, 20 non-COVID' in markdown
    assert latex.count(r'\begin{tabular}') == 1 and not re.search(
        r'(?<!\\)[%_&#](?!\S*\})', latex.replace(' & ', ' ')
    )


def test_comparisons_use_one_seed_and_adjust_for_the_networks(evaluations):
    rows = tables.comparisons(evaluations)
    assert [(row['model'], row['seed'], row['baseline']) for row in rows] == [
        (model, 0, baseline)
        for baseline in (metadata_baseline.NAME, pixel_baseline.NAME)
        for model in ('resnet50', 'vgg16')
    ]
    first, baseline, _ = evaluations[0]['results']
    score = lambda one: [image['score'] for image in one['images']]
    assert rows[0]['delong_p'] == delong(LABELS, score(first), score(baseline)).p
    assert [row['delong_p_holm'] for row in rows[:2]] == holm([row['delong_p'] for row in rows[:2]])


def test_results_without_groups_or_values_leave_gaps(evaluations):
    old = [
        {
            'protocol': 'official',
            'results': [
                {
                    **result('vgg16', seed, 1.0),
                    'images': [{'id': 'a', 'label': 1, 'score': 0.7}],
                    'metrics': {**rates([1], [0.7]), 'auc': None},
                }
            ],
        }
        for seed in (0, 1)
    ]
    (row,) = tables.table2(old)
    assert (
        row.mean['auc'] is None
        and tables.cell(row, 'auc') == ''
        and tables.cell(row, 'recall') == '1.000'
    )
