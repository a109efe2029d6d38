"""A training that begins with another run: its weights, its lineage, and what is refused."""

import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import labelled_sets
import numpy as np
import pytest
from segmenters import write_run

from configs import classifier as training
from configs import dre_net
from configs import segmentation as segmentation_config
from covjax import InputError, classifier, models, pretraining, segmenter, trained
from covjax.data import datasets, lineage
from covjax.data.augment import to_float
from covjax.runs import train
from covjax.weights import checkpoint

CLASSES = ('noncovid', 'covid')
IMAGES = (np.zeros((1, 32, 32, 1), np.float32),)


@pytest.fixture(scope='module')
def places(tmp_path_factory):
    """A folder with two data sets of the same classes, one of others, and a run on the first."""
    folder = tmp_path_factory.mktemp('pretraining')
    for name, classes in (('much', CLASSES), ('little', CLASSES), ('others', ('a', 'b', 'c'))):
        labelled_sets.write(folder / 'data', name, classes)
    train.run(config_of(folder, 'much'), made(folder / 'much'))
    return folder


def made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def config_of(folder, name, **fields):
    """The config of a small training on one of the data sets."""
    config = training.get_config('plain8')
    small = {'image_size': 32, 'load_size': 32, 'batch_size': 4, 'steps': 2, 'eval_every': 2}
    sets = {'train': f'{name}:train', 'val': f'{name}:validation'}
    config.update(small | sets | {'data_dir': str(folder / 'data')} | fields)
    return config


def run_of(folder, config):
    """The finished training of a config in a folder."""
    train.run(config, made(folder))
    (folder / 'config.json').write_text(config.to_json())
    return trained.open_run(folder, 'classification', 'classifier')


@pytest.fixture(scope='module')
def much(places):
    """The run on much."""
    config = config_of(places, 'much')
    (places / 'much' / 'config.json').write_text(config.to_json())
    return trained.open_run(places / 'much', 'classification', 'classifier')


def test_a_training_begins_with_the_scores_of_the_other_one(places, much):
    """With a learning rate of 0 it also ends with them."""
    config = config_of(places, 'little', start=str(much.folder), learning_rate=0.0)
    fields = {'weight_decay': 0.0, 'bn_momentum': 0.9999}
    config.update(fields)
    run = run_of(places / 'little', config)
    images = datasets.read('little:test', str(places / 'data'), 32).images
    scores = [classifier.score(classifier.of_run(each))(images) for each in (much, run)]
    np.testing.assert_allclose(scores[0], scores[1], atol=2e-3)
    assert np.ptp(scores[0]) > 0.05


def test_a_training_on_other_classes_runs(places, much):
    run = run_of(places / 'on_others', config_of(places, 'others', start=str(much.folder)))
    assert run.classes == ('a', 'b', 'c') and run.step == 2


def test_lineage_names_what_trained_the_other_one_too(places, much):
    run = run_of(places / 'lineage', config_of(places, 'little', start=str(much.folder)))
    records = {(r['role'], r['dataset'], r['through']) for r in run.lineage}
    assert records == {
        ('train', 'little:train', ''),
        ('val', 'little:validation', ''),
        ('train', 'much:train', 'pretraining'),
        ('val', 'much:validation', 'pretraining'),
    }
    rows = datasets.read_rows('much:train', str(places / 'data'))
    with pytest.raises(InputError, match='share a picture, patient'):
        lineage.check(run.lineage, rows, 'much:train', 'clean')
    own = datasets.read_rows('little:train', str(places / 'data'))
    lineage.check_same(run.lineage, 'train', own, 'little:train')


def test_a_training_goes_on_where_the_other_one_is_gone(places, much, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, '_check_beside', lambda *_: None)  # so that it may get longer
    shutil.copytree(much.folder, tmp_path / 'moved')
    config = config_of(places, 'little', start=str(tmp_path / 'moved'))
    first = run_of(tmp_path / 'run', config)
    shutil.rmtree(tmp_path / 'moved')
    config.steps = 4
    assert run_of(tmp_path / 'run', config).lineage == first.lineage


def test_other_classes_get_a_new_last_layer(places, much, capsys):
    config = config_of(places, 'others', start=str(much.folder))
    model = classifier.network(config, num_classes=3)
    found = pretraining.load(config, model, IMAGES, ('a', 'b', 'c'), jax.random.key(0))
    assert 'the last layer is a new one' in capsys.readouterr().out
    before = much.variables['net']['params']
    for name, arrays in found['params'].items():
        same = [np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (arrays, before[name])))]
        assert all(same) == (name != 'head')


@pytest.mark.fast
def test_a_segmentation_begins_with_the_masks_of_the_other_one(tmp_path):
    config = write_run(tmp_path)
    other = segmenter.of_run(trained.open_run(tmp_path, 'segmentation', 'start'))
    config.start = str(tmp_path)
    found = pretraining.load(config, other.model, IMAGES, other.classes, jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), np.uint8)
    np.testing.assert_array_equal(
        other.model.apply(found, to_float(images)),
        other.model.apply(other.variables, to_float(images)),
    )


@pytest.mark.fast
@pytest.mark.parametrize(
    'fields, message',
    [
        ({'start': 'nowhere'}, 'config.start=nowhere'),
        ({'widths': (2, 4)}, 'arrays do not fit the network of this config'),
        ({'task': 'classification'}, 'config.start=.*classification'),
    ],
)
def test_what_a_segmentation_cannot_begin_with(tmp_path, fields, message):
    write_run(tmp_path)
    config = segmentation_config.get_config('small')
    config.update({'widths': (2,), 'start': str(tmp_path)} | fields)
    model = segmenter.network(config, 2)
    with pytest.raises(InputError, match=message):
        pretraining.load(config, model, IMAGES, ('background', 'lung'), jax.random.key(0))


def test_another_network_is_named(places, much):
    config = config_of(places, 'little', start=str(much.folder), model='resnet18')
    model = classifier.network(config, num_classes=2)
    named = f'config.start={much.folder}: is a plain8, and config.model=resnet18; set config.model'
    with pytest.raises(InputError, match=named):
        pretraining.load(config, model, IMAGES, CLASSES, jax.random.key(0))


def test_weights_that_expect_other_images_are_refused(places, much):
    config = config_of(places, 'little', start=str(much.folder), pretrained='weights.h5')
    model = classifier.network(config, num_classes=2)
    with pytest.raises(InputError, match="config.pretrained='', which decides how images are"):
        pretraining.load(config, model, IMAGES, CLASSES, jax.random.key(0))


class Drawn:
    """The variables of a network, each filled with one number, without compiling its init."""

    def __init__(self, network, number):
        self.shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
        self.number = number

    def init(self, *_):
        return jax.tree.map(lambda leaf: jnp.full(leaf.shape, self.number), self.shapes)


def test_a_dre_net_begins_with_the_classifier_that_it_has_inside(monkeypatch):
    inner = Drawn(models.create('resnet50_torch', 2), 0.5).init()
    config = training.get_config('resnet50_torch')
    run = SimpleNamespace(
        config=config,
        variables={'net': {'params': inner['params']}, 'batch_stats': inner['batch_stats']},
        classes=CLASSES,
    )
    monkeypatch.setattr(trained, 'open_run', lambda *_: run)
    outer = dre_net.get_config('small')
    outer.start = 'runs/inner'
    model = Drawn(models.create('dre_net', 2), 0.25)
    variables = pretraining.load(outer, model, (), CLASSES, jax.random.key(0))
    params, stats = variables['params'], variables['batch_stats']
    body = {name: layer for name, layer in inner['params'].items() if name != 'head'}
    jax.tree.map(np.testing.assert_array_equal, params.pop('body'), body)
    jax.tree.map(np.testing.assert_array_equal, stats.pop('body'), inner['batch_stats'])
    assert not stats and all((leaf == 0.25).all() for leaf in jax.tree.leaves(params))

    config.model = 'resnet50'  # of Keras, which no DRE-Net has inside
    with pytest.raises(InputError, match='runs/inner: is a resnet50, and config.model=dre_net'):
        pretraining.load(outer, model, (), CLASSES, jax.random.key(0))
