"""Inception-ResNet-v2 (Szegedy et al. 2016, arXiv 1602.07261), as in keras.applications.

Endpoints: 'stem', 'mixed_5b', 'block35', 'mixed_6a', 'block17', 'mixed_7a', 'block8' and 'conv_7b';
'block35' and the like are the map after the last of those residual blocks. H and W >= 75.
"""

from functools import partial
from typing import Any

from flax import linen as nn

from covjax.models.backbone import Backbone
from covjax.models.inception import AVG, MAX, Mixed, Unit, stem

# Branches are written as in inception.py.
BRANCHES35 = [[(32, 1)], [(32, 1), (32, 3)], [(32, 1), (48, 3), (64, 3)]]
BRANCHES17 = [[(192, 1)], [(128, 1), (160, (1, 7)), (192, (7, 1))]]
BRANCHES8 = [[(192, 1)], [(192, 1), (224, (1, 3)), (256, (3, 1))]]
# A plain block is its branches, a residual one (branches, repetitions, scale of the residual).
BLOCKS = {
    'mixed_5b': [[(96, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)], [AVG, (64, 1)]],
    'block35': (BRANCHES35, 10, 0.17),
    'mixed_6a': [[(384, 3, 2)], [(256, 1), (256, 3), (384, 3, 2)], [MAX]],
    'block17': (BRANCHES17, 20, 0.1),
    'mixed_7a': [
        [(256, 1), (384, 3, 2)],
        [(256, 1), (288, 3, 2)],
        [(256, 1), (288, 3), (320, 3, 2)],
        [MAX],
    ],
    'block8': (BRANCHES8, 10, 0.2),
}


class Residual(nn.Module):
    """x + scale * (a 1x1 convolution, with bias and without BatchNorm, of the branches)."""

    branches: Any
    scale: float
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x):
        """[B, H, W, C] -> [B, H, W, C]."""
        y = Mixed(self.branches, self.conv, self.norm, name='mixed')(x)
        return x + self.scale * self.conv(x.shape[-1], (1, 1), name='conv')(y)


def body(x, conv, norm):
    """[B, H, W, C] -> endpoints; the last is [B, ~H/32, ~W/32, 1536]."""
    x = stem(x, conv, norm)
    maps = {'stem': x}
    for name, block in BLOCKS.items():
        if isinstance(block, list):
            x = Mixed(block, conv, norm, name=name)(x)
        else:
            x = _residuals(x, conv, norm, name, *block)
        maps[name] = x
    return maps | {'conv_7b': Unit(1536, 1, 1, 'SAME', conv, norm, name='conv_7b')(x)}


def _residuals(x, conv, norm, name, branches, count, scale):
    """`count` residual blocks; the last of the network is neither scaled down nor rectified."""
    for i in range(1, count + 1):
        last = (name, i) == ('block8', count)
        x = Residual(branches, 1.0 if last else scale, conv, norm, name=f'{name}_{i}')(x)
        if not last:
            x = nn.relu(x)
    return x


InceptionResNetV2 = partial(
    Backbone, 'inception_resnet_v2', body, 75, 'keras.applications.InceptionResNetV2'
)
