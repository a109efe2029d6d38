"""Layers shared by the model families. Arrays are [B, H, W, C].

Where XLA's CPU backend is slow at a convolution, the same sum is written another way, here and nowhere else; parameters and results are the same.
"""
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax


NHWC = ('NHWC', 'HWIO', 'NHWC')           # dimension_numbers of lax convolutions


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
            scale = self.param('scale', lambda rng, shape: 1 + 0.02 * jax.random.normal(rng, shape), x.shape[-1:])
            y = y * scale.reshape(1, 1, 1, -1) + self.param('bias', nn.initializers.zeros_init(), x.shape[-1:]).reshape(1, 1, 1, -1)
        return y.astype(x.dtype)


def on_cpu():
    """Whether computations are traced for XLA's CPU backend, where some operations are better written another way."""
    return jax.default_backend() == 'cpu'


def convolve(x, kernel, strides, padding, **options):
    """lax.conv_general_dilated. On CPU a 1x1 convolution is a matrix product, because its weight gradient is then two to five times faster, and one to a
    few large kernels are a product and shifted sums, because XLA computes one output channel of a 7x7 kernel sixty times slower.
    """
    height, width, channels, features = kernel.shape
    if on_cpu() and (height, width) == (1, 1) and isinstance(padding, str):
        x = x[:, ::strides[0], ::strides[1]]
        return (x.reshape(-1, channels) @ kernel[0, 0]).reshape(*x.shape[:-1], features)
    if on_cpu() and features <= 4 < channels and padding == 'VALID' and tuple(strides) == (1, 1):
        planes = (x.reshape(-1, channels) @ kernel.transpose(2, 0, 1, 3).reshape(channels, -1)).reshape(*x.shape[:3], height, width, features)
        down, right = x.shape[1] - height + 1, x.shape[2] - width + 1
        return sum(planes[:, i:i + down, j:j + right, i, j] for i in range(height) for j in range(width))
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def conv(dtype):
    """nn.Conv(features, kernel_size, strides, ...) of the backbones: padding SAME, He initialisation."""
    return partial(nn.Conv, dtype=dtype, kernel_init=nn.initializers.he_normal(), conv_general_dilated=convolve)


def batch_norm(train, momentum, dtype, axis_name):
    """nn.BatchNorm(...) of the backbones: batch statistics in training (over all devices of an axis), running ones otherwise."""
    return partial(nn.BatchNorm, use_running_average=not train, momentum=momentum, dtype=dtype, axis_name=axis_name)


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
        sums, counts = (sum(_shifted(jnp.pad(a, [(int(at == axis),) * 2 for at in range(4)]), 3, 1, axis)) for a in (x, jnp.ones_like(x[:1, :, :, :1])))
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
        rngs = jax.vmap(partial(jax.random.fold_in, self.make_rng('dropout')))(first + jnp.arange(len(x)))
        keep = jax.vmap(lambda rng: jax.random.bernoulli(rng, 1 - self.rate, x.shape[1:]))(rngs)
        return jnp.where(keep, x / (1 - self.rate), 0.)


class UpConv(nn.Module):
    """3x3 transposed convolution with stride 2: [B, H, W, C] -> [B, 2H, 2W, features], PyTorch's padding=1, output_padding=1.

    Parameters: kernel [3, 3, C, features] with y[2i - 1 + k] += x[i] kernel[k], and bias.
    """
    features: int
    dtype: Any = jnp.float32
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        kernel = self.param('kernel', self.kernel_init, (3, 3, x.shape[-1], self.features))
        bias = self.param('bias', nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return (transposed_by_phases if on_cpu() else transposed)(x, kernel) + bias.reshape(1, 1, 1, -1)


def transposed(x, kernel):
    """The sum of UpConv as a convolution of the image with zeros between its pixels."""
    return lax.conv_general_dilated(x, kernel[::-1, ::-1], (1, 1), ((1, 2), (1, 2)), lhs_dilation=(2, 2), dimension_numbers=NHWC)


def transposed_by_phases(x, kernel):
    """The same as one 2x2 convolution that makes the four (even or odd row, even or odd column) phases of the output: on CPU the weight gradient of a
    dilated convolution is about ten times slower.
    """
    batch, height, width, channels = x.shape
    # Even outputs take tap 1 of x[i]; odd ones tap 2 of x[i] and tap 0 of x[i + 1].
    phases = jnp.stack([jnp.stack([kernel[1], kernel[2]]), jnp.stack([jnp.zeros_like(kernel[0]), kernel[0]])])           # [tap, phase, 3, C, F]
    phases = jnp.stack([jnp.stack([phases[:, :, 1], phases[:, :, 2]], 2), jnp.stack([jnp.zeros_like(phases[:, :, 0]), phases[:, :, 0]], 2)], 1)
    phases = phases.transpose(0, 1, 4, 2, 3, 5).reshape(2, 2, channels, -1)                                               # [tap, tap, C, 4F]
    y = lax.conv_general_dilated(x, phases, (1, 1), ((0, 1), (0, 1)), dimension_numbers=NHWC)
    return y.reshape(batch, height, width, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, -1)


class ResizeConv(nn.Module):
    """Every pixel doubled, then a reflect-padded 3x3 convolution: the way up without the checkerboard of UpConv (Odena et al. 2016). Same shapes."""
    features: int
    dtype: Any = jnp.float32
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        kernel = self.param('kernel', self.kernel_init, (3, 3, x.shape[-1], self.features))
        bias = self.param('bias', nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = reflect_pad(x.repeat(2, 1).repeat(2, 2), 1)
        return convolve(x, kernel, (1, 1), 'VALID', dimension_numbers=NHWC) + bias.reshape(1, 1, 1, -1)
