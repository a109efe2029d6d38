"""A result knows the config that made it, wherever it lies and whatever killed the next run."""

import functools
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from conftest import ROOT
from ml_collections import ConfigDict

from covjax import InputError, command_line, hashes, provenance, trained
from covjax.provenance import PLACES, config_hash
from covjax.training.task import Net
from covjax.weights import checkpoint, safetensors
from covjax.workdir import MAY_CHANGE, add_keys, added_keys, claimed, write_json

pytestmark = pytest.mark.fast

sys.path.insert(0, str(ROOT))
CONFIGS = command_line.configs(ROOT)
OTHER = {
    bool: lambda value: not value,
    int: lambda value: value + 1,
    float: lambda value: value + 1,
}


def changed(config, key):
    """The dict of a config with another value for 'cyclegan.steps'."""
    tree = json.loads(config.to_json())
    *folders, name = key.split('.')
    inside = tree
    for folder in folders:
        inside = inside[folder]
    inside[name] = OTHER.get(type(inside[name]), lambda value: [value, 'x'])(inside[name])
    return tree


@pytest.mark.parametrize('path', CONFIGS)
def test_every_key_counts_but_places_and_those_that_may_change(path):
    _, config = command_line.load(path, '', ROOT)
    own = config_hash(json.loads(config.to_json()))
    for key, _ in command_line.leaves(config):
        *stages, name = key.split('.')
        stage = functools.reduce(lambda stage, part: stage[part], stages, config)
        elsewhere = name in PLACES and bool(stage[name])  # of '' another value is not free
        may_change = stage.get('run') == 'train' and name in MAY_CHANGE
        free = elsewhere or may_change or name == 'data_dir'
        assert (config_hash(changed(config, key)) == own) == free, key


@pytest.mark.parametrize('path', CONFIGS)
def test_a_config_of_an_older_version_has_the_same_hash(path):
    """It lacks the keys that came later, or has the values that they stand for."""
    _, config = command_line.load(path, '', ROOT)
    add_keys(config)
    with config.ignore_type():
        for key, _ in command_line.leaves(config):
            *stages, name = key.split('.')
            stage = functools.reduce(lambda stage, part: stage[part], stages, config)
            stage[name] = added_keys(stage).get(name, stage[name])
    tree = json.loads(config.to_json())
    assert config_hash(without_added(tree)) == config_hash(config)


def without_added(tree):
    """A config (dict) as it was before any key was added."""
    if not isinstance(tree, dict):
        return tree
    return {key: without_added(tree[key]) for key in tree if key not in added_keys(tree)}


def test_no_flipped_bit_of_the_config_of_a_training_is_believed(tmp_path):
    """It is refused, or lies where nothing depends on it."""
    _, config = command_line.load('configs/segmentation.py', 'small', ROOT)
    write_network(tmp_path, config)
    file, rng = tmp_path / 'config.json', np.random.default_rng(0)
    whole, refused = file.read_bytes(), 0
    own = trained.open_run(tmp_path, 'segmentation', 'segmenter')
    for at in rng.integers(len(whole), size=60):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << rng.integers(8)
        file.write_bytes(flipped)
        try:
            run = trained.open_run(tmp_path, 'segmentation', 'segmenter')
        except InputError as error:
            assert len(str(error).splitlines()) == 1
            refused += 1
        else:
            assert run.config_hash == own.config_hash
    assert refused > 30
    file.write_bytes(whole)
    assert trained.open_run(tmp_path, 'segmentation', 'segmenter').config == own.config


def write_network(workdir, config):
    """Writes config.json and a checkpoint of one number, as a training does."""
    (workdir / 'config.json').write_text(config.to_json())
    params = {'w': np.zeros(1, np.float32)}
    net = jax.device_get(Net.create(params, optax.sgd(0.1)))
    with checkpoint.manager(workdir, config.best) as checkpoints:
        state, beside = {'net': net, 'step': np.int32(1)}, provenance.beside(config, workdir)
        checkpoint.save(checkpoints, 1, state, 1.0, beside)


def evaluated(folder, tests):
    config = ConfigDict({'run': 'evaluate', 'tests': tests})
    with claimed(config, folder):
        write_json(folder / 'results.json', provenance.of(config) | {'found': tests})


def read(folder):
    return provenance.read(folder, 'results.json', dict)


def test_a_folder_that_was_moved_still_verifies(tmp_path):
    evaluated(tmp_path / 'a', 'x')
    shutil.move(tmp_path / 'a', tmp_path / 'b')
    assert read(tmp_path / 'b')['found'] == 'x'


def test_results_beside_another_config_are_refused(tmp_path):
    evaluated(tmp_path / 'a', 'x')
    write_json(tmp_path / 'a' / 'config.json', {'run': 'evaluate', 'tests': 'y'})
    with pytest.raises(InputError, match='results.json: was made with another config'):
        read(tmp_path / 'a')


def test_results_of_early_versions_are_read(tmp_path):
    evaluated(tmp_path / 'a', 'x')
    write_json(tmp_path / 'a' / 'results.json', {'found': 'x'})
    assert read(tmp_path / 'a') == {'found': 'x'}


KILLED = """
import os, pathlib, sys
from ml_collections import ConfigDict
from covjax import provenance
from covjax.workdir import claimed, write_json
folder = pathlib.Path(sys.argv[1])
config = ConfigDict({'run': 'evaluate', 'tests': 'y'})
with claimed(config, folder):
    if sys.argv[2] == 'late':
        write_json(folder / 'results.json', provenance.of(config) | {'found': 'y'})
    os._exit(1)
"""


@pytest.mark.parametrize('when', ['early', 'late'])
def test_a_second_run_that_is_killed_leaves_no_lie(tmp_path, when):
    evaluated(tmp_path / 'a', 'x')
    subprocess.run([sys.executable, '-c', KILLED, str(tmp_path / 'a'), when], cwd=ROOT)
    if when == 'early':
        assert read(tmp_path / 'a')['found'] == 'x'
        assert json.loads((tmp_path / 'a' / 'config.json').read_text())['tests'] == 'x'
    else:
        with pytest.raises(InputError, match='results.json: was made with another config'):
            read(tmp_path / 'a')
    evaluated(tmp_path / 'a', 'y')
    assert read(tmp_path / 'a')['found'] == 'y'


def test_no_flipped_bit_of_exported_weights_is_believed(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / 'a.safetensors'
    variables = {'params': {'a': rng.normal(size=(8, 8)).astype(np.float32)}}
    safetensors.write(path, variables, {'kind': 'classifier'})
    assert safetensors.read(path, 'classifier', dict, {})[0].hash == hashes.of_network(variables)
    whole = path.read_bytes()
    for at in rng.integers(len(whole) - 8 * 8 * 4, len(whole), 30):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        with pytest.raises(InputError, match='a.safetensors: is damaged'):
            safetensors.read(path, 'classifier', dict, {})
