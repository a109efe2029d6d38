"""CycleGAN weights in the layout of the authors' PyTorch implementation (netG resnet, netD basic).

That is numbered modules of one nn.Sequential, with kernels [O, I, H, W]. Only reading a .pth file
needs PyTorch; nothing else here does.
"""

import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from covjax import InputError, joined
from covjax.models.cyclegan import Discriminator, Generator

# Entries of norms by the end of the name. Old files hold them of instance norms too, where they are
# never used; beside a weight they are those of a BatchNorm.
STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')
# What DataParallel and torch.compile put before every name.
PREFIXES = ('module.', '_orig_mod.')
FIRST = 'model.1.weight'  # of the first convolution of a generator
EPSILON = 1e-5  # of PyTorch's BatchNorm
EXAMPLE = 'give a file such as latest_net_G_A.pth'


def load_generator(path: str | pathlib.Path) -> Any:
    """Reads a generator from a .pth file such as latest_net_G_A.pth.

    Widths, blocks, channels and norm are read off its arrays.

    Returns:
        (models.cyclegan.Generator, its parameters as a nested dict of arrays).

    Raises:
        InputError: PyTorch is missing, or the file is missing, damaged or not a ResNet generator.
    """
    state = _of_attribute(path, read(path, EXAMPLE))
    if _has_batch_norm(state):
        print(f'{path}: has BatchNorm; its running statistics are used, as PyTorch does in eval()')
    elif any(name.endswith('running_var') for name in state):
        print(f'{path}: has running statistics of instance norms, which are not used')
    if not all(np.isfinite(array).all() for array in state.values()):
        raise InputError(f'{path}: has weights that are not finite; {EXAMPLE}')
    try:
        model, params = generator_from(state)
        _check_shapes(model, params)
    except (KeyError, ValueError) as error:
        raise InputError(f'{path}: is not a ResNet generator ({error}); {EXAMPLE}') from None
    return model, params


def read(path, example):
    """The arrays of a file that torch.save wrote.

    Args:
        path: of the file.
        example: the end of messages: which file to give.

    Returns:
        {name without PREFIXES: float32 array}.

    Raises:
        InputError: PyTorch is missing, or the file is missing, damaged, or holds not one dict of
            tensors.
    """
    try:
        import torch
    except ImportError:
        raise InputError(f'{path}: reading .pth files needs PyTorch; pip install torch') from None
    try:
        stored = torch.load(path, map_location='cpu', weights_only=True)
        tensors = _tensors(path, stored, torch.Tensor, example)
        return {_plain(name): tensor.float().numpy() for name, tensor in tensors.items()}
    except FileNotFoundError:
        raise InputError(f'{path}: no such file; {example}') from None
    except InputError:
        raise
    except Exception as error:  # torch raises whatever its unpickler raises
        kind = type(error).__name__
        raise InputError(f'{path}: holds no dict of tensors ({kind}); {example}') from None


def _tensors(path, stored, kind, example):
    """The one dict of tensors of a file, which may lie in another one beside epochs and losses."""
    is_state = lambda value: (
        isinstance(value, dict) and value and all(isinstance(v, kind) for v in value.values())
    )
    states, inside = {}, [('', stored)]
    while inside:
        name, value = inside.pop()
        if is_state(value):
            states[name] = value
        elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
            # Optimizers number what they keep of each parameter, so these are not looked at.
            inside += [(f'{name} {key}'.strip(), inner) for key, inner in value.items()]
    if len(states) != 1:
        found = f'{len(states)} dicts of tensors ({", ".join(sorted(states))})'
        raise InputError(f'{path}: holds {found if states else "no dict of tensors"}; {example}')
    return next(iter(states.values()))


def _of_attribute(path, state):
    """A state dict without the name of the attribute that holds the generator, as in Lightning."""
    found = sorted(name.removesuffix(FIRST) for name in state if name.endswith(FIRST))
    if len(found) > 1:
        names = joined(prefix.rstrip('.') or 'a plain one' for prefix in found)
        raise InputError(f'{path}: holds several generators, {names}; save the state dict of one')
    (prefix,) = found or ['']
    return {
        name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)
    }


def _plain(name):
    """The name of a tensor without what wrappers put before it."""
    while name.startswith(PREFIXES):
        name = name.partition('.')[2]
    return name


def _check_shapes(model, params):
    """Raises a ValueError where the shapes are not those of the model for grey or RGB images."""
    channels = params['stem']['kernel'].shape[2]
    image = jnp.zeros((1, 32, 32, channels))
    expected = jax.eval_shape(model.init, jax.random.key(0), image)['params']
    fits = jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected)
    if channels not in (1, 3) or not fits:
        raise ValueError(f'shapes of a generator with {channels} channels in and out do not fit')


def generator_from(state):
    """The Generator that a state dict belongs to.

    Args:
        state: {'model.1.weight': float array [64, C, 7, 7], ...}; PREFIXES may stand before the
            names. Running statistics of a BatchNorm become part of its scale and bias.

    Returns:
        (models.cyclegan.Generator, its parameters as a nested dict of arrays).

    Raises:
        KeyError: there is a name too many or too few.
    """
    state = {_plain(name): array for name, array in state.items()}
    norm = 'affine' if 'model.2.weight' in state else 'instance'
    if _has_batch_norm(state):
        norm, state = 'frozen', _frozen(state)
    state = {
        name: np.asarray(array) for name, array in state.items() if not name.endswith(STATISTICS)
    }
    matches = (re.fullmatch(r'model\.(\d+)\.conv_block\..*', name) for name in state)
    blocks = len({match[1] for match in matches if match})
    # Dropout shifts the second convolution of a block.
    dropout = any('.conv_block.6.weight' in name and w.ndim == 4 for name, w in state.items())
    model = Generator(len(state['model.1.weight']), blocks, norm)
    return model, _params(state, generator_names(blocks, norm, dropout))


def _has_batch_norm(state):
    """Whether the norms of a state dict have weights and running statistics."""
    return {f'model.2.{name}' for name in ('weight', 'running_mean', 'running_var')} <= set(state)


def _frozen(state):
    """A state dict whose norms have scale and bias alone, and whose convolutions all have a bias.

    Convolutions before a BatchNorm have none in PyTorch's generator.
    """
    frozen = dict(state)
    for name in state:
        prefix, _, kind = name.rpartition('.')
        if kind == 'running_mean':
            mean, variance = state[name], state[f'{prefix}.running_var']
            scale = state[f'{prefix}.weight'] / np.sqrt(variance + EPSILON)
            frozen[f'{prefix}.weight'] = scale
            frozen[f'{prefix}.bias'] = state[f'{prefix}.bias'] - mean * scale
        elif kind == 'weight' and np.ndim(state[name]) == 4 and f'{prefix}.bias' not in state:
            upwards = f'{prefix}.weight' in _transposed(state)
            width = np.shape(state[name])[1 if upwards else 0]
            frozen[f'{prefix}.bias'] = np.zeros(width, np.float32)
    return frozen


def _transposed(state):
    """The names of the weights of transposed convolutions, [I, O, H, W]: the last but one."""
    numbered = [name for name in state if re.fullmatch(r'model\.\d+\.weight', name)]
    convs = [name for name in numbered if np.ndim(state[name]) == 4]
    return sorted(convs, key=lambda name: int(name.split('.')[1]))[-3:-1]


def discriminator_from(state, norm='instance'):
    """The Discriminator that a state dict belongs to.

    Args:
        state: {'model.0.weight': float array [64, C, 4, 4], ...}.
        norm: a key of models.cyclegan.NORMS.

    Returns:
        (models.cyclegan.Discriminator, its parameters as a nested dict of arrays).

    Raises:
        KeyError: there is a name too many or too few.
    """
    model = Discriminator(len(state['model.0.weight']), norm)
    return model, _params(state, discriminator_names(norm))


def to_state(params, names):
    """Converts the parameters of a covjax network to a PyTorch state dict.

    Args:
        params: nested dict of arrays.
        names: {module in the Sequential: our module}, of generator_names or discriminator_names.

    Returns:
        {'model.1.weight': NumPy array, ...}.
    """
    state = {}
    for prefix, path in names.items():
        layer = params
        for part in path.split('/'):
            layer = layer[part]
        weight = layer['kernel'].transpose(_axes(path)) if 'kernel' in layer else layer['scale']
        state[f'{prefix}.weight'] = np.asarray(weight)
        state[f'{prefix}.bias'] = np.asarray(layer['bias'])
    return state


def generator_names(blocks, norm='instance', dropout=False):
    """{module in the Sequential: our module} of a generator, such as {'model.1': 'stem'}.

    Args:
        blocks: the number of its residual blocks.
        norm: a key of models.cyclegan.READ_NORMS; all but 'instance' have parameters.
        dropout: whether blocks have dropout, a module without parameters.
    """
    first_up, second = 10 + blocks, 6 if dropout else 5
    names = {'model.1': 'stem', 'model.4': 'down1', 'model.7': 'down2'}
    norms = {'model.2': 'stem_norm', 'model.5': 'down1_norm', 'model.8': 'down2_norm'}
    for i in range(blocks):
        theirs, ours = f'model.{10 + i}.conv_block', f'block{i + 1}'
        names |= {f'{theirs}.1': f'{ours}/conv1', f'{theirs}.{second}': f'{ours}/conv2'}
        norms |= {f'{theirs}.2': f'{ours}/norm1', f'{theirs}.{second + 1}': f'{ours}/norm2'}
    names |= {f'model.{first_up}': 'up1', f'model.{first_up + 3}': 'up2'}
    names |= {f'model.{first_up + 7}': 'out'}
    norms |= {f'model.{first_up + 1}': 'up1_norm', f'model.{first_up + 4}': 'up2_norm'}
    return names if norm == 'instance' else names | norms


def discriminator_names(norm='instance'):
    """{module in the Sequential: our module} of a discriminator, such as {'model.0': 'conv1'}.

    Args:
        norm: a key of models.cyclegan.NORMS; only 'affine' norms have parameters.
    """
    names = {
        'model.0': 'conv1',
        'model.2': 'conv2',
        'model.5': 'conv3',
        'model.8': 'conv4',
        'model.11': 'out',
    }
    norms = {'model.3': 'norm2', 'model.6': 'norm3', 'model.9': 'norm4'}
    return names | norms if norm == 'affine' else names


def _axes(path):
    """Axes of our kernel [H, W, I, O] in the order O, I, H, W, or I, O, H, W on the way up."""
    return (2, 3, 0, 1) if path.startswith('up') else (3, 2, 0, 1)


def _params(state, names):
    """The inverse of to_state; a name too many or too few is a KeyError."""
    params, used = {}, set()
    for prefix, path in names.items():
        layer = params
        for part in path.split('/'):
            layer = layer.setdefault(part, {})
        weight = state[f'{prefix}.weight']
        if weight.ndim == 1:
            layer['scale'] = weight
        else:
            layer['kernel'] = weight.transpose(np.argsort(_axes(path)))
        layer['bias'] = state[f'{prefix}.bias']
        used |= {f'{prefix}.weight', f'{prefix}.bias'}
    if unknown := sorted(set(state) - used):
        raise KeyError(f'{unknown[0]} has no place')
    return params
