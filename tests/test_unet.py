"""U-Net: the published numbers of parameters, PyTorch's logits, and images of any size."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from covjax import InputError, models
from covjax.models import layers, unet
from covjax.training.task import count_params

pytestmark = pytest.mark.fast

SMALL = (4, 6, 8)
TINY = (4, 6)  # where programs are compiled
# Parameters and running statistics by (up, classes): those of the PyTorch implementation of
# milesial, counted there; one class more is one row of the head more.
COUNTS = {
    ('transposed', 1): (31_036_481, 11_776),
    ('transposed', 2): (31_036_546, 11_776),
    ('transposed', 3): (31_036_611, 11_776),
    ('bilinear', 2): (17_261_890, 8_832),
}
every_up = pytest.mark.parametrize('up', unet.UPS)
every_norm = pytest.mark.parametrize('norm', unet.NORMS)


def images(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def started(size=(16, 24), channels=1, **options):
    """A network and its variables, none of which is at the value it starts from."""
    model = models.create('unet', **({'widths': TINY} | options))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *size, channels)))
    rng = np.random.default_rng(1)
    moved = lambda leaf: leaf + np.float32(0.1) * rng.random(leaf.shape, np.float32)
    return model, jax.tree.map(moved, jax.device_get(variables))


@pytest.mark.parametrize('up, classes', COUNTS)
def test_the_published_sizes_have_the_published_counts(up, classes):
    model = models.create('unet', num_classes=classes, up=up)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
    counts = tuple(count_params(shapes[kind]) for kind in ('params', 'batch_stats'))
    assert counts == COUNTS[up, classes]


@every_up
@every_norm
@pytest.mark.parametrize('size', [(1, 1), (5, 9), (16, 16), (33, 18)])
def test_every_size_has_logits_of_its_size(up, norm, size):
    model = models.create('unet', widths=SMALL, up=up, norm=norm, num_classes=3)
    image = jax.ShapeDtypeStruct((2, *size, 1), jnp.float32)
    init = partial(model.init_with_output, endpoints=True)
    (logits, maps), _ = jax.eval_shape(init, jax.random.key(0), image)
    assert logits.shape == (2, *size, 3) and logits.dtype == jnp.float32
    assert set(maps) == {'down1', 'down2', 'down3', 'up2', 'up1', 'features'}


@every_up
def test_a_side_that_cannot_be_halved_is_continued_by_its_edge(up):
    model, variables = started(up=up)
    image = images(1, 13, 16, 1)
    continued = np.pad(image, ((0, 0), (0, 1), (0, 0), (0, 0)), mode='edge')
    apply = jax.jit(model.apply)
    whole = apply(variables, continued)
    np.testing.assert_allclose(apply(variables, image), whole[:, :13], atol=1e-5)


@every_norm
def test_what_is_computed_in_bfloat16_is_near_float32(norm):
    model, variables = started(norm=norm)
    half = models.create('unet', widths=TINY, norm=norm, dtype=jnp.bfloat16)
    exact, near = (jax.jit(net.apply)(variables, images(2, 16, 24, 1)) for net in (model, half))
    assert near.dtype == jnp.float32
    np.testing.assert_allclose(near, exact, atol=0.1 * np.abs(exact).max())


@pytest.mark.parametrize('shape', [(16, 16, 1), (1, 16, 16, 2), (1, 4, 16, 16, 1)])
def test_images_of_another_rank_or_number_of_channels_are_refused(shape):
    model = models.create('unet', widths=SMALL)
    with pytest.raises(InputError, match=r'unet needs images \[B, H, W, 1 or 3\], got'):
        model.init(jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize('option', ['up', 'norm'])
def test_an_unknown_option_is_refused_with_the_valid_ones(option):
    model = models.create('unet', widths=SMALL, **{option: 'nearest'})
    with pytest.raises(InputError, match=f'config.{option}=nearest: no such choice; choose one of'):
        model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))


def test_the_way_up_without_overlap_is_the_transposed_convolution_of_flax():
    x, ours = images(2, 5, 7, 3), layers.Doubled(4)
    variables = ours.init(jax.random.key(0), x)
    # Flax correlates where PyTorch and we scatter: its kernel is ours, turned around.
    params = jax.tree.map(lambda leaf: leaf[::-1, ::-1] if leaf.ndim == 4 else leaf, variables)
    theirs = layers.nn.ConvTranspose(4, (2, 2), (2, 2)).apply(params, x)
    np.testing.assert_allclose(ours.apply(variables, x), theirs, atol=1e-6)


# ---- parity with PyTorch


def name_of(key, levels):
    """Our path of a tensor of the state dict of the UNet of benchmarks/torch_unet.py."""
    part, *rest = key.split('.')
    kind = rest[-1]
    if part == 'head':
        return 'params', 'head', {'weight': 'kernel', 'bias': 'bias'}[kind]
    level = int(rest[0]) + 1 if part == 'down' else levels - 1 - int(rest[0])
    if part == 'doubled':
        leaf = {'weight': 'kernel', 'bias': 'bias'}[kind]
        return 'params', f'up{level}_doubled', leaf
    place = int(rest[1])
    block = f'{part}{level}_{"norm" if place % 3 else "conv"}{place // 3 + 1}'
    if not place % 3:
        return 'params', block, 'kernel'
    leaf = {'weight': 'scale', 'bias': 'bias', 'running_mean': 'mean', 'running_var': 'var'}[kind]
    return 'batch_stats' if kind.startswith('running') else 'params', block, leaf


def as_ours(state, levels):
    """The variables of our network from the state dict of the UNet of benchmarks/torch_unet.py."""
    flat = {}
    for key, tensor in state.items():
        if key.endswith('num_batches_tracked'):
            continue
        array = tensor.numpy().copy()  # PyTorch changes running statistics in place
        if array.ndim == 4:
            transposed = key.startswith('doubled')
            array = array.transpose((2, 3, 0, 1) if transposed else (2, 3, 1, 0))
        flat[name_of(key, levels)] = array
    return unflatten_dict(flat)


@every_up
@every_norm
def test_logits_and_running_statistics_equal_those_of_pytorch(up, norm):
    torch = pytest.importorskip('torch')
    from benchmarks import torch_unet

    torch.manual_seed(0)
    widths = (8, 16, 32)
    theirs = torch_unet.UNet(widths, 2, up, norm)
    with torch.no_grad():
        for tensor in theirs.state_dict().values():
            if tensor.ndim == 1:  # norms and biases, which start at 0 and 1
                tensor.add_(0.2 * torch.rand_like(tensor))
    ours = models.create('unet', widths=widths, up=up, norm=norm)
    variables = as_ours(theirs.state_dict(), len(widths))
    x = images(3, 32, 48, 1)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), x)
    assert {k: v.shape for k, v in flatten_dict(shapes).items()} == {
        k: v.shape for k, v in flatten_dict(variables).items()
    }

    grey = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    for train in (True, False):
        apply = jax.jit(partial(ours.apply, train=train, mutable=['batch_stats']))
        logits, updated = apply(variables, x)
        with torch.no_grad():
            expected = theirs.train(train)(grey).numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(logits, expected, atol=1e-4)
        variables = as_ours(theirs.state_dict(), len(widths))
        smallest_n = 3 * 32 * 48 // 4 ** (len(widths) - 1)
        for path, leaf in flatten_dict(updated).items():
            kept = flatten_dict(variables)[path]
            # PyTorch keeps the unbiased variance, Flax the biased one.
            tolerance = 1 / (smallest_n - 1) if path[-1] == 'var' else 1e-5
            np.testing.assert_allclose(leaf, kept, atol=1e-5, rtol=tolerance)
