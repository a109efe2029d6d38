"""Networks against Keras and PyTorch with the same weights, and against the parameter counts of their papers."""
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import FAST
from covjax import InputError, models
from covjax.models import layers
from covjax.models.cyclegan import Discriminator, Generator
from covjax.task import count_params

# (with a top of 1000 classes, without) of keras.applications, BatchNorm running statistics counted, checked with Keras 3.15.
COUNTS = {'vgg16': (138_357_544, 14_714_688), 'resnet50': (25_636_712, 23_587_712), 'inception_v3': (23_851_784, 21_802_784),
          'inception_resnet_v2': (55_873_736, 54_336_736), 'densenet169': (14_307_880, 12_642_880)}
WIDTHS = {'vgg16': 512, 'resnet50': 2048, 'inception_v3': 2048, 'inception_resnet_v2': 1536, 'densenet169': 1664}
TOP = {'vgg16': {'hidden': (4096, 4096)}}


def abstract(model, size, channels):
    """(variables, apply) of a model as shapes alone."""
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, channels))))
    return variables, lambda size, **kwargs: jax.eval_shape(lambda v: model.apply(v, jnp.zeros((2, size, size, channels)), **kwargs), variables)


@pytest.mark.parametrize('name', models.MODELS)
def test_counts(name):
    smallest = models.create(name).smallest
    assert count_params(abstract(models.create(name, num_classes=None), smallest, 3)[0]) == COUNTS[name][1]
    assert count_params(abstract(models.create(name, num_classes=1000, **TOP.get(name, {})), 224, 3)[0]) == COUNTS[name][0]


@pytest.mark.parametrize('name', models.MODELS)
@pytest.mark.parametrize('channels', [1, 3])
def test_shapes_and_endpoints(name, channels):
    model = models.create(name, num_classes=None)
    variables, apply = abstract(model, 96, channels)
    for size in (model.smallest, 129):                                         # one set of variables for both
        pooled, maps = apply(size, endpoints=True)
        assert pooled.shape == (2, WIDTHS[name]) and pooled.dtype == jnp.float32
        assert maps['features'].shape[-1] == WIDTHS[name] and len(maps) > 4
        assert 1 <= maps['features'].shape[1] == min(value.shape[1] for value in maps.values()) <= size // 24
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
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (4, model.smallest, model.smallest, 1)), jnp.float32)
    variables = jax.jit(model.init, compiler_options=FAST)(jax.random.key(0), images)
    stats = variables.get('batch_stats', {})

    def loss(params):
        logits, updated = model.apply({'params': params, 'batch_stats': stats}, images, train=True, mutable=['batch_stats'])
        return (logits[:, 0] ** 2).sum() + logits[:, 1].sum(), updated.get('batch_stats', {})

    grads, moved = jax.jit(jax.grad(loss, has_aux=True), compiler_options=FAST)(variables['params'])
    for path, grad in flax.traverse_util.flatten_dict(grads, sep='/').items():
        assert np.isfinite(grad).all(), path
        before_norm = name == 'resnet50' and path.endswith('bias') and 'conv' in path          # a constant before BatchNorm has no effect, by design
        assert before_norm or (np.asarray(grad) != 0).any(), path
    assert bool(stats) == (name != 'vgg16')
    for old, new in zip(jax.tree.leaves(stats), jax.tree.leaves(moved), strict=True):
        assert np.isfinite(new).all() and not np.allclose(old, new)
    kept = jax.jit(lambda variables: model.apply(variables, images, mutable=['batch_stats'])[1].get('batch_stats', {}))(variables)
    jax.tree.map(np.testing.assert_array_equal, kept, stats)


def test_bfloat16_computes_what_float32_does():
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 1)), jnp.float32)
    variables = jax.jit(models.create('resnet50').init, compiler_options=FAST)(jax.random.key(0), images)
    half = models.create('resnet50', dtype=jnp.bfloat16)
    expected, got = (models.create('resnet50', dtype=dtype).apply(variables, images) for dtype in (jnp.float32, jnp.bfloat16))
    assert got.dtype == jnp.float32 and 0 < np.abs(got - expected).max() < .03 * np.abs(expected).max()


@pytest.mark.parametrize('name', models.MODELS)
def test_bfloat16_maps(name):
    model = models.create(name, dtype=jnp.bfloat16)
    variables, apply = abstract(model, model.smallest, 1)
    logits, maps = apply(model.smallest, endpoints=True)
    assert logits.dtype == jnp.float32 and {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    assert {value.dtype for name, value in maps.items() if name != 'features'} == {jnp.dtype('bfloat16')}


@pytest.mark.parametrize('shape', [(2, 11, 12, 3), (2, 9, 9, 3), (1, 8, 8, 2)])
def test_cpu_formulations_equal_lax(shape, monkeypatch):
    """Values and gradients of the operations that are written another way on CPU."""
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in (shape, (1, 1, shape[-1], 5)))
    convolve = lambda x: layers.convolve(x, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    for operation in (lambda x: layers.max_pool(x, 2, 2), lambda x: layers.max_pool(x, 3, 2), layers.avg_pool_3x3, convolve):
        results = []
        for cpu in (True, False):
            monkeypatch.setattr(layers, 'on_cpu', lambda: cpu)
            results.append((operation(x), jax.grad(lambda x: (operation(x) ** 3).sum())(x)))
        for got, expected in zip(*results):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_cyclegan_counts():
    for channels, generator, discriminator in ((3, 11_378_179, 2_764_737), (1, 11_365_633, 2_762_689)):
        image = jnp.zeros((1, 64, 64, channels))
        assert count_params(jax.eval_shape(lambda: Generator().init(jax.random.key(0), image))) == generator
        assert count_params(jax.eval_shape(lambda: Discriminator().init(jax.random.key(0), image))) == discriminator


def test_discriminator_sees_70x70_patches():
    image = jnp.zeros((1, 256, 256, 1))
    model = Discriminator(filters=4)
    params = model.init(jax.random.key(0), image)
    assert model.apply(params, image).shape == (1, 30, 30, 1)


def torch_cyclegan(torch, filters, blocks):
    """The reference networks written down anew in PyTorch (Zhu et al. 2017, appendix)."""
    nn = torch.nn

    class Residual(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.body = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c), nn.ReLU(),
                                      nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c))

        def forward(self, x):
            return x + self.body(x)

    f = filters
    down = [layer for c in (f, 2 * f) for layer in (nn.Conv2d(c, 2 * c, 3, 2, 1), nn.InstanceNorm2d(2 * c), nn.ReLU())]
    up = [layer for c in (4 * f, 2 * f) for layer in (nn.ConvTranspose2d(c, c // 2, 3, 2, 1, 1), nn.InstanceNorm2d(c // 2), nn.ReLU())]
    generator = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(1, f, 7), nn.InstanceNorm2d(f), nn.ReLU(), *down, *[Residual(4 * f) for _ in range(blocks)],
                              *up, nn.ReflectionPad2d(3), nn.Conv2d(f, 1, 7), nn.Tanh())
    widths = [1, f, 2 * f, 4 * f, 8 * f]
    body = [layer for i, stride in enumerate((2, 2, 2, 1)) for layer in (
        nn.Conv2d(widths[i], widths[i + 1], 4, stride, 1), *([nn.InstanceNorm2d(widths[i + 1])] if i else []), nn.LeakyReLU(.2))]
    return generator, nn.Sequential(*body, nn.Conv2d(8 * f, 1, 4, 1, 1))


def torch_weights(torch, module, names):
    layers = [layer for layer in module.modules() if isinstance(layer, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))]
    flat = {}
    for name, layer in zip(names, layers, strict=True):
        axes = (2, 3, 0, 1) if isinstance(layer, torch.nn.ConvTranspose2d) else (2, 3, 1, 0)
        flat |= {f'{name}/kernel': layer.weight.detach().numpy().transpose(axes), f'{name}/bias': layer.bias.detach().numpy()}
    return {'params': flax.traverse_util.unflatten_dict(flat, sep='/')}


@pytest.mark.parametrize('height, width', [(32, 48), (64, 64)])
def test_cyclegan_equals_torch(height, width):
    torch = pytest.importorskip('torch')
    torch.manual_seed(0)
    generator, discriminator = torch_cyclegan(torch, 8, 2)
    images = torch.rand(2, 1, height, width) * 2 - 1
    names = ['stem', 'down1', 'down2', 'block1/conv1', 'block1/conv2', 'block2/conv1', 'block2/conv2', 'up1', 'up2', 'out']
    cases = ((Generator(8, 2), generator, names), (Discriminator(8), discriminator, ['conv1', 'conv2', 'conv3', 'conv4', 'out']))
    for ours, theirs, layer_names in cases:
        y = ours.apply(torch_weights(torch, theirs, layer_names), images.numpy().transpose(0, 2, 3, 1))
        expected = theirs(images).detach().numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_unknown_model():
    with pytest.raises(InputError, match='resnet50'):
        models.create('resnet51')
