"""V-Net and VB-Net equal MONAI's and PyTorch's of the same structure, weight for weight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax import lax

from covjax import InputError
from covjax.models import layers_3d
from covjax.models.vnet import V_NET, VB_NET

COUNTS = [  # (network, parameters, running statistics), of one channel and two classes
    (V_NET(), 45_597_898, 5_316),
    (VB_NET(bottleneck=None), 14_563_296, 0),
    (VB_NET(bottleneck=3), 8_664_096, 0),
    (VB_NET(), 2_167_840, 0),
]


@pytest.mark.fast
@pytest.mark.parametrize('model, params, statistics', COUNTS)
def test_number_of_parameters(model, params, statistics):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 16, 1)))
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert count(shapes['params']) == params
    assert count(shapes.get('batch_stats', {})) == statistics


SMALL = (4, 8, 16)


@pytest.mark.fast
@pytest.mark.parametrize('model', [V_NET(widths=SMALL), VB_NET(widths=SMALL)])
@pytest.mark.parametrize('sides', [(4, 8, 12), (3, 9, 5), (1, 1, 1)])
def test_any_size_is_continued_by_its_edge(model, sides):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2, *sides, 1)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    apply = jax.jit(functools.partial(model.apply, endpoints=True))
    logits, maps = apply(variables, x)
    assert logits.shape == (2, *sides, 2) and logits.dtype == jnp.float32
    margins = ((0, 0), *((0, -side % 4) for side in sides), (0, 0))
    whole, _ = apply(variables, np.pad(x, margins, mode='edge'))
    cropped = whole[:, : sides[0], : sides[1], : sides[2]]
    np.testing.assert_allclose(logits, cropped, rtol=1e-4, atol=1e-5)
    assert {*maps} == {'down0', 'down1', 'down2', 'up1', 'up0', 'features'}


@pytest.mark.fast
@pytest.mark.parametrize(
    'model, shape, words',
    [
        (V_NET(), (1, 16, 16, 1), 'vnet needs volumes'),
        (VB_NET(), (1, 16, 16, 16, 3), 'vbnet needs volumes'),
        (VB_NET(bottleneck=5), (1, 16, 16, 16, 1), 'config.bottleneck=5'),
        (V_NET(widths=(3, 8)), (1, 16, 16, 16, 1), 'an even number of features'),
        (V_NET(widths=(4,) * 6), (1, 16, 16, 16, 1), 'at most 5 levels'),
        (V_NET(widths=(4, 0)), (1, 16, 16, 16, 1), 'is no number of features'),
    ],
)
def test_what_does_not_fit_is_refused(model, shape, words):
    with pytest.raises(InputError, match=words):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.fast
@pytest.mark.parametrize('size', [1, 3, 5])
@pytest.mark.parametrize('channels', [1, 4])
@pytest.mark.parametrize('sides', [(6, 7, 8), (2, 3, 4), (1, 1, 1)], ids=str)
def test_a_convolution_written_otherwise_is_one(size, channels, sides):
    """And so are its gradients."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *sides, channels)).astype(np.float32)
    kernel = rng.normal(size=(size,) * 3 + (channels, 3)).astype(np.float32)
    plain = lambda x, kernel: lax.conv_general_dilated(
        x, kernel, (1, 1, 1), 'SAME', dimension_numbers=layers_3d.NDHWC
    )

    def both(convolve):
        def squares(x, kernel):
            found = convolve(x, kernel)
            return (found**2).sum(), found

        (_, found), of_both = jax.jit(jax.value_and_grad(squares, (0, 1), has_aux=True))(x, kernel)
        return found, of_both

    expected, gradients = both(plain)
    ways = (layers_3d.convolve, layers_3d.by_slices, layers_3d.by_taps, layers_3d.by_sums)
    for convolve in ways:
        found, ours = both(convolve)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
        for one, other in zip(ours, gradients):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-2 * np.abs(other).max())


@pytest.mark.fast
@pytest.mark.parametrize('way', [layers_3d.by_slices, layers_3d.by_sums, layers_3d.by_taps])
def test_gradients_of_narrow_numbers_have_their_dtype(way):
    x, kernel = jnp.ones((1, 3, 4, 5, 2), jnp.bfloat16), jnp.ones((3, 3, 3, 2, 2), jnp.bfloat16)
    total = lambda x, kernel: way(x, kernel).astype(jnp.float32).sum()
    for gradient in jax.grad(total, (0, 1))(x, kernel):
        assert gradient.dtype == jnp.bfloat16


@pytest.mark.fast
@pytest.mark.parametrize('shape', [(2, 3, 4, 5, 6), (1, 1, 1, 1, 2)], ids=str)
def test_the_norm_of_all_is_that_of_one_group(shape):
    """And so are its gradients."""
    x = np.random.default_rng(0).normal(2, 3, shape).astype(np.float32)
    flax, ours = linen.GroupNorm(1, epsilon=1e-5), layers_3d.NormOfAll()
    variables = flax.init(jax.random.key(0), x)
    assert jax.tree.structure(variables) == jax.tree.structure(ours.init(jax.random.key(0), x))
    changed = jax.tree.map(lambda leaf: leaf + 0.3, variables)
    np.testing.assert_allclose(ours.apply(changed, x), flax.apply(changed, x), atol=1e-5)
    cubes = lambda norm: lambda v, x: (norm.apply(v, x) ** 3).sum()
    for one, other in zip(
        *(jax.tree.leaves(jax.grad(cubes(norm), (0, 1))(changed, x)) for norm in (ours, flax))
    ):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


# ---- PyTorch


def ours_of(weight, transposed=False):
    """A kernel of PyTorch, [O, I, ...] or transposed [I, O, ...], as [..., I, O]."""
    axes = (2, 3, 4, 0, 1) if transposed else (2, 3, 4, 1, 0)
    return weight.detach().numpy().transpose(axes)


def ours_from(named):
    """The variables of a VNet from layers of PyTorch, {our name: module}."""
    params, statistics = {}, {}
    for name, layer in named.items():
        is_norm = layer.weight.ndim == 1
        transposed = 'Transpose' in type(layer).__name__
        weight = layer.weight.detach().numpy()
        kernel = {'scale': weight} if is_norm else {'kernel': ours_of(layer.weight, transposed)}
        bias = {} if layer.bias is None else {'bias': layer.bias.detach().numpy()}
        params[name] = kernel | bias
        if hasattr(layer, 'running_mean'):
            mean, var = layer.running_mean.numpy(), layer.running_var.numpy()
            statistics[name] = {'mean': mean, 'var': var}
    return {'params': params} | ({'batch_stats': statistics} if statistics else {})


def layers_of_monai(network):
    """{our name: module} of a monai.networks.nets.VNet."""
    found = {}
    blocks = {'down0': network.in_tr.conv_block, 'logits': network.out_tr.conv_block}
    for level, width in enumerate((32, 64, 128, 256), 1):
        down, up = getattr(network, f'down_tr{width}'), getattr(network, f'up_tr{width}')
        found[f'down{level}_halved'], found[f'down{level}_halved_norm'] = down.down_conv, down.bn1
        found[f'up{level - 1}_doubled'], found[f'up{level - 1}_doubled_norm'] = up.up_conv, up.bn1
        for name, units in ((f'down{level}', down.ops), (f'up{level - 1}', up.ops)):
            blocks |= {f'{name}_conv{i}': unit.conv_block for i, unit in enumerate(units, 1)}
    for name, block in blocks.items():
        found[name], found[f'{name}_norm'] = block.conv, block.adn.N
    return found | {'head': network.out_tr.conv2}


def test_v_net_equals_that_of_monai():
    torch = pytest.importorskip('torch')
    nets = pytest.importorskip('monai.networks.nets')
    torch.manual_seed(0)
    network = nets.VNet(3, 1, 2, bias=False).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 16, 32, 16, 1)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.tensor(x).permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1).numpy()
    variables = ours_from(layers_of_monai(network))
    shapes = jax.eval_shape(V_NET().init, jax.random.key(0), x)
    assert jax.tree.structure(shapes) == jax.tree.structure(variables)
    actual = jax.jit(V_NET().apply)(variables, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize('bottleneck', [None, 1, 3])
def test_vb_net_equals_that_of_pytorch(bottleneck):
    torch = pytest.importorskip('torch')
    from benchmarks import torch_vbnet

    torch.manual_seed(0)
    named, network = torch_vbnet.vb_net(bottleneck)
    x = np.random.default_rng(0).uniform(-1, 1, (2, 16, 32, 16, 1)).astype(np.float32)
    volumes = torch.tensor(x).permute(0, 4, 1, 2, 3)
    with torch.no_grad():
        network(volumes)  # makes the layers
        for name, module in named.items():
            if name.endswith('norm'):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
        expected = network(volumes).permute(0, 2, 3, 4, 1).numpy()
    model, variables = VB_NET(bottleneck=bottleneck), ours_from(named)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    assert jax.tree.structure(shapes) == jax.tree.structure(variables)
    actual = jax.jit(model.apply)(variables, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
