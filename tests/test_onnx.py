"""Networks as ONNX files say what they say in JAX, in ONNX Runtime, on images of any size."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import segmenters
from jax import lax

from configs import export as config_file
from covjax import InputError, classifier, external_classifier, generator, models, segmenter
from covjax.models import cyclegan, layers, unet
from covjax.runs import export
from covjax.weights import onnx

runtime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnx')
SLOW = ('vgg16', 'inception_v3', 'inception_resnet_v2', 'densenet169', 'resnet50', 'resnet50_torch')
NETWORKS = [
    pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
    for name in models.MODELS
    if name != 'dre_net'
]


def drawn(model, shape):
    """Variables of a network, none of which is what it was at the beginning."""
    rng = np.random.default_rng(0)
    image = jax.ShapeDtypeStruct((1, *shape, 1), jnp.float32)

    def draw(path, leaf):
        name = path[-1].key
        if name in ('scale', 'var'):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        spread = 1 / np.sqrt(np.prod(leaf.shape[:-1])) if name == 'kernel' else 0.1
        return rng.normal(0, spread, leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    return jax.tree.map(jnp.asarray, jax.tree_util.tree_map_with_path(draw, shapes))


def of(function, takes):
    """A function from uint8 images to what the ONNX file of another function says."""
    model = onnx.model_of(function, takes, 'found', {'use': 'a test'})
    session = runtime.InferenceSession(model.SerializeToString())
    return lambda images: session.run(None, {takes.name: images})[0]


def images_of(shape, count=2):
    return np.random.default_rng(1).integers(0, 256, (count, *shape, 1), np.uint8)


def assert_equal(function, takes, shapes):
    written = of(function, takes)
    for shape in shapes:
        images = images_of(shape)
        expected, found = np.asarray(function(images)), written(images)
        assert found.shape == expected.shape and found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def as_float(images):
    return images.astype(jnp.float32) / 127.5 - 1


@pytest.mark.parametrize('name', NETWORKS)
def test_a_backbone_of_any_size(name):
    model = models.create(name, num_classes=3)
    variables = drawn(model, (96, 96))
    function = jax.jit(lambda images: jax.nn.softmax(model.apply(variables, as_float(images))))
    takes = onnx.Input('images', np.uint8, least=model.smallest)
    least = model.smallest
    assert_equal(function, takes, [(least, least), (least + 5, least + 12)])


@pytest.mark.parametrize('norm', unet.NORMS)
@pytest.mark.parametrize('up', unet.UPS)
def test_a_unet_of_any_size_or_of_one_where_it_interpolates(up, norm):
    model = models.create('unet', num_classes=3, widths=(4, 8, 16), up=up, norm=norm)
    variables = drawn(model, (32, 32))
    function = jax.jit(lambda images: jax.nn.softmax(model.apply(variables, as_float(images))))
    fixed = (40, 48) if up == 'bilinear' else ()
    takes = onnx.Input('images', np.uint8, multiple=4, margin='edge', fixed=fixed)
    assert_equal(function, takes, [fixed] if fixed else [(32, 32), (33, 50), (3, 7)])


@pytest.mark.parametrize('name', models.VOLUME_SEGMENTERS)
def test_a_network_of_volumes_of_any_size(name):
    model = models.create(name, num_classes=2, widths=(4, 8, 16))
    variables = drawn(model, (16, 16, 16))
    function = jax.jit(lambda images: jax.nn.softmax(model.apply(variables, as_float(images))))
    takes = onnx.Input('images', np.uint8, sides=3, multiple=4, margin='edge', least=8)
    assert_equal(function, takes, [(16, 16, 16), (9, 20, 13)])


@pytest.mark.parametrize('norm', cyclegan.NORMS)
@pytest.mark.parametrize('upsample', cyclegan.UPSAMPLE)
def test_a_generator_of_any_size(norm, upsample):
    """To a grey level, which is a rounded float."""
    model = cyclegan.Generator(filters=8, blocks=2, norm=norm, upsample=upsample)
    translator = generator.translator(model, drawn(model, (32, 32))['params'])
    function = jax.jit(generator.apply_uint8(translator))
    written = of(function, onnx.Input('images', np.uint8, multiple=4, least=generator.SMALLEST))
    for shape in ((32, 32), (33, 50), (8, 11)):
        images = images_of(shape)
        found, expected = written(images).astype(int), np.asarray(function(images)).astype(int)
        assert found.shape == expected.shape and np.abs(found - expected).max() <= 1
        assert np.ptp(expected) > 50


@pytest.mark.fast
def test_layers_are_written_plainly_only_inside():
    assert layers.on_cpu() == (jax.default_backend() == 'cpu')
    with layers.plainly():
        assert not layers.on_cpu()
    assert layers.on_cpu() == (jax.default_backend() == 'cpu')


@pytest.mark.fast
@pytest.mark.parametrize(
    'function, said',
    [
        (lambda images: jnp.sort(as_float(images), 1), 'the operation sort of JAX'),
        (lambda images: jnp.cumsum(as_float(images), 1), 'has no counterpart'),
    ],
)
def test_another_operation_is_refused_by_name(function, said):
    with pytest.raises(InputError, match=said):
        onnx.model_of(function, onnx.Input('images', np.uint8), 'found', {})


@pytest.mark.fast
@pytest.mark.parametrize(
    'function',
    [
        lambda x: x.mean((1, 2)) * x.shape[1] + x.shape[2] // 2,
        lambda x: jnp.concatenate([lax.rev(x, (1, 2)), lax.slice_in_dim(x, 1, 5, 2, 1)], 1),
        lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 0), (0, 0)), mode='edge'),
        lambda x: jnp.pad(x, ((0, 0), (1, 2), (3, 0), (0, 0)), mode='reflect'),
        lambda x: jnp.einsum('nhwc,nhwd->nhcd', x, x + 1),
        lambda x: jax.nn.log_softmax(x @ jnp.arange(3.0)[None]),
        jax.nn.gelu,
        lambda x: jnp.where(x > 0, x, 0.5) ** 3 - jnp.clip(x, -0.2, 0.3),
    ],
)
def test_operations_mean_the_same_with_open_sizes(function):
    of_uint8 = lambda images: function(as_float(images))
    written = of(of_uint8, onnx.Input('images', np.uint8, least=8))
    for shape in ((8, 9), (13, 20)):
        images = images_of(shape)
        expected = np.asarray(of_uint8(images))
        np.testing.assert_allclose(written(images), expected, rtol=1e-4, atol=1e-5)


# ---- files of `export`


def exported(workdir, form='onnx', **keys):
    config = config_file.get_config()
    config.update({key: str(value) for key, value in keys.items()} | {'format': form})
    workdir.mkdir()
    export.run(config, workdir)
    return workdir


def test_a_segmenter_is_exported_whole(tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    segmenters.write_run(folder)
    path = exported(tmp_path / 'onnx', segmenter=folder) / 'unet.onnx'
    loaded = segmenter.load(folder)
    session = runtime.InferenceSession(str(path))
    images = images_of((50, 41))
    (found,) = session.run(None, {'images': images})
    expected = np.asarray(segmenter.apply_uint8(loaded)(images))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    known = session.get_modelmeta().custom_metadata_map
    assert 'Not for diagnosis' in known['use'] and loaded.classes[1] in known['output']
    card = (path.parent / 'README.md').read_text(encoding='utf-8')
    assert 'unet.onnx' in card and 'Not for diagnosis' in card
    assert str(tmp_path) not in card


def test_an_exported_classifier_is_audited_like_any_other(workdir_of_classifier, tmp_path):
    """What `export` writes is what config.model of an audit takes."""
    folder = exported(tmp_path / 'onnx', classifier=workdir_of_classifier)
    loaded = classifier.load(workdir_of_classifier)
    (path,) = folder.glob('*.onnx')
    images = images_of((70, 70), 5)
    expected = np.asarray(classifier.scores(loaded)(images))[:, 1]
    found = external_classifier.load(str(path))
    assert found.size == 32  # that of its training
    np.testing.assert_allclose(found.score(images), expected, atol=1e-5)
    # It names its classes, so that any may be the positive one.
    other = external_classifier.load(str(path), positive='noncovid')
    np.testing.assert_allclose(other.score(images), 1 - expected, atol=1e-5)
    with pytest.raises(InputError, match='name one of its classes'):
        external_classifier.load(str(path), positive='pneumonia')


@pytest.fixture(scope='module')
def workdir_of_classifier(data_dir, tmp_path_factory):
    return trained_on(data_dir, tmp_path_factory.mktemp('run') / 'run')


def trained_on(data_dir, folder, **keys):
    """The workdir of a classifier after two steps."""
    from configs import classifier as classifier_config
    from covjax.runs import train
    from covjax.workdir import claimed

    config = classifier_config.get_config('plain8')
    config.update(
        keys
        | {
            **{'train': 'covid_ct:train', 'val': 'covid_ct:validation', 'data_dir': data_dir},
            **{'image_size': 32, 'load_size': 32, 'batch_size': 4},
            **{'steps': 2, 'eval_every': 1, 'warmup_steps': 1},
        }
    )
    with claimed(config, folder) as workdir:
        train.run(config, workdir)
    return folder


def test_a_card_says_how_its_file_is_read_and_what_must_not_test_it(
    workdir_of_classifier, tmp_path, monkeypatch
):
    for form in export.FORMATS:
        folder = exported(tmp_path / form, form, classifier=workdir_of_classifier)
        card = (folder / 'README.md').read_text(encoding='utf-8')
        assert '| train | covid_ct:train |' in card and f'plain8.{form}' in card
        assert card.startswith('---\nlibrary_name: covjax')
        assert 'resized to 32x32 pixels' in card
        (code,) = re.findall(r'```python\n(.*?)```', card, re.DOTALL)
        monkeypatch.chdir(folder)
        names = {'images': images_of((32, 32), 3)}
        exec(code, names)
        found = names['probabilities' if form == 'safetensors' else 'found']
        np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def test_what_a_network_was_shown_goes_with_it(data_dir, tmp_path):
    """Of a classifier of lungs: in its card and file, and an audit of whole images refuses it."""
    folder = trained_on(data_dir, tmp_path / 'run', lungs='crop')
    for form in export.FORMATS:
        out = exported(tmp_path / form, form, classifier=folder)
        assert 'cropped to the lungs' in (out / 'README.md').read_text(encoding='utf-8')
    path = tmp_path / 'onnx' / 'plain8.onnx'
    about = runtime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    assert (about['lungs'], about['image_size']) == ('crop', '32')
    assert 'cropped to the lungs' in about['input']
    loaded = classifier.load(tmp_path / 'safetensors' / 'plain8.safetensors')
    assert (loaded.lungs, loaded.image_size) == ('crop', 32)
    with pytest.raises(InputError, match='config.lungs=crop, and is shown whole images'):
        external_classifier.load(str(path))


def test_a_network_that_chooses_parts_of_an_image_is_refused():
    model = models.create('dre_net', 2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 64, 64, 1), np.float32))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    function = lambda images: model.apply(variables, as_float(images))
    with pytest.raises(InputError, match='depends on its size, .*config.format=safetensors'):
        onnx.model_of(function, onnx.Input('images', np.uint8, least=32), 'found', {})


def test_another_format_is_refused(workdir_of_classifier, tmp_path):
    with pytest.raises(InputError, match='config.format=pickle'):
        exported(tmp_path / 'x', 'pickle', classifier=workdir_of_classifier)
