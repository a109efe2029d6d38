"""Weights of lungmask (github.com/JoHof/lungmask), as its releases have them: R231 and others.

Only reading the .pth file needs PyTorch.
"""

import re

import numpy as np

from covjax import InputError
from covjax.models.lungmask import LungmaskUNet
from covjax.weights import pytorch

EXAMPLE = 'give a file such as unet_r231-d5d2fc3d.pth'
# Stored of every file, and used of none: connections that these networks do not have.
UNUSED = re.compile(r'.*\.residual_.*|.*\.num_batches_tracked')
# By number in a block; a ReLU lies between.
IN_BLOCK = {'0': 'conv1', '2': 'norm1', '3': 'conv2', '5': 'norm2'}
LAST = {'weight': 'kernel', 'bias': 'bias'}
OF_NORM = {'weight': 'scale', 'bias': 'bias', 'running_mean': 'mean', 'running_var': 'var'}
# Names of the classes, as its documentation has them, by how many there are.
CLASSES = {
    3: ('background', 'right_lung', 'left_lung'),
    6: (
        *('background', 'left_upper_lobe', 'left_lower_lobe'),
        *('right_upper_lobe', 'right_middle_lobe', 'right_lower_lobe'),
    ),
}


def load(path):
    """Reads a network of lungmask.

    Args:
        path: of a .pth file.

    Returns:
        (models.lungmask.LungmaskUNet, {'params', 'batch_stats'}, names of its classes).

    Raises:
        InputError: PyTorch is missing, or the file is missing, damaged or another network.
    """
    state = pytorch.read(path, EXAMPLE)
    try:
        model, variables = network_from(state)
        return model, variables, CLASSES[model.num_classes]
    except (KeyError, ValueError, AttributeError) as error:
        raise InputError(f'{path}: is no network of lungmask ({error}); {EXAMPLE}') from None


def network_from(state):
    """The network that a state dict belongs to.

    Args:
        state: {'down_path.0.block.0.weight': float array [64, 1, 3, 3], ...}.

    Returns:
        (LungmaskUNet, {'params', 'batch_stats'} as nested dicts of arrays).

    Raises:
        KeyError, ValueError: there is a name too many or too few, or values are not finite.
    """
    levels = 1 + max(int(name.split('.')[1]) for name in state if name.startswith('down_path.'))
    widths = tuple(len(state[f'down_path.{i}.block.0.weight']) for i in range(levels))
    variables = {'params': {}, 'batch_stats': {}}
    for name, array in state.items():
        if UNUSED.fullmatch(name):
            continue
        if not np.isfinite(array).all():
            raise ValueError(f'{name} is not finite')
        if name.endswith('running_var') and (array < 0).any():
            raise ValueError(f'{name} is negative')
        layer, entry = _place(name, levels)
        norm = '_norm' in layer
        own = (OF_NORM if norm else LAST)[entry]
        kind = 'batch_stats' if own in ('mean', 'var') else 'params'
        value = array if array.ndim == 1 else array.transpose(2, 3, 1, 0)
        variables[kind].setdefault(layer, {})[own] = value
    model = LungmaskUNet(len(state['last.bias']), widths)
    return model, variables


def _place(name, levels):
    """(our layer, entry) of a name such as 'up_path.0.conv_block.block.3.weight'."""
    *parts, entry = name.split('.')
    if parts == ['last']:
        return 'head', entry
    if len(parts) < 3 or parts[0] not in ('down_path', 'up_path'):
        raise ValueError(f'{name} has no place in it')
    path, number, *inside = parts
    level = int(number) + 1 if path == 'down_path' else levels - 1 - int(number)
    ours = {'down_path': 'down', 'up_path': 'up'}[path]
    if inside == ['up', '1']:
        return f'{ours}{level}_halved', entry
    return f'{ours}{level}_{IN_BLOCK[inside[-1]]}', entry
