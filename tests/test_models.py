"""Networks against Keras and PyTorch with the same weights, and against the parameter counts of their papers."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covjax import InputError, models
from covjax.models import cyclegan as gan
from covjax.models import layers
from covjax.models.cyclegan import Discriminator, Generator
from covjax.training.task import count_params

# (with a top of 1000 classes, without) of keras.applications, BatchNorm running statistics counted, checked with Keras 3.15.
COUNTS = {
    'vgg16': (138_357_544, 14_714_688),
    'resnet50': (25_636_712, 23_587_712),
    'inception_v3': (23_851_784, 21_802_784),
    'inception_resnet_v2': (55_873_736, 54_336_736),
    'densenet169': (14_307_880, 12_642_880),
}
WIDTHS = {
    'vgg16': 512,
    'resnet50': 2048,
    'inception_v3': 2048,
    'inception_resnet_v2': 1536,
    'densenet169': 1664,
}
TOP = {'vgg16': {'hidden': (4096, 4096)}}


def abstract(model, size, channels):
    """(variables, apply) of a model as shapes alone."""
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, channels)))
    )
    return variables, lambda size, **kwargs: jax.eval_shape(
        lambda v: model.apply(v, jnp.zeros((2, size, size, channels)), **kwargs), variables
    )


@pytest.mark.parametrize('name', models.MODELS)
def test_counts(name):
    smallest = models.create(name).smallest
    assert (
        count_params(abstract(models.create(name, num_classes=None), smallest, 3)[0])
        == COUNTS[name][1]
    )
    assert (
        count_params(
            abstract(models.create(name, num_classes=1000, **TOP.get(name, {})), 224, 3)[0]
        )
        == COUNTS[name][0]
    )


@pytest.mark.parametrize('name', models.MODELS)
@pytest.mark.parametrize('channels', [1, 3])
def test_shapes_and_endpoints(name, channels):
    model = models.create(name, num_classes=None)
    variables, apply = abstract(model, 96, channels)
    for size in (model.smallest, 129):  # one set of variables for both
        pooled, maps = apply(size, endpoints=True)
        assert pooled.shape == (2, WIDTHS[name]) and pooled.dtype == jnp.float32
        assert maps['features'].shape[-1] == WIDTHS[name] and len(maps) > 4
        assert (
            1
            <= maps['features'].shape[1]
            == min(value.shape[1] for value in maps.values())
            <= size // 24
        )
    _, apply = abstract(models.create(name, num_classes=7), 96, channels)
    assert apply(96).shape == (2, 7)


@pytest.mark.parametrize('name', models.MODELS)
def test_wrong_images(name):
    model = models.create(name)
    key, small, size = jax.random.key(0), model.smallest - 1, model.smallest
    with pytest.raises(InputError, match=f'{name}.*at least {size}x{size}.*image_size'):
        jax.eval_shape(model.init, key, jnp.zeros((1, size, small, 1)))
    with pytest.raises(InputError, match=f'{name}.*1 or 3'):
        jax.eval_shape(model.init, key, jnp.zeros((1, size, size, 2)))


@pytest.mark.parametrize('name', models.MODELS)
def test_every_parameter_matters(name):
    """Every parameter gets a gradient, nothing is NaN, running statistics move in training and stay in inference."""
    model = models.create(name, num_classes=2)
    images = jnp.asarray(
        np.random.default_rng(0).uniform(-1, 1, (4, model.smallest, model.smallest, 1)), jnp.float32
    )
    variables = jax.jit(model.init)(jax.random.key(0), images)
    stats = variables.get('batch_stats', {})

    def loss(params):
        logits, updated = model.apply(
            {'params': params, 'batch_stats': stats}, images, train=True, mutable=['batch_stats']
        )
        return (logits[:, 0] ** 2).sum() + logits[:, 1].sum(), updated.get('batch_stats', {})

    grads, moved = jax.jit(jax.grad(loss, has_aux=True))(variables['params'])
    for path, grad in flax.traverse_util.flatten_dict(grads, sep='/').items():
        assert np.isfinite(grad).all(), path
        before_norm = (
            name == 'resnet50' and path.endswith('bias') and 'conv' in path
        )  # a constant before BatchNorm has no effect, by design
        assert before_norm or (np.asarray(grad) != 0).any(), path
    assert bool(stats) == (name != 'vgg16')
    for old, new in zip(jax.tree.leaves(stats), jax.tree.leaves(moved), strict=True):
        assert np.isfinite(new).all() and not np.allclose(old, new)
    kept = jax.jit(
        lambda variables: model.apply(variables, images, mutable=['batch_stats'])[1].get(
            'batch_stats', {}
        )
    )(variables)
    jax.tree.map(np.testing.assert_array_equal, kept, stats)


def test_bfloat16_computes_what_float32_does():
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 1)), jnp.float32)
    variables = jax.jit(models.create('resnet50').init)(jax.random.key(0), images)
    expected, got = (
        models.create('resnet50', dtype=dtype).apply(variables, images)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert (
        got.dtype == jnp.float32
        and 0 < np.abs(got - expected).max() < 0.03 * np.abs(expected).max()
    )


@pytest.mark.parametrize('name', models.MODELS)
def test_bfloat16_maps(name):
    model = models.create(name, dtype=jnp.bfloat16)
    variables, apply = abstract(model, model.smallest, 1)
    logits, maps = apply(model.smallest, endpoints=True)
    assert logits.dtype == jnp.float32 and {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
        jnp.dtype('float32')
    }
    assert {value.dtype for name, value in maps.items() if name != 'features'} == {
        jnp.dtype('bfloat16')
    }


@pytest.mark.parametrize('shape', [(2, 11, 12, 3), (2, 9, 9, 3), (1, 8, 8, 2)])
def test_cpu_formulations_equal_lax(shape, monkeypatch):
    """Values and gradients of the operations that are written another way on CPU."""
    rng = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(rng.normal(size=s), jnp.float32) for s in (shape, (1, 1, shape[-1], 5))
    )
    convolve = lambda x: layers.convolve(
        x, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    for operation in (
        lambda x: layers.max_pool(x, 2, 2),
        lambda x: layers.max_pool(x, 3, 2),
        layers.avg_pool_3x3,
        convolve,
    ):
        results = []
        for cpu in (True, False):
            monkeypatch.setattr(layers, 'on_cpu', lambda: cpu)
            results.append((operation(x), jax.grad(lambda x: (operation(x) ** 3).sum())(x)))
        for got, expected in zip(*results):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_cyclegan_counts():
    for channels, generator, discriminator in (
        (3, 11_378_179, 2_764_737),
        (1, 11_365_633, 2_762_689),
    ):
        image = jnp.zeros((1, 64, 64, channels))
        assert (
            count_params(jax.eval_shape(lambda: Generator().init(jax.random.key(0), image)))
            == generator
        )
        assert (
            count_params(jax.eval_shape(lambda: Discriminator().init(jax.random.key(0), image)))
            == discriminator
        )


@pytest.mark.parametrize('last_stride, field, shape', [(1, 70, (30, 30)), (2, 94, (15, 15))])
def test_discriminator_sees_patches(monkeypatch, last_stride, field, shape):
    """Without norms, which look at the whole image, a logit depends on exactly that many pixels a side."""
    monkeypatch.setitem(gan.NORMS, 'instance', lambda name: lambda x: x)
    model, image = (
        Discriminator(filters=2, last_stride=last_stride),
        jax.random.normal(jax.random.key(0), (1, 256, 256, 1)),
    )
    params = model.init(jax.random.key(1), image)
    logit = lambda image: model.apply(params, image)[0, shape[0] // 2, shape[1] // 2, 0]
    rows, columns = np.nonzero(np.asarray(jax.grad(logit)(image))[0, :, :, 0])
    assert model.apply(params, image).shape == (1, *shape, 1)
    assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == field


@pytest.mark.parametrize(
    'options',
    [
        dict(norm='affine'),
        dict(upsample='resize'),
        dict(dtype=jnp.bfloat16),
        dict(norm='affine', upsample='resize', dtype=jnp.bfloat16),
    ],
    ids=str,
)
def test_generator_switches(options):
    """Shapes and dtypes stay; every parameter changes the output, but for biases that a norm removes."""
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 32, 40, 1)), jnp.float32)
    model = Generator(4, 2, **options)
    variables = model.init(jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    loss = lambda variables: (
        model.apply(variables, images)
        * jnp.asarray(np.random.default_rng(1).normal(size=images.shape), jnp.float32)
    ).sum()
    for path, gradient in jax.tree_util.tree_leaves_with_path(jax.grad(loss)(variables)):
        name = jax.tree_util.keystr(path)
        assert gradient.dtype == jnp.float32 and (
            (jnp.abs(gradient) > 1e-6).any() or 'bias' in name and 'norm' not in name
        ), name
    assert model.apply(variables, images).dtype == jnp.float32


def test_affine_norm_starts_near_one_and_plain_has_no_parameters():
    variables = Generator(64, 1, 'affine').init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))[
        'params'
    ]
    scales = np.concatenate(
        [variables[name]['scale'] for name in variables if name.endswith('_norm')]
    )
    assert abs(scales.mean() - 1) < 0.01 and 0.015 < scales.std() < 0.025
    assert not any(
        'norm' in name
        for name in Generator(4, 1).init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))['params']
    )


@pytest.mark.parametrize(
    'operation, shape, kernel',
    [
        ('winograd', (2, 6, 10, 3), (3, 3, 3, 5)),
        ('winograd', (1, 4, 4, 32), (3, 3, 32, 32)),
        ('by_taps', (2, 9, 11, 6), (7, 7, 6, 2)),
        ('by_taps', (1, 5, 5, 6), (4, 3, 6, 1)),
        ('transposed_by_taps', (2, 5, 7, 4), (3, 3, 4, 3)),
    ],
)
def test_convolutions_written_another_way(operation, shape, kernel):
    """Values and both gradients, in float32, against lax."""
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in (shape, kernel))
    plain = (
        layers.transposed
        if 'transposed' in operation
        else lambda x, k: jax.lax.conv_general_dilated(
            x, k, (1, 1), 'VALID', dimension_numbers=layers.NHWC
        )
    )
    results = []
    for function in (getattr(layers, operation), plain):
        y, gradients = jax.vjp(function, x, kernel)
        results.append(
            (y, *gradients(jnp.asarray(np.random.default_rng(1).normal(size=y.shape), jnp.float32)))
        )
    for got, expected in zip(*results):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-5)


def test_the_generator_is_the_same_on_every_backend(monkeypatch):
    """The formulations for CPU against those for other backends, through a generator wide enough for all of them."""
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 1)), jnp.float32)
    model = Generator(16, 1)
    variables, results = model.init(jax.random.key(0), images), []
    for cpu in (True, False):
        monkeypatch.setattr(layers, 'on_cpu', lambda: cpu)
        results.append(
            jax.value_and_grad(lambda v: (model.apply(v, images) * images).sum())(variables)
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *results)


def test_unknown_model():
    with pytest.raises(InputError, match='resnet50'):
        models.create('resnet51')
