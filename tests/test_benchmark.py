"""The benchmark counts right and fills its table; how fast anything is, it alone says."""

import csv
import json
import time

import pytest
from test_cyclegan import task_of

from configs import benchmark as benchmark_config
from configs import cyclegan as cyclegan_config
from covjax import InputError
from covjax.runs import benchmark


@pytest.mark.parametrize('identity, tera', [(0.0, 1.26), (0.5, 1.86)])
def test_counted_operations(identity, tera):
    """The published numbers for one pair of 256x256, and four times fewer at 128x128."""
    config = cyclegan_config.get_config()
    config.update({'lambda_identity': identity, 'batch_size': 1})
    assert abs(benchmark.step_flops(config) / 1e12 - tera) < 0.02
    config.update({'image_size': 128, 'batch_size': 4})
    assert abs(benchmark.step_flops(config) / 1e12 - tera) < 0.03


def test_table(launch, tmp_path):
    """Two rows at toy size, the peer beside them where PyTorch is installed."""
    result = launch(
        '--config=configs/benchmark.py',
        f'--workdir={tmp_path}',
        '--config.image_size=(32,)',
        '--config.batch_size=(2,)',
        '--config.rounds=1',
        '--config.steps=1',
        '--config.warmup=1',
        '--config.peak_tflops=1',
        '--config.cyclegan.gen_filters=8',
        '--config.cyclegan.gen_blocks=1',
        '--config.cyclegan.disc_filters=8',
    )
    assert result.returncode == 0, result.stderr
    (row,) = csv.DictReader((tmp_path / 'benchmark.csv').open())
    assert (
        (row['image_size'], row['batch_size']) == ('32', '2')
        and float(row['seconds']) > 0
        and 0 <= float(row['waiting']) < 1
        and float(row['peak_gib']) > 0.1
    )
    assert float(row['of_peak']) == pytest.approx(float(row['tflops']))
    peer = [row[name] for name in ('peer_seconds', 'peer_peak_gib', 'ratio')]
    assert all(float(value) > 0 for value in peer) if benchmark.has_torch() else not any(peer)
    assert (
        json.loads((tmp_path / 'benchmark.json').read_text())[0]['machine']['devices'] == 1
        and '| image |' in (tmp_path / 'benchmark.md').read_text()
    )


def test_slow_input_is_seen():
    """A batch that takes longer than the step makes the devices wait; one that is there at once does not."""
    waiting = {}
    for slow in (0.0, 0.3):
        config, task = task_of(gen_filters=2, disc_filters=2)

        def train_batch(step):
            time.sleep(slow)
            return task.train_batch(step)

        clock = benchmark.Clock(task._replace(train_batch=train_batch))
        clock.steps(2)
        clock.waited = 0.0
        waiting[slow] = clock.steps(12) * 12, clock.waited
    assert (
        waiting[0.3][1] > 0.8 * waiting[0.3][0] and waiting[0.0][1] < 0.1 * waiting[0.0][0] + 0.02
    )


@pytest.mark.parametrize(
    'fields, message',
    [
        (dict(image_size=(64,)), 'as many of one'),
        (dict(peer='nowhere.py'), 'config.peer=nowhere.py'),
    ],
)
def test_wrong_words(tmp_path, fields, message):
    config = benchmark_config.get_config()
    config.update(fields)
    with pytest.raises(InputError, match=message):
        benchmark.run(config, tmp_path)


def test_a_peer_that_fails_is_told(tmp_path):
    pytest.importorskip('torch')
    (tmp_path / 'peer.py').write_text("print('{}')")
    config = benchmark_config.get_config()
    config.peer = str(tmp_path / 'peer.py')
    with (
        pytest.raises(InputError, match='ended early'),
        benchmark.peer(config, config.cyclegan) as ask,
    ):
        ask(1)
