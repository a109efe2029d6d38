"""Layers of networks on volumes. Arrays are [B, D, H, W, C].

On CPU a convolution of volumes is written as one of slices, or of small maps as a matrix product,
which is faster than XLA's own (benchmarks/convolutions_3d.py prints by how much). Parameters and
results are the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from covjax.models import layers

FEW = 4  # features up to which a convolution is faster summed after a product
NDHWC = ('NDHWC', 'DHWIO', 'NDHWC')  # dimension_numbers of lax convolutions


class Conv(nn.Module):
    """A convolution with an odd kernel and stride 1 that keeps the size, padded with zeros."""

    features: int
    size: int  # of the kernel, on every side
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """[B, D, H, W, C] -> [B, D, H, W, features]."""
        x, kernel, bias = _parameters(self, x, self.size)
        return _with_bias(convolve(x, kernel), bias)


class Halved(nn.Module):
    """Halves the size of maps by a convolution of 2x2x2 with stride 2, and a bias.

    Its windows do not overlap, so it is a matrix product of the eight voxels of each. The kernel is
    [2, 2, 2, C, features].
    """

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """[B, D, H, W, C] -> [B, D / 2, H / 2, W / 2, features]; the sides are even."""
        x, kernel, bias = _parameters(self, x, 2)
        y = _eights(x) @ kernel.reshape(-1, self.features)
        return _with_bias(y, bias)


class Doubled(nn.Module):
    """Doubles the size of maps by a transposed convolution of 2x2x2 with stride 2, and a bias.

    y[2i + a, 2j + b, 2k + c] = x[i, j, k] kernel[a, b, c]. The kernel is [2, 2, 2, C, features].
    """

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """[B, D, H, W, C] -> [B, 2D, 2H, 2W, features]."""
        x, kernel, bias = _parameters(self, x, 2)
        batch, *sides, channels = x.shape
        y = x.reshape(-1, channels) @ kernel.transpose(3, 0, 1, 2, 4).reshape(channels, -1)
        y = y.reshape(batch, *sides, 2, 2, 2, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7)
        return _with_bias(y.reshape(batch, *(2 * side for side in sides), -1), bias)


class NormOfAll(nn.Module):
    """GroupNorm of one group: all voxels and features of a volume have mean 0 and variance 1.

    The parameters are those of flax.linen.GroupNorm. Sums are float32.
    """

    epsilon: float = 1e-5  # as in PyTorch
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """[B, D, H, W, C] -> the same shape."""
        axes, last = tuple(range(1, x.ndim)), (1, 1, 1, 1, -1)
        scale = self.param('scale', nn.initializers.ones_init(), x.shape[-1:]).reshape(last)
        bias = self.param('bias', nn.initializers.zeros_init(), x.shape[-1:]).reshape(last)
        mean = x.mean(axes, jnp.float32, keepdims=True)
        squares = jnp.square(x.astype(jnp.float32)).mean(axes, keepdims=True)
        factor = lax.rsqrt(jnp.maximum(squares - mean**2, 0) + self.epsilon) * scale
        y = x.astype(jnp.float32) * factor + (bias - mean * factor)
        return y.astype(self.dtype)


def _parameters(module, x, size):
    """(x, kernel [size, size, size, C, features], bias or None) of a module in its dtype."""
    features, zeros = module.features, nn.initializers.zeros_init()
    shape = (size, size, size, x.shape[-1], features)
    kernel = module.param('kernel', nn.initializers.he_normal(), shape)
    bias = module.param('bias', zeros, (features,)) if module.use_bias else None
    return nn.dtypes.promote_dtype(x, kernel, bias, dtype=module.dtype)


def _with_bias(y, bias):
    return y if bias is None else y + bias.reshape(1, 1, 1, 1, -1)


def _eights(x):
    """[B, D, H, W, C] -> [B, D / 2, H / 2, W / 2, 8C], the voxels of every 2x2x2 in order."""
    batch, depth, height, width, channels = x.shape
    halves = depth // 2, height // 2, width // 2
    y = x.reshape(batch, halves[0], 2, halves[1], 2, halves[2], 2, channels)
    return y.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, *halves, 8 * channels)


def convolve(x, kernel):
    """Convolution with stride 1 that keeps the size.

    Args:
        x: [B, D, H, W, C].
        kernel: [k, k, k, C, F] of the same dtype, k odd.

    Returns:
        [B, D, H, W, F].
    """
    if kernel.shape[:3] == (1, 1, 1):
        return x @ kernel[0, 0, 0]
    if layers.on_cpu():
        # In slices that the kernel covers most of what a convolution multiplies is padding.
        if max(x.shape[2:4]) <= len(kernel):
            return by_taps(x, kernel)
        return by_sums(x, kernel) if kernel.shape[-1] <= FEW else by_slices(x, kernel)
    return lax.conv_general_dilated(x, kernel, (1, 1, 1), 'SAME', dimension_numbers=NDHWC)


@jax.custom_vjp
def by_slices(x, kernel):
    """`convolve` as one two-dimensional convolution: slices that it covers become channels."""
    return _by_slices(x, kernel)


def _by_slices(x, kernel):
    beside = _beside(_wide(x, len(kernel)), len(kernel))
    batch, depth, *slices = beside.shape
    y = lax.conv_general_dilated(
        beside.reshape(-1, *slices),
        jnp.concatenate([*kernel], -2),
        (1, 1),
        'SAME',
        dimension_numbers=layers.NHWC,
    )
    return y.reshape(batch, depth, *slices[:2], -1)


def _wide(x, size):
    """[B, D, H, W, C] with the slices above and below it that a kernel covers, of zeros."""
    margin = size // 2
    return jnp.pad(x, ((0, 0), (margin, margin), (0, 0), (0, 0), (0, 0)))


def _beside(wide, size):
    """[B, D + size - 1, H, W, C] -> [B, D, H, W, size * C], what a kernel covers in depth."""
    depth = wide.shape[1] - size + 1
    return jnp.concatenate([wide[:, z : z + depth] for z in range(size)], -1)


def _by_slices_forward(x, kernel):
    return by_slices(x, kernel), (x, kernel)


def _by_slices_backward(saved, g):
    """The input gradient is XLA's; that of the kernel, which it is slow at, a sum of products."""
    x, kernel = saved
    of_input = jax.vjp(lambda x: _by_slices(x, kernel), x)[1](g)[0]
    return of_input, _kernel_gradient(x, g, len(kernel)).astype(kernel.dtype)


by_slices.defvjp(_by_slices_forward, _by_slices_backward)


def _kernel_gradient(x, g, size):
    """The gradient of a kernel from x [B, D, H, W, C] and g [B, D, H, W, F]: [k, k, k, C, F].

    Slice by slice it is the product of what the kernel covers above a voxel with g, shifted to all
    places of the kernel in the plane.
    """
    channels, features, margin = x.shape[-1], g.shape[-1], size // 2
    height, width = x.shape[2:4]
    wide = _wide(x, size)
    shifted = jnp.pad(g, ((0, 0), (0, 0), (margin, margin), (margin, margin), (0, 0)))

    def of_slice(total, z):
        around = lax.dynamic_slice_in_dim(wide, z, size, 1)
        covered = _beside(around, size).reshape(-1, size * channels)
        plane = lax.dynamic_index_in_dim(shifted, z, 1, keepdims=False)
        places = jnp.concatenate(
            [
                plane[:, size - 1 - i :][:, :height, size - 1 - j :][:, :, :width]
                for i, j in np.ndindex(size, size)
            ],
            -1,
        ).reshape(-1, size * size * features)
        product = lax.dot_general(
            covered, places, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
        )
        return total + product, None

    start = jnp.zeros((size * channels, size * size * features), jnp.float32)
    total, _ = lax.scan(of_slice, start, jnp.arange(x.shape[1]))
    return total.reshape(size, channels, size, size, features).transpose(0, 2, 3, 1, 4)


def by_taps(x, kernel):
    """`convolve` as one matrix product: all voxels that it covers become channels."""
    batch, *sides, channels = x.shape
    size, margin = len(kernel), len(kernel) // 2
    wide = jnp.pad(x, ((0, 0), *[(margin, margin)] * 3, (0, 0)))
    parts = (
        wide[:, i : i + sides[0], j : j + sides[1], k : k + sides[2]]
        for i, j, k in np.ndindex(size, size, size)
    )
    covered = jnp.concatenate([*parts], -1).reshape(-1, size**3 * channels)
    return (covered @ kernel.reshape(-1, kernel.shape[-1])).reshape(batch, *sides, -1)


@jax.custom_vjp
def by_sums(x, kernel):
    """`convolve` to few features: a product for every place of the kernel, and their sum."""
    batch, *sides, channels = x.shape
    size, margin = len(kernel), len(kernel) // 2
    products = x.reshape(-1, channels) @ kernel.transpose(3, 0, 1, 2, 4).reshape(channels, -1)
    products = products.reshape(batch, *sides, size, size, size, -1)
    wide = jnp.pad(products, ((0, 0), *[(margin, margin)] * 3, *[(0, 0)] * 4))
    return sum(
        wide[:, i : i + sides[0], j : j + sides[1], k : k + sides[2], i, j, k]
        for i, j, k in np.ndindex(size, size, size)
    )


by_sums.defvjp(lambda x, kernel: (by_sums(x, kernel), (x, kernel)), _by_slices_backward)
