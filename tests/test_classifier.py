"""A trained classifier used elsewhere: documented snippets, exported files, what is imported."""

import ast
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
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from configs import classifier as config_file
from configs import export as export_file
from covjax import CLASSES, InputError, classifier, models, trained
from covjax.data import datasets
from covjax.runs import export, train

# What a model or a classifier needs is imported without any of these.
FOREIGN = (
    *('covjax.training', 'covjax.data.datasets', 'optax', 'tensorflow_datasets'),
    *('SimpleITK', 'matplotlib', 'sklearn'),
)
SMALL = {
    'train': 'covid_ct:train',
    'val': 'covid_ct:validation',
    'image_size': 32,
    'load_size': 32,
    'batch_size': 4,
    'steps': 2,
    'eval_every': 2,
    'log_every': 1,
    'warmup_steps': 0,
}


@pytest.fixture(scope='module')
def run(data_dir, tmp_path_factory):
    """The workdir of a classifier of two steps."""
    workdir = tmp_path_factory.mktemp('run')
    config = config_file.get_config('resnet18')
    config.update(SMALL | {'data_dir': data_dir})
    (workdir / 'config.json').write_text(config.to_json())
    train.run(config, workdir)
    return workdir


@pytest.fixture(scope='module')
def exported(run, tmp_path_factory):
    """The .safetensors file of that classifier."""
    workdir = tmp_path_factory.mktemp('export')
    config = export_file.get_config()
    config.classifier = str(run)
    export.run(config, workdir)
    return workdir / 'resnet18.safetensors'


@pytest.fixture(scope='module')
def keras_file(tmp_path_factory):
    """Weights of ResNet-50 without top, as Keras writes them."""
    keras_models = pytest.importorskip('keras_models')
    path = tmp_path_factory.mktemp('keras') / 'resnet50_notop.h5'
    keras_models.create('ResNet50', include_top=False, input_shape=(32, 32, 3)).save(path)
    return path


def documented(word):
    """The Python snippets of the documentation that call covjax.models or, say, classifier.load."""
    pages = [ROOT / 'README.md', *sorted(ROOT.glob('docs/*.md'))]
    text = '\n'.join(page.read_text(encoding='utf-8') for page in pages)
    snippets = re.findall(r'^```python\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
    return [snippet for snippet in snippets if word in snippet]


SCRIPT = """
import numpy as np, sys
for code in {snippets!r}:
    names = dict(images=np.random.default_rng(0).uniform(-1, 1, (3, 75, 75, 1)).astype(np.float32))
    exec(code, names)
    result = names['features'] if 'features' in names else names['logits']
    assert len(result) == 3 and result.ndim in (2, 4) and np.isfinite(result).all()
imported = set({foreign!r}) & set(sys.modules)
assert not imported, imported
"""


def test_documented_snippets(run, keras_file):
    """They run on NumPy images, in few lines, and import no training code and no TFDS."""
    kinds = [documented(word) for word in ('models.create(', '.h5', 'classifier.load(')]
    assert all(kinds)
    snippets = []
    for code in dict.fromkeys(code for kind in kinds for code in kind):
        statements = ast.parse(code).body
        calls = [node for node in statements if not isinstance(node, ast.Import | ast.ImportFrom)]
        assert len(calls) <= 3, code
        code = re.sub(r"'[^']*\.h5'", repr(str(keras_file)), code)
        snippets.append(code.replace("'runs/resnet50'", repr(str(run))))
    script = SCRIPT.format(snippets=snippets, foreign=FOREIGN)
    result = python(script)
    assert result.returncode == 0, result.stderr


def python(code):
    """A process of its own."""
    return subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)


def imported_by(module, names):
    """Those of some modules that are loaded once one of ours is imported."""
    result = python(f'import json, sys, {module}; print(json.dumps(list(sys.modules)))')
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout)) & set(names)


def test_models_import_jax_and_flax_only():
    others = imported_by('covjax.models', [*FOREIGN, 'h5py', 'safetensors', 'ml_collections'])
    assert others <= {'optax'}  # some versions of flax bring it


def test_a_classifier_imports_no_training_code():
    assert imported_by('covjax.classifier', FOREIGN) <= {'optax'}


def test_workdir_and_export_give_the_scores_of_evaluation(run, exported, data_dir):
    images = datasets.read('covid_ct:test', data_dir, 32).images
    network = trained.open_run(run, 'classification', 'classifier')
    expected = classifier.score(classifier.of_run(network), 'covid')(images)
    assert expected.shape == (len(images),)
    for source in (run, exported):
        model, variables, preprocess = classifier.load(source)
        logits = model.apply(variables, preprocess(images.astype(np.float32) / 127.5 - 1))
        np.testing.assert_allclose(jax.nn.softmax(logits)[:, 1], expected, atol=1e-5)


def test_any_reader_finds_the_weights_in_an_export(run, exported):
    flat = load_file(exported)
    assert {name.split('/')[0] for name in flat} == {'params', 'batch_stats'}
    assert {array.dtype for array in flat.values()} == {np.dtype('float32')}
    variables = classifier.load(run).variables
    np.testing.assert_array_equal(flat['params/head/kernel'], variables['params']['head']['kernel'])


def test_exported_weights_fit_a_plain_flax_module(exported):
    """What is in the file is the whole of `variables`, under the same names."""
    variables = unflatten_dict(load_file(exported), sep='/')
    image = np.zeros((1, 32, 32, 1), np.float32)
    expected = jax.eval_shape(models.create('resnet18').init, jax.random.key(0), image)
    shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)
    assert shapes(expected) == shapes(variables)


def test_orbax_alone_reads_the_weights_of_a_run(run):
    """The item `model` of a checkpoint, without covjax."""
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(run / 'checkpoints' / '2' / 'model')
    assert set(restored) == {'net', 'batch_stats'}
    assert restored['net']['params']['head']['kernel'].shape == (512, 2)


@pytest.mark.fast
@pytest.mark.parametrize('classifier, generator', [('', ''), ('runs/a', 'runs/b')])
def test_an_export_is_of_one_run(tmp_path, classifier, generator):
    config = export_file.get_config()
    config.update({'classifier': classifier, 'generator': generator})
    with pytest.raises(
        InputError, match='config.classifier, config.generator, config.segmenter: give one'
    ):
        export.run(config, tmp_path)


@pytest.mark.fast
@pytest.mark.parametrize(
    'make, problem',
    [
        (lambda path: None, 'no such file'),
        (lambda path: path.write_bytes(b'x' * 100), 'is damaged'),
        (lambda path: save_file({'a': np.zeros(3, np.float32)}, path), 'was not written by covjax'),
    ],
)
def test_files_that_are_not_exports(tmp_path, make, problem):
    path = tmp_path / 'a.safetensors'
    make(path)
    with pytest.raises(InputError, match=f'a.safetensors: {problem}'):
        classifier.load(path)


def headers(about):
    """{what is wrong: header} of exports that are none, from the header of one."""
    return {
        'no dict': [1],
        'a number': 3,
        'empty': {},
        **{f'without {key}': {k: v for k, v in about.items() if k != key} for key in NEEDED},
        **{f'{key} of another type': about | {key: ['x']} for key in NEEDED},
        'another kind': about | {'kind': 'generator'},
        'another model': about | {'model': 'vgg16'},
        'no such model': about | {'model': 'resnet17'},
        'no such dtype': about | {'dtype': 'int3'},
        'absurd size': about | {'image_size': 10**9},
    }


NEEDED = ('model', 'image_size')
WRONG = sorted(headers({}))


@pytest.mark.parametrize('wrong', WRONG)
def test_exports_with_a_wrong_header_are_one_line(exported, tmp_path, wrong):
    with safe_open(exported, 'numpy') as file:
        about = json.loads(file.metadata()['covjax'])
    header = {'covjax': json.dumps(headers(about)[wrong])}
    save_file(load_file(exported), tmp_path / 'a.safetensors', metadata=header)
    with pytest.raises(InputError) as caught:
        classifier.load(tmp_path / 'a.safetensors')
    assert '\n' not in str(caught.value)


def test_an_export_of_an_early_version_has_no_labels(exported, tmp_path):
    with safe_open(exported, 'numpy') as file:
        about = json.loads(file.metadata()['covjax'])
    assert tuple(about.pop('labels')) == CLASSES
    header = {'covjax': json.dumps(about)}
    save_file(load_file(exported), tmp_path / 'a.safetensors', metadata=header)
    assert classifier.load(tmp_path / 'a.safetensors').classes == CLASSES


@pytest.mark.parametrize('change', ['missing', 'extra', 'of another shape', 'of another rank'])
def test_exports_with_wrong_arrays_are_one_line(exported, tmp_path, change):
    arrays, name = load_file(exported), 'params/head/kernel'
    if change == 'missing':
        del arrays[name]
    elif change == 'extra':
        arrays['params/head/more'] = np.zeros(3, np.float32)
    else:
        shape = (3, 3) if change == 'of another shape' else (3,)
        arrays[name] = np.zeros(shape, np.float32)
    with safe_open(exported, 'numpy') as file:
        about = json.loads(file.metadata()['covjax'])
    del about['hash']  # as of versions before there was one
    metadata = {'covjax': json.dumps(about)}
    save_file(arrays, tmp_path / 'a.safetensors', metadata=metadata)
    with pytest.raises(InputError, match='a.safetensors: 1 arrays do not fit its header'):
        classifier.load(tmp_path / 'a.safetensors')


@pytest.mark.fast
def test_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match='no config.json there'):
        classifier.load(tmp_path)


def test_equal_networks_are_one_function(exported):
    """So that an evaluation of a hundred seeds compiles one program."""
    for function in (classifier.scores, lambda loaded: classifier.score(loaded, 'covid')):
        first, second = (jax.tree.structure(function(classifier.load(exported))) for _ in range(2))
        assert first == second
