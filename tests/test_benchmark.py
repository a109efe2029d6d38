"""The benchmark counts right and fills its table; how fast anything is, it alone says."""

import csv
import json
import os
import re
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from flax import struct

from configs import benchmark as benchmark_config
from configs import cyclegan as cyclegan_config
from covjax import InputError
from covjax.runs import benchmark
from covjax.training.task import Task


@pytest.mark.fast
@pytest.mark.parametrize('identity, tera', [(0.0, 1.26), (0.5, 1.86)])
def test_counted_operations_are_the_published_ones(identity, tera):
    """For one pair of 256x256, and for four of 128x128."""
    config = cyclegan_config.get_config()
    config.update({'lambda_identity': identity, 'batch_size': 1})
    assert abs(benchmark.step_flops(config) / 1e12 - tera) < 0.02
    config.update({'image_size': 128, 'batch_size': 4})
    assert abs(benchmark.step_flops(config) / 1e12 - tera) < 0.03


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    """The folder of a benchmark at toy size."""
    folder = tmp_path_factory.mktemp('benchmark')
    config = benchmark_config.get_config()
    config.update(
        {
            'image_size': (32,),
            'batch_size': (2,),
            'rounds': 1,
            'steps': 1,
            'warmup': 1,
            'peak_tflops': 1.0,
            'cyclegan': {'gen_filters': 2, 'gen_blocks': 1, 'disc_filters': 2},
        }
    )
    benchmark.run(config, folder)
    return folder


@pytest.fixture
def row(measured):
    with (measured / 'benchmark.csv').open() as file:
        (row,) = csv.DictReader(file)
    return row


def test_the_table_has_every_number(row):
    assert (row['image_size'], row['batch_size'], row['dtype']) == ('32', '2', 'float32')
    assert float(row['first_seconds']) > 0 and float(row['seconds']) > 0
    assert float(row['pairs_per_second']) == pytest.approx(2 / float(row['seconds']))
    assert 0 <= float(row['waiting']) < 1
    assert float(row['peak_gib']) > 0.1
    assert float(row['of_peak']) == pytest.approx(float(row['tflops']))


def test_the_peer_stands_beside_it_where_pytorch_is_installed(row, measured):
    numbers = [row[name] for name in ('peer_seconds', 'peer_peak_gib', 'ratio')]
    (whole,) = json.loads((measured / 'benchmark.json').read_text())
    numbers.append(whole['peer_first_seconds'])
    if benchmark.has_torch():
        assert all(float(number) > 0 for number in numbers)
    else:
        assert not any(numbers)


def test_the_table_is_written_for_programs_and_for_people(measured):
    (row,) = json.loads((measured / 'benchmark.json').read_text())
    assert row['machine']['devices'] == 1 and len(row['all_seconds']) == 1
    assert '| image |' in (measured / 'benchmark.md').read_text()


@struct.dataclass
class State:
    step: jax.Array
    matrix: jax.Array


def multiplying(train_batch):
    """A Task of these batches whose step takes some milliseconds."""

    def train_step(state, batch, rng):
        matrix = jnp.cos(state.matrix @ state.matrix + batch['x'].mean())
        return State(state.step + 1, matrix), {'mean': matrix.mean()}

    init = lambda rng, batch: State(jnp.int32(0), jnp.ones((500, 500)))
    return Task(
        train_batch=train_batch,
        eval_batches=dict,
        init=init,
        train_step=train_step,
        eval_step=lambda state, batch: {},
        summarize=lambda outputs: ({}, {}),
        steps=99,
        sources={},
    )


@pytest.mark.fast
def test_slow_input_is_seen():
    """A batch that takes longer than the step makes the devices wait; one at hand does not."""
    delay = 0.0

    def train_batch(step):
        time.sleep(delay)
        return {'x': np.ones((2, 3), np.float32)}

    clock = benchmark.Clock(multiplying(train_batch))
    clock.steps(2)

    def timed(steps):
        """(seconds of all steps, seconds of them that the devices waited)."""
        clock.waited = 0.0
        return clock.steps(steps) * steps, clock.waited

    seconds, waited = timed(12)
    assert waited < 0.1 * seconds + 0.02
    delay = 0.1
    seconds, waited = timed(12)
    assert waited > 0.8 * seconds


@pytest.mark.fast
@pytest.mark.parametrize(
    'fields, message',
    [
        ({'image_size': (64,)}, 'as many of one'),
        ({'peer': 'nowhere.py'}, 'config.peer=nowhere.py'),
    ],
    ids=['pairs', 'peer'],
)
def test_wrong_keys_are_refused(tmp_path, fields, message):
    config = benchmark_config.get_config()
    config.update(fields)
    with pytest.raises(InputError, match=message):
        benchmark.run(config, tmp_path)


def test_a_peer_that_ends_early_is_reported(tmp_path):
    pytest.importorskip('torch')
    (tmp_path / 'peer.py').write_text("print('{}')")
    config = benchmark_config.get_config()
    config.peer = str(tmp_path / 'peer.py')
    with pytest.raises(InputError, match='ended early'):
        with benchmark.peer(config, config.cyclegan) as ask:
            ask(1)


@pytest.mark.fast
@pytest.mark.parametrize(
    'key, value, text',
    [
        ('of_peak', 0.254, '25%'),
        ('waiting', 0.0012, '0.12%'),
        ('seconds', 1.23456, '1.23'),
        ('image_size', 1024, '1024'),
        ('dtype', 'bfloat16', 'bfloat16'),
        ('ratio', None, ''),
    ],
)
def test_numbers_as_people_read_them(key, value, text):
    assert benchmark.shown(key, value) == text


BEGIN = """
import runpy, sys
sys.path[0] = sys.argv[1]  # as when a script of that folder is run
runpy.run_path(sys.argv[2], run_name='script')
"""
FOLDER = ROOT / 'benchmarks'
FROM_HERE = re.compile(r'^(from|import) (configs|benchmarks|tests)\b', re.MULTILINE)
SCRIPTS = [path for path in sorted(FOLDER.glob('*.py')) if FROM_HERE.search(path.read_text())]


@pytest.mark.fast
@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.stem)
def test_a_program_finds_what_is_not_installed(script, tmp_path):
    """Configs, from any folder, without the repository on the path."""
    command = [sys.executable, '-c', BEGIN, str(FOLDER), str(script)]
    others = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    done = subprocess.run(command, cwd=tmp_path, env=others, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
