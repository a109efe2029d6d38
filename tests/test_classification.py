"""The classification task: its devices against one another, its phases and rates, its wrong configs."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import FAST, ROOT
from flax import jax_utils
from flax.traverse_util import flatten_dict
from sklearn.utils.class_weight import compute_class_weight

from configs import classifier as config_file
from covjax import InputError, models
from covjax.data import datasets
from covjax.data.augment import to_float
from covjax.models.layers import ExampleDropout
from covjax.training import classification
from covjax.training.task import AXIS, Net
from covjax.weights import checkpoint
from covjax.weights import keras as keras_weights


def test_two_devices_equal_one(data_dir, tmp_path, launch):
    """Same seed and global batch, dropout and synchronised BatchNorm included: the same losses."""
    keys = {
        'data_dir': data_dir,
        'train': 'covid_ct:train',
        'val': 'covid_ct:validation',
        'image_size': 32,
        'load_size': 36,
        'batch_size': 4,
        'steps': 2,
        'log_every': 1,
        'eval_every': 2,
        'warmup_steps': 0,
        'freeze_steps': 1,
        'dropout': 0.5,
    }
    losses = []
    for devices in (1, 2):
        workdir = tmp_path / f'on_{devices}'
        result = launch(
            '--config=configs/classifier.py:resnet50',
            f'--workdir={workdir}',
            *(f'--config.{key}={value}' for key, value in keys.items()),
            devices=devices,
        )
        assert result.returncode == 0 and f'{devices} x ' in result.stdout, result.stderr
        losses.append(
            [
                json.loads(line)['train/loss']
                for line in (workdir / 'metrics.jsonl').read_text().splitlines()
                if 'train/loss' in line
            ]
        )
    np.testing.assert_allclose(losses[0], losses[1], rtol=5e-3)  # a frozen step, then a whole one


def test_gradients_and_statistics_of_two_devices(tmp_path):
    """Synchronised BatchNorm: gradients and running statistics of one batch on one and on two devices, in float64, where rounding explains nothing."""
    script = """
import jax; jax.config.update('jax_enable_x64', True)
import jax.numpy as jnp, numpy as np, optax
from jax import lax
from covjax import models
rng = np.random.default_rng(0)
images, labels = rng.uniform(-1, 1, (4, 32, 32, 1)), rng.integers(0, 2, 4)
model = models.create('resnet50', axis_name='devices', dtype=jnp.float64)
variables = jax.tree.map(lambda leaf: leaf.astype('float64'), jax.jit(models.create('resnet50').init)(jax.random.key(0), images[:1]))

def step(images, labels):
    def loss(params):
        logits, updated = model.apply({**variables, 'params': params}, images, train=True, mutable=['batch_stats'])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated
    grads, updated = jax.grad(loss, has_aux=True)(variables['params'])
    return lax.pmean((grads, updated), 'devices')

results = []
for n in (1, 2):
    outputs = jax.pmap(step, axis_name='devices', devices=jax.devices()[:n])(images.reshape(n, -1, 32, 32, 1), labels.reshape(n, -1))
    results.append([np.concatenate([np.asarray(leaf[0]).ravel() for leaf in jax.tree.leaves(part)]) for part in outputs])
for one, two in zip(*results):
    assert np.linalg.norm(one) > 0
    error = np.linalg.norm(one - two) / np.linalg.norm(one)
    assert error < 1e-5, error
"""
    environment = os.environ | {'XLA_FLAGS': f'{FAST} --xla_force_host_platform_device_count=2'}
    result = subprocess.run(
        [sys.executable, '-c', script], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_dropout_keeps_the_mean_and_differs_between_examples():
    x = jnp.ones((4, 2000))
    out = ExampleDropout(0.3).apply({}, x, deterministic=False, rngs={'dropout': jax.random.key(0)})
    np.testing.assert_allclose(out.mean(1), 1, atol=0.1)
    assert {round(float(v), 4) for v in np.unique(out)} == {0.0, round(1 / 0.7, 4)} and (
        out[0] != out[1]
    ).any()
    np.testing.assert_array_equal(ExampleDropout(0.3).apply({}, x, deterministic=True), x)


def config_of(data_dir, **fields):
    config = config_file.get_config('resnet50')
    config.update(
        {
            'data_dir': data_dir,
            'train': 'covid_ct:train',
            'val': 'covid_ct:validation',
            'image_size': 32,
            'load_size': 32,
            'batch_size': 4,
            'steps': 4,
            'eval_every': 4,
            'log_every': 4,
            'warmup_steps': 0,
            **fields,
        }
    )
    return config


def changed(before, after):
    """{'head': bool, 'body': bool, 'batch_stats': bool}: whether any of it moved."""
    moved = lambda a, b: any(
        (np.asarray(x) != np.asarray(y)).any()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
    split = lambda state: {
        'head': state.net.params['head'],
        'body': {k: v for k, v in state.net.params.items() if k != 'head'},
        'batch_stats': state.batch_stats,
    }
    return {name: moved(split(before)[name], split(after)[name]) for name in split(before)}


@pytest.fixture(scope='module')
def stepper():
    """stepper(config) -> (states before, after 1, after 2, ... steps) of the task, as the loop would take them on one device."""

    def states(config, steps):
        task = classification.make(config)
        state = task.init(
            jax.random.key(0), {name: array[:1] for name, array in task.train_batch(0).items()}
        )
        step_fn = jax.pmap(task.train_step, axis_name=AXIS, in_axes=(0, 0, None))
        found = [state]
        for step in range(steps):
            batch = {
                name: array.reshape(1, *array.shape)
                for name, array in task.train_batch(step).items()
            }
            state, scalars = step_fn(
                jax_utils.replicate(state), batch, jax.random.fold_in(jax.random.key(1), step)
            )
            assert np.isfinite(float(scalars['loss'][0]))
            state = jax_utils.unreplicate(state)
            found.append(state)
        return found

    return states


def test_frozen_then_thawed(data_dir, stepper):
    """While frozen only the head moves, BatchNorm statistics included; afterwards everything does."""
    before, frozen, thawed = stepper(config_of(data_dir, freeze_steps=1, dropout=0.2), 2)
    assert changed(before, frozen) == {'head': True, 'body': False, 'batch_stats': False}
    assert changed(frozen, thawed) == {'head': True, 'body': True, 'batch_stats': True}


def test_fine_tuning_from_a_keras_file(data_dir, stepper, tmp_path):
    """Starts at the weights of the file, with a new head, on their input scale; body_rate=0 keeps them."""
    keras = pytest.importorskip('keras')
    keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=7).save(
        tmp_path / 'whole.h5'
    )
    config = config_of(
        data_dir, pretrained=str(tmp_path / 'whole.h5'), body_rate=0.0, weight_decay=0.1
    )
    before, after = stepper(config, 1)
    expected, preprocess = keras_weights.load(
        models.create('resnet50', num_classes=None), config.pretrained
    )
    for path, value in flatten_dict(expected['params']).items():
        np.testing.assert_array_equal(flatten_dict(before.net.params)[path], value)
    assert (
        before.net.params['head']['kernel'].shape == (2048, 2)
        and before.net.params['stem_conv']['kernel'].shape[2] == 3
    )
    assert changed(before, after) == {'head': True, 'body': False, 'batch_stats': True}
    images = datasets.read('covid_ct:test', data_dir, 32).images
    state = {'net': {'params': after.net.params}, 'batch_stats': after.batch_stats}
    logits = models.create('resnet50').apply(
        {'params': after.net.params, 'batch_stats': after.batch_stats}, preprocess(to_float(images))
    )
    np.testing.assert_allclose(
        classification.score(config, state)(images), jax.nn.softmax(logits)[:, 1], atol=1e-5
    )


def test_rates_of_head_and_body(data_dir):
    """One step of AdamW moves every weight by its rate, but for those that decay: so the rates can be read off."""
    params = {
        'head': {'kernel': jnp.ones((3, 2)), 'bias': jnp.zeros(2)},
        'stem': {'kernel': jnp.ones((1, 1, 2, 2)), 'scale': jnp.ones(2)},
    }
    for fields, expected in (
        (dict(), (1.0, 1.0)),
        (dict(body_rate=0.1), (1.0, 0.1)),
        (dict(schedule='step'), (1.0, 1.0)),
    ):
        tx = classification.optimizer(
            config_of(data_dir, learning_rate=1e-2, weight_decay=0.0, steps=1000, **fields)
        )
        updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
        got = [
            -float(jax.tree.leaves(updates[name])[0].ravel()[0]) / 1e-2 for name in ('head', 'stem')
        ]
        np.testing.assert_allclose(got, expected, rtol=1e-3)
    tx = classification.optimizer(config_of(data_dir, learning_rate=1e-2, weight_decay=0.5))
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert (updates['head']['kernel'] < 0).all() and (updates['stem']['kernel'] < 0).all()
    assert not updates['head']['bias'].any() and not updates['stem']['scale'].any()


@pytest.mark.parametrize('warmup', [0, 10])
def test_the_thawed_body_never_steps_beyond_its_rate(data_dir, warmup):
    """Gradients of the frozen phase leave no trace in the body's moments; its rate rises from the first step that moves it."""
    tx = classification.optimizer(
        config_of(
            data_dir,
            learning_rate=1.0,
            weight_decay=0.0,
            steps=10_000,
            body_rate=0.1,
            freeze_steps=40,
            warmup_steps=warmup,
        )
    )
    net, sizes = Net.create({'head': jnp.ones(2), 'stem': jnp.ones(2)}, tx), []
    for step in range(60):
        frozen = step < 40
        updates, opt_state = tx.update(
            {'head': jnp.ones(2), 'stem': jnp.full(2, 0.0 if frozen else 1.0)},
            net.opt_state,
            net.params,
        )
        new = Net(optax.apply_updates(net.params, updates), opt_state)
        new = classification.only_head(net, new) if frozen else new
        sizes.append(float(net.params['stem'][0] - new.params['stem'][0]))
        net = new
    assert not any(sizes[:40]) and max(sizes) < 0.1001
    np.testing.assert_allclose(sizes[50:], 0.1, rtol=1e-2)
    np.testing.assert_allclose(sizes[40], 0.1 / max(warmup, 1), rtol=1e-2)


@pytest.mark.parametrize('name', ['vgg16', 'resnet50'])
def test_a_state_survives_a_checkpoint(data_dir, name):
    """Two rates, and for VGG no running statistics."""
    task = classification.make(config_of(data_dir, model=name, freeze_steps=1))
    state = task.init(jax.random.key(0), task.train_batch(0))
    back = checkpoint.join_state(
        jax.tree.map(jnp.zeros_like, state), *checkpoint.split_state(state)
    )
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, back, state)


@pytest.mark.parametrize(
    'name, expected',
    [
        ('cosine', {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.5, 100: 0.0}),
        ('step', {0: 0.0, 5: 0.5, 10: 1.0, 49: 1.0, 51: 0.1, 74: 0.1, 76: 0.01, 100: 0.01}),
    ],
)
def test_schedules(name, expected):
    schedule = classification.SCHEDULES[name](1.0, 10, 100)
    np.testing.assert_allclose(
        [schedule(step) for step in expected], list(expected.values()), atol=1e-6
    )


def test_class_weights(data_dir):
    """Against scikit-learn, on labels of which one class has three times as many."""
    labels = np.array([0, 0, 0, 1] * 5)
    balanced = classification._class_weights(config_of(data_dir, class_weights='balanced'), labels)
    np.testing.assert_allclose(
        balanced, compute_class_weight('balanced', classes=np.array([0, 1]), y=labels), rtol=1e-6
    )
    np.testing.assert_allclose(balanced[labels].mean(), 1, rtol=1e-6)
    np.testing.assert_array_equal(classification._class_weights(config_of(data_dir), labels), 1)


@pytest.mark.parametrize(
    'fields, message',
    [
        (dict(freeze_steps=4), 'config.freeze_steps=4.*config.steps=4'),
        (dict(schedule='step', warmup_steps=2), 'config.warmup_steps=2'),
        (dict(schedule='linear'), 'config.schedule=linear.*cosine, step'),
        (dict(class_weights='equal'), 'config.class_weights=equal'),
        (dict(dtype='float16'), 'config.dtype=float16.*bfloat16'),
        (dict(pretrained='none.h5'), 'none.h5: no such file'),
        (dict(train=''), 'config.train is empty'),
        (dict(train='covid_ct:train@covid'), 'both classes'),
        (dict(val='luna16_patches/nodules:test'), 'config.val'),
    ],
)
def test_wrong_configs(data_dir, fields, message):
    with pytest.raises(InputError, match=message):
        task = classification.make(config_of(data_dir, **fields))
        task.init(jax.random.key(0), task.train_batch(0))
