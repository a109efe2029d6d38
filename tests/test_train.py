"""The loop on a task that is neither network nor image: what it promises to every task."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from jax import lax
from ml_collections import ConfigDict

from covjax import InputError
from covjax.training import loop
from covjax.training.task import AXIS, Net, Task
from covjax.weights import checkpoint
from covjax.weights.checkpoint import join_state, split_state

TRUTH = np.array([2.0, -1.0, 0.5], np.float32)


@struct.dataclass
class State:
    step: jax.Array
    net: Net
    seen: jax.Array


def regression(steps=30, poison=None, stop_at=None, tx=optax.adam(0.1)):
    """Least squares on three weights; `seen` sums what passed through. Poison a step with NaN, or ask to stop at one."""

    def train_batch(step):
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        x = np.random.default_rng(step).normal(size=(4, 3)).astype(np.float32)
        return {'x': x * (np.nan if step == poison else 1), 'y': x @ TRUTH}

    def init(rng, batch):
        return State(jnp.zeros((), jnp.int32), Net.create({'w': jnp.zeros(3)}, tx), jnp.zeros(()))

    def train_step(state, batch, rng):
        loss = lambda params: ((batch['x'] @ params['w'] - batch['y']) ** 2).mean()
        value, grads = jax.value_and_grad(loss)(state.net.params)
        state = State(
            state.step + 1,
            state.net.update(grads, tx),
            state.seen + lax.psum(jax.random.uniform(rng), AXIS),
        )
        return state, {'loss': lax.pmean(value, AXIS)}

    def eval_batches():
        index = np.arange(7, dtype=np.int32)
        yield_two = [
            {'index': index[:4], 'mask': np.ones(4, bool)},
            {'index': np.array([4, 5, 6, 4], np.int32), 'mask': np.array([1, 1, 1, 0], bool)},
        ]
        return {'': yield_two}

    eval_step = lambda state, batch: {
        'index': batch['index'],
        'score': -state.step * jnp.ones(len(batch['index'])),
        'image': jnp.zeros((len(batch['index']), 2, 2, 1), jnp.uint8),
    }

    def summarize(outputs):
        assert (
            outputs['index'].tolist() == list(range(7)) and len(outputs['image']) == 3
        )  # every example once, a few pictures
        return {'score': outputs['score'].mean()}, {'picture': outputs['image']}

    return Task(train_batch, eval_batches, init, train_step, eval_step, summarize, steps, {})


def fit(config, workdir, **options):
    return loop.fit(regression(config.steps, **options), config, workdir)


def settings(**fields):
    return ConfigDict(
        {
            'steps': 30,
            'batch_size': 4,
            'log_every': 5,
            'eval_every': 10,
            'best': '',
            'seed': 0,
            **fields,
        }
    )


def steps_of(workdir):
    return [
        json.loads(line)['step'] for line in (workdir / 'metrics.jsonl').read_text().splitlines()
    ]


@pytest.fixture(autouse=True)
def three_pictures(monkeypatch):
    monkeypatch.setattr(loop, 'PICTURES', 3)


def test_learns_logs_and_draws(tmp_path):
    state = fit(settings(steps=200, eval_every=100), tmp_path)
    np.testing.assert_allclose(state.net.params['w'], TRUTH, atol=0.02)
    assert int(state.step) == 200
    assert steps_of(tmp_path) == sorted([*range(5, 201, 5), 100, 200])
    assert (tmp_path / 'images' / 'val_picture_000200.png').is_file() and list(
        (tmp_path / 'tensorboard').iterdir()
    )


@pytest.mark.parametrize('best', ['', 'val/score'])
def test_stopping_and_going_on_changes_nothing(tmp_path, capsys, best):
    """SIGTERM in step 13: saved there, exit code 143, and after the second half every number is the same bit by bit."""
    whole = fit(settings(best=best), tmp_path / 'whole')
    with pytest.raises(SystemExit) as stopped:
        fit(settings(best=best), tmp_path / 'parts', stop_at=12)
    assert stopped.value.code == 128 + signal.SIGTERM
    parts = fit(settings(best=best), tmp_path / 'parts')
    assert 'going on after step 13\n' in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert (tmp_path / 'whole' / 'metrics.jsonl').read_text() == (
        tmp_path / 'parts' / 'metrics.jsonl'
    ).read_text()


def test_half_a_line_of_a_killed_run_is_dropped(tmp_path):
    fit(settings(steps=10), tmp_path)
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 15, "train/lo')
    fit(settings(steps=20), tmp_path)
    assert steps_of(tmp_path) == [5, 10, 10, 15, 20, 20]


def test_a_stop_in_the_last_step_is_a_stop(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        fit(settings(), tmp_path, stop_at=29)
    assert stopped.value.code == 128 + signal.SIGTERM and int(fit(settings(), tmp_path).step) == 30


def test_unknown_best_is_told(tmp_path):
    with pytest.raises(InputError, match='config.best=val/auc.*val/score'):
        fit(settings(best='val/auc'), tmp_path)


@pytest.mark.parametrize('part', ['model', 'rest', 'metrics', '.'])
def test_a_damaged_checkpoint_is_set_aside(tmp_path, capsys, part):
    """The best (10) and the two latest (30, 40) are kept; when the latest is damaged the run goes on from the one before and saves it anew."""
    fit(settings(steps=40, best='val/score'), tmp_path)
    folder = tmp_path / 'checkpoints'
    saved = lambda: {path.name for path in folder.iterdir()}
    assert saved() == {'10', '30', '40'}
    for path in (folder / '40' / part).rglob('*'):
        if path.is_file():
            path.write_bytes(b'damaged')
    state = fit(settings(steps=40, best='val/score'), tmp_path)
    assert int(state.step) == 40 and 'can not be restored' in capsys.readouterr().out
    assert saved() == {'10', '30', '40', 'damaged_1_40'}


def test_nan_stops_with_step_and_term(tmp_path):
    with pytest.raises(FloatingPointError, match='loss is nan at step 9'):
        fit(settings(log_every=100), tmp_path, poison=8)
    with pytest.raises(FloatingPointError, match='loss is nan at step 9'):
        fit(settings(log_every=1), tmp_path, poison=8)
    with pytest.raises(FloatingPointError):  # an evaluation between two looks saves no such state
        fit(settings(eval_every=7, log_every=100), tmp_path, poison=4)
    assert not checkpoint.exists(tmp_path)


def test_batch_that_can_not_be_split(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, 'device_count', lambda: 3)
    with pytest.raises(InputError, match='multiple of 3'):
        fit(settings(), tmp_path)


@pytest.mark.parametrize(
    'tx',
    [
        optax.adam(0.1),
        optax.chain(optax.clip(1.0), optax.sgd(0.1)),
        optax.adamw(optax.linear_schedule(1.0, 0.0, 9)),
    ],
    ids=['adam', 'chain', 'schedule'],
)
def test_split_and_join_are_inverse(tx):
    task = regression(tx=tx)
    state = task.init(jax.random.key(0), None)
    model, rest = split_state(state)
    assert (
        model == {'net': {'params': {'w': state.net.params['w']}}}
        and 'step' in rest
        and not any('params' in key.split('/')[:2] and 'opt' not in key for key in rest)
    )
    back = join_state(jax.tree.map(jnp.zeros_like, state), model, rest)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, back, state)
