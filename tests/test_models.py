"""Networks against Keras and PyTorch with the same weights, and against the parameter counts of their papers."""
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covjax import InputError, models
from covjax.models.cyclegan import Discriminator, Generator
from covjax.task import count_params

# keras.applications without top (BatchNorm running statistics counted), checked with Keras 3.15.
COUNTS = {'resnet50': 23_587_712}
# keras.applications names of layers, in the order of ours.
KERAS = {'resnet50': 'ResNet50'}


@pytest.mark.parametrize('name', models.MODELS)
def test_shapes_and_counts(name):
    model = models.create(name, num_classes=None)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    assert count_params(variables) == COUNTS[name]
    out, maps = jax.eval_shape(lambda v: model.apply(v, jnp.zeros((2, 64, 64, 3)), endpoints=True), variables)
    assert out.shape == (2, maps['features'].shape[-1]) and out.dtype == jnp.float32


@pytest.mark.parametrize('name', models.MODELS)
def test_every_parameter_matters(name):
    model = models.create(name, num_classes=2)
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 1)), jnp.float32)
    variables = model.init(jax.random.key(0), images)

    @jax.jit
    def loss(params):
        logits, updated = model.apply({'params': params, 'batch_stats': variables['batch_stats']}, images, train=True, mutable=['batch_stats'])
        return (logits[:, 0] ** 2).sum() + logits[:, 1].sum(), updated['batch_stats']

    grads, moved = jax.grad(loss, has_aux=True)(variables['params'])
    for path, grad in flax.traverse_util.flatten_dict(grads, sep='/').items():
        assert np.isfinite(grad).all(), path
        before_norm = path.endswith('bias') and 'conv' in path                 # a constant before BatchNorm has no effect, by design
        assert before_norm or (np.asarray(grad) != 0).any(), path
    for old, new in zip(jax.tree.leaves(variables['batch_stats']), jax.tree.leaves(moved)):
        assert not np.allclose(old, new)


def keras_resnet50(keras_model):
    """Weights of keras.applications.ResNet50 under our names: pairs of (our path, Keras layer)."""
    pairs = {'stem_conv': 'conv1_conv', 'stem_norm': 'conv1_bn', 'head': 'predictions'}
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(1, blocks + 1):
            for i in range(4):
                if i or block == 1:
                    ours, theirs = f'stage{stage + 2}_block{block}', f'conv{stage + 2}_block{block}_{i}'
                    pairs |= {f'{ours}/conv{i}': f'{theirs}_conv', f'{ours}/norm{i}': f'{theirs}_bn'}
    params, stats = {}, {}
    for ours, theirs in pairs.items():
        weights = [np.asarray(w) for w in keras_model.get_layer(theirs).get_weights()]
        if len(weights) == 4:
            params |= {f'{ours}/scale': weights[0], f'{ours}/bias': weights[1]}
            stats |= {f'{ours}/mean': weights[2], f'{ours}/var': weights[3]}
        else:
            params |= {f'{ours}/kernel': weights[0], f'{ours}/bias': weights[1]}
    nest = lambda flat: flax.traverse_util.unflatten_dict(flat, sep='/')
    return {'params': nest(params), 'batch_stats': nest(stats)}


@pytest.mark.parametrize('size', [64, 97])
def test_resnet50_equals_keras(size):
    keras = pytest.importorskip('keras')
    keras.utils.set_random_seed(0)
    reference = keras.applications.ResNet50(weights=None, include_top=True, classes=10, input_shape=(size, size, 3), classifier_activation=None)
    rng = np.random.default_rng(0)
    for layer in reference.layers:                                             # running statistics and scales away from their defaults
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(*r, w.shape) for w, r in zip(layer.get_weights(), ((.5, 1.5), (-.2, .2), (-.2, .2), (.5, 1.5)))])
    variables = keras_resnet50(reference)
    images = rng.uniform(-1, 1, (2, size, size, 3)).astype(np.float32)
    ours = models.create('resnet50', num_classes=10).apply(variables, images)
    with jax.numpy_rank_promotion('allow'):
        theirs = np.asarray(reference(images, training=False))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


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


def test_unknown_model_and_small_image():
    with pytest.raises(InputError, match='resnet50'):
        models.create('resnet51')
    with pytest.raises(InputError, match='32x32'):
        models.create('resnet50').init(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
