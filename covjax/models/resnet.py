"""ResNet-50 v1 (He et al. 2015, arXiv 1512.03385), as in keras.applications: stride in the first 1x1 of a stage, convolutions with biases.

Input [B, H, W, C] float in [-1, 1], C = 1 or 3, H and W >= 32. Output logits [B, num_classes] float32, or pooled features [B, 2048] with
num_classes=None. With endpoints=True also {'stage2'..'stage5', 'features'}: the maps after each stage, 'features' the last one.
"""
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from covjax import InputError
from covjax.models import layers


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
            shortcut = self.norm(name='norm0')(self.conv(4 * self.width, (1, 1), self.stride, name='conv0')(x))
        y = nn.relu(self.norm(name='norm1')(self.conv(self.width, (1, 1), self.stride, name='conv1')(x)))
        y = nn.relu(self.norm(name='norm2')(self.conv(self.width, (3, 3), padding='SAME', name='conv2')(y)))
        y = self.norm(name='norm3')(self.conv(4 * self.width, (1, 1), name='conv3')(y))
        return nn.relu(shortcut + y)


class ResNet(nn.Module):
    """blocks: number of bottlenecks per stage; stages have widths 64, 128, 256, 512 and stride 2 from the second on."""
    blocks: tuple[int, ...]
    num_classes: int | None = 2
    dtype: Any = jnp.float32
    axis_name: str | None = None          # device axis over which BatchNorm statistics are averaged in training
    bn_momentum: float = 0.99
    dropout: float = 0.

    @nn.compact
    def __call__(self, x, train=False, endpoints=False):
        if min(x.shape[1:3]) < 32:
            raise InputError(f'ResNet needs images of at least 32x32, got {x.shape[1]}x{x.shape[2]}; choose a larger image_size')
        conv = partial(nn.Conv, padding='VALID', dtype=self.dtype, kernel_init=nn.initializers.he_normal())
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=self.bn_momentum, epsilon=1.001e-5, dtype=self.dtype, axis_name=self.axis_name)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (3, 3), (3, 3), (0, 0)))
        x = nn.relu(norm(name='stem_norm')(conv(64, (7, 7), 2, name='stem_conv')(x)))
        x = layers.max_pool_3x3(x)
        maps = {}
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                x = Bottleneck(64 * 2 ** stage, stride, not block, conv, norm, name=f'stage{stage + 2}_block{block + 1}')(x)
            maps[f'stage{stage + 2}'] = x
        maps['features'] = x
        x = x.astype(jnp.float32).mean((1, 2))
        if self.num_classes is not None:
            x = layers.ExampleDropout(self.dropout, self.axis_name)(x, deterministic=not train)
            x = nn.Dense(self.num_classes, name='head')(x)
        return (x, maps) if endpoints else x


ResNet50 = partial(ResNet, (3, 4, 6, 3))
