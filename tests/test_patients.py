"""Scores of patients: ways to make them of those of slices, their thresholds, their page."""

from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

from covjax import InputError
from covjax.data import patients, results
from covjax.data.rows import Row
from covjax.metrics import aggregate
from covjax.metrics.roc import operating_point
from covjax.pages import patients as page
from covjax.runs import evaluate

pytestmark = pytest.mark.fast

NAMES = tuple(aggregate.AGGREGATES)


def slices(count=60, people=12, seed=0):
    """(labels, scores, patients) of slices, of whom half are ill, in random order."""
    rng = np.random.default_rng(seed)
    who = rng.integers(0, people, count)
    who[:people] = np.arange(people)
    ill = who % 2
    scores = np.clip(rng.normal(0.4 + 0.2 * ill, 0.15), 0, 1)
    return ill, scores, [f'p{i:02d}' for i in who]


EXPECTED = {
    'mean': lambda p: sum(p) / len(p),
    'max': max,
    'share': lambda p: sum(each >= 0.6 for each in p) / len(p),
    'noisy_or': lambda p: 1 - np.prod([1 - each for each in p]),
    'majority': lambda p: sum(each >= 0.5 for each in p) / len(p),
}


@pytest.mark.parametrize('name', NAMES)
def test_scores_of_patients_are_those_of_their_slices(name):
    labels, scores, who = slices()
    names, of_labels, of_scores, counts = aggregate.by_patient(labels, scores, who, name, 0.6)
    assert names == sorted(set(who)) and counts.sum() == len(who)
    for patient, label, score, count in zip(names, of_labels, of_scores, counts):
        own = [p for p, each in zip(scores, who) if each == patient]
        assert score == pytest.approx(EXPECTED[name](own)) and count == len(own)
        assert label == int(patient[1:]) % 2


@pytest.mark.parametrize('name', NAMES)
def test_the_order_of_slices_changes_nothing(name):
    labels, scores, who = slices()
    order = np.random.default_rng(3).permutation(len(who))
    moved = [values[order] for values in (labels, scores, np.array(who))]
    for one, other in zip(
        aggregate.by_patient(labels, scores, who, name), aggregate.by_patient(*moved, name)
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize('name', ['mean', 'max', 'noisy_or'])
def test_of_one_slice_the_score_is_its_own(name):
    _, _, scores, _ = aggregate.by_patient([1, 0], [0.7, 0.2], ['a', 'b'], name)
    np.testing.assert_allclose(scores, [0.7, 0.2])


def test_noisy_or_of_many_sure_slices_is_a_probability():
    _, _, (score,), _ = aggregate.by_patient([1] * 500, [1.0] * 500, ['a'] * 500, 'noisy_or')
    assert 0.999 < score <= 1


def test_a_patient_is_positive_where_any_slice_is():
    _, labels, _, _ = aggregate.by_patient([0, 1, 0], [0.1] * 3, ['a', 'a', 'b'], 'mean')
    assert labels.tolist() == [1, 0]


# ---- results


ABOUT = {
    'model': 'plain8',
    'train_set': 'a:train',
    'seed': 0,
    'step': 9,
    'checkpoint': 'best',
    'test_set': 'a:test',
    'test_name': 'test',
}


def found(names=NAMES):
    about = ABOUT | {'unit': 'patient'}
    return patients.results(names, about, 'covid', slices(seed=1), slices(seed=2))


@pytest.mark.parametrize('name', NAMES)
def test_thresholds_are_those_of_validation(name):
    """Of a slice for a share of slices, of a patient for all but the majority."""
    (result,) = found([name])
    labels, scores, who = slices(seed=2)
    of_slice = operating_point(labels, scores)
    assert result.image_threshold == (pytest.approx(of_slice) if name == 'share' else None)
    _, labels, scores, _ = aggregate.by_patient(labels, scores, who, name, of_slice)
    expected = 0.5 if name == 'majority' else operating_point(labels, scores)
    assert result.threshold == pytest.approx(expected)
    called = sum(each.score >= result.threshold for each in result.patients)
    assert called == result.metrics['tp'] + result.metrics['fp']


def test_areas_are_those_of_ranks():
    """That of Mann and Whitney, over patients and not over slices."""
    for result in found():
        scores = {label: [p.score for p in result.patients if p.label == label] for label in (0, 1)}
        statistic = stats.mannwhitneyu(scores[1], scores[0]).statistic
        assert result.metrics['auc'] == pytest.approx(
            statistic / (len(scores[0]) * len(scores[1])), abs=1e-6
        )
        low, high = result.intervals['auc']
        assert low - 1e-9 <= result.metrics['auc'] <= high + 1e-9


def test_results_of_patients_are_written_and_read(tmp_path):
    (tmp_path / 'config.json').write_text('{"run": "evaluate"}')
    images = [results.ScoredImage('a', 1, 0.5)]
    about = ABOUT | {'kind': 'network', 'overlap': {}}
    image = results.Result(**about, metrics={'auc': 0.5}, images=images)
    written = results.Evaluation('runs/a', 'clean', [image], by_patient=tuple(found()))
    results.write(tmp_path, written)
    read = results.read(tmp_path)
    assert read.by_patient == written.by_patient and read.results == [image]


@pytest.mark.parametrize('names', ['median', 'mean,median'])
def test_unknown_ways_are_refused(names):
    with pytest.raises(InputError, match=f'config.aggregate={names}: median is no way .*noisy_or'):
        patients.ways(ConfigDict({'aggregate': names}))
    assert patients.ways(ConfigDict({'aggregate': ' mean, max,mean'})) == ['mean', 'max']
    with pytest.raises(InputError, match='config.aggregate=,: names no way .*noisy_or'):
        patients.ways(ConfigDict({'aggregate': ','}))


def test_a_unit_is_a_patient_or_the_document_of_several():
    groups = ['a.pdf/a', 'a.pdf/b', 'b.pdf/a', '1.2.3']
    rows = [Row(str(i), group, str(i)) for i, group in enumerate(groups)]
    config_of = lambda unit, **keys: ConfigDict({'unit': unit, 'aggregate': 'mean'} | keys)
    units = {unit: patients.units(config_of(unit), rows) for unit in patients.UNITS}
    assert units == {'patient': groups, 'document': ['a.pdf', 'a.pdf', 'b.pdf', '1.2.3']}
    with pytest.raises(InputError, match='config.unit=slice: no such choice; .*patient, document'):
        patients.units(config_of('slice'), rows)
    with pytest.raises(InputError, match='config.unit=document: no scores of documents'):
        patients.units(config_of('document', aggregate=''), [])
    with pytest.raises(InputError, match='config.unit=document: 3 and all others name no source'):
        patients.units(config_of('document'), rows[3:])


def test_the_middle_slices_of_volumes_say_nothing_of_a_share_of_slices():
    config = ConfigDict({'aggregate': 'share'})
    row = lambda z, spacing: Row('a', 'p', 'x', z=z, others={'spacing': spacing})
    for passes in (row(3, [5.0, 1.0, 1.0]), row(None, [0.0, 0.0, 0.0]), Row('a', 'p', 'x')):
        evaluate.check_slices(config, {'x:test': SimpleNamespace(rows=[passes])})
    with pytest.raises(InputError, match='x:test has volumes, .* name ends in _slices'):
        volumes = SimpleNamespace(rows=[row(None, [5.0, 1.0, 1.0])])
        evaluate.check_slices(config, {'x:test': volumes})


# ---- the page


def patient(name, label, score, count=6, place=True):
    images = [np.full((40, 50), 20 * i, np.uint8) for i in range(count)]
    places = [i / count if place else None for i in range(count)]
    return page.Patient(name, label, score, images, np.arange(count) / count, places)


def test_the_page_shows_the_ends_of_each_class(tmp_path):
    people = [patient(f'{label}{i}', label, i / 9) for label in ('ill', 'well') for i in range(9)]
    shown = [each.name for each in page.chosen(people)]
    assert shown == ['ill8', 'ill7', 'ill1', 'ill0', 'well8', 'well7', 'well1', 'well0']
    row = page.row('a', 'mean', 9, found()[0].metrics, found()[0].intervals, 0.5)
    page.write(tmp_path, 'A network', [row], {'test': people, 'other': people[:1]})
    text = (tmp_path / 'patients.html').read_text(encoding='utf-8')
    assert 'A network' in text and text.count('<img') == 2
    assert (tmp_path / 'images' / 'patients_1.png').is_file()


@pytest.mark.parametrize('count, place', [(1, True), (2, False), (9, True)])
def test_the_slices_that_count_most_stand_beside_a_patient(count, place):
    """In the order of the scan, each above a bar; fewer slices leave places black."""
    one = page.sheet([patient('a very long name of a patient', 'ill', 0.3, count, place)])
    assert one.shape == (page.TILE + page.BAR, (1 + page.TOP) * page.TILE, 3)
    tiles = one[: page.TILE, page.TILE :].reshape(page.TILE, page.TOP, page.TILE, 3)
    shown = [int(tiles[page.TILE // 2, i, page.TILE // 2, 0]) for i in range(page.TOP)]
    first = max(count - page.TOP, 0)
    assert shown == [20 * i for i in range(first, count)] + [0] * (page.TOP - count + first)
