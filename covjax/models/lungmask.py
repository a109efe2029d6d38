"""The U-Net of lungmask (Hofmanninger et al. 2020, arXiv 2001.11767), whose weights are published.

It differs from models.unet: convolutions have a bias and are followed by ReLU, then BatchNorm; maps
are halved by their mean; on the way up they are interpolated with the middles of pixels as fixed
points, and a 1x1 convolution halves their features.

Endpoints: 'down1'..'down5', the maps on the way down, the last of them the bottom; 'up4'..'up1',
those on the way up; 'features' is the last, which the head sees.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from covjax import InputError
from covjax.models import layers

WIDTHS = (64, 128, 256, 512, 1024)  # features of the levels, as published


class LungmaskUNet(nn.Module):
    """Images [B, H, W, 1] -> logits [B, H, W, num_classes] float32.

    Images are float in [-1, 1], -1024 to 600 HU, and H and W may be any: sides that cannot be
    halved often enough are continued by their edge, and the logits are cropped back. The variables
    are 'params' and 'batch_stats'; the last layer is params['head'].
    """

    num_classes: int = 3  # the background, the right lung, the left lung
    widths: tuple[int, ...] = WIDTHS
    dtype: Any = jnp.float32  # of the computation; parameters, statistics and logits are float32
    axis_name: str | None = None  # devices over which BatchNorm averages statistics in training
    bn_momentum: float = 0.9  # how much of the old running statistics a step keeps

    @nn.compact
    def __call__(self, x, train=False, endpoints=False):
        """Applies the network.

        Args:
            x: images float [B, H, W, 1].
            train: whether BatchNorm uses the statistics of the batch.
            endpoints: whether to return inner maps too.

        Returns:
            Logits; with endpoints=True (logits, {name: map [B, h, w, f]}), the maps with their
            padding.

        Raises:
            InputError: the images have another rank or number of channels.
        """
        if x.ndim != 4 or x.shape[-1] != 1:
            raise InputError(f'lungmask needs images [B, H, W, 1], got {list(x.shape)}')
        (height, width), levels = x.shape[1:3], len(self.widths)
        stride = 2 ** (levels - 1)
        margins = ((0, 0), (0, -height % stride), (0, -width % stride), (0, 0))
        x, maps = jnp.pad((x.astype(self.dtype) + 1) / 2, margins, mode='edge'), {}
        for level, features in enumerate(self.widths, 1):
            x = nn.avg_pool(x, (2, 2), (2, 2)) if level > 1 else x
            x = maps[f'down{level}'] = self._twice(x, features, f'down{level}', train)
        for level in range(levels - 1, 0, -1):
            features, name = self.widths[level - 1], f'up{level}'
            x = layers.bilinear_twice(x, corners=False)
            x = self._conv()(features, (1, 1), name=f'{name}_halved')(x)
            x = jnp.concatenate([x, maps[f'down{level}']], -1)
            x = maps[name] = self._twice(x, features, name, train)
        maps['features'] = x
        logits = self._conv()(self.num_classes, (1, 1), name='head')(x).astype(jnp.float32)
        logits = logits[:, :height, :width]
        return (logits, maps) if endpoints else logits

    def _conv(self):
        return layers.conv(self.dtype)

    def _twice(self, x, features, name, train):
        """Two padded 3x3 convolutions, each with a ReLU and a norm: [B, H, W, features]."""
        norm = layers.batch_norm(train, self.bn_momentum, self.dtype, self.axis_name)
        for i in (1, 2):
            conv = self._conv()(features, (3, 3), padding='VALID', name=f'{name}_conv{i}')
            x = norm(name=f'{name}_norm{i}')(nn.relu(conv(layers.pad(x, 1))))
        return x
