"""CycleGAN weights in the layout of the authors' PyTorch implementation (netG resnet, netD basic): numbered modules of one nn.Sequential, kernels [O, I, H, W].

Only reading a .pth file needs PyTorch; nothing else here does.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np

from covjax import InputError
from covjax.models.cyclegan import Discriminator, Generator

STATISTICS = (
    'running_mean',
    'running_var',
    'num_batches_tracked',
)  # that old files hold of norms which never use them


def load_generator(path):
    """(Generator, params) of a .pth file such as latest_net_G_A.pth; widths, blocks, channels and norm are read off its arrays."""
    try:
        import torch
    except ImportError:
        raise InputError(f'{path}: reading .pth files needs PyTorch; pip install torch') from None
    try:
        tensors = torch.load(path, map_location='cpu', weights_only=True)
        state = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    except FileNotFoundError:
        raise InputError(f'{path}: no such file') from None
    except Exception as error:  # torch raises whatever its unpickler raises
        raise InputError(
            f'{path}: holds no dict of tensors ({type(error).__name__}); give a file such as latest_net_G_A.pth'
        ) from None
    try:
        model, params = generator_from(state)
        channels = params['stem']['kernel'].shape[2]
        expected = jax.eval_shape(
            lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, channels)))
        )['params']
        if channels not in (1, 3) or jax.tree.map(jnp.shape, params) != jax.tree.map(
            jnp.shape, expected
        ):
            raise ValueError(
                f'shapes of a generator with {channels} channels in and out do not fit'
            )
        return model, params
    except (KeyError, ValueError) as error:
        raise InputError(
            f'{path}: is not a ResNet generator ({error}); give a file such as latest_net_G_A.pth'
        ) from None


def generator_from(state):
    """(Generator, params) of {'model.1.weight': float array [64, C, 7, 7], ...}. A name too many or too few is a KeyError."""
    state = {
        name.removeprefix('module.'): np.asarray(array)
        for name, array in state.items()
        if not name.endswith(STATISTICS)
    }
    blocks = len(
        {
            match[1]
            for name in state
            if (match := re.fullmatch(r'model\.(\d+)\.conv_block\..*', name))
        }
    )
    dropout = any(
        '.conv_block.6.weight' in name and array.ndim == 4 for name, array in state.items()
    )  # it shifts the second convolution
    norm = 'affine' if 'model.2.weight' in state else 'instance'
    model = Generator(len(state['model.1.weight']), blocks, norm)
    return model, _params(state, generator_names(blocks, norm, dropout))


def discriminator_from(state, norm='instance'):
    """(Discriminator, params), likewise."""
    return Discriminator(len(state['model.0.weight']), norm), _params(
        state, discriminator_names(norm)
    )


def to_state(params, names):
    """The inverse: params of our module -> {'model.1.weight': array, ...}, by generator_names or discriminator_names."""
    state = {}
    for prefix, path in names.items():
        layer = params
        for part in path.split('/'):
            layer = layer[part]
        weight = layer['kernel'].transpose(_axes(path)) if 'kernel' in layer else layer['scale']
        state |= {
            f'{prefix}.weight': np.asarray(weight),
            f'{prefix}.bias': np.asarray(layer['bias']),
        }
    return state


def generator_names(blocks, norm='instance', dropout=False):
    """{module in the Sequential: our module} of a generator."""
    after, second = 10 + blocks, 6 if dropout else 5
    names = {'model.1': 'stem', 'model.4': 'down1', 'model.7': 'down2'}
    norms = {'model.2': 'stem_norm', 'model.5': 'down1_norm', 'model.8': 'down2_norm'}
    for i in range(blocks):
        names |= {
            f'model.{10 + i}.conv_block.1': f'block{i + 1}/conv1',
            f'model.{10 + i}.conv_block.{second}': f'block{i + 1}/conv2',
        }
        norms |= {
            f'model.{10 + i}.conv_block.2': f'block{i + 1}/norm1',
            f'model.{10 + i}.conv_block.{second + 1}': f'block{i + 1}/norm2',
        }
    names |= {f'model.{after}': 'up1', f'model.{after + 3}': 'up2', f'model.{after + 7}': 'out'}
    norms |= {f'model.{after + 1}': 'up1_norm', f'model.{after + 4}': 'up2_norm'}
    return names | (norms if norm == 'affine' else {})


def discriminator_names(norm='instance'):
    """{module in the Sequential: our module} of a discriminator."""
    names = {
        'model.0': 'conv1',
        'model.2': 'conv2',
        'model.5': 'conv3',
        'model.8': 'conv4',
        'model.11': 'out',
    }
    return names | (
        {'model.3': 'norm2', 'model.6': 'norm3', 'model.9': 'norm4'} if norm == 'affine' else {}
    )


def _axes(path):
    """Our kernel [H, W, I, O] -> theirs: [O, I, H, W], but [I, O, H, W] of a transposed convolution."""
    return (2, 3, 0, 1) if path.startswith('up') else (3, 2, 0, 1)


def _params(state, names):
    params, used = {}, set()
    for prefix, path in names.items():
        layer = params
        for part in path.split('/'):
            layer = layer.setdefault(part, {})
        weight, bias = state[f'{prefix}.weight'], state[f'{prefix}.bias']
        layer |= {
            'scale' if weight.ndim == 1 else 'kernel': weight
            if weight.ndim == 1
            else weight.transpose(np.argsort(_axes(path))),
            'bias': bias,
        }
        used |= {f'{prefix}.weight', f'{prefix}.bias'}
    if unknown := sorted(set(state) - used):
        raise KeyError(f'{unknown[0]} has no place')
    return params
