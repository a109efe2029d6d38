"""CycleGAN networks (Zhu et al. 2017, arXiv 1703.10593; blocks from Johnson et al. 2016): residual generator and 70x70 PatchGAN.

Images are [B, H, W, C] float in [-1, 1]; the generator wants H and W divisible by 4.
"""
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from covjax.models.layers import UpConv, instance_norm, reflect_pad

normal_init = nn.initializers.normal(0.02)


class ResidualBlock(nn.Module):
    """Two reflect-padded 3x3 convolutions with instance norm, and an identity skip with no ReLU after the sum."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        conv = partial(nn.Conv, x.shape[-1], (3, 3), padding='VALID', kernel_init=normal_init, dtype=self.dtype)
        y = nn.relu(instance_norm(conv(name='conv1')(reflect_pad(x, 1))))
        return x + instance_norm(conv(name='conv2')(reflect_pad(y, 1)))


class Generator(nn.Module):
    """c7s1-f, d2f, d4f, R4f x blocks, u2f, uf, c7s1-C, tanh. -> [B, H, W, C] in (-1, 1), float32."""
    filters: int = 64
    blocks: int = 9
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        conv = partial(nn.Conv, kernel_init=normal_init, dtype=self.dtype)
        f, channels = self.filters, x.shape[-1]
        x = nn.relu(instance_norm(conv(f, (7, 7), padding='VALID', name='stem')(reflect_pad(x, 3))))
        for i in (1, 2):
            x = nn.relu(instance_norm(conv(f * 2 ** i, (3, 3), 2, padding=1, name=f'down{i}')(x)))
        for i in range(self.blocks):
            x = ResidualBlock(self.dtype, name=f'block{i + 1}')(x)
        for i in (1, 2):
            x = nn.relu(instance_norm(UpConv(f * 2 ** (2 - i), self.dtype, normal_init, name=f'up{i}')(x)))
        x = conv(channels, (7, 7), padding='VALID', name='out')(reflect_pad(x, 3))
        return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
    """C64-C128-C256-C512-1 with 4x4 kernels: each output logit judges a 70x70 patch. -> [B, H/8 - 2, W/8 - 2, 1] float32."""
    filters: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        for i, (width, stride) in enumerate(((1, 2), (2, 2), (4, 2), (8, 1))):
            x = nn.Conv(self.filters * width, (4, 4), stride, padding=1, kernel_init=normal_init, dtype=self.dtype, name=f'conv{i + 1}')(x)
            x = nn.leaky_relu(instance_norm(x) if i else x, 0.2)
        return nn.Conv(1, (4, 4), padding=1, kernel_init=normal_init, dtype=self.dtype, name='out')(x).astype(jnp.float32)
