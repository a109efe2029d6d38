"""Eight 3x3 convolutions with GroupNorm: covjax's own small network for small images.

It learns subtle differences in a few minutes on two CPU cores, and GroupNorm (Wu & He 2018, arXiv
1803.08494) makes every image count for itself, whatever the batch.

Endpoints: 'stage1'..'stage4', the map after each stage. H and W >= 16.
"""

from functools import partial

from flax import linen as nn

from covjax.models import layers
from covjax.models.backbone import Backbone

WIDTHS = (16, 32, 64, 128)  # of the stages, two convolutions each
GROUPS = 8


def body(x, conv, norm):
    """[B, H, W, C] -> endpoints; the last is [B, H/8, W/8, 128]. The norm is always GroupNorm."""
    del norm
    maps = {}
    for stage, width in enumerate(WIDTHS, 1):
        if stage > 1:
            x = layers.max_pool(x, 2, 2)
        for i in (1, 2):
            name = f'stage{stage}_conv{i}'
            x = conv(width, (3, 3), padding='VALID', use_bias=False, name=name)(layers.pad(x, 1))
            x = nn.relu(
                nn.GroupNorm(GROUPS, epsilon=1e-5, dtype=x.dtype, name=f'stage{stage}_norm{i}')(x)
            )
        maps[f'stage{stage}'] = x
    return maps


Plain8 = partial(Backbone, 'plain8', body, 16, 'PyTorch plain8')
