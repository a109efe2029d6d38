"""The classification task: its devices against one another, its phases, rates and wrong configs.

Claims about steps and devices are made of a network of two layers.
"""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import launching
import numpy as np
import optax
import pytest
from conftest import FAST, ROOT, flags_of_devices
from flax import linen as nn
from flax.traverse_util import flatten_dict
from scipy.special import softmax
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score
from sklearn.utils.class_weight import compute_class_weight
from steps import follow

from configs import classifier as config_file
from covjax import CLASSES, InputError, classifier, models
from covjax.data import datasets
from covjax.data.augment import to_float
from covjax.data.rows import Row
from covjax.models.backbone import Backbone
from covjax.models.layers import ExampleDropout
from covjax.trained import Trained
from covjax.training import classification, optimizer
from covjax.training.task import Net
from covjax.weights import checkpoint
from covjax.weights import keras as keras_weights

SMALL = {
    'train': 'covid_ct:train',
    'val': 'covid_ct:validation',
    'image_size': 32,
    'load_size': 36,
    'batch_size': 4,
    'steps': 4,
    'eval_every': 4,
    'log_every': 1,
    'warmup_steps': 0,
}


def config_of(**fields):
    config = config_file.get_config('resnet18')
    config.update(SMALL | fields)
    return config


def examples(n, size, seed=0, classes=CLASSES):
    """Random images of each class in turn."""
    images = np.random.default_rng(seed).integers(0, 256, (n, size, size, 1), np.uint8)
    rows = [Row(f'{i}', f'group{i}', f'{i}') for i in range(n)]
    labels = (np.arange(n) % len(classes)).astype(np.int32)
    return datasets.Examples(images, labels, rows, classes)


def changed(before, after):
    """The names of what moved among 'head', 'body' and 'batch_stats'."""

    def parts(state):
        params = dict(state.net.params)
        return {'head': params.pop('head'), 'body': params, 'batch_stats': state.batch_stats}

    def equal(one, other):
        same = jax.tree.map(np.array_equal, one, other)
        return all(jax.tree.leaves(same))

    one, other = parts(before), parts(after)
    return {name for name in one if not equal(one[name], other[name])}


# Steps, on a network of two layers.


def toy_body(x, conv, norm):
    return {'map': nn.relu(norm(name='norm')(conv(4, (3, 3), 2, name='conv')(x)))}


def toy_network(config, num_classes, **options):
    """A network of one convolution and the head, in place of classifier.network."""
    return Backbone('toy', toy_body, smallest=1, reference='', num_classes=num_classes, **options)


@pytest.fixture
def toy(monkeypatch):
    """toy(classes, **fields) -> the Task of a config on the toy network."""

    def task(classes=CLASSES, **fields):
        monkeypatch.setattr(classifier, 'network', toy_network)
        train, val = examples(12, 36, 0, classes), examples(8, 32, 1, classes)
        return classification.task_on(config_of(**fields), train, val)

    return task


def test_while_frozen_the_head_alone_moves_and_then_everything_does(toy):
    (before, frozen, thawed), _ = follow(toy(freeze_steps=1, dropout=0.2), 2)
    assert changed(before, frozen) == {'head'}
    assert changed(frozen, thawed) == {'head', 'body', 'batch_stats'}


def test_adam_counts_the_body_from_the_first_step_that_moves_it(toy):
    (_, frozen, thawed), _ = follow(toy(freeze_steps=1), 2)
    count = lambda state, name: state.net.opt_state.inner_states[name].inner_state[0].count
    assert [int(count(frozen, name)) for name in ('head', 'body')] == [1, 0]
    assert [int(count(thawed, name)) for name in ('head', 'body')] == [2, 1]


def test_only_batches_of_the_frozen_phase_are_marked(toy):
    task = toy(freeze_steps=2)
    marked = [classification.is_frozen(task.train_batch(step)) for step in range(4)]
    assert marked == [True, True, False, False]


def test_a_body_rate_of_0_keeps_the_body(toy):
    (before, after), _ = follow(toy(body_rate=0.0, weight_decay=0.1), 1)
    assert changed(before, after) == {'head', 'batch_stats'}


def test_steps_see_images_on_the_scale_of_the_weights(toy, monkeypatch):
    """In training and in evaluation: another scale, another loss."""
    plain = toy(augment={'scale': 0.0, 'flip': False, 'rotate': 0.0, 'crop': 0.0})
    monkeypatch.setattr(classifier, 'preprocess', lambda config: lambda images: 3 * images)
    scaled = toy(augment={'scale': 0.0, 'flip': False, 'rotate': 0.0, 'crop': 0.0})
    parts = scaled.train_step.args[0]
    assert parts.preprocess(1.0) == 3.0
    state = plain.init(jax.random.key(0), plain.train_batch(0))
    batch = {'image': examples(3, 32).images, 'label': examples(3, 32).labels}
    variables = {'params': state.net.params, 'batch_stats': state.batch_stats}
    logits = parts.model.apply(variables, 3 * to_float(batch['image']))
    scores = jax.nn.softmax(logits)
    np.testing.assert_allclose(scaled.eval_step(state, batch)['scores'], scores, atol=1e-6)
    assert (plain.eval_step(state, batch)['scores'] != scores).all()
    (_, losses), (_, scaled_losses) = follow(plain, 1), follow(scaled, 1)
    assert losses[0]['loss'] != scaled_losses[0]['loss']


@pytest.mark.parametrize('auxiliary', [None, lambda maps, labels: maps['extra'] * labels])
def test_the_loss_weighs_classes_and_smooths_labels(toy, auxiliary):
    """Against the formula, on logits that are given; what a network adds is weighed as well."""
    parts = toy(label_smoothing=0.1).train_step.args[0]
    parts = parts._replace(class_weights=jnp.array([0.5, 2.0]), auxiliary=auxiliary)
    extra = jnp.array([1.0, 2.0, 4.0])
    logits, labels = jnp.array([[1.0, -1.0], [0.5, 2.0], [0.0, 0.3]]), jnp.array([0, 1, 0])
    forward = lambda parts, params, batch_stats, images, rng: classification.Forward(
        logits, batch_stats, {'extra': extra}
    )
    mean, (_, scalars) = classification.loss(parts, forward, {}, {}, None, labels, None)
    log_p = np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    targets = np.array([[0.95, 0.05], [0.05, 0.95], [0.95, 0.05]])
    losses = -(targets * log_p).sum(1) + (0.0 if auxiliary is None else extra * labels)
    expected = (np.array([0.5, 2.0, 0.5]) * losses).mean()
    assert float(mean) == pytest.approx(float(expected), rel=1e-6)
    assert float(scalars['accuracy']) == pytest.approx(2 / 3)


# Any number of classes.

NAMES = ('normal', 'cap', 'covid', 'tumour')


@pytest.mark.parametrize('n, freeze_steps', [(2, 1), (3, 0), (4, 1)])
def test_every_class_has_a_logit_that_learns(toy, n, freeze_steps):
    """Of the head, in the frozen phase too; the weights of the classes count."""
    task = toy(NAMES[:n], freeze_steps=freeze_steps, class_weights='balanced')
    (before, after), _ = follow(task, 1)
    first, second = (state.net.params['head'] for state in (before, after))
    assert task.classes == NAMES[:n] and second['kernel'].shape[-1] == n
    assert (first['bias'] != second['bias']).all()


@pytest.mark.parametrize('n', [2, 3, 4])
def test_scores_of_evaluation_add_up_to_1_over_classes(toy, n):
    task = toy(NAMES[:n])
    state = task.init(jax.random.key(0), task.train_batch(0))
    batch = next(iter(task.eval_batches()['']))
    scores = task.eval_step(state, {name: batch[name] for name in ('image', 'label')})['scores']
    assert scores.shape == (len(batch['label']), n)
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-6)


def outputs_of(n, seed=0):
    """What evaluation gives of 60 images of n classes, which scores tell apart a little."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(60) % n)
    scores = softmax(np.eye(n)[labels] + rng.normal(size=(60, n)), axis=1).astype(np.float32)
    return {'loss': rng.random(60), 'label': labels, 'scores': scores}


@pytest.mark.fast
@pytest.mark.parametrize('classes', [CLASSES, CLASSES[::-1], ('other', 'nodule')])
def test_two_classes_are_logged_by_the_rates_of_the_positive_one(classes):
    """Covid, whichever label it has, or the second class."""
    outputs = outputs_of(2)
    logged, _ = classification.summarize(classes, outputs)
    positive = classes.index('covid') if 'covid' in classes else 1
    is_positive, called = outputs['label'] == positive, outputs['scores'][:, positive] >= 0.5
    assert logged == pytest.approx(
        {
            'loss': outputs['loss'].mean(),
            'accuracy': accuracy_score(is_positive, called),
            'recall': recall_score(is_positive, called),
            'specificity': recall_score(~is_positive, ~called),
            'auc': roc_auc_score(is_positive, outputs['scores'][:, positive]),
        }
    )


@pytest.mark.fast
@pytest.mark.parametrize('n', [3, 4])
def test_more_classes_are_logged_by_the_means_of_scikit_learn(n):
    outputs = outputs_of(n)
    logged, _ = classification.summarize(NAMES[:n], outputs)
    labels, called = outputs['label'], outputs['scores'].argmax(1)
    specificities = [recall_score(labels != k, called != k) for k in range(n)]
    assert logged == pytest.approx(
        {
            'loss': outputs['loss'].mean(),
            'accuracy': accuracy_score(labels, called),
            'recall': recall_score(labels, called, average='macro'),
            'specificity': np.mean(specificities),
            'auc': roc_auc_score(labels, outputs['scores'], multi_class='ovr'),
        },
        rel=1e-6,
    )


# Devices.


def losses_on(devices):
    """The losses of a frozen and of two whole steps on so many devices.

    Dropout and synchronised BatchNorm included.
    """
    assert jax.device_count() == devices
    classifier.network = toy_network  # in a process of its own
    config = config_of(steps=3, freeze_steps=1, dropout=0.5)
    task = classification.task_on(config, examples(10, 36), examples(6, 32, 1))
    return [scalars['loss'] for scalars in follow(task, 3)[1]]


def test_two_devices_equal_one():
    alone, together = (
        launching.call(losses_on, (count,), {'XLA_FLAGS': flags_of_devices(count)})
        for count in (1, 2)
    )
    assert len(set(alone)) == 3
    np.testing.assert_allclose(together, alone, rtol=1e-4)


# The network is the first argument: resnet18, or two convolutions.
GRADIENTS = """
import sys

import jax

jax.config.update('jax_enable_x64', True)
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax

from covjax import models
from covjax.models.backbone import Backbone


def two_layers(x, conv, norm):
    for i in (1, 2):
        x = nn.relu(norm(name=f'norm{i}')(conv(8, (3, 3), 2, name=f'conv{i}')(x)))
    return {'map': x}


def create(**options):
    if sys.argv[1] == 'resnet18':
        return models.create('resnet18', **options)
    return Backbone('toy', two_layers, smallest=1, reference='', **options)


rng = np.random.default_rng(0)
images, labels = rng.uniform(-1, 1, (4, 32, 32, 1)), rng.integers(0, 2, 4)
model = create(axis_name='devices', dtype=jnp.float64)
variables = jax.jit(create().init)(jax.random.key(0), images[:1])
variables = jax.tree.map(lambda leaf: leaf.astype('float64'), variables)


def step(images, labels):
    def loss(params):
        logits, updated = model.apply(
            {**variables, 'params': params}, images, train=True, mutable=['batch_stats']
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updated

    grads, updated = jax.grad(loss, has_aux=True)(variables['params'])
    return lax.pmean((grads, updated), 'devices')


def on(n):
    '''Gradients and statistics on n devices, each as one vector.'''
    split = lambda array: array.reshape(n, -1, *array.shape[1:])
    step_on = jax.pmap(step, axis_name='devices', devices=jax.devices()[:n])
    parts = step_on(split(images), split(labels))
    vector = lambda part: np.concatenate([leaf[0].ravel() for leaf in jax.tree.leaves(part)])
    return [vector(jax.device_get(part)) for part in parts]


for one, two in zip(on(1), on(2)):
    norm = np.linalg.norm(one)
    assert norm > 0
    assert np.linalg.norm(one - two) / norm < 1e-5
"""


@pytest.mark.parametrize('network', ['toy', pytest.param('resnet18', marks=pytest.mark.slow)])
def test_gradients_and_statistics_of_two_devices(network):
    """Synchronised BatchNorm on one and on two, in float64, where rounding explains nothing."""
    environment = os.environ | {'XLA_FLAGS': f'{FAST} --xla_force_host_platform_device_count=2'}
    result = subprocess.run(
        [sys.executable, '-c', GRADIENTS, network],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.fast
def test_dropout_keeps_the_mean_and_differs_between_examples():
    x, rngs = jnp.ones((4, 2000)), {'dropout': jax.random.key(0)}
    dropped = ExampleDropout(0.3).apply({}, x, deterministic=False, rngs=rngs)
    np.testing.assert_allclose(dropped.mean(1), 1, atol=0.1)
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / 0.7], rtol=1e-6)
    assert (dropped[0] != dropped[1]).any()
    np.testing.assert_array_equal(ExampleDropout(0.3).apply({}, x, deterministic=True), x)


# Weights that Keras published.


@pytest.fixture(scope='module')
def fine_tuning(tmp_path_factory):
    """(config, state before the first step) of a ResNet-50 that starts from a file of Keras."""
    keras_models = pytest.importorskip('keras_models')
    file = tmp_path_factory.mktemp('keras') / 'whole.h5'
    keras_models.create('ResNet50', input_shape=(32, 32, 3), classes=7).save(file)
    config = config_of(model='resnet50', pretrained=str(file))
    task = classification.task_on(config, examples(8, 36), examples(4, 32))
    return config, task.init(jax.random.key(0), task.train_batch(0))


def test_fine_tuning_starts_at_the_weights_of_the_file_with_a_new_head(fine_tuning):
    config, state = fine_tuning
    model = models.create('resnet50', num_classes=None)
    expected, _ = keras_weights.load(model, config.pretrained)
    params = flatten_dict(state.net.params)
    for path, value in flatten_dict(expected['params']).items():
        np.testing.assert_array_equal(params[path], value)
    assert params['head', 'kernel'].shape == (2048, 2)
    assert params['stem_conv', 'kernel'].shape[2] == 3


def test_a_fine_tuned_classifier_scores_on_the_scale_of_its_weights(fine_tuning):
    config, state = fine_tuning
    variables, _ = checkpoint.split_state(state)
    run = Trained(pathlib.Path(), config, variables, 1, 'latest', '')
    images = examples(3, 32, 2).images
    score = jax.jit(classifier.score(classifier.of_run(run)))(images)

    @jax.jit
    def apply(images):
        return models.create('resnet50').apply(
            {'params': state.net.params, 'batch_stats': state.batch_stats}, images
        )

    scaled = keras_weights.preprocess('resnet50')(to_float(images))
    np.testing.assert_allclose(score, jax.nn.softmax(apply(scaled))[:, 1], atol=1e-5)


# The optimizer.


@pytest.mark.fast
@pytest.mark.parametrize(
    'fields, rates',
    [({}, (1.0, 1.0)), ({'body_rate': 0.1}, (1.0, 0.1)), ({'schedule': 'step'}, (1.0, 1.0))],
    ids=['plain', 'body_rate', 'step'],
)
def test_rates_of_head_and_body(fields, rates):
    """The first step of AdamW moves every weight by its rate, so the rates can be read off."""
    params = {'head': jnp.ones((3, 2)), 'stem': jnp.ones((1, 1, 2, 2))}
    config = config_of(learning_rate=1e-2, weight_decay=0.0, steps=1000, **fields)
    tx = classification.optimizer(config)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    moved = [-float(updates[name].ravel()[0]) / 1e-2 for name in ('head', 'stem')]
    np.testing.assert_allclose(moved, rates, rtol=1e-3)


@pytest.mark.fast
def test_kernels_alone_decay():
    params = {
        'head': {'kernel': jnp.ones((3, 2)), 'bias': jnp.ones(2)},
        'stem': {'kernel': jnp.ones((1, 1, 2, 2)), 'scale': jnp.ones(2)},
    }
    tx = classification.optimizer(config_of(learning_rate=1e-2, weight_decay=0.5))
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert (updates['head']['kernel'] < 0).all() and (updates['stem']['kernel'] < 0).all()
    assert not updates['head']['bias'].any() and not updates['stem']['scale'].any()


@pytest.mark.fast
@pytest.mark.parametrize('warmup', [0, 10])
def test_the_thawed_body_never_steps_beyond_its_rate(warmup):
    """Gradients of the frozen phase leave no trace in its moments; its rate rises from the thaw."""
    config = config_of(
        learning_rate=1.0,
        weight_decay=0.0,
        steps=10_000,
        body_rate=0.1,
        freeze_steps=40,
        warmup_steps=warmup,
    )
    tx = classification.optimizer(config)

    @jax.jit
    def updated(net, grads):
        updates, opt_state = tx.update(grads, net.opt_state, net.params)
        return Net(optax.apply_updates(net.params, updates), opt_state)

    net = Net.create({'head': jnp.ones(2), 'stem': jnp.ones(2)}, tx)
    sizes = []
    for step in range(60):
        frozen = step < 40
        new = updated(net, {'head': jnp.ones(2), 'stem': jnp.full(2, 0.0 if frozen else 1.0)})
        if frozen:
            new = classification.only_head(net, new)
        sizes.append(float(net.params['stem'][0] - new.params['stem'][0]))
        net = new
    assert not any(sizes[:40]) and max(sizes) < 0.1001
    np.testing.assert_allclose(sizes[50:], 0.1, rtol=1e-2)
    np.testing.assert_allclose(sizes[40], 0.1 / max(warmup, 1), rtol=1e-2)


@pytest.mark.parametrize('name', ['vgg16', 'resnet18'])
def test_a_state_survives_a_checkpoint(name):
    """Two rates, and for VGG no running statistics. Every leaf has a number of its own."""
    task = classification.task_on(
        config_of(model=name, freeze_steps=1), examples(8, 36), examples(4, 32)
    )
    shapes = jax.eval_shape(task.init, jax.random.key(0), task.train_batch(0))
    structure = jax.tree.structure(shapes)
    state = jax.tree.unflatten(structure, range(structure.num_leaves))
    empty = jax.tree.map(lambda leaf: -1, state)
    assert checkpoint.join_state(empty, *checkpoint.split_state(state)) == state


@pytest.mark.fast
@pytest.mark.parametrize(
    'name, expected',
    [
        ('cosine', {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.5, 100: 0.0}),
        ('step', {0: 0.0, 5: 0.5, 10: 1.0, 49: 1.0, 51: 0.1, 74: 0.1, 76: 0.01, 100: 0.01}),
    ],
)
def test_schedules(name, expected):
    schedule = optimizer.SCHEDULES[name](1.0, 10, 100)
    rates = [schedule(step) for step in expected]
    np.testing.assert_allclose(rates, list(expected.values()), atol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize('n', [2, 3, 4])
def test_balanced_class_weights_are_those_of_scikit_learn(n):
    """On labels of which one class has more than the others."""
    labels = np.array([0, 0, *range(n)] * 5)
    balanced = classification.class_weights(config_of(class_weights='balanced'), labels, n)
    expected = compute_class_weight('balanced', classes=np.arange(n), y=labels)
    np.testing.assert_allclose(balanced, expected, rtol=1e-6)
    np.testing.assert_allclose(balanced[labels].mean(), 1, rtol=1e-6)
    equal = classification.class_weights(config_of(), labels, n)
    assert equal.shape == (n,) and (equal == 1).all()


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'freeze_steps': 4}, 'config.freeze_steps=4.*config.steps=4'),
        ({'schedule': 'step', 'warmup_steps': 2}, 'config.warmup_steps=2'),
        ({'schedule': 'linear'}, 'config.schedule=linear.*cosine, step'),
        ({'class_weights': 'equal'}, "config.class_weights=equal.*'', balanced"),
        ({'dtype': 'float16'}, 'config.dtype=float16.*bfloat16'),
        ({'model': 'resnet50', 'pretrained': 'none.h5'}, 'none.h5: no such file'),
        ({'train': ''}, 'config.train is empty'),
        (
            {'train': 'covid_ct:train@covid'},
            'both classes, noncovid and covid, and has none of non',
        ),
        ({'val': 'covid_ct:validation@noncovid'}, 'config.val.*has none of covid'),
        ({'val': 'luna16_patches/nodules:test'}, 'config.val'),
    ],
    ids=str,
)
def test_wrong_configs(data_dir, fields, message):
    with pytest.raises(InputError, match=message):
        task = classification.make(config_of(data_dir=data_dir, **fields))
        task.init(jax.random.key(0), task.train_batch(0))


def test_a_training_elsewhere_finds_the_programs_of_the_last_one(data_dir, tmp_path):
    """What is compiled is the same in every workdir."""
    cache = {
        'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'cache'),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }
    words = launching.training_of(tmp_path, 'classifier', data_dir=data_dir)
    programs = []
    for workdir in (tmp_path / 'a', tmp_path / 'b' / 'with a longer name'):
        command = [sys.executable, 'launch.py', *words, f'--workdir={workdir}']
        subprocess.run(command, cwd=ROOT, env=os.environ | cache, check=True)
        programs.append({file.name for file in (tmp_path / 'cache').glob('*-cache')})
    assert programs[0] and programs[0] == programs[1]
