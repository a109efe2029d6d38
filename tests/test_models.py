"""Networks: parameter counts of their references, shapes, gradients, and layers against lax.

test_pretrained.py holds the backbones of keras.applications against Keras, test_pytorch.py those of
torchvision and the CycleGAN against PyTorch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from covjax import InputError, models
from covjax.models import cyclegan as gan
from covjax.models import densenet, inception, inception_resnet, layers
from covjax.models.cyclegan import Discriminator, Generator
from covjax.training.task import count_params

# (with a top of 1000 classes, without), BatchNorm running statistics counted: those that Keras 3.15
# counts of keras.applications; resnet18 and resnet50_torch have torchvision's 11,689,512 and
# 25,557,032 parameters, and 9,600 and 53,120 statistics.
COUNTS = {
    'vgg16': (138_357_544, 14_714_688),
    'resnet50': (25_636_712, 23_587_712),
    'inception_v3': (23_851_784, 21_802_784),
    'inception_resnet_v2': (55_873_736, 54_336_736),
    'densenet169': (14_307_880, 12_642_880),
    'resnet18': (11_699_112, 11_186_112),
    'resnet50_torch': (25_610_152, 23_561_152),
    'plain8': (423_000, 294_000),
    'dre_net': (46_699_131, 26_216_131),
}
WIDTHS = {
    'vgg16': 512,
    'resnet50': 2048,
    'inception_v3': 2048,
    'inception_resnet_v2': 1536,
    'densenet169': 1664,
    'resnet18': 512,
    'resnet50_torch': 2048,
    'plain8': 128,
    'dre_net': 2048,
}
PARTS = {'dre_net': 8}  # as often the features of a map are among those that are pooled
REDUCED = {'plain8': 8}  # at least by which a side is smaller in the last map; of others 24
TOP = {'vgg16': {'hidden': (4096, 4096)}}
WITHOUT_NORM = {'vgg16', 'plain8'}  # without running statistics
PARITY = (
    'keras.applications.',
    'torchvision ',
    'PyTorch ',
)  # tested in test_pretrained.py, test_pytorch.py

every_model = pytest.mark.parametrize('name', models.MODELS)


def trace(model, size, channels=3):
    """((logits or pooled features, maps), variables) of a model as shapes alone."""
    images = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    init = functools.partial(model.init_with_output, endpoints=True)
    return jax.eval_shape(init, jax.random.key(0), images)


@functools.cache
def traced(name, size, channels=3, **options):
    """A trace by the name of a model, done once."""
    return trace(models.create(name, **options), size, channels)


def smallest(name):
    return models.create(name).smallest


def shapes(variables):
    return jax.tree.map(jnp.shape, variables)


def uniform(*shape):
    """Images in [-1, 1]."""
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, shape), jnp.float32)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# ---- backbones


@pytest.mark.fast
def test_the_published_backbones_are_models():
    assert set(models.PUBLISHED) < set(models.MODELS)


@pytest.mark.fast
@every_model
def test_every_model_names_the_reference_that_it_equals(name):
    assert models.create(name).reference.startswith(PARITY)


@every_model
def test_counts(name):
    (_, _), variables = traced(name, smallest(name), num_classes=None)
    assert count_params(variables) == COUNTS[name][1]
    (logits, _), variables = traced(name, 224, num_classes=1000, **TOP.get(name, {}))
    assert count_params(variables) == COUNTS[name][0]
    assert logits.shape == (2, 1000)


@every_model
@pytest.mark.parametrize('size', ['smallest', 129])
def test_shapes_and_endpoints(name, size):
    size = smallest(name) if size == 'smallest' else size
    (pooled, maps), _ = traced(name, size, num_classes=None)
    assert pooled.shape == (2, WIDTHS[name] * PARTS.get(name, 1)) and pooled.dtype == jnp.float32
    assert len(maps) > 4 and maps['features'].shape[-1] == WIDTHS[name]
    height = maps['features'].shape[1]
    assert 1 <= height <= size // REDUCED.get(name, 24)
    assert height == min(value.shape[1] for value in maps.values() if value.ndim == 4)


@every_model
def test_one_set_of_variables_fits_every_size(name):
    variables = [traced(name, size, num_classes=None)[1] for size in (smallest(name), 129)]
    assert shapes(variables[0]) == shapes(variables[1])


@every_model
def test_grey_and_colour_differ_in_the_first_kernel_only(name):
    colour, grey = (
        flatten_dict(shapes(traced(name, smallest(name), channels, num_classes=None)[1]))
        for channels in (3, 1)
    )
    ((_, *path),) = (path for path in colour if colour[path] != grey[path])
    assert path[-1] == 'kernel' and grey['params', *path][2] == 1


@pytest.mark.fast
@every_model
def test_wrong_images(name):
    model, size = models.create(name), smallest(name)
    init = lambda *shape: jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
    with pytest.raises(InputError, match=f'{name}.*at least {size}x{size}.*image_size'):
        init(1, size, size - 1, 1)
    with pytest.raises(InputError, match=f'{name}.*1 or 3'):
        init(1, size, size, 2)


def drawn(variables):
    """Variables like those of a model that was just made, without compiling its init."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1] == 'kernel':
            return rng.normal(scale=np.sqrt(2 / np.prod(leaf.shape[:-1])), size=leaf.shape)
        return np.full(leaf.shape, float(path[-1] in ('scale', 'var')))

    flat = {path: draw(path, leaf) for path, leaf in flatten_dict(variables).items()}
    return jax.tree.map(jnp.float32, unflatten_dict(flat))


# Deep networks with one block of a kind, or two: (module of the family, its BLOCKS).
FEWER = {
    'inception_v3': (
        inception,
        {
            name: inception.BLOCKS[name]
            for name in ('mixed0', 'mixed3', 'mixed4', 'mixed8', 'mixed9')
        },
    ),
    'densenet169': (densenet, (2, 2, 2, 2)),
    'inception_resnet_v2': (
        inception_resnet,
        {
            name: block if isinstance(block, list) else (block[0], 2, block[2])
            for name, block in inception_resnet.BLOCKS.items()
        },
    ),
}
SMALLER = {'dre_net': {'backbone': 'resnet18'}}
WHOLE = [pytest.param(name, True, marks=pytest.mark.slow) for name in FEWER]


SHORTENED = [
    pytest.param(name, False, marks=[pytest.mark.slow] if name == 'dre_net' else [])
    for name in models.MODELS
]


@pytest.mark.parametrize('name, whole', [*SHORTENED, *WHOLE])
def test_every_parameter_matters(name, whole, monkeypatch):
    """Each gets a finite gradient; running statistics move in training and stay in inference."""
    if name in FEWER and not whole:
        family, blocks = FEWER[name]
        monkeypatch.setattr(family, 'BLOCKS', blocks)
    model = models.create(name, num_classes=2, **SMALLER.get(name, {}))
    images = uniform(4, model.smallest, model.smallest, 1)
    variables = drawn(trace(model, model.smallest, 1)[1])
    stats = variables.get('batch_stats', {})
    assert bool(stats) == (name not in WITHOUT_NORM)

    def loss(params):
        variables = {'params': params, 'batch_stats': stats}
        (logits, maps), updated = model.apply(
            variables, images, train=True, endpoints=True, mutable=['batch_stats']
        )
        value = (logits[:, 0] ** 2).sum() + logits[:, 1].sum()
        if name in models.AUXILIARY_LOSSES:
            value += models.AUXILIARY_LOSSES[name](maps, jnp.arange(4) % 2).sum()
        return value, updated.get('batch_stats', {})

    grads, moved = jax.jit(jax.grad(loss, has_aux=True))(variables['params'])
    for path, grad in flatten_dict(grads, sep='/').items():
        assert np.isfinite(grad).all(), path
        # A constant before BatchNorm has no effect, by design.
        before_norm = name == 'resnet50' and 'conv' in path and path.endswith('bias')
        assert before_norm or (np.asarray(grad) != 0).any(), path
    for old, new in zip(jax.tree.leaves(stats), jax.tree.leaves(moved), strict=True):
        assert np.isfinite(new).all() and not np.allclose(old, new)
    infer = lambda variables: model.apply(variables, images, mutable=['batch_stats'])[1]
    kept = jax.jit(infer)(variables).get('batch_stats', {})
    jax.tree.map(np.testing.assert_array_equal, kept, stats)


def test_bfloat16_computes_what_float32_does():
    images = uniform(2, 32, 32, 1)
    variables = drawn(traced('resnet18', 32, 1)[1])
    expected, logits = (
        jax.jit(models.create('resnet18', dtype=dtype).apply)(variables, images)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert logits.dtype == jnp.float32
    assert 0 < np.abs(logits - expected).max() < 0.03 * np.abs(expected).max()


def test_pooled_features_are_the_mean_of_the_last_map():
    (_, _), variables = traced('resnet18', 40, num_classes=None)
    apply = jax.jit(functools.partial(models.create('resnet18', None).apply, endpoints=True))
    pooled, maps = apply(drawn(variables), uniform(2, 40, 40, 3))
    np.testing.assert_allclose(pooled, maps['features'].mean((1, 2)), rtol=1e-5)


@every_model
def test_bfloat16_maps(name):
    (logits, maps), variables = traced(name, smallest(name), 1, dtype=jnp.bfloat16)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    del maps['features']
    assert {value.dtype for value in maps.values() if value.ndim == 4} == {jnp.dtype('bfloat16')}


@pytest.mark.fast
def test_unknown_model():
    with pytest.raises(InputError, match='resnet50'):
        models.create('resnet51')


# ---- the CycleGAN


@pytest.mark.fast
@pytest.mark.parametrize(
    'network, channels, count',
    [
        (Generator, 3, 11_378_179),
        (Generator, 1, 11_365_633),
        (Discriminator, 3, 2_764_737),
        (Discriminator, 1, 2_762_689),
    ],
)
def test_cyclegan_counts(network, channels, count):
    images = jnp.zeros((1, 64, 64, channels))
    assert count_params(jax.eval_shape(network().init, jax.random.key(0), images)) == count


@pytest.mark.parametrize('last_stride, field, shape', [(1, 70, (30, 30)), (2, 94, (15, 15))])
def test_discriminator_sees_patches(monkeypatch, last_stride, field, shape):
    """Without norms, which look at the whole image, a logit sees just so many pixels a side."""
    monkeypatch.setitem(gan.NORMS, 'instance', lambda name: lambda x: x)
    model = Discriminator(filters=2, last_stride=last_stride)
    image = jax.random.normal(jax.random.key(0), (1, 256, 256, 1))
    params = jax.jit(model.init)(jax.random.key(1), image)

    def logit(image):
        logits = model.apply(params, image)
        return logits[0, shape[0] // 2, shape[1] // 2, 0], logits

    gradient, logits = jax.jit(jax.grad(logit, has_aux=True))(image)
    rows, columns = np.nonzero(np.asarray(gradient)[0, :, :, 0])
    assert logits.shape == (1, *shape, 1)
    assert np.ptp(rows) + 1 == np.ptp(columns) + 1 == field


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
    """Dtypes stay; every parameter changes the output, but for biases that a norm removes."""
    images, weights = uniform(2, 32, 40, 1), normal(2, 32, 40, 1, seed=1)
    model = Generator(4, 2, **options)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}

    def loss(variables):
        output = model.apply(variables, images)
        return (output * weights).sum(), output

    gradients, output = jax.jit(jax.grad(loss, has_aux=True))(variables)
    assert output.shape == images.shape and output.dtype == jnp.float32
    for path, gradient in flatten_dict(gradients, sep='/').items():
        removed = path.endswith('bias') and 'norm' not in path
        assert gradient.dtype == jnp.float32
        assert removed or (jnp.abs(gradient) > 1e-6).any(), path


def test_affine_norm_starts_near_one_and_plain_has_no_parameters():
    key, image = jax.random.key(0), jnp.zeros((1, 32, 32, 1))
    affine = jax.jit(Generator(64, 1, 'affine').init)(key, image)['params']
    plain = jax.eval_shape(Generator(4, 1).init, key, image)['params']
    scales = [affine[name]['scale'] for name in affine if name.endswith('_norm')]
    scales = np.concatenate(scales)
    assert abs(scales.mean() - 1) < 0.01 and 0.015 < scales.std() < 0.025
    assert not any('norm' in name for name in plain)


def test_the_generator_is_the_same_on_every_backend(monkeypatch):
    """The ways of the CPU against those of other backends, in a generator wide enough for all."""
    images = uniform(1, 32, 32, 1)
    model = Generator(16, 1)
    variables = jax.jit(model.init)(jax.random.key(0), images)

    def value_and_gradient(cpu):
        monkeypatch.setattr(layers, 'on_cpu', lambda: cpu)
        loss = lambda variables: (model.apply(variables, images) * images).sum()
        return jax.jit(jax.value_and_grad(loss))(variables)

    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, value_and_gradient(True), value_and_gradient(False))


# ---- operations that are written another way on CPU


def stride_2(x):
    """A 1x1 convolution to 5 channels with stride 2."""
    kernel = normal(1, 1, x.shape[-1], 5)
    return layers.convolve(x, kernel, (2, 2), 'SAME', dimension_numbers=layers.NHWC)


@pytest.mark.fast
@pytest.mark.parametrize('shape', [(2, 11, 12, 3), (2, 9, 9, 3), (1, 8, 8, 2)])
@pytest.mark.parametrize(
    'operation',
    [
        functools.partial(layers.max_pool, size=2, stride=2),
        functools.partial(layers.max_pool, size=3, stride=2),
        layers.avg_pool_3x3,
        stride_2,
    ],
    ids=['max_pool 2', 'max_pool 3', 'avg_pool', 'convolve'],
)
def test_values_and_gradients_equal_those_of_other_backends(operation, shape, monkeypatch):
    x = normal(*shape)

    def value_and_gradient(cpu):
        monkeypatch.setattr(layers, 'on_cpu', lambda: cpu)
        return operation(x), jax.grad(lambda x: (operation(x) ** 3).sum())(x)

    for ours, expected in zip(value_and_gradient(True), value_and_gradient(False)):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize('cpu', [True, False])
def test_what_is_apart_is_compiled_by_itself_on_cpu_only(cpu, monkeypatch):
    """A sum that two places read: by itself XLA computes it in both."""
    monkeypatch.setattr(layers, 'on_cpu', lambda: cpu)
    x, y = normal(16, 8), normal(16, 8)
    total = layers.apart(lambda pair: {'sum': jnp.pad(sum(pair), ((0, 1), (0, 0)))})

    def twice(x, y):
        found = total((x, y))['sum']
        return found[:5] + 1, found[2:] * 3

    compiled = jax.jit(twice).lower(x, y).compile()
    assert compiled.as_text().count(' call(') == int(cpu)
    whole = jnp.pad(x + y, ((0, 1), (0, 0)))
    for ours, expected in zip(compiled(x, y), (whole[:5] + 1, whole[2:] * 3)):
        np.testing.assert_allclose(ours, expected, rtol=1e-6)


@pytest.mark.fast
def test_gradients_of_maps_that_grow_equal_those_of_concatenation():
    """Three layers, of which each reads all that came before."""
    start = [normal(2, 3, 3, 8), *layers.moments(normal(2, 3, 3, 8))]
    parts = [normal(2, 3, 3, densenet.GROWTH) for _ in range(3)]

    def read(maps):
        return sum(jnp.sin(each).sum() for each in maps)

    def ours(start, parts):
        seen = kept = start
        total = read(seen)
        for part in parts:
            seen, kept = densenet.grown(kept, [part, *layers.moments(part)])
            total += read(seen)
        return total + read(kept)

    def plain(start, parts):
        maps, total = start, read(start)
        for part in parts:
            pairs = zip(maps, [part, *layers.moments(part)])
            maps = [jnp.concatenate(pair, -1) for pair in pairs]
            total += read(maps)
        return total + read(maps)

    found, expected = (jax.jit(jax.grad(f, (0, 1)))(start, parts) for f in (ours, plain))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), found, expected
    )


@pytest.mark.fast
@pytest.mark.parametrize(
    'operation, image, kernel',
    [
        ('winograd', (2, 6, 10, 3), (3, 3, 3, 5)),
        ('winograd', (1, 4, 4, 32), (3, 3, 32, 32)),
        ('winograd', (2, 7, 4, 3), (3, 3, 3, 2)),
        ('winograd', (1, 5, 9, 2), (3, 3, 2, 4)),
        ('from_one_channel', (2, 7, 6, 1), (3, 3, 1, 5)),
        ('from_one_channel', (1, 9, 11, 1), (7, 4, 1, 3)),
        ('by_taps', (2, 9, 11, 6), (7, 7, 6, 2)),
        ('by_taps', (1, 5, 5, 6), (4, 3, 6, 1)),
        ('transposed_by_taps', (2, 5, 7, 4), (3, 3, 4, 3)),
        ('transposed_by_phases', (2, 5, 7, 4), (3, 3, 4, 3)),
        ('transposed_by_phases', (1, 1, 2, 1), (3, 3, 1, 1)),
    ],
)
def test_convolutions_equal_lax(operation, image, kernel):
    """Values and both gradients, in float32."""
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (image, kernel))

    def plain(x, kernel):
        conv = jax.lax.conv_general_dilated
        return conv(x, kernel, (1, 1), 'VALID', dimension_numbers=layers.NHWC)

    def value_and_gradients(function):
        y = jax.jit(function)(x, kernel)
        gradients = jax.jit(lambda x, kernel, g: jax.vjp(function, x, kernel)[1](g))
        return y, *gradients(x, kernel, normal(*y.shape, seed=1))

    expected = layers.transposed if operation.startswith('transposed') else plain
    pairs = zip(*map(value_and_gradients, (getattr(layers, operation), expected)))
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-5)


@pytest.mark.fast
@pytest.mark.parametrize(
    'options',
    [
        {'padding': 'SAME'},
        {'padding': 'VALID'},
        {'padding': 1},
        {'padding': ((1, 0), (0, 1))},
        {'padding': ((2, 2), (1, 1))},
        {'strides': 2},
        {'strides': 2, 'padding': 1},
        {'strides': (1, 2)},
        {'kernel_size': (1, 1), 'strides': 2},
        {'kernel_size': (1, 1), 'padding': 1},
        {'kernel_size': (5, 2)},
        {'kernel_dilation': 2},
        {'kernel_dilation': 2, 'padding': 2},
        {'input_dilation': 2, 'padding': 1},
        {'feature_group_count': 2},
    ],
)
@pytest.mark.parametrize('side', [24, 5, 2])
def test_a_convolution_with_any_options_is_that_of_flax(side, options):
    """Values and both gradients, of maps that are large and small enough for every way."""
    x = normal(2, side, side, 32)
    settings = {'features': 64, 'kernel_size': (3, 3), 'use_bias': False, **options}
    ours, theirs = nn.Conv(**settings, conv_general_dilated=layers.convolve), nn.Conv(**settings)
    variables = theirs.init(jax.random.key(0), x)

    def value_and_gradients(module):
        y = module.apply(variables, x)
        return y, *jax.vjp(module.apply, variables, x)[1](normal(*y.shape, seed=1))

    for mine, flax in zip(*(map(jax.tree.leaves, map(value_and_gradients, (ours, theirs))))):
        np.testing.assert_allclose(mine, flax, rtol=1e-4, atol=1e-4)


@pytest.mark.fast
@pytest.mark.parametrize('options', [{}, {'use_scale': False, 'epsilon': 1e-3}])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('train', [True, False])
def test_batch_norm_is_that_of_flax(train, dtype, options):
    """Values, running statistics and all gradients."""
    x, g = 3 + 2 * normal(4, 5, 3, 6), normal(4, 5, 3, 6, seed=1)
    settings = {'use_running_average': not train, 'momentum': 0.9, 'dtype': dtype, **options}
    ours, theirs = layers.BatchNorm(**settings), nn.BatchNorm(**settings)
    variables = theirs.init(jax.random.key(0), x)
    assert jax.tree.all(jax.tree.map(np.array_equal, ours.init(jax.random.key(0), x), variables))
    variables = jax.tree.map(lambda leaf: leaf + abs(normal(*leaf.shape, seed=2)), variables)

    def everything(norm):
        def loss(params, x):
            full = {**variables, 'params': params}
            y, updated = norm.apply(full, x, mutable=['batch_stats'])
            return (y * g).sum(), (y, updated)

        gradients, (y, updated) = jax.grad(loss, (0, 1), has_aux=True)(variables['params'], x)
        assert y.dtype == dtype
        return gradients, y.astype(jnp.float32), updated

    near = 1e-4 if dtype == jnp.float32 else 0.1
    pairs = zip(*(jax.tree.leaves(everything(norm)) for norm in (ours, theirs)))
    for value, expected in pairs:
        np.testing.assert_allclose(value, expected, rtol=near, atol=near)


@pytest.mark.fast
def test_batch_norm_leaves_images_out_as_flax_does():
    """Values and running statistics, whatever is in the images that do not count."""
    x, valid = 3 + 2 * normal(5, 4, 3, 6), jnp.array([True, False, True, True, False])
    settings = {'use_running_average': False, 'momentum': 0.9}
    ours, theirs = layers.BatchNorm(**settings), nn.BatchNorm(**settings)
    variables = theirs.init(jax.random.key(0), x)
    expected = theirs.apply(variables, x, mask=valid.reshape(-1, 1, 1, 1), mutable=['batch_stats'])
    shown = [x, jnp.where(valid.reshape(-1, 1, 1, 1), x, 1e3)]
    for images in shown:
        found = ours.apply(variables, images, valid, mutable=['batch_stats'])
        np.testing.assert_allclose(found[0][valid], expected[0][valid], atol=1e-4)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4), found[1], expected[1]
        )


@pytest.mark.fast
def test_batch_norm_of_scans_is_that_of_each_scan_alone():
    """Its running statistics stay as they are, and no scan sees another one."""
    x = 3 + 2 * normal(6, 4, 3, 6)
    valid = jnp.array([[True, True, False], [True, True, True]])
    norm = layers.BatchNorm(use_running_average=False, momentum=0.9, axis_name='devices')
    variables = norm.init(jax.random.key(0), x)
    both, updated = norm.apply(variables, x, valid, mutable=['batch_stats'])
    jax.tree.map(np.testing.assert_array_equal, updated['batch_stats'], variables['batch_stats'])
    alone = norm.clone(axis_name=None)
    for part, scan in ((x[:2], both[:2]), (x[3:], both[3:])):
        expected, _ = alone.apply(variables, part, mutable=['batch_stats'])
        np.testing.assert_allclose(scan, expected, atol=1e-4)


@pytest.mark.fast
@pytest.mark.parametrize('valid', [None, jnp.array([True, False, True, True])])
def test_batch_norm_averages_statistics_over_devices(valid):
    """Values, statistics and the gradient of the whole batch, in two halves."""
    x, g = 3 + 2 * normal(4, 5, 3, 6), normal(4, 5, 3, 6, seed=1)
    whole = layers.BatchNorm(use_running_average=False, momentum=0.9)
    variables = whole.init(jax.random.key(0), x)

    def gradient(norm):
        def loss(x, g, valid):
            y, updated = norm.apply(variables, x, valid, mutable=['batch_stats'])
            return (y * g).sum(), (y, updated)

        return jax.grad(loss, has_aux=True)

    dx, (y, updated) = gradient(whole)(x, g, valid)
    halves = x.reshape(2, 2, 5, 3, 6), g.reshape(2, 2, 5, 3, 6)
    halves += (None if valid is None else valid.reshape(2, 2),)
    part = gradient(whole.clone(axis_name='devices'))
    dxs, (ys, both) = jax.vmap(part, axis_name='devices')(*halves)
    for value, expected in ((dxs, dx), (ys, y)):
        np.testing.assert_allclose(value.reshape(x.shape), expected, rtol=1e-5, atol=1e-5)
    for value, expected in zip(jax.tree.leaves(both), jax.tree.leaves(updated)):
        np.testing.assert_allclose(value, np.stack([expected] * 2), rtol=1e-5)
