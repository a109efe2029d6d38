"""Layers shared by the model families. Arrays are [B, H, W, C].

Where XLA's CPU backend is slow at a convolution, the same sum is written another way, here and nowhere else; parameters and results are the same.
"""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

NHWC = ('NHWC', 'HWIO', 'NHWC')  # dimension_numbers of lax convolutions


def reflect_pad(x, n):
    """Mirrors n pixels at each edge of [B, H, W, C], the edge itself not repeated."""
    return jnp.pad(x, ((0, 0), (n, n), (n, n), (0, 0)), mode='reflect')


class InstanceNorm(nn.Module):
    """Each image and channel to mean 0, variance 1 over H, W: biased variance, float32 statistics (Ulyanov et al. 2016).

    With `affine` times a scale, from N(1, 0.02), plus a bias, from 0: float32 [C].
    """

    affine: bool = False
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x):
        wide = x.astype(jnp.float32)
        mean = wide.mean((1, 2), keepdims=True)
        variance = ((wide - mean) ** 2).mean((1, 2), keepdims=True)
        y = (wide - mean) * lax.rsqrt(variance + self.eps)
        if self.affine:
            scale = self.param(
                'scale', lambda rng, shape: 1 + 0.02 * jax.random.normal(rng, shape), x.shape[-1:]
            )
            y = y * scale.reshape(1, 1, 1, -1) + self.param(
                'bias', nn.initializers.zeros_init(), x.shape[-1:]
            ).reshape(1, 1, 1, -1)
        return y.astype(x.dtype)


def on_cpu():
    """Whether computations are traced for XLA's CPU backend, where some operations are better written another way."""
    return jax.default_backend() == 'cpu'


def convolve(x, kernel, strides, padding, **options):
    """lax.conv_general_dilated; on CPU, where one of the ways below is faster, that way."""
    if on_cpu():
        (size, width, channels, features), plain = (
            kernel.shape,
            padding == 'VALID' and tuple(strides) == (1, 1),
        )
        if (size, width) == (1, 1) and isinstance(padding, str):
            return pointwise(x, kernel, strides)
        if plain and features <= 4 < channels:
            return by_taps(x, kernel)
        if (
            plain
            and (size, width) == (3, 3)
            and min(channels, features) >= 32
            and not (x.shape[1] % 2 or x.shape[2] % 2)
            and x.dtype == jnp.float32
        ):
            return winograd(x, kernel)
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def pointwise(x, kernel, strides):
    """A 1x1 convolution as a matrix product: its weight gradient is then two to five times faster."""
    x = x[:, :: strides[0], :: strides[1]]
    return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)


def by_taps(x, kernel):
    """A convolution to few channels as one product and shifted sums: XLA's own takes some seventy times longer for one channel of 7x7, forward."""
    height, width, channels, features = kernel.shape
    planes = jnp.matmul(
        x.reshape(-1, channels),
        kernel.transpose(2, 0, 1, 3).reshape(channels, -1),
        preferred_element_type=jnp.float32,
    )
    planes = planes.reshape(*x.shape[:3], height, width, features)
    down, right = x.shape[1] - height + 1, x.shape[2] - width + 1
    return sum(
        planes[:, i : i + down, j : j + right, i, j] for i in range(height) for j in range(width)
    ).astype(x.dtype)


@jax.custom_vjp
def winograd(x, kernel):
    """A 3x3 convolution, two by two outputs at a time from 16 products instead of 36: F(2x2, 3x3) of Lavin & Gray 2016, arXiv 1509.09308.

    [B, H, W, C], [3, 3, C, F] -> [B, H - 2, W - 2, F] for even H and W. It is 1.3 to 2 times faster than XLA's convolution (benchmarks/convolutions.py),
    with the same rounding error.
    """
    return _untile(
        _tiles(x) @ _transform(KERNEL, kernel.reshape(9, *kernel.shape[2:])), len(x), x.shape[1] - 2
    )


def _winograd_gradients(saved, g):
    """Of the image: the same convolution of g with the kernel turned around. Of the kernel: the products and transforms above, transposed."""
    (x, kernel), g = saved, lax.optimization_barrier(g)  # see _tiles
    turned = _transform(KERNEL[:, ::-1], kernel.reshape(9, *kernel.shape[2:]))
    dx = _untile(
        jnp.einsum('tnf,tcf->tnc', _tiles(jnp.pad(g, ((0, 0), (2, 2), (2, 2), (0, 0)))), turned),
        len(x),
        x.shape[1],
    )
    spread = _transform(
        OUTPUT.T,
        jnp.stack([g[:, i::2, j::2].reshape(-1, g.shape[-1]) for i in range(2) for j in range(2)]),
    )
    dk = _transform(KERNEL.T, jnp.einsum('tnc,tnf->tcf', _tiles(x), spread))
    return dx, dk.reshape(kernel.shape)


winograd.defvjp(lambda x, kernel: (winograd(x, kernel), (x, kernel)), _winograd_gradients)

INPUT = np.array(
    [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32
)  # B^T, G and A^T of the paper's section 4.1
KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)


def _transform(matrix, grid):
    """A matrix [m, n] along the rows and the columns of an n x n grid of arrays: [n * n, ...] -> [m * m, ...]."""
    both = np.kron(matrix, matrix)
    return (both @ grid.reshape(len(grid), -1)).reshape(len(both), *grid.shape[1:])


def _tiles(x):
    """[B, H, W, C] -> the transform of every 4x4 tile, one every two pixels: [16, tiles, C]."""
    down, right = x.shape[1] // 2 - 1, x.shape[2] // 2 - 1
    x = lax.optimization_barrier(x)  # or what x comes from would be computed once for every corner
    corners = [
        x[:, i : i + 2 * down - 1 : 2, j : j + 2 * right - 1 : 2].reshape(-1, x.shape[-1])
        for i in range(4)
        for j in range(4)
    ]
    return _transform(INPUT, jnp.stack(corners))


def _untile(products, batch, height):
    """[16, tiles, F] -> [B, H, W, F]: the 2x2 outputs of every tile."""
    y = _transform(OUTPUT, products).reshape(2, 2, batch, height // 2, -1, products.shape[-1])
    return y.transpose(2, 3, 0, 4, 1, 5).reshape(batch, height, -1, products.shape[-1])


def conv(dtype):
    """nn.Conv(features, kernel_size, strides, ...) of the backbones: padding SAME, He initialisation."""
    return partial(
        nn.Conv, dtype=dtype, kernel_init=nn.initializers.he_normal(), conv_general_dilated=convolve
    )


def batch_norm(train, momentum, dtype, axis_name):
    """nn.BatchNorm(...) of the backbones: batch statistics in training (over all devices of an axis), running ones otherwise."""
    return partial(
        nn.BatchNorm,
        use_running_average=not train,
        momentum=momentum,
        dtype=dtype,
        axis_name=axis_name,
    )


def max_pool(x, size, stride):
    """Maximum of size x size windows without padding. On CPU the maximum of shifted images, along rows and columns in turn: its gradient is ten times
    faster. Where several pixels of a window share the maximum, the CPU spreads the gradient over them and other backends give it to one of them.
    """
    if not on_cpu():
        return nn.max_pool(x, (size, size), strides=(stride, stride))
    for axis in (1, 2):
        x = reduce(jnp.maximum, _shifted(x, size, stride, axis))
    return x


def avg_pool_3x3(x):
    """Mean of 3x3 windows, stride 1, of the pixels that are inside the image. On CPU from sums of shifted images, as above."""
    if not on_cpu():
        return nn.avg_pool(x, (3, 3), padding='SAME', count_include_pad=False)
    for axis in (1, 2):
        sums, counts = (
            sum(_shifted(jnp.pad(a, [(int(at == axis),) * 2 for at in range(4)]), 3, 1, axis))
            for a in (x, jnp.ones_like(x[:1, :, :, :1]))
        )
        x = sums / counts
    return x


def _shifted(x, size, stride, axis):
    """Every place of a window of `size` along an axis, each as an array of that place in all windows."""
    end = (x.shape[axis] - size) // stride * stride + 1
    return [lax.slice_in_dim(x, i, i + end, stride, axis) for i in range(size)]


class ExampleDropout(nn.Module):
    """Dropout of features [B, F] whose mask depends on an example's place in the global batch, so not on the number of devices."""

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, deterministic):
        if deterministic or not self.rate:
            return x
        first = lax.axis_index(self.axis_name) * len(x) if self.axis_name else 0
        rngs = jax.vmap(partial(jax.random.fold_in, self.make_rng('dropout')))(
            first + jnp.arange(len(x))
        )
        keep = jax.vmap(lambda rng: jax.random.bernoulli(rng, 1 - self.rate, x.shape[1:]))(rngs)
        return jnp.where(keep, x / (1 - self.rate), 0.0)


class UpConv(nn.Module):
    """The way up: [B, H, W, C] -> [B, 2H, 2W, features], from a kernel [3, 3, C, features] and a bias.

    A transposed convolution with stride 2, PyTorch's padding=1, output_padding=1: y[2i - 1 + k] += x[i] kernel[k]. With `resize` a convolution of doubled
    pixels, which leaves no checkerboard (Odena et al. 2016).
    """

    features: int
    resize: bool = False
    dtype: Any = jnp.float32
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        kernel = self.param('kernel', self.kernel_init, (3, 3, x.shape[-1], self.features))
        bias = self.param('bias', nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        way = doubled if self.resize else transposed_by_taps if on_cpu() else transposed
        return way(x, kernel) + bias.reshape(1, 1, 1, -1)


def transposed(x, kernel):
    """The sum of UpConv as a convolution of the image with zeros between its pixels."""
    return lax.conv_general_dilated(
        x, kernel[::-1, ::-1], (1, 1), ((1, 2), (1, 2)), lhs_dilation=(2, 2), dimension_numbers=NHWC
    )


def transposed_by_taps(x, kernel):
    """The same as one product and shifted sums: even outputs take tap 1 of x[i]; odd ones tap 2 of x[i] and tap 0 of x[i + 1]. On CPU the gradients of a
    dilated convolution take twenty times longer.
    """
    batch, height, width, channels = x.shape
    planes = (x.reshape(-1, channels) @ kernel.transpose(2, 0, 1, 3).reshape(channels, -1)).reshape(
        batch, height, width, 3, 3, -1
    )
    rows = planes[:, :, :, 1], planes[:, :, :, 2] + _next(planes[:, :, :, 0], 1)
    y = [
        jnp.stack([row[:, :, :, 1], row[:, :, :, 2] + _next(row[:, :, :, 0], 2)], 3) for row in rows
    ]
    return jnp.stack(y, 2).reshape(batch, 2 * height, 2 * width, -1)


def _next(x, axis):
    """x[i + 1] along an axis, and 0 after the last."""
    return jnp.pad(
        lax.slice_in_dim(x, 1, None, 1, axis), [(0, int(at == axis)) for at in range(x.ndim)]
    )


def doubled(x, kernel):
    """Every pixel doubled, then a reflect-padded 3x3 convolution."""
    return convolve(
        reflect_pad(x.repeat(2, 1).repeat(2, 2), 1), kernel, (1, 1), 'VALID', dimension_numbers=NHWC
    )
