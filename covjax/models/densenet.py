"""DenseNet-169 (Huang et al. 2016, arXiv 1608.06993), as in keras.applications: growth 32, bottlenecks of 4 x 32, transitions that halve.

Endpoints: 'block1'..'block4', the map after each dense block, and 'features', the last one after BatchNorm and ReLU. H and W >= 32.
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn

from covjax.models import layers
from covjax.models.backbone import Backbone

BLOCKS = (6, 12, 32, 32)  # layers of the dense blocks
GROWTH = 32


def body(x, conv, norm):
    """[B, H, W, C] -> endpoints; the last is [B, H/32, W/32, 1664]."""
    norm, conv = partial(norm, epsilon=1.001e-5), partial(conv, use_bias=False)
    x = jnp.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    x = nn.relu(norm(name='stem_norm')(conv(64, (7, 7), 2, padding='VALID', name='stem_conv')(x)))
    x = layers.max_pool(
        jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2
    )  # zeros are the least there is after a ReLU
    maps = {}
    for i, count in enumerate(BLOCKS, 1):
        for j in range(1, count + 1):
            y = conv(4 * GROWTH, (1, 1), name=f'block{i}_layer{j}_conv1')(
                nn.relu(norm(name=f'block{i}_layer{j}_norm1')(x))
            )
            y = conv(GROWTH, (3, 3), name=f'block{i}_layer{j}_conv2')(
                nn.relu(norm(name=f'block{i}_layer{j}_norm2')(y))
            )
            x = jnp.concatenate([x, y], -1)
        maps[f'block{i}'] = x
        if i < len(BLOCKS):
            x = conv(x.shape[-1] // 2, (1, 1), name=f'transition{i}_conv')(
                nn.relu(norm(name=f'transition{i}_norm')(x))
            )
            x = nn.avg_pool(x, (2, 2), (2, 2))
    return maps | {'features': nn.relu(norm(name='norm')(x))}


DenseNet169 = partial(Backbone, 'densenet169', body, 32)
