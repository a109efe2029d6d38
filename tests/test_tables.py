"""Tables and comparisons of evaluations that are made up, so that every number is known."""

import csv
import dataclasses
import re

import numpy as np
import pytest

from covjax.audit import metadata_baseline, pixel_baseline
from covjax.data.results import Evaluation, Interval, Result, ScoredImage
from covjax.metrics.intervals import bootstrap
from covjax.metrics.rates import rates
from covjax.metrics.significance import delong, holm
from covjax.pages import figures, tables

pytestmark = pytest.mark.fast

LABELS = np.arange(40) % 2
GROUPS = [f'patient {i // 2}' for i in range(40)]


def result(model, seed, gain, **fields):
    """A Result on the same 40 images; the greater the gain, the better the model."""
    noise = np.random.default_rng([len(model), seed or 0]).normal(size=40)
    scores = 1 / (1 + np.exp(-(LABELS * gain + noise)))
    ends = bootstrap(LABELS, scores, GROUPS)
    images = [
        ScoredImage(f'i{i}', int(label), float(score), group)
        for i, (label, score, group) in enumerate(zip(LABELS, scores, GROUPS))
    ]
    defaults = {
        'kind': 'network',
        'train_set': 'covid_ct:train',
        'step': 5,
        'checkpoint': 'best',
        'test_set': 'covid_ct:test',
        'test_name': 'real test',
        'overlap': {'images': 0, 'groups': 0, 'documents': 0, 'validation': 0},
        'metrics': rates(LABELS, scores),
        'intervals': {name: Interval(*low_high) for name, low_high in ends.items()},
        'images': images,
    }
    return Result(model=model, seed=seed, **defaults | fields)


@pytest.fixture(scope='module')
def evaluations():
    """Two networks of three seeds each, every one beside the same two baselines."""
    metadata = result(metadata_baseline.NAME, None, 2.0, kind='metadata', checkpoint=None)
    pixels = result(pixel_baseline.NAME, None, 0.5, kind='pixels', checkpoint=None)
    evaluations = []
    for model, gain in (('resnet50', 1.0), ('vgg16', 0.0)):
        for seed in (0, 1, 2):
            overlap = {'images': seed, 'groups': 0, 'documents': 0, 'validation': 0}
            train_set = 'synthetic_covid_ct:train'
            network = result(model, seed, gain, train_set=train_set, overlap=overlap)
            evaluations.append(Evaluation(f'runs/{model}', 'clean', [network, metadata, pixels]))
    return evaluations


def test_baselines_come_last_and_count_once(evaluations):
    rows = tables.table2(evaluations)
    models = ['resnet50', 'vgg16', metadata_baseline.NAME, pixel_baseline.NAME]
    assert [row.model for row in rows] == models
    assert rows[2].seeds == ()


def test_rows_are_means_over_seeds(evaluations):
    resnet = tables.table2(evaluations)[0]
    of_seeds = [evaluation.results[0] for evaluation in evaluations[:3]]
    assert resnet.seeds == (0, 1, 2) and resnet.overlap['images'] == 2
    for name in tables.PRINTED:
        mean = np.mean([result.metrics[name] for result in of_seeds])
        assert resnet.mean[name] == pytest.approx(mean)
        assert resnet.least[name] <= resnet.mean[name] <= resnet.most[name]
        assert resnet.low[name] < resnet.mean[name] < resnet.high[name]


def test_the_interval_is_that_of_the_mean_or_of_the_one_seed(evaluations):
    resnet, _, metadata, _ = tables.table2(evaluations)
    scores = [evaluation.results[0].scores for evaluation in evaluations[:3]]
    assert resnet.low['auc'] == pytest.approx(bootstrap(LABELS, scores, GROUPS)['auc'][0])
    assert metadata.low['auc'] == evaluations[0].results[1].intervals['auc'].low


def test_csv_has_a_line_for_each_row(evaluations, tmp_path):
    rows = tables.table2(evaluations)
    tables.write(tmp_path, rows)
    written = list(csv.DictReader((tmp_path / 'table2.csv').open()))
    assert [line['model'] for line in written] == [row.model for row in rows]
    assert [float(line['auc_low']) for line in written] == [row.low['auc'] for row in rows]
    assert {line['positive_class'] for line in written} == {'covid'}


def test_markdown_and_latex_say_the_same(evaluations, tmp_path):
    rows = tables.table2(evaluations)
    tables.write(tmp_path, rows)
    markdown, latex = ((tmp_path / f'table2.{end}').read_text() for end in ('md', 'tex'))
    for row in rows:
        for text in (markdown, latex):
            assert tables.cell(row, 'auc') in text and tables.cell(row, 'f1') in text
    assert markdown.count('| ResNet-50 |') == 1 and '20 COVID, 20 non-COVID' in markdown
    assert latex.count(r'\begin{tabular}') == 1


def test_latex_has_no_special_character_that_is_not_escaped(evaluations, tmp_path):
    tables.write(tmp_path, tables.table2(evaluations))
    latex = (tmp_path / 'table2.tex').read_text().replace(' & ', ' ')
    assert not re.search(r'(?<!\\)[%_&#](?!\S*\})', latex)


def test_comparisons_use_one_seed(evaluations):
    rows = tables.comparisons(evaluations)
    assert [(row.model, row.seed, row.baseline) for row in rows] == [
        (model, 0, baseline)
        for baseline in (metadata_baseline.NAME, pixel_baseline.NAME)
        for model in ('resnet50', 'vgg16')
    ]
    network, baseline, _ = evaluations[0].results
    assert rows[0].delong_p == delong(LABELS, network.scores, baseline.scores).p


def test_comparisons_adjust_for_the_number_of_networks(evaluations):
    rows = tables.comparisons(evaluations)[:2]
    assert [row.delong_p_holm for row in rows] == holm([row.delong_p for row in rows])
    assert [row.mcnemar_p_holm for row in rows] == holm([row.mcnemar_p for row in rows])


def test_comparisons_refuse_results_of_other_images(evaluations):
    network, metadata, _ = evaluations[0].results
    fewer = dataclasses.replace(metadata, images=metadata.images[1:])
    with pytest.raises(ValueError, match='other images'):
        tables.comparisons([Evaluation('runs/x', 'clean', [network, fewer])])


def test_results_without_groups_or_values_leave_gaps():
    images = [ScoredImage('a', 1, 0.7)]
    metrics = {**rates([1], [0.7]), 'auc': None}
    evaluations = [
        Evaluation(
            'runs/x', 'official', [result('vgg16', seed, 1.0, images=images, metrics=metrics)]
        )
        for seed in (0, 1)
    ]
    (row,) = tables.table2(evaluations)
    assert row.mean['auc'] is None and tables.cell(row, 'auc') == ''
    assert tables.cell(row, 'recall') == '1.000'


def test_roc_has_a_curve_for_each_seed_and_one_entry_in_the_legend_for_all(evaluations):
    (axes,) = figures.draw_roc(evaluations).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(labels) == 4 and '3 runs' in labels[0]
    assert labels[0].startswith('ResNet-50, best checkpoint, synthetic_covid_ct: AUC')
    styles = [line.get_linestyle() for line in axes.lines]
    assert styles == [':', '-', '-', '-', '--', '--', '-', '-', '-']  # the diagonal comes first


def test_reliability_is_of_networks_only(evaluations):
    (axes,) = figures.draw_reliability(evaluations).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [
        f'{model}, best checkpoint, synthetic_covid_ct' for model in ('ResNet-50', 'VGG16')
    ]
