"""Inception-v3 (Szegedy et al. 2015, arXiv 1512.00567), as in keras.applications.

Endpoints: 'stem' and 'mixed0'..'mixed10', the map after each block of branches. H and W >= 75.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from covjax.models import layers
from covjax.models.backbone import Backbone

# A block is a list of branches whose outputs are concatenated. A branch is a list of steps: (features, kernel) a convolution, (features, kernel, 2)
# one with stride 2 and no padding, AVG or MAX a pooling, and a list of convolutions, as last step, a fork whose outputs are concatenated.
AVG, MAX = 'average', 'maximum'


def _grid35(pooled):
    return [[(64, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)], [AVG, (pooled, 1)]]


def _grid17(width):
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
        kernel = (self.kernel,) * 2 if isinstance(self.kernel, int) else self.kernel
        x = self.conv(
            self.features, kernel, self.stride, padding=self.padding, use_bias=False, name='conv'
        )(x)
        return nn.relu(self.norm(use_scale=False, epsilon=1e-3, name='norm')(x))


class Mixed(nn.Module):
    """A block of branches. Units are named branch1_1, branch1_2, ...; those of a fork branch2_2a, branch2_2b."""

    branches: Any
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x):
        return jnp.concatenate(
            [self.branch(x, steps, f'branch{i}') for i, steps in enumerate(self.branches, 1)], -1
        )

    def branch(self, x, steps, name):
        for j, step in enumerate(steps, 1):
            if step == AVG:
                x = layers.avg_pool_3x3(x)
            elif step == MAX:
                x = layers.max_pool(x, 3, 2)
            elif isinstance(step[0], tuple):  # a fork; linen turns the lists of a field into tuples
                x = jnp.concatenate(
                    [
                        self.unit(x, f'{name}_{j}{letter}', *fork)
                        for fork, letter in zip(step, 'ab')
                    ],
                    -1,
                )
            else:
                x = self.unit(x, f'{name}_{j}', *step)
        return x

    def unit(self, x, name, features, kernel, stride=1):
        return Unit(
            features,
            kernel,
            stride,
            'VALID' if stride == 2 else 'SAME',
            self.conv,
            self.norm,
            name=name,
        )(x)


def stem(x, conv, norm):
    """[B, H, W, C] -> [B, ~H/8, ~W/8, 192], shared with Inception-ResNet."""
    for i, (features, kernel, stride, padding) in enumerate(
        ((32, 3, 2, 'VALID'), (32, 3, 1, 'VALID'), (64, 3, 1, 'SAME')), 1
    ):
        x = Unit(features, kernel, stride, padding, conv, norm, name=f'stem{i}')(x)
    x = layers.max_pool(x, 3, 2)
    for i, (features, kernel) in enumerate(((80, 1), (192, 3)), 4):
        x = Unit(features, kernel, 1, 'VALID', conv, norm, name=f'stem{i}')(x)
    return layers.max_pool(x, 3, 2)


def body(x, conv, norm):
    """[B, H, W, C] -> endpoints; the last is [B, ~H/32, ~W/32, 2048]."""
    maps = {'stem': stem(x, conv, norm)}
    for name, branches in BLOCKS.items():
        maps[name] = Mixed(branches, conv, norm, name=name)(list(maps.values())[-1])
    return maps


InceptionV3 = partial(Backbone, 'inception_v3', body, 75)
