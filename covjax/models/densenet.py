"""DenseNet-169 (Huang et al. 2016, arXiv 1608.06993), as in keras.applications.

Growth 32, bottlenecks of 4 x 32, transitions that halve the features.

Endpoints: 'block1'..'block4', the map after each dense block, and 'features', the last one after
BatchNorm and ReLU. H and W >= 32.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from covjax.models import layers
from covjax.models.backbone import Backbone

BLOCKS = (6, 12, 32, 32)  # layers of the dense blocks
GROWTH = 32  # features that a layer adds


def body(x, conv, norm):
    """[B, H, W, C] -> endpoints; the last is [B, H/32, W/32, 1664]."""
    norm = partial(norm, epsilon=1.001e-5)
    conv = partial(conv, use_bias=False)
    x = layers.stem_7x7(x, conv, norm)
    maps = {}
    for i, count in enumerate(BLOCKS, 1):
        # A map and its moments, which are those of its parts, of which each is looked at once.
        seen = kept = [x, *layers.moments(x)]
        for j in range(1, count + 1):
            more = _growth(*seen, conv, norm, f'block{i}_layer{j}')
            seen, kept = grown(kept, [more, *layers.moments(more)])
        x, *known = seen
        maps[f'block{i}'] = x
        if i < len(BLOCKS):
            x = nn.relu(norm(name=f'transition{i}_norm')(x, known=known))
            x = conv(x.shape[-1] // 2, (1, 1), name=f'transition{i}_conv')(x)
            x = nn.avg_pool(x, (2, 2), (2, 2))
    return maps | {'features': nn.relu(norm(name='norm')(x, known=known))}


@jax.custom_vjp
def grown(old, more):
    """A map and its moments with those of GROWTH more features, twice the same.

    A layer reads the first, and the second grows further, so that the gradients of both are added
    once. By itself XLA would add those of all later layers anew for each layer on the way back.

    Args:
        old: list of arrays [..., C].
        more: list of as many arrays [..., GROWTH].

    Returns:
        (list of arrays [..., C + GROWTH], the same list).
    """
    joined = [jnp.concatenate(pair, -1) for pair in zip(old, more)]
    return joined, joined


@layers.apart
def _grown_backward(saved, gradients):
    """The gradients of the old and of the new features, from those of both results."""
    total = [jnp.add(*pair) for pair in zip(*gradients)]
    return [each[..., :-GROWTH] for each in total], [each[..., -GROWTH:] for each in total]


grown.defvjp(lambda old, more: (grown(old, more), None), _grown_backward)


def _growth(x, mean, square, conv, norm, name):
    """The features that a layer adds, [B, H, W, GROWTH]: a 1x1 bottleneck and a 3x3 convolution."""
    y = nn.relu(norm(name=f'{name}_norm1')(x, known=(mean, square)))
    y = conv(4 * GROWTH, (1, 1), name=f'{name}_conv1')(y)
    y = nn.relu(norm(name=f'{name}_norm2')(y))
    return conv(GROWTH, (3, 3), name=f'{name}_conv2')(y)


DenseNet169 = partial(Backbone, 'densenet169', body, 32, 'keras.applications.DenseNet169')
