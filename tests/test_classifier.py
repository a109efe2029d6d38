"""A trained classifier used elsewhere: the lines of the README, the exported file, and what is imported for it."""

import json
import re
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import ROOT
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file, save_file

from configs import classifier as config_file
from covjax import InputError, classifier, models
from covjax.data import datasets
from covjax.runs import train
from covjax.training import classification
from covjax.weights import checkpoint

TRAINING = (
    'covjax.training',
    'covjax.data.datasets',
    'optax',
    'tensorflow_datasets',
    'SimpleITK',
    'matplotlib',
    'sklearn',
)


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
            'steps': 2,
            'eval_every': 2,
            'log_every': 1,
            'warmup_steps': 0,
            **fields,
        }
    )
    return config


@pytest.fixture(scope='module')
def run(data_dir, tmp_path_factory):
    """The workdir of a classifier of two steps."""
    workdir = tmp_path_factory.mktemp('run')
    config = config_of(data_dir)
    (workdir / 'config.json').write_text(config.to_json())
    train.run(config, workdir)
    return workdir


@pytest.fixture(scope='module')
def keras_file(tmp_path_factory):
    keras = pytest.importorskip('keras')
    path = tmp_path_factory.mktemp('keras') / 'resnet50_notop.h5'
    keras.applications.ResNet50(weights=None, include_top=False, input_shape=(32, 32, 3)).save(path)
    return path


def test_snippets_of_the_readme(run, keras_file, tmp_path):
    """Each runs in a process of its own, on NumPy images, and imports no training code and no TFDS."""
    section = (
        (ROOT / 'README.md')
        .read_text(encoding='utf-8')
        .split('## Use the models elsewhere')[1]
        .split('\n## ')[0]
    )
    snippets = [
        snippet
        for snippet in re.findall(r'```python\n(.*?)```', section, re.DOTALL)
        if 'generator' not in snippet
    ]
    assert len(snippets) == 3
    for snippet in snippets:
        code = snippet.replace(
            "'resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5'", repr(str(keras_file))
        ).replace("'runs/resnet50'", repr(str(run)))
        script = f"""
import numpy as np, sys
images = np.random.default_rng(0).uniform(-1, 1, (3, 75, 75, 1)).astype(np.float32)
{code}
result = features if 'features' in globals() else logits
assert result.shape in ((3, 1536), (3, 2048), (3, 2)) and np.isfinite(result).all()
imported = set({TRAINING!r}) & set(sys.modules)
assert not imported, imported
"""
        result = subprocess.run(
            [sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True
        )
        assert result.returncode == 0, f'{code}\n{result.stderr}'
        assert (
            sum(
                bool(line.strip()) and not line.startswith(('import', 'from'))
                for line in code.splitlines()
            )
            <= 3
        ), code


def test_models_import_jax_and_flax_only():
    other = [*TRAINING, 'h5py', 'safetensors', 'ml_collections']
    code = f'import covjax.models, json, sys; print(json.dumps([name for name in {other!r} if name in sys.modules]))'
    loaded = json.loads(
        subprocess.run(
            [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    )
    assert set(loaded) <= {'optax'}  # some versions of flax bring it


def test_workdir_and_export_give_the_scores_of_evaluation(run, data_dir, tmp_path, launch):
    result = launch(
        '--config=configs/export.py', f'--config.classifier={run}', f'--workdir={tmp_path / "out"}'
    )
    assert result.returncode == 0, result.stderr
    path = tmp_path / 'out' / 'resnet50.safetensors'
    images = datasets.read('covid_ct:test', data_dir, 32).images
    config, state, _ = checkpoint.load_model(run, 'classification', 'classifier')
    expected = np.asarray(classification.score(config, state)(images))
    for source in (run, path):
        model, variables, preprocess = classifier.load(source)
        scores = jax.nn.softmax(
            model.apply(variables, preprocess(images.astype(np.float32) / 127.5 - 1))
        )[:, 1]
        np.testing.assert_allclose(scores, expected, atol=1e-5)
    flat = load_file(path)  # any reader will do
    assert {name.split('/')[0] for name in flat} == {'params', 'batch_stats'} and {
        array.dtype for array in flat.values()
    } == {np.dtype('float32')}
    np.testing.assert_array_equal(flat['params/head/kernel'], variables['params']['head']['kernel'])


def test_exported_weights_fit_a_plain_flax_module(run, tmp_path):
    """What is in the file is the whole of `variables`, under the same names."""
    config, state, step = checkpoint.load_model(run, 'classification', 'classifier')
    classifier.save(tmp_path / 'a.safetensors', config, classifier.variables_of(state), step)
    variables = unflatten_dict(load_file(tmp_path / 'a.safetensors'), sep='/')
    expected = jax.eval_shape(
        models.create('resnet50').init, jax.random.key(0), np.zeros((1, 32, 32, 1), np.float32)
    )
    assert jax.tree.map(lambda leaf: leaf.shape, expected) == jax.tree.map(
        lambda leaf: leaf.shape, variables
    )


def test_orbax_alone_reads_the_weights_of_a_run(run):
    """The item `model` of a checkpoint, as the README says, without covjax."""
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(run / 'checkpoints' / '2' / 'model')
    assert set(restored) == {'net', 'batch_stats'} and restored['net']['params']['head'][
        'kernel'
    ].shape == (2048, 2)


@pytest.mark.parametrize(
    'make, told',
    [
        (lambda path: None, 'no such file'),
        (lambda path: path.write_bytes(b'x' * 100), 'is damaged'),
        (lambda path: save_file({'a': np.zeros(3, np.float32)}, path), 'was not written by covjax'),
    ],
)
def test_files_that_are_not_exports(tmp_path, make, told):
    path = tmp_path / 'a.safetensors'
    make(path)
    with pytest.raises(InputError, match=f'a.safetensors: {told}'):
        classifier.load(path)


def test_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match='no config.json there'):
        classifier.load(tmp_path)
