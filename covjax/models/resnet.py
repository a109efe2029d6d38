"""ResNet-50 v1 (He et al. 2015, arXiv 1512.03385), as in keras.applications: stride in the first 1x1 of a stage, convolutions with biases.

Endpoints: 'stage2'..'stage5', the map after each stage. H and W >= 32.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from covjax.models import layers
from covjax.models.backbone import Backbone

BLOCKS = (
    3,
    4,
    6,
    3,
)  # bottlenecks of the stages, which have widths 64, 128, 256, 512 and stride 2 from the second on


class Bottleneck(nn.Module):
    """1x1 (with the stride), 3x3, 1x1 to 4 times the width, around a projected or plain shortcut."""

    width: int
    stride: int
    project: bool
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x):
        shortcut = x
        if self.project:
            shortcut = self.norm(name='norm0')(
                self.conv(4 * self.width, (1, 1), self.stride, name='conv0')(x)
            )
        y = nn.relu(
            self.norm(name='norm1')(self.conv(self.width, (1, 1), self.stride, name='conv1')(x))
        )
        y = nn.relu(self.norm(name='norm2')(self.conv(self.width, (3, 3), name='conv2')(y)))
        y = self.norm(name='norm3')(self.conv(4 * self.width, (1, 1), name='conv3')(y))
        return nn.relu(shortcut + y)


def body(x, conv, norm):
    """[B, H, W, C] -> endpoints; the last is [B, H/32, W/32, 2048]."""
    norm = partial(norm, epsilon=1.001e-5)
    x = jnp.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    x = nn.relu(norm(name='stem_norm')(conv(64, (7, 7), 2, padding='VALID', name='stem_conv')(x)))
    x = layers.max_pool(
        jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2
    )  # zeros are the least there is after a ReLU
    maps = {}
    for stage, blocks in enumerate(BLOCKS):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            x = Bottleneck(
                64 * 2**stage,
                stride,
                not block,
                conv,
                norm,
                name=f'stage{stage + 2}_block{block + 1}',
            )(x)
        maps[f'stage{stage + 2}'] = x
    return maps


ResNet50 = partial(Backbone, 'resnet50', body, 32)
