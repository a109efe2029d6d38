"""CycleGAN networks: residual generator and PatchGAN discriminator.

Zhu et al. 2017, arXiv 1703.10593; the generator's blocks are those of Johnson et al. 2016.

Images are [B, H, W, C] float in [-1, 1]; the generator wants H and W divisible by 4. Parameters,
statistics of norms and outputs are float32; `dtype` is what convolutions compute in. `norm` is a
key of NORMS, or 'frozen' in a generator with BatchNorm that others trained; `upsample` is a key of
UPSAMPLE.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from covjax import InputError
from covjax.models.layers import FrozenNorm, InstanceNorm, UpConv, convolve, reflect_pad

normal_init = nn.initializers.normal(0.02)
NORMS = {
    'instance': partial(InstanceNorm, affine=False),
    'affine': partial(InstanceNorm, affine=True),
}
# What a network can be read with, beside those that it can be trained with.
READ_NORMS = NORMS | {'frozen': FrozenNorm}
UPSAMPLE = {'transposed': UpConv, 'resize': partial(UpConv, resize=True)}


def _conv(dtype):
    """nn.Conv(features, kernel_size, strides, ...) as both networks use it."""
    return partial(nn.Conv, dtype=dtype, kernel_init=normal_init, conv_general_dilated=convolve)


def check_size(side: int) -> None:
    """Refuses a side of training images, config.image_size, that the generator cannot halve twice.

    Raises:
        InputError: it is no multiple of 4, or too small for the discriminator.
    """
    if side % 4 or side < 32:
        raise InputError(
            f'config.image_size={side}: the generator halves images twice; '
            'choose a multiple of 4, at least 32'
        )


class ResidualBlock(nn.Module):
    """Two reflect-padded 3x3 convolutions with norms, and a skip without ReLU after it."""

    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        conv = partial(_conv(self.dtype), x.shape[-1], (3, 3), padding='VALID')
        norm = READ_NORMS[self.norm]
        y = nn.relu(norm(name='norm1')(conv(name='conv1')(reflect_pad(x, 1))))
        return x + norm(name='norm2')(conv(name='conv2')(reflect_pad(y, 1)))


class Generator(nn.Module):
    """Translates images: a 7x7 stem, two strided convolutions, residual blocks, the way back up.

    In the paper's notation c7s1-f, d2f, d4f, R4f x blocks, u2f, uf, c7s1-C, with tanh at the end.
    """

    filters: int = 64  # f
    blocks: int = 9
    norm: str = 'instance'
    upsample: str = 'transposed'
    dtype: Any = jnp.float32
    channels: int | None = None  # of the output; None: as many as the input has

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, channels] float32 in (-1, 1)."""
        conv = _conv(self.dtype)
        norm = READ_NORMS[self.norm]
        up = partial(UPSAMPLE[self.upsample], dtype=self.dtype, kernel_init=normal_init)
        f, channels = self.filters, self.channels or x.shape[-1]
        x = conv(f, (7, 7), padding='VALID', name='stem')(reflect_pad(x, 3))
        x = nn.relu(norm(name='stem_norm')(x))
        for i in (1, 2):
            x = conv(f * 2**i, (3, 3), 2, padding=1, name=f'down{i}')(x)
            x = nn.relu(norm(name=f'down{i}_norm')(x))
        for i in range(self.blocks):
            x = ResidualBlock(self.norm, self.dtype, name=f'block{i + 1}')(x)
        for i in (1, 2):
            x = up(f * 2 ** (2 - i), name=f'up{i}')(x)
            x = nn.relu(norm(name=f'up{i}_norm')(x))
        x = conv(channels, (7, 7), padding='VALID', name='out')(reflect_pad(x, 3))
        return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
    """Judges patches of images: C64-C128-C256-C512-1 of the paper, with 4x4 kernels.

    Each logit sees a patch of 70x70, or of 94x94 with last_stride=2, which is the stride of C512.
    With depth=3 there is no C512, and a patch is 34x34 (Isola et al. 2017, arXiv 1611.07004).
    """

    filters: int = 64
    norm: str = 'instance'
    last_stride: int = 1
    dtype: Any = jnp.float32
    depth: int = 4  # of convolutions before the last

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> logits [B, H/8 - 2, W/8 - 2, 1] float32.

        With last_stride=2 they are [B, H/16 - 1, W/16 - 1, 1], with depth=3 [B, H/4 - 2, W/4 - 2,
        1].
        """
        conv = partial(_conv(self.dtype), kernel_size=(4, 4), padding=1)
        for i in range(self.depth):
            stride = self.last_stride if i == self.depth - 1 else 2
            x = conv(self.filters * 2**i, strides=stride, name=f'conv{i + 1}')(x)
            if i:
                x = NORMS[self.norm](name=f'norm{i + 1}')(x)
            x = nn.leaky_relu(x, 0.2)
        return conv(1, name='out')(x).astype(jnp.float32)
