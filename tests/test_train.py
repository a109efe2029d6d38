"""The loop on a task that is neither network nor image: what it promises to every task."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT
from flax import struct
from jax import lax
from ml_collections import ConfigDict
from tensorboardX.proto.event_pb2 import Event

from covjax import InputError, Stopped, provenance
from covjax.training import devices, loop
from covjax.training.log import Log
from covjax.training.task import AXIS, Net, Task
from covjax.weights import checkpoint
from covjax.weights.checkpoint import join_state, split_state

pytestmark = pytest.mark.fast

TRUTH = np.array([2.0, -1.0, 0.5], np.float32)
EXAMPLES = 7  # of the evaluation
ADAM = optax.adam(0.1)
# Of threads that Orbax leaves behind with damaged files; launch.py does not show them.
UNRAISABLE = 'ignore::pytest.PytestUnraisableExceptionWarning'


@struct.dataclass
class State:
    step: jax.Array
    net: Net
    seen: jax.Array


def regression(steps=30, poison=None, stop_at=None, tx=ADAM):
    """The Task of least squares on three weights; `seen` sums what was drawn from the rng.

    Args:
        steps: of the whole training.
        poison: the step whose batch is NaN.
        stop_at: the step in which the process is asked to stop.
        tx: the optimizer.
    """

    def train_batch(step):
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        x = np.random.default_rng(step).normal(size=(4, 3)).astype(np.float32)
        factor = np.nan if step == poison else 1
        return {'x': x * factor, 'y': x @ TRUTH}

    def init(rng, batch):
        net = Net.create({'w': jnp.zeros(3)}, tx)
        return State(jnp.zeros((), jnp.int32), net, jnp.zeros(()))

    def train_step(state, batch, rng):
        loss = lambda params: ((batch['x'] @ params['w'] - batch['y']) ** 2).mean()
        value, grads = jax.value_and_grad(loss)(state.net.params)
        seen = state.seen + lax.psum(jax.random.uniform(rng), AXIS)
        state = State(state.step + 1, state.net.update(grads, tx), seen)
        return state, {'loss': lax.pmean(value, AXIS)}

    return Task(
        train_batch=train_batch,
        eval_batches=eval_batches,
        init=init,
        train_step=train_step,
        eval_step=eval_step,
        summarize=summarize,
        steps=steps,
        sources={},
        scalars=('val/score',),
    )


def eval_batches():
    whole = {'index': np.arange(4, dtype=np.int32), 'mask': np.ones(4, bool)}
    filled_up = {
        'index': np.array([4, 5, 6, 4], np.int32),
        'mask': np.array([True, True, True, False]),
    }
    return {'': [whole, filled_up]}


def eval_step(state, batch):
    n = len(batch['index'])
    return {
        'index': batch['index'],
        'score': -state.step * jnp.ones(n),
        'image': jnp.zeros((n, 2, 2, 1), jnp.uint8),
    }


def summarize(outputs):
    """Checks that every example is here once, and as many pictures as the loop keeps."""
    assert outputs['index'].tolist() == list(range(EXAMPLES))
    assert len(outputs['image']) == loop.PICTURES
    return {'score': outputs['score'].mean()}, {'picture': outputs['image']}


def fit(config, workdir, **options):
    return loop.fit(regression(config.steps, **options), config, workdir)


def settings(**fields):
    defaults = {
        'steps': 30,
        'batch_size': 4,
        'log_every': 5,
        'eval_every': 10,
        'best': '',
        'seed': 0,
    }
    return ConfigDict(defaults | fields)


def steps_of(workdir):
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    return [json.loads(line)['step'] for line in lines]


@pytest.fixture(autouse=True)
def three_pictures(monkeypatch):
    monkeypatch.setattr(loop, 'PICTURES', 3)


def test_learns_logs_and_draws(tmp_path):
    state = fit(settings(steps=200, eval_every=100), tmp_path)
    np.testing.assert_allclose(state.net.params['w'], TRUTH, atol=0.02)
    assert int(state.step) == 200
    assert steps_of(tmp_path) == sorted([*range(5, 201, 5), 100, 200])
    assert (tmp_path / 'images' / 'val_picture_000200.png').is_file()
    assert any((tmp_path / 'tensorboard').iterdir())


def events_of(folder):
    """[Event] of every file for TensorBoard, in the order of names."""
    events = []
    for path in sorted((folder / 'tensorboard').iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):  # length (8 bytes), its checksum (4), an event, its checksum
            length = int.from_bytes(content[place : place + 8], 'little')
            events.append(Event.FromString(content[place + 12 : place + 12 + length]))
            place += length + 16
    return events


def points_of(events):
    return [
        (event.step, value.tag, np.float32(value.simple_value))
        for event in events
        for value in event.summary.value
        if value.HasField('simple_value')
    ]


def test_tensorboard_has_the_numbers_of_the_log(tmp_path):
    """A session that goes on says from where, so that TensorBoard hides what came later before."""
    with pytest.raises(Stopped):
        fit(settings(), tmp_path, stop_at=12)
    fit(settings(), tmp_path)
    lines = map(json.loads, (tmp_path / 'metrics.jsonl').read_text().splitlines())
    expected = [
        (line['step'], name, np.float32(value))
        for line in lines
        for name, value in line.items()
        if name != 'step'
    ]
    events = events_of(tmp_path)
    assert sorted(points_of(events)) == sorted(expected)
    assert [event.step for event in events if event.HasField('session_log')] == [14]
    pictures = [event for event in events if any(v.HasField('image') for v in event.summary.value)]
    assert pictures and all(event.wall_time for event in events)


@pytest.mark.parametrize('full', [1, 3, 1000])
def test_a_limit_on_the_size_of_files_ends_a_run_and_hangs_nothing(tmp_path, full):
    """The log is written at once: an error comes where it arises, not in a thread that then dies.

    Limits are in KiB, and count for the process that sets them.
    """
    code = (
        f'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({full << 10},) * 2)\n'
        'import pathlib, sys\n'
        'from covjax.training.log import Log\n'
        'with Log(pathlib.Path(sys.argv[1]), 0, 10**6) as log:\n'
        '    for step in range(1, 2000): log.scalars(step, {"loss": 1.0})\n'
    )
    words = [sys.executable, '-c', code, str(tmp_path)]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (ended.returncode == 0) is (full == 1000), ended.stderr
    assert full == 1000 or 'File too large' in ended.stderr


@pytest.mark.parametrize('best', ['', 'val/score'])
def test_stopping_and_going_on_changes_nothing(tmp_path, capfd, best):
    """SIGTERM in step 13: saved there, and after the second half every number is the same."""
    whole = fit(settings(best=best), tmp_path / 'whole')
    with pytest.raises(Stopped) as stopped:
        fit(settings(best=best), tmp_path / 'parts', stop_at=12)
    assert stopped.value.signal == signal.SIGTERM
    printed = capfd.readouterr().out
    assert 'SIGTERM: saving after this step; once more stops at once' in printed
    assert 'stopped after step 13;' in printed
    parts = fit(settings(best=best), tmp_path / 'parts')
    assert 'going on after step 13\n' in capfd.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    logs = [(tmp_path / name / 'metrics.jsonl').read_text() for name in ('whole', 'parts')]
    assert logs[0] == logs[1]


def test_rates_and_time_left_do_not_count_the_compiler(tmp_path, capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr('time.monotonic', lambda: clock[0])
    with Log(tmp_path, 0, 100) as log:
        for step, passed in ((1, 600.0), (2, 0.5), (10, 4.0)):
            clock[0] += passed
            if step == 1:
                log.first_step(step)
            log.scalars(step, {'loss': 1.0})
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        'compiling the step',
        'first step after 10m00s',
        'step 1/100  loss 1',
        'step 2/100  loss 1  2 steps/s, 49s left',
        'step 10/100  loss 1  2 steps/s, 45s left',
    ]


def test_half_a_line_of_a_killed_run_is_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, 'beside', lambda *_: {})  # so that it may become longer
    fit(settings(steps=10), tmp_path)
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 15, "train/lo')
    fit(settings(steps=20), tmp_path)
    assert steps_of(tmp_path) == [5, 10, 10, 15, 20, 20]


def test_a_stop_in_the_last_step_is_a_stop(tmp_path):
    with pytest.raises(Stopped):
        fit(settings(), tmp_path, stop_at=29)
    assert int(fit(settings(), tmp_path).step) == 30


def test_handlers_of_signals_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        fit(settings(), tmp_path, stop_at=3)
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_unknown_best_is_refused(tmp_path):
    with pytest.raises(InputError, match='config.best=val/auc.*val/score'):
        fit(settings(best='val/auc'), tmp_path)
    assert not [*tmp_path.iterdir()]  # before the first step


@pytest.mark.parametrize(
    'name, expected', [('', None), ('val/score', 3.0), ('-val/score', -3.0)], ids=str
)
def test_the_highest_number_is_best_and_a_minus_turns_it_round(name, expected):
    assert loop.best_of({'val/score': 3.0}, name) == expected


@pytest.mark.parametrize('part', ['model', 'rest', 'metrics', '.'])
@pytest.mark.filterwarnings(UNRAISABLE)
def test_a_damaged_checkpoint_is_set_aside(tmp_path, capsys, part):
    """The best (10) and the two latest (30, 40) are kept.

    When the latest is damaged the run goes on from the one before, and saves it anew.
    """
    config = settings(steps=40, best='val/score')
    fit(config, tmp_path)
    folder = tmp_path / 'checkpoints'
    saved = lambda: {path.name for path in folder.iterdir()}
    assert saved() == {'10', '30', '40'}
    for path in (folder / '40' / part).rglob('*'):
        if path.is_file():
            path.write_bytes(b'damaged')
    assert int(fit(config, tmp_path).step) == 40
    assert '40: is damaged' in capsys.readouterr().out
    assert saved() == {'10', '30', '40', 'damaged_1_40'}


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """(workdir with the checkpoints 1 and 2 of many weights, their states by step)."""
    folder, rng = tmp_path_factory.mktemp('weights'), np.random.default_rng(0)
    states = {}
    with checkpoint.manager(folder, 'val/score') as checkpoints:
        for step in (1, 2):
            params = {'w': rng.normal(size=20_000).astype(np.float32)}
            net = jax.device_get(Net.create(params, ADAM))
            states[step] = State(np.int32(step), net, np.float32(0))
            checkpoint.save(checkpoints, step, states[step], float(step))
    return folder, states


def flipped_files(folder, rng):
    """Files in which a bit is to be flipped: each once, and those that hold arrays more often."""
    files = [path for path in sorted(folder.rglob('*')) if path.is_file()]
    large = [path for path in files if path.stat().st_size > 10_000]
    return [path.relative_to(folder) for path in files + 4 * large]


def equal(first, second):
    return all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(second)))


@pytest.mark.filterwarnings(UNRAISABLE)
@pytest.mark.parametrize('rounds', [1, pytest.param(6, marks=pytest.mark.slow)])
def test_a_flipped_bit_is_never_believed(weights, tmp_path, rounds):
    """Arrays are those that were written, of the latest checkpoint or one before, or none."""
    (folder, states), rng = weights, np.random.default_rng(1)
    refused = set_aside = 0
    names = flipped_files(folder / 'checkpoints' / '2', rng) * rounds
    assert rounds == 1 or len(names) >= 60
    for i, name in enumerate(names):
        workdir = shutil.copytree(folder, tmp_path / str(i))
        path = workdir / 'checkpoints' / '2' / name
        content = bytearray(path.read_bytes())
        if content:
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            model, _, step = checkpoint.load_model(workdir, 'generator', True, True)
            assert equal(model, split_state(states[step])[0])
        except InputError as error:
            assert f'config.generator={workdir}: a checkpoint there is damaged' in str(error)
            refused += 1
        with checkpoint.manager(workdir, 'val/score') as checkpoints:
            state = checkpoint.restore_latest(checkpoints, states[1])
        assert equal(state, states[int(state.step)])
        set_aside += int(state.step) == 1
    assert refused >= 4 and set_aside >= 4


def test_a_run_without_a_sound_checkpoint_never_begins_anew(tmp_path, capsys):
    fit(settings(), tmp_path)
    for path in (tmp_path / 'checkpoints').rglob('model/**/*'):
        if path.is_file():
            path.write_bytes(b'damaged')
    for _ in range(2):
        with pytest.raises(InputError, match='none of the . checkpoints there is sound; choose an'):
            fit(settings(), tmp_path)
    with pytest.raises(InputError, match='remove the folders damaged_'):
        checkpoint.exists(tmp_path)


@pytest.mark.parametrize('tx, what', [(optax.sgd(0.1), 'opt_state'), (optax.lion(0.1), 'nu')])
def test_a_checkpoint_of_another_state_is_refused_and_stays(tmp_path, tx, what):
    fit(settings(), tmp_path)
    kept = {path.name for path in (tmp_path / 'checkpoints').iterdir()}
    with pytest.raises(InputError, match=f'the checkpoint has .* for .*{what}.* makes nothing'):
        fit(settings(), tmp_path, tx=tx)
    assert {path.name for path in (tmp_path / 'checkpoints').iterdir()} == kept


def test_a_reader_goes_on_where_a_checkpoint_goes_away_meanwhile(weights, tmp_path, monkeypatch):
    """The run that is read is training: it removes old checkpoints when it saves new ones."""
    folder, states = weights
    workdir, read = shutil.copytree(folder, tmp_path / 'run'), checkpoint._read_model

    def gone_first(checkpoints, step):
        if step == 2:
            shutil.rmtree(workdir / 'checkpoints' / '2')
            raise FileNotFoundError
        return read(checkpoints, step)

    monkeypatch.setattr(checkpoint, '_read_model', gone_first)
    model, _, step = checkpoint.load_model(workdir, 'generator', False, True)
    assert step == 1 and equal(model, split_state(states[1])[0])


@pytest.mark.parametrize('log_every', [1, 100])
def test_nan_stops_with_step_and_term(tmp_path, log_every):
    with pytest.raises(FloatingPointError, match='loss is nan at step 9'):
        fit(settings(log_every=log_every), tmp_path, poison=8)


def test_a_state_with_nan_is_never_saved(tmp_path):
    """An evaluation between two looks at the scalars looks first."""
    with pytest.raises(FloatingPointError):
        fit(settings(eval_every=7, log_every=100), tmp_path, poison=4)
    assert not checkpoint.exists(tmp_path)


def test_a_batch_that_cannot_be_split_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, 'device_count', lambda: 3)
    with pytest.raises(InputError, match='multiple of 3'):
        fit(settings(), tmp_path)


OPTIMIZERS = {
    'adam': ADAM,
    'chain': optax.chain(optax.clip(1.0), optax.sgd(0.1)),
    'schedule': optax.adamw(optax.linear_schedule(1.0, 0.0, 9)),
}


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_split_and_join_are_inverse(name):
    task = regression(tx=OPTIMIZERS[name])
    state = task.init(jax.random.key(0), None)
    model, rest = split_state(state)
    back = join_state(jax.tree.map(jnp.zeros_like, state), model, rest)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, back, state)


def test_the_model_of_a_state_is_its_parameters_and_nothing_else():
    state = regression().init(jax.random.key(0), None)
    model, rest = split_state(state)
    assert model == {'net': {'params': {'w': state.net.params['w']}}}
    assert 'step' in rest
    assert not any(key.startswith('net/params') for key in rest)


@pytest.mark.parametrize(
    'name', ['cyclegan', 'classifier', 'segmentation', 'segmentation:vbnet', 'pairs']
)
def test_what_no_machine_has_room_for_is_refused_before_it_is_made(name, monkeypatch):
    name, *variant = name.split(':')
    config = importlib.import_module(f'configs.{name}').get_config(*variant)
    devices.check_batch(config)
    monkeypatch.setattr(devices, 'memory', lambda: 1000)
    with pytest.raises(InputError, match=r'config.batch_size=\d+: .* GiB, more than the 0.0 GiB'):
        devices.check_batch(config)
    with pytest.raises(InputError, match='the network and its optimizer take .* GiB'):
        devices.check_state({'w': jax.ShapeDtypeStruct((251,), jnp.float32)})
    devices.check_state({'w': jax.ShapeDtypeStruct((250,), jnp.float32)})


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_the_memory_of_this_machine_is_known():
    with open('/proc/meminfo', encoding='ascii') as file:
        total = int(file.readline().split()[1]) * 1024
    assert devices.memory() == pytest.approx(total, rel=0.01)


@pytest.mark.parametrize('changed', [{'batch_size': 8}, {'steps': 40}, {'seed': 1}])
def test_a_run_does_not_go_on_with_another_config(tmp_path, changed):
    """Whatever config.json says by now."""
    fit(settings(), tmp_path)
    with pytest.raises(InputError, match='was begun with another config.json'):
        fit(settings(**changed), tmp_path)
    fit(settings(), tmp_path)
