"""The classification task: its devices against one another, its wrong data sets."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import classifier as config_file
from covjax import InputError, classification
from covjax.models.layers import ExampleDropout


def test_two_devices_equal_one(data_dir, tmp_path, launch):
    """Same seed and global batch, dropout and synchronised BatchNorm included: the same losses."""
    keys = {'data_dir': data_dir, 'train': 'covid_ct:train', 'val': 'covid_ct:validation', 'image_size': 32, 'load_size': 36, 'batch_size': 4, 'steps': 2,
            'log_every': 1, 'eval_every': 2, 'warmup_steps': 1, 'dropout': .5}
    losses = []
    for devices in (1, 2):
        workdir = tmp_path / f'on_{devices}'
        result = launch('--config=configs/classifier.py:resnet50', f'--workdir={workdir}', *(f'--config.{key}={value}' for key, value in keys.items()),
                        devices=devices)
        assert result.returncode == 0 and f'{devices} x ' in result.stdout, result.stderr
        losses.append([json.loads(line)['train/loss'] for line in (workdir / 'metrics.jsonl').read_text().splitlines() if 'train/loss' in line])
    np.testing.assert_allclose(losses[0], losses[1], rtol=5e-3)


def test_dropout_keeps_the_mean_and_differs_between_examples():
    x = jnp.ones((4, 2000))
    out = ExampleDropout(.3).apply({}, x, deterministic=False, rngs={'dropout': jax.random.key(0)})
    np.testing.assert_allclose(out.mean(1), 1, atol=.1)
    assert {round(float(v), 4) for v in np.unique(out)} == {0., round(1 / .7, 4)} and (out[0] != out[1]).any()
    np.testing.assert_array_equal(ExampleDropout(.3).apply({}, x, deterministic=True), x)


@pytest.mark.parametrize('fields, message', [
    (dict(train=''), 'config.train is empty'), (dict(train='covid_ct:train@covid'), 'both classes'), (dict(val='luna16_patches/nodules:test'), 'config.val')])
def test_wrong_data_sets(data_dir, fields, message):
    config = config_file.get_config('resnet50')
    config.update({'data_dir': data_dir, 'train': 'covid_ct:train', 'val': 'covid_ct:validation', 'image_size': 32, 'load_size': 32, **fields})
    with pytest.raises(InputError, match=message):
        classification.make(config)
