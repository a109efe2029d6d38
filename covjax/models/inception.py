"""Inception-v3 (Szegedy et al. 2015, arXiv 1512.00567), as in keras.applications.

Endpoints: 'stem' and 'mixed0'..'mixed10', the map after each block of branches. H and W >= 75.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from covjax.models import layers
from covjax.models.backbone import Backbone

# Steps of a branch that pool; `Mixed` says what a block is.
AVG, MAX = 'average', 'maximum'


def _grid35(pooled):
    """A block on maps of 35x35, at the size of the paper; `pooled` features after the pooling."""
    return [[(64, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)], [AVG, (pooled, 1)]]


def _grid17(width):
    """A block on maps of 17x17; `width` features between the asymmetric convolutions."""
    return [
        [(192, 1)],
        [(width, 1), (width, (1, 7)), (192, (7, 1))],
        [(width, 1), (width, (7, 1)), (width, (1, 7)), (width, (7, 1)), (192, (1, 7))],
        [AVG, (192, 1)],
    ]


GRID8 = [
    [(320, 1)],
    [(384, 1), [(384, (1, 3)), (384, (3, 1))]],
    [(448, 1), (384, 3), [(384, (1, 3)), (384, (3, 1))]],
    [AVG, (192, 1)],
]
BLOCKS = {
    'mixed0': _grid35(32),
    'mixed1': _grid35(64),
    'mixed2': _grid35(64),
    'mixed3': [[(384, 3, 2)], [(64, 1), (96, 3), (96, 3, 2)], [MAX]],
    'mixed4': _grid17(128),
    'mixed5': _grid17(160),
    'mixed6': _grid17(160),
    'mixed7': _grid17(192),
    'mixed8': [
        [(192, 1), (320, 3, 2)],
        [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)],
        [MAX],
    ],
    'mixed9': GRID8,
    'mixed10': GRID8,
}


class Unit(nn.Module):
    """Convolution without bias, BatchNorm without scale, ReLU."""

    features: int
    kernel: Any
    stride: int
    padding: str
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x):
        """[B, H, W, C] -> [B, h, w, features]."""
        kernel = (self.kernel,) * 2 if isinstance(self.kernel, int) else self.kernel
        conv = partial(self.conv, padding=self.padding, use_bias=False)
        x = conv(self.features, kernel, self.stride, name='conv')(x)
        return nn.relu(self.norm(use_scale=False, epsilon=1e-3, name='norm')(x))


class Mixed(nn.Module):
    """A block: branches of the same input, whose outputs are concatenated.

    A branch is a list of steps, each of them one of

    - (features, kernel): a padded convolution with stride 1,
    - (features, kernel, 2): a convolution with stride 2 and without padding,
    - AVG or MAX: a pooling,
    - as last step, a list of convolutions: a fork, whose outputs are concatenated.

    The units of a branch are named branch1_1, branch1_2, ...; those of a fork branch2_2a and
    branch2_2b.
    """

    branches: Any
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x):
        """[B, H, W, C] -> [B, h, w, the sum of the features of all branches]."""
        branches = enumerate(self.branches, 1)
        return jnp.concatenate([self._branch(x, steps, f'branch{i}') for i, steps in branches], -1)

    def _branch(self, x, steps, name):
        for j, step in enumerate(steps, 1):
            if step == AVG:
                x = layers.avg_pool_3x3(x)
            elif step == MAX:
                x = layers.max_pool(x, 3, 2)
            elif isinstance(step[0], tuple):  # a fork; linen turns the lists of a field into tuples
                x = self._fork(x, step, f'{name}_{j}')
            else:
                x = self._unit(x, f'{name}_{j}', *step)
        return x

    def _fork(self, x, convolutions, name):
        forks = zip('ab', convolutions)
        return jnp.concatenate(
            [self._unit(x, f'{name}{letter}', *conv) for letter, conv in forks], -1
        )

    def _unit(self, x, name, features, kernel, stride=1):
        padding = 'VALID' if stride == 2 else 'SAME'
        return Unit(features, kernel, stride, padding, self.conv, self.norm, name=name)(x)


# (features, kernel, stride, padding) of the convolutions before and after the stem's first pooling.
STEM = (
    ((32, 3, 2, 'VALID'), (32, 3, 1, 'VALID'), (64, 3, 1, 'SAME')),
    ((80, 1, 1, 'VALID'), (192, 3, 1, 'VALID')),
)


def stem(x, conv, norm):
    """[B, H, W, C] -> [B, ~H/8, ~W/8, 192], shared with Inception-ResNet."""
    count = 0
    for convolutions in STEM:
        for settings in convolutions:
            count += 1
            x = Unit(*settings, conv, norm, name=f'stem{count}')(x)
        x = layers.max_pool(x, 3, 2)
    return x


def body(x, conv, norm):
    """[B, H, W, C] -> endpoints; the last is [B, ~H/32, ~W/32, 2048]."""
    x = stem(x, conv, norm)
    maps = {'stem': x}
    for name, branches in BLOCKS.items():
        x = Mixed(branches, conv, norm, name=name)(x)
        maps[name] = x
    return maps


InceptionV3 = partial(Backbone, 'inception_v3', body, 75, 'keras.applications.InceptionV3')
