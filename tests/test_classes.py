"""Data sets of any number of classes: names, one against the rest, and a whole path on three."""

import csv
import json
import shutil
from functools import partial
from types import SimpleNamespace

import jax
import labelled_sets
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from configs import audit as audit_config
from configs import classifier as classifier_config
from configs import evaluate as evaluate_config
from configs import export as export_config
from configs import report as report_config
from covjax import CLASSES, InputError, classes, classifier, models, runs, scorer, trained
from covjax.data import datasets, domains, results
from covjax.metrics import rates
from covjax.models.backbone import Backbone
from covjax.runs import evaluate
from covjax.workdir import claimed

NAMES = ('normal', 'cap', 'covid')
SETS = {  # what the data sets of this file are called, and their classes
    'three': NAMES,
    'reordered': ('covid', 'cap', 'normal'),
    'two': CLASSES,
    'covid_first': ('covid', 'normal'),
    'other': ('healthy', 'sick'),
    'unlabelled': (),
}
SMALL = {
    'model': 'toy',
    'train': 'three:train',
    'val': 'three:validation',
    'image_size': 32,
    'load_size': 32,
    'batch_size': 6,
    'steps': 2,
    'eval_every': 2,
    'log_every': 1,
    'warmup_steps': 0,
}


# Names.


@pytest.mark.fast
@pytest.mark.parametrize('n', [2, 3, 4])
def test_every_image_is_positive_for_one_class_or_for_none(n):
    names = ('a', 'b', 'c', 'd')[:n]
    labels = np.random.default_rng(n).integers(-1, n, 50)
    sides = np.array([classes.against_rest(labels, names, name) for name in names])
    assert (sides[:, labels < 0] == -1).all() and set(sides[:, labels >= 0].ravel()) == {0, 1}
    assert (sides.argmax(0)[labels >= 0] == labels[labels >= 0]).all()


@pytest.mark.fast
@pytest.mark.parametrize(
    'names, positive',
    [
        (CLASSES, ('covid',)),
        (('covid', 'normal'), ('covid',)),
        (('other', 'nodule'), ('nodule',)),
        (NAMES, NAMES),
    ],
)
def test_two_classes_have_one_result_and_more_have_one_each(names, positive):
    assert classes.positive_classes(names) == positive


@pytest.mark.fast
@pytest.mark.parametrize(
    'names, positive, expected',
    [
        (CLASSES, 'covid', ('COVID', 'non-COVID')),
        (CLASSES, 'noncovid', ('non-COVID', 'COVID')),
        (('other', 'nodule'), 'nodule', ('nodule', 'other')),
        (NAMES, 'cap', ('cap', 'others')),
    ],
)
def test_people_read_names_of_both_sides(names, positive, expected):
    assert classes.titles(names, positive) == expected


@pytest.mark.fast
def test_an_unset_positive_class_is_covid_or_a_question():
    meant = lambda name, names: classes.positive_class({'positive_class': name}, names)
    assert meant('', NAMES) == 'covid' and meant('cap', NAMES) == 'cap'
    for name, names in (('', ('normal', 'cap')), ('Covid', NAMES)):
        with pytest.raises(InputError, match=f'positive_class={name}.*{", ".join(names)}'):
            meant(name, names)


# Metrics.


@pytest.mark.fast
@pytest.mark.parametrize('n', [2, 3, 4])
def test_a_confusion_matrix_counts_pairs_of_class_and_highest_score(n):
    rng = np.random.default_rng(n)
    labels, scores = rng.integers(0, n, 40), rng.random((40, n))
    expected = np.zeros((n, n), int)
    for label, row in zip(labels, scores):
        expected[label, row.argmax()] += 1
    np.testing.assert_array_equal(rates.confusion(labels, scores), expected)


@pytest.mark.fast
@pytest.mark.parametrize(
    'labels, scores',
    [
        ([], np.ones((0, 3))),
        ([0, 3], np.ones((2, 3))),
        ([0], [[0.5, np.nan]]),
        ([0, 1], [0.1, 0.2]),
    ],
)
def test_no_confusion_of_nothing(labels, scores):
    with pytest.raises(ValueError, match='confusion matrix'):
        rates.confusion(labels, scores)


@pytest.mark.fast
def test_a_mean_over_classes_needs_images_of_each():
    found = rates.macro_rates([0, 0, 1], [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1]])
    assert found['accuracy'] == pytest.approx(2 / 3) and np.isnan(found['recall'])
    assert np.isnan(found['auc'])


# Data sets.


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    """A folder with every data set of SETS."""
    folder = tmp_path_factory.mktemp('classes')
    for name, names in SETS.items():
        labelled_sets.write(folder, name, names, file=bool(names))
    return str(folder)


def test_examples_have_the_names_of_their_labels(data_dir):
    for name, names in SETS.items():
        assert datasets.read(f'{name}:test', data_dir, 16).classes == names
    examples = datasets.read('three:train@cap+unlabelled:train', data_dir, 16)
    assert examples.classes == NAMES and set(examples.labels) == {1, -1}


@pytest.mark.parametrize('other', ['two', 'reordered'])
def test_data_sets_of_other_names_are_not_joined(data_dir, other):
    both = f'three has the classes normal, cap, covid, and {other} has {", ".join(SETS[other])}'
    with pytest.raises(InputError, match=both):
        datasets.read(f'three:train+unlabelled:test+{other}:train', data_dir, 16)


@pytest.mark.parametrize('name', ['three', 'reordered', 'two'])
def test_the_covid_domain_is_the_images_of_covid(data_dir, name):
    found = domains.domain(f'{name}:train+unlabelled:test', 'covid', 16, data_dir)
    assert {row.label_name for row in found.rows} == {'covid', ''}
    counts = labelled_sets.SPLITS['train'] + labelled_sets.SPLITS['test']
    assert len(found.images) == len(found.labels) == counts


def test_where_no_class_is_covid_a_domain_is_the_class_that_is_named(data_dir):
    found = domains.domain('other:train@sick', 'covid', 16, data_dir)
    assert {row.label_name for row in found.rows} == {'sick'} and len(found.images)
    with pytest.raises(InputError, match='images of healthy and sick and none called covid; name'):
        domains.domain('other:train', 'covid', 16, data_dir)


# From training to a report, on three classes.


def run(config, workdir):
    """Runs a config as launch.py does."""
    with claimed(config, workdir) as folder:
        runs.find(config.run)(config, folder)
    return workdir


def toy_body(x, conv, norm):
    """Two layers: no claim here is about a network."""
    for i, width in enumerate((8, 16), 1):
        x = nn.relu(norm(name=f'norm{i}')(conv(width, (3, 3), 2, name=f'conv{i}')(x)))
    return {'last': x}


@pytest.fixture(scope='module', autouse=True)
def toy():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, 'toy', partial(Backbone, 'toy', toy_body, 8, 'none'))
        yield


def config_of_training(data_dir, **fields):
    config = classifier_config.get_config()
    config.update(SMALL | {'data_dir': data_dir} | fields)
    return config


@pytest.fixture(scope='module')
def trained_on(data_dir, tmp_path_factory):
    """The workdir of a classifier of two steps."""
    return run(config_of_training(data_dir), tmp_path_factory.mktemp('three') / 'classifier')


def config_of_evaluation(trained_on, **fields):
    config = evaluate_config.get_config()
    tests = {'tests': 'three:test', 'names': 'all three', 'baseline': 'three:train'}
    config.update({'classifier': str(trained_on), 'batch_size': 4, **tests, **fields})
    return config


@pytest.fixture(scope='module')
def evaluated(trained_on):
    return run(config_of_evaluation(trained_on), trained_on.with_name('evaluate'))


@pytest.fixture(scope='module')
def document(evaluated):
    return json.loads((evaluated / 'results.json').read_text())


@pytest.fixture(scope='module')
def reported(evaluated):
    config = report_config.get_config()
    config.evaluations = str(evaluated)
    return run(config, evaluated.with_name('report'))


def test_a_run_notes_its_classes(trained_on):
    assert json.loads((trained_on / 'classes.json').read_text()) == list(NAMES)
    opened = trained.open_run(trained_on, 'classification', 'classifier')
    assert opened.classes == NAMES
    assert opened.variables['net']['params']['head']['kernel'].shape[-1] == 3


def test_a_run_does_not_go_on_with_other_classes(trained_on, data_dir, tmp_path):
    """Of the same images, such as a data set that was prepared again under other names."""
    shutil.copytree(trained_on, tmp_path / 'copy')
    (tmp_path / 'copy' / 'classes.json').write_text(json.dumps(['normal', 'flu', 'covid']))
    config = trained.open_run(trained_on, 'classification', 'classifier').config
    with pytest.raises(InputError, match='on the classes normal, flu, covid, not on normal, cap'):
        run(config, tmp_path / 'copy')


def test_every_class_has_a_result_of_every_model_on_every_test(document):
    assert document['labels'] == list(NAMES)
    found = [
        (result['kind'], result['test_name'], result['metrics']['positive_class'])
        for result in document['results']
    ]
    tests = ('all three', 'validation')
    baselines = [(kind, test) for test in tests for kind in ('metadata', 'pixels')]
    models = [('network', 'all three'), *baselines]
    assert found == [(*model, name) for model in models for name in NAMES]


def of_network(document):
    """The entries of the network, one for each class."""
    return [result for result in document['results'] if result['kind'] == 'network']


def test_scores_of_an_image_add_up_to_1_and_its_labels_to_one_class(document):
    entries = of_network(document)
    for images in zip(*(entry['images'] for entry in entries)):
        assert len({image['id'] for image in images}) == 1
        assert sum(image['label'] for image in images) == 1
        assert sum(image['score'] for image in images) == pytest.approx(1, abs=1e-6)


def test_rates_and_thresholds_are_those_of_one_class_against_the_rest(document):
    for entry in document['results']:
        labels, scores = zip(*((image['label'], image['score']) for image in entry['images']))
        metrics = entry['metrics']
        found = rates.rates(labels, scores, positive_class=metrics['positive_class'])
        assert metrics == {k: None if v != v else v for k, v in found.items()}
        assert metrics['n_positive'] * 2 == metrics['n_negative']
    thresholds = [entry['at_validation_threshold'] for entry in of_network(document)]
    assert [at['positive_class'] for at in thresholds] == list(NAMES)
    assert len({at['threshold'] for at in thresholds}) == 3


def test_the_confusion_matrix_is_that_of_the_highest_scores(document):
    (confusion,) = document['confusions']
    scores = np.array([[image['score'] for image in e['images']] for e in of_network(document)]).T
    labels = np.array([[image['label'] for image in e['images']] for e in of_network(document)]).T
    expected = rates.confusion(labels.argmax(1), scores)
    assert confusion['counts'] == expected.tolist() and confusion['test_name'] == 'all three'


def test_a_missing_set_of_the_baselines_is_named_by_its_key(trained_on, tmp_path):
    with pytest.raises(InputError, match="config.baseline=nowhere:train: .* '' for no baselines"):
        run(config_of_evaluation(trained_on, baseline='nowhere:train'), tmp_path / 'evaluate')


@pytest.mark.parametrize(
    'unit, count, printed', [('patient', 15, 'patients'), ('document', 9, 'source documents')]
)
def test_pictures_are_judged_by_patient_or_by_source_document(
    unit, count, printed, trained_on, tmp_path, capsys
):
    config = config_of_evaluation(trained_on, baseline='', aggregate='mean,max', unit=unit)
    found = results.read(run(config, tmp_path / 'evaluate'))
    assert len(found.by_patient) == 6 and {each.unit for each in found.by_patient} == {unit}
    assert (
        f'{count} {printed}, covid against the rest, mean of their images'
        in capsys.readouterr().out
    )
    images = {image.id: image for image in found.results[2].images}
    for each in found.by_patient[4].patients:
        of_unit = [image.score for image in images.values() if image.group.startswith(each.id)]
        assert len(of_unit) == each.images
        assert each.score == pytest.approx(np.mean(of_unit))
    assert len(found.by_patient[4].patients) == count


def test_evaluation_prints_the_class_and_the_matrix(trained_on, tmp_path, capsys):
    run(config_of_evaluation(trained_on, baseline=''), tmp_path / 'evaluate')
    printed = capsys.readouterr().out
    for name in NAMES:
        assert f'toy on all three, {name} against the rest: accuracy' in printed
    assert 'images of (row) taken for (column)' in printed and 'normal    cap  covid' in printed


def test_a_report_says_in_every_table_which_class_is_positive(reported, document):
    page = (reported / 'report.html').read_text()
    for name in NAMES:
        assert f'all three, {name} against the rest: 5 {name}, 10 others' in page
    assert '5 normal, 5 cap, 5 covid of 15' in page and 'COVID is the positive' not in page
    assert page.count('<th scope="col">positive class</th>') == 2  # comparisons and calibration
    assert 'images of a class (row) by the class of their highest score' in page
    for name in ('table.csv', 'table2.csv', 'comparisons.csv'):
        lines = list(csv.DictReader((reported / name).open()))
        assert {line['positive_class'] for line in lines} == set(NAMES), name
    lines = list(csv.DictReader((reported / 'table.csv').open()))
    assert len(lines) == len(document['results'])
    for suffix in ('md', 'tex'):
        text = (reported / f'table2.{suffix}').read_text()
        assert all(f'{name} against the rest' in text for name in NAMES)


def test_a_network_is_compared_with_baselines_of_the_same_class(reported, document):
    lines = list(csv.DictReader((reported / 'comparisons.csv').open()))
    assert len(lines) == 2 * len(NAMES)  # metadata and pixels
    auc = lambda kind, name: next(
        result['metrics']['auc']
        for result in document['results']
        if (result['kind'], result['metrics']['positive_class']) == (kind, name)
        and result['test_name'] == 'all three'
    )
    for line in lines:
        kind = 'metadata' if 'metadata' in line['baseline'] else 'pixels'
        name = line['positive_class']
        difference = auc('network', name) - auc(kind, name)
        assert float(line['auc_difference']) == pytest.approx(difference)


@pytest.fixture(scope='module')
def exported(trained_on):
    config = export_config.get_config()
    config.classifier = str(trained_on)
    return run(config, trained_on.with_name('export')) / 'toy.safetensors'


def test_an_export_has_the_classes_and_the_scores_of_the_run(trained_on, exported, data_dir):
    images = datasets.read('three:test', data_dir, 32).images
    of_run, of_file = classifier.load(trained_on), classifier.load(exported)
    assert of_run.classes == of_file.classes == NAMES
    expected = jax.jit(classifier.scores(of_run))(images)
    for i, name in enumerate(NAMES):
        score = jax.jit(classifier.score(of_file, name))(images)
        np.testing.assert_allclose(score, expected[:, i], atol=1e-6)


@pytest.mark.parametrize('positive', [None, 'flu'])
def test_a_score_is_of_a_class_that_there_is(exported, positive):
    with pytest.raises(ValueError, match='choose one of normal, cap, covid'):
        classifier.score(classifier.load(exported), positive)


@pytest.mark.parametrize(
    'labels, message',
    [(['normal', 'covid'], 'arrays do not fit'), (['covid'], 'damaged'), (3, 'damaged')],
)
def test_an_export_with_other_labels_is_one_line(exported, tmp_path, labels, message):
    with safe_open(exported, 'numpy') as file:
        about = json.loads(file.metadata()['covjax']) | {'labels': labels}
    path = tmp_path / 'a.safetensors'
    save_file(load_file(exported), path, metadata={'covjax': json.dumps(about)})
    with pytest.raises(InputError, match=message) as caught:
        classifier.load(path)
    assert '\n' not in str(caught.value)


@pytest.mark.fast
def test_a_run_from_before_names_were_noted_is_of_covid_and_noncovid(tmp_path):
    assert trained.read_classes(tmp_path) == CLASSES


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'tests': 'two:test'}, 'two:test: has the classes noncovid, covid, and .* normal, cap'),
        ({'tests': 'reordered:test'}, 'reordered:test: has the classes covid, cap, normal'),
        ({'tests': 'unlabelled:test'}, 'images without a label'),
        ({'baseline': 'two:train'}, 'config.baseline=two:train: has the classes noncovid, covid'),
        ({'baseline': 'three:train@cap'}, 'all classes, normal, cap and covid'),
    ],
)
def test_an_evaluation_refuses_other_classes(trained_on, tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        run(config_of_evaluation(trained_on, **fields), tmp_path / 'out')


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'val': 'two:validation'}, 'config.val=two.*config.train=three'),
        ({'train': 'three:train@cap+three:train@covid'}, 'has none of normal'),
        ({'train': 'unlabelled:train'}, 'config.train=unlabelled:train: has images without'),
        ({'train': 'three:train+unlabelled:train'}, 'has images without a label'),
    ],
)
def test_a_training_refuses_what_lacks_a_class(data_dir, tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        run(config_of_training(data_dir, **fields), tmp_path / 'out')


def test_without_facts_of_files_the_pixels_are_a_baseline(data_dir, capsys):
    labelled_sets.write(data_dir, 'scanned', NAMES, file=False)
    network = SimpleNamespace(classes=NAMES, config=ConfigDict({'train': 'scanned:train'}))
    reader = scorer.Reader(network, data_dir)
    baselines = evaluate.read_baselines(ConfigDict({'baseline': 'scanned:train'}), reader)
    assert [baseline.probe.kind for baseline in baselines] == ['pixels']
    assert 'no metadata of original files' in capsys.readouterr().out


def test_of_two_classes_the_one_result_is_of_covid_whatever_its_label(data_dir, tmp_path):
    sets = {'train': 'covid_first:train', 'val': 'covid_first:validation'}
    workdir = run(config_of_training(data_dir, **sets), tmp_path / 'classifier')
    config = config_of_evaluation(workdir, tests='covid_first:test', baseline='covid_first:train')
    run(config, tmp_path / 'evaluate')
    found = json.loads((tmp_path / 'evaluate' / 'results.json').read_text())
    assert found['labels'] == ['covid', 'normal'] and 'confusions' not in found
    kinds = [result['kind'] for result in found['results']]
    assert kinds == ['network', 'metadata', 'pixels', 'metadata', 'pixels']
    for result in found['results']:
        assert result['metrics']['positive_class'] == 'covid'
        assert all(('_covid_' in image['id']) == image['label'] for image in result['images'])
    images = datasets.read('covid_first:test', data_dir, 32).images
    expected = jax.jit(classifier.scores(classifier.load(workdir)))(images)[:, 0]
    scores = [image['score'] for image in found['results'][0]['images']]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    # The level of the noise tells the classes apart, so a fitted regression does.
    assert found['results'][2]['metrics']['auc'] == 1


# The audit.


def config_of_audit(trained_on, **fields):
    config = audit_config.get_config()
    sets = {'tests': 'three:test', 'names': 'all three', 'baseline': 'three:train'}
    pairs = 'three:train@cap,three:test@cap'
    config.update({'classifier': str(trained_on), 'pairs': pairs, 'batch_size': 4})
    config.update({**sets, **fields})
    return config


def test_an_audit_is_about_one_class_and_says_so(trained_on, tmp_path):
    folder = run(config_of_audit(trained_on, positive_class='cap'), tmp_path / 'audit')
    found, name = json.loads((folder / 'audit.json').read_text()), 'cap'
    assert (found['positive_class'], found['classes']) == (name, list(NAMES))
    assert (
        f'one class of normal, cap, covid: {name}, against' in (folder / 'audit.html').read_text()
    )
    areas = [area for verdict in found['verdicts'] for area in verdict['areas']]
    assert {'all three', 'validation'} == {area['test'] for area in areas}
    assert (
        all(0 <= area['value'] <= 1 for area in areas) and (folder / 'images/areas.png').is_file()
    )
    finding = {verdict['name']: verdict['finding'] for verdict in found['verdicts']}
    assert f'three for others and three for {name}' in finding['source of the images']


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'positive_class': 'flu'}, 'config.positive_class=flu.*normal, cap, covid'),
        ({'tests': 'three:test@cap'}, 'all classes, covid, normal and cap'),
        ({'tests': 'two:test'}, 'config.tests: two:test: has the classes noncovid, covid'),
        ({'baseline': 'two:train'}, 'config.baseline: two:train: has the classes noncovid, covid'),
        ({'pairs': 'three:train@cap,three:test@normal'}, '@covid or @cap or @normal'),
        ({'synthetic': 'runs/synthesize'}, 'config.synthetic.*noncovid and covid apart'),
    ],
)
def test_wrong_audits_of_three_classes_are_one_line(trained_on, tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        run(config_of_audit(trained_on, **fields), tmp_path / 'audit')
    assert not (tmp_path / 'audit').exists()
