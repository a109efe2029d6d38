"""results.json is written and read back, also as older versions wrote it."""

import dataclasses
import json

import pytest

from covjax import CLASSES, InputError
from covjax.audit import metadata_baseline, pixel_baseline
from covjax.data import results
from covjax.data.results import Confusion, Evaluation, Interval, Result, ScoredImage

pytestmark = pytest.mark.fast

NETWORK = Result(
    model='vgg16',
    kind='network',
    train_set='covid_ct:train',
    seed=0,
    step=5,
    checkpoint='best',
    test_set='covid_ct:test',
    test_name='real test',
    overlap={'images': 0},
    groups=2,
    metrics={'positive_class': 'covid', 'n_positive': 1, 'precision': None},
    intervals={'precision': Interval(None, None), 'auc': Interval(0.5, 0.9)},
    wilson={'accuracy': Interval(0.1, 0.2)},
    calibration={'brier': 0.25},
    at_validation_threshold={'threshold': 0.4},
    images=[ScoredImage('a', 1, 0.75, 'b/c'), ScoredImage('d', 0, 0.25, 'e/f')],
)
BASELINE = dataclasses.replace(
    NETWORK,
    model=pixel_baseline.NAME,
    kind='pixels',
    seed=None,
    step=None,
    checkpoint=None,
    at_validation_threshold={},
)


@pytest.fixture
def document(tmp_path):
    """What results.json holds of an evaluation of both."""
    results.write(tmp_path, Evaluation('runs/vgg16', 'clean', [NETWORK, BASELINE]))
    return json.loads((tmp_path / 'results.json').read_text())


def rewritten(folder, document):
    """A folder whose results.json holds a document."""
    (folder / 'results.json').write_text(json.dumps(document))
    return folder


def test_what_is_written_is_read_back(document, tmp_path):
    evaluation = results.read(tmp_path)
    assert evaluation == Evaluation('runs/vgg16', 'clean', [NETWORK, BASELINE])
    assert evaluation.results[0].labels == [1, 0] and evaluation.results[0].scores == [0.75, 0.25]


def test_the_keys_are_the_fields_in_their_order(document):
    network, baseline = document['results']
    fields = [field.name for field in dataclasses.fields(Result)]
    assert list(document) == ['classifier', 'protocol', 'labels', 'results']
    assert list(network) == fields
    assert list(baseline) == [name for name in fields if name != 'at_validation_threshold']
    assert network['intervals']['auc'] == {'low': 0.5, 'high': 0.9}
    assert network['images'][0] == {'id': 'a', 'label': 1, 'score': 0.75, 'group': 'b/c'}


def test_classes_and_confusions_are_written_and_read(tmp_path):
    """Of more than two; of two classes there is no such key, see above."""
    counts = [[3, 0, 1], [0, 2, 0], [1, 1, 4]]
    confusion = Confusion('vgg16', 'a:train', 0, 5, 'best', 'a:test', 'real test', counts)
    names = ('normal', 'cap', 'covid')
    written = Evaluation('runs/a', 'clean', [NETWORK], classes=names, confusions=(confusion,))
    results.write(tmp_path, written)
    document = json.loads((tmp_path / 'results.json').read_text())
    assert list(document) == ['classifier', 'protocol', 'labels', 'results', 'confusions']
    assert document['labels'] == list(names) and document['confusions'][0]['counts'] == counts
    assert results.read(tmp_path) == written


def test_a_file_without_names_is_of_covid_and_noncovid(document, tmp_path):
    del document['labels']
    assert results.read(rewritten(tmp_path, document)).classes == CLASSES


def test_kinds_of_version_0_5_are_known_by_the_names_of_models(document, tmp_path):
    for result, name in zip(document['results'], (metadata_baseline.NAME, pixel_baseline.NAME)):
        result.pop('kind')
        result['model'] = name
    network = {key: value for key, value in NETWORK.as_json().items() if key != 'kind'}
    document['results'].append(network)
    found = results.read(rewritten(tmp_path, document)).results
    assert [result.kind for result in found] == ['metadata', 'pixels', 'network']
    assert [result.is_baseline for result in found] == [True, True, False]


def test_older_files_lack_keys(document, tmp_path):
    for key in ('kind', 'test_name', 'groups', 'intervals', 'wilson', 'calibration'):
        document['results'][0].pop(key)
    document['results'][0]['images'] = [{'id': 'a', 'label': 1, 'score': 0.75}]
    result = results.read(rewritten(tmp_path, document)).results[0]
    assert result.name == 'covid_ct:test' and result.groups is None and result.intervals == {}
    assert result.images == [ScoredImage('a', 1, 0.75, None)]


def test_unknown_keys_are_ignored(document, tmp_path):
    document['results'][0]['later'] = 1
    assert results.read(rewritten(tmp_path, document)).results == [NETWORK, BASELINE]


@pytest.mark.parametrize('key', ['model', 'metrics', 'images'])
def test_a_file_without_a_needed_key_is_damaged(document, tmp_path, key):
    document['results'][0].pop(key)
    with pytest.raises(InputError, match='results.json: is damaged'):
        results.read(rewritten(tmp_path, document))
