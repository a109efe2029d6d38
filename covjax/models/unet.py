"""U-Net (Ronneberger et al. 2015, arXiv 1505.04597): a class for every pixel of an image.

In the form that is used most: padded convolutions, BatchNorm, and a 2x2 transposed convolution or
bilinear interpolation on the way up, as in the PyTorch implementation of milesial.

Endpoints: 'down1'..'downN', the maps on the way down, the last of them the bottom; 'upN-1'..'up1',
those on the way up; 'features' is the last, which the head sees.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from covjax import InputError, choice
from covjax.models import layers

WIDTHS = (64, 128, 256, 512, 1024)  # features of the levels, as published
UPS = ('transposed', 'bilinear')
NORMS = ('batch', 'instance')
MOST_LEVELS, WIDEST = 8, 8192  # of widths


class UNet(nn.Module):
    """A segmentation network: images [B, H, W, C] -> logits [B, H, W, num_classes] float32.

    Images are float in [-1, 1], and H and W may be any: sides that the network cannot halve often
    enough are continued by their edge, and the logits are cropped back, so no logit of padding ever
    leaves the network. The variables are 'params' and, with norm='batch', 'batch_stats'; the last
    layer is params['head'].
    """

    num_classes: int = 2  # the background is one of them
    widths: tuple[int, ...] = WIDTHS
    up: str = 'transposed'  # one of UPS
    norm: str = 'batch'  # one of NORMS
    dtype: Any = jnp.float32  # of the computation; parameters, statistics and logits are float32
    axis_name: str | None = None  # devices over which BatchNorm averages statistics in training
    bn_momentum: float = 0.9  # how much of the old running statistics a step keeps
    channels: tuple[int, ...] = (1, 3)  # C may be one of these

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, endpoints: bool = False) -> Any:
        """Applies the network.

        Args:
            x: images float [B, H, W, C].
            train: whether BatchNorm uses the statistics of the batch.
            endpoints: whether to return inner maps too.

        Returns:
            Logits; with endpoints=True (logits, {name: map [B, h, w, f]}), the maps with their
            padding.

        Raises:
            InputError: the images have another rank or number of channels, or `up`, `norm` or
                `widths` is not valid.
        """
        height, width = self._check(x.shape)
        conv, norm = layers.conv(self.dtype), self._norm(train)
        twice = partial(_twice, conv=conv, norm=norm)
        levels, stride = len(self.widths), 2 ** (len(self.widths) - 1)
        # Interpolation leaves features as they are, so the bottom has no more than what is beside.
        halved = 1 if self.up == 'transposed' else 2

        margins = ((0, 0), (0, -height % stride), (0, -width % stride), (0, 0))
        x, maps = jnp.pad(x.astype(self.dtype), margins, mode='edge'), {}
        for level, features in enumerate(self.widths, 1):
            if level > 1:
                x = layers.max_pool(x, 2, 2)
            features = features // halved if level == levels > 1 else features
            x = maps[f'down{level}'] = twice(x, features, features, f'down{level}')

        for level in range(levels - 1, 0, -1):
            features = self.widths[level - 1]
            x = self._doubled(x, features, f'up{level}')
            x = jnp.concatenate([maps[f'down{level}'], x], -1)
            last = features // halved if level > 1 else features
            x = maps[f'up{level}'] = twice(x, features, last, f'up{level}')

        maps['features'] = x
        logits = conv(self.num_classes, (1, 1), name='head')(x).astype(jnp.float32)
        logits = logits[:, :height, :width]
        return (logits, maps) if endpoints else logits

    def _check(self, shape):
        """(H, W) of images of a shape; an InputError where they do not fit."""
        if len(shape) != 4 or shape[-1] not in self.channels:
            channels = ' or '.join(map(str, self.channels))
            raise InputError(f'unet needs images [B, H, W, {channels}], got {list(shape)}')
        choice({'up': self.up}, 'up', UPS)
        choice({'norm': self.norm}, 'norm', NORMS)
        check_widths(self.widths, self.up)
        return shape[1:3]

    def _norm(self, train):
        """The norm as a function of its name."""
        if self.norm == 'instance':
            return partial(layers.InstanceNorm, affine=True)
        return layers.batch_norm(train, self.bn_momentum, self.dtype, self.axis_name)

    def _doubled(self, x, features, name):
        """[B, H, W, C] -> [B, 2H, 2W, features], or C features where they are interpolated."""
        if self.up == 'bilinear':
            return layers.bilinear_twice(x)
        return layers.Doubled(features, dtype=self.dtype, name=f'{name}_doubled')(x)


def check_widths(widths, up, key='widths'):
    """Refuses numbers of features per level that no network can have.

    Args:
        widths: of a UNet.
        up: one of UPS; interpolation leaves half of the features of a level but the first.
        key: of the config, for the message.

    Raises:
        InputError: there are none or more than MOST_LEVELS, or one is no whole number or too small
            or too large.
    """
    is_sequence = isinstance(widths, (tuple, list))
    if not is_sequence or not 1 <= len(widths) <= MOST_LEVELS:
        raise InputError(
            f'config.{key}={widths}: give 1 to {MOST_LEVELS} levels, such as (16, 32, 64)'
        )
    for level, width in enumerate(widths):
        least = 2 if up == 'bilinear' and level else 1
        if type(width) is not int or not least <= width <= WIDEST:
            raise InputError(
                f'config.{key}={tuple(widths)}: {width!r} is no number of features; write whole '
                f'numbers from {least} to {WIDEST}'
            )


def _twice(x, first, second, name, conv, norm):
    """Two padded 3x3 convolutions, each with a norm and a ReLU: [B, H, W, C] -> [..., second]."""
    for i, features in enumerate((first, second), 1):
        wide = layers.pad(x, 1)
        x = conv(features, (3, 3), padding='VALID', use_bias=False, name=f'{name}_conv{i}')(wide)
        x = nn.relu(norm(name=f'{name}_norm{i}')(x))
    return x
