"""The benchmark counts right and fills its table; how fast anything is, it alone says."""
import csv
import json

import pytest

from configs import cyclegan as cyclegan_config
from covjax import benchmark


@pytest.mark.parametrize('identity, tera', [(0., 1.26), (.5, 1.86)])
def test_counted_operations(identity, tera):
    """The published numbers for one pair of 256x256, and four times fewer at 128x128."""
    config = cyclegan_config.get_config()
    config.update({'lambda_identity': identity, 'batch_size': 1})
    assert abs(benchmark.step_flops(config) / 1e12 - tera) < .02
    config.update({'image_size': 128, 'batch_size': 4})
    assert abs(benchmark.step_flops(config) / 1e12 - tera) < .03


def test_table(launch, tmp_path):
    """Two rows at toy size, the peer beside them where PyTorch is installed."""
    result = launch('--config=configs/benchmark.py', f'--workdir={tmp_path}', '--config.image_size=(32,)', '--config.batch_size=(2,)', '--config.rounds=1', '--config.steps=1',
                    '--config.warmup=1', '--config.peak_tflops=1')
    assert result.returncode == 0, result.stderr
    row, = csv.DictReader((tmp_path / 'benchmark.csv').open())
    assert (row['image_size'], row['batch_size']) == ('32', '2') and float(row['seconds']) > 0 and 0 <= float(row['waiting']) < 1 and float(row['peak_gib']) > .1
    assert float(row['of_peak']) == pytest.approx(float(row['tflops']))
    peer = [row[name] for name in ('peer_seconds', 'peer_peak_gib', 'ratio')]
    assert all(float(value) > 0 for value in peer) if benchmark.has_torch() else not any(peer)
    assert json.loads((tmp_path / 'benchmark.json').read_text())['machine']['devices'] == 1 and '| image |' in (tmp_path / 'benchmark.md').read_text()
