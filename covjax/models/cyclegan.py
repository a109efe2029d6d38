"""CycleGAN networks (Zhu et al. 2017, arXiv 1703.10593; blocks from Johnson et al. 2016): residual generator and 70x70 PatchGAN.

Images are [B, H, W, C] float in [-1, 1]; the generator wants H and W divisible by 4. Parameters, norm statistics and outputs are float32; `dtype` is what
convolutions compute in. The norm is a key of NORMS, the way up a key of UPSAMPLE.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from covjax.models.layers import InstanceNorm, UpConv, convolve, reflect_pad

normal_init = nn.initializers.normal(0.02)
NORMS = {
    'instance': partial(InstanceNorm, affine=False),
    'affine': partial(InstanceNorm, affine=True),
}
UPSAMPLE = {'transposed': UpConv, 'resize': partial(UpConv, resize=True)}


def _conv(dtype):
    """nn.Conv(features, kernel_size, strides, ...) of both networks."""
    return partial(nn.Conv, dtype=dtype, kernel_init=normal_init, conv_general_dilated=convolve)


class ResidualBlock(nn.Module):
    """Two reflect-padded 3x3 convolutions with instance norm, and an identity skip with no ReLU after the sum."""

    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x):
        conv, norm = (
            partial(_conv(self.dtype), x.shape[-1], (3, 3), padding='VALID'),
            NORMS[self.norm],
        )
        y = nn.relu(norm(name='norm1')(conv(name='conv1')(reflect_pad(x, 1))))
        return x + norm(name='norm2')(conv(name='conv2')(reflect_pad(y, 1)))


class Generator(nn.Module):
    """c7s1-f, d2f, d4f, R4f x blocks, u2f, uf, c7s1-C, tanh. -> [B, H, W, C] in (-1, 1), float32."""

    filters: int = 64
    blocks: int = 9
    norm: str = 'instance'
    upsample: str = 'transposed'
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        conv, norm, up = (
            _conv(self.dtype),
            NORMS[self.norm],
            partial(UPSAMPLE[self.upsample], dtype=self.dtype, kernel_init=normal_init),
        )
        f, channels = self.filters, x.shape[-1]
        x = nn.relu(
            norm(name='stem_norm')(conv(f, (7, 7), padding='VALID', name='stem')(reflect_pad(x, 3)))
        )
        for i in (1, 2):
            x = nn.relu(
                norm(name=f'down{i}_norm')(conv(f * 2**i, (3, 3), 2, padding=1, name=f'down{i}')(x))
            )
        for i in range(self.blocks):
            x = ResidualBlock(self.norm, self.dtype, name=f'block{i + 1}')(x)
        for i in (1, 2):
            x = nn.relu(norm(name=f'up{i}_norm')(up(f * 2 ** (2 - i), name=f'up{i}')(x)))
        x = conv(channels, (7, 7), padding='VALID', name='out')(reflect_pad(x, 3))
        return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
    """C64-C128-C256-C512-1 with 4x4 kernels: each logit judges a 70x70 patch (94x94 with last_stride=2, the stride of C512).

    -> [B, H/8 - 2, W/8 - 2, 1] float32, or [B, H/16 - 1, W/16 - 1, 1].
    """

    filters: int = 64
    norm: str = 'instance'
    last_stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        conv = partial(_conv(self.dtype), kernel_size=(4, 4), padding=1)
        for i, (width, stride) in enumerate(((1, 2), (2, 2), (4, 2), (8, self.last_stride))):
            x = conv(self.filters * width, strides=stride, name=f'conv{i + 1}')(x)
            x = nn.leaky_relu(NORMS[self.norm](name=f'norm{i + 1}')(x) if i else x, 0.2)
        return conv(1, name='out')(x).astype(jnp.float32)
