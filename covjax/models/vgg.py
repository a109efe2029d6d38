"""VGG16 (Simonyan and Zisserman 2014, arXiv 1409.1556), as in keras.applications.

Endpoints: 'block1'..'block5', the last convolution of each block before its pooling, and
'features', the last one pooled. H and W >= 32.
"""

from functools import partial

from flax import linen as nn

from covjax.models import layers
from covjax.models.backbone import Backbone

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # width and number of 3x3 convolutions


def body(x, conv, norm):
    """[B, H, W, C] -> endpoints; the last is [B, H/32, W/32, 512]."""
    maps = {}
    for i, (width, count) in enumerate(BLOCKS, 1):
        for j in range(count):
            x = nn.relu(conv(width, (3, 3), name=f'block{i}_conv{j + 1}')(x))
        maps[f'block{i}'] = x
        x = layers.max_pool(x, 2, 2)
    return maps | {'features': x}


VGG16 = partial(Backbone, 'vgg16', body, 32, 'keras.applications.VGG16')
