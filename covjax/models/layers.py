"""Layers shared by the model families. Arrays are [B, H, W, C].

Where XLA is slow at an operation, the same sum is written another way, here and nowhere else;
parameters and results are the same. benchmarks/layers.py measures the gain.
"""

import contextlib
from contextvars import ContextVar
from functools import partial, reduce, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

NHWC = ('NHWC', 'HWIO', 'NHWC')  # dimension_numbers of lax convolutions


_PLAINLY = ContextVar('plainly', default=False)


@contextlib.contextmanager
def plainly():
    """What is traced inside is written as on GPUs, without the ways around XLA's slow operations.

    For programs other than XLA, which have no such operations.
    """
    before = _PLAINLY.set(True)
    try:
        yield
    finally:
        _PLAINLY.reset(before)


def on_cpu():
    """Whether computations are traced for XLA's CPU backend, which is slow at some operations."""
    return jax.default_backend() == 'cpu' and not _PLAINLY.get()


def apart(function):
    """A function that XLA compiles by itself on CPU: nothing is fused across its border.

    XLA otherwise computes a cheap result anew wherever it is read, and takes long to compile what
    it fuses so. The function takes and returns trees of arrays. It is for the two sides of a
    jax.custom_vjp: what JAX differentiates by itself may be fused again.
    """

    @wraps(function)
    def inside(*arrays):
        with set_xla_metadata(inlineable=None):  # what it calls is fused with it
            return function(*arrays)

    compiled = jax.jit(inside)

    @wraps(function)
    def called(*arrays):
        if not on_cpu():
            return function(*arrays)
        with set_xla_metadata(inlineable='false'):
            return compiled(*arrays)

    return called


# ---- padding, norms, dropout


def pad(x, n):
    """Puts n pixels of zeros around [B, H, W, C]."""
    return jnp.pad(x, ((0, 0), (n, n), (n, n), (0, 0)))


def reflect_pad(x, n):
    """Mirrors n pixels at each edge of [B, H, W, C], the edge itself not repeated."""
    return jnp.pad(x, ((0, 0), (n, n), (n, n), (0, 0)), mode='reflect')


class InstanceNorm(nn.Module):
    """Brings each image and channel to mean 0 and variance 1 over H, W (Ulyanov et al. 2016).

    The variance is biased, statistics are float32. With `affine` the result is multiplied by a
    scale, drawn from N(1, 0.02), and a bias is added, at first 0; both are float32 [C].
    """

    affine: bool = False
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x):
        """[B, H, W, C] -> the same shape and dtype."""
        wide = x.astype(jnp.float32)
        mean = wide.mean((1, 2), keepdims=True)
        variance = ((wide - mean) ** 2).mean((1, 2), keepdims=True)
        y = (wide - mean) * lax.rsqrt(variance + self.eps)
        if self.affine:
            near_one = lambda rng, shape: 1 + 0.02 * jax.random.normal(rng, shape)
            scale = self.param('scale', near_one, x.shape[-1:])
            bias = self.param('bias', nn.initializers.zeros_init(), x.shape[-1:])
            y = y * scale.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)
        return y.astype(x.dtype)


class FrozenNorm(nn.Module):
    """Multiplies each channel by a scale and adds a bias, both float32 [C], at first 1 and 0.

    It is a BatchNorm whose running statistics are part of the two, as in inference.
    """

    @nn.compact
    def __call__(self, x):
        """[B, H, W, C] -> the same shape and dtype."""
        scale = self.param('scale', nn.initializers.ones_init(), x.shape[-1:])
        bias = self.param('bias', nn.initializers.zeros_init(), x.shape[-1:])
        y = x.astype(jnp.float32) * scale.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)
        return y.astype(x.dtype)


class BatchNorm(nn.Module):
    """flax's nn.BatchNorm over the last axis, as y = a x + b with a and b of each channel.

    Variables, statistics and results are the same, but for rounding. nn.BatchNorm writes x - mean,
    so that XLA's gradient of it passes over the maps more often.
    """

    use_running_average: bool  # or the statistics of the batch
    momentum: float  # how much of the old running statistics a step keeps
    dtype: Any = jnp.float32  # of the result; statistics and parameters are float32
    axis_name: str | None = None  # of the devices over which statistics of batches are averaged
    epsilon: float = 1e-5
    use_scale: bool = True

    @nn.compact
    def __call__(self, x, valid=None, known=None):
        """[B, H, W, C] -> the same shape.

        Args:
            x: the maps.
            valid: bool [B], which of the images the statistics of a batch are of; None is all. Of
                shape [S, B / S] the statistics are those of each of S scans, whose slices follow
                one another; the running statistics then stay as they are. Where no image is valid,
                the running statistics are taken.
            known: `moments` of x where the caller has them already; they are of all images, so
                that they do not count where some are not valid.
        """
        channels = x.shape[-1:]
        ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
        scale = self.param('scale', ones, channels) if self.use_scale else jnp.ones(channels)
        bias = self.param('bias', zeros, channels)
        average = self.variable('batch_stats', 'mean', jnp.zeros, channels)
        spread = self.variable('batch_stats', 'var', jnp.ones, channels)
        mean, var = average.value, spread.value
        if not self.use_running_average:
            mean, var = self._of_batch(x, valid, (mean, var), known)
            if mean.ndim == 2:  # of scans
                mean, var = (jnp.repeat(each, valid.shape[1], 0) for each in (mean, var))
            elif not self.is_initializing():
                kept = lambda old, new: self.momentum * old + (1 - self.momentum) * new
                average.value, spread.value = kept(average.value, mean), kept(spread.value, var)

        per_channel = lambda values: values.reshape(-1, 1, 1, *channels)
        factor = per_channel(scale) * lax.rsqrt(per_channel(var) + self.epsilon)
        offset = per_channel(bias) - per_channel(mean) * factor
        return (x * factor + offset).astype(self.dtype)

    def _of_batch(self, x, valid, otherwise, known):
        """Mean and biased variance [C], or [S, C], of [B, H, W, C] and of all devices.

        Where no image is valid they are `otherwise`: without any spread the maps would be scaled up
        by every layer until they overflow.
        """
        axis_name = None if self.is_initializing() else self.axis_name
        if valid is None:
            found = known or moments(x)
            if axis_name:
                found = lax.pmean(found, axis_name)
        else:
            x = x.astype(jnp.float32)
            weights = valid.astype(jnp.float32)[..., None]
            of_images = (each.mean((1, 2)).reshape(*valid.shape, -1) for each in (x, x * x))
            sums = *((weights * each).sum(-2) for each in of_images), weights.sum(-2)
            if axis_name and valid.ndim == 1:
                sums = lax.psum(sums, axis_name)
            *sums, count = sums
            usual, spread = (jnp.broadcast_to(each, sums[0].shape) for each in otherwise)
            found = [
                jnp.where(count > 0, each / jnp.maximum(count, 1), instead)
                for each, instead in zip(sums, (usual, spread + usual * usual))
            ]
        mean, square = found
        return mean, jnp.maximum(square - mean * mean, 0)


def moments(x):
    """The mean and the mean square of each channel of [B, H, W, C], float32 [C] each."""
    x = x.astype(jnp.float32)
    return x.mean((0, 1, 2)), (x * x).mean((0, 1, 2))


def batch_norm(train, momentum, dtype, axis_name, valid=None):
    """BatchNorm(...) as a function of its name.

    Args:
        train: whether the statistics are those of the batch, or the running ones.
        momentum: how much of the old running statistics a step keeps.
        dtype: of the result.
        axis_name: device axis over which statistics of batches are averaged, or None.
        valid: which images they are of; see BatchNorm.
    """
    norm = partial(
        BatchNorm,
        use_running_average=not train,
        momentum=momentum,
        dtype=dtype,
        axis_name=axis_name,
    )
    if valid is None:
        return norm
    return lambda **options: partial(norm(**options), valid=valid)


class ExampleDropout(nn.Module):
    """Dropout of features [B, F] that does not depend on the number of devices.

    The mask of an example comes from its place in the global batch.
    """

    rate: float
    axis_name: str | None = None  # of the devices that share the batch

    @nn.compact
    def __call__(self, x, deterministic):
        """[B, F] -> [B, F]; as it is where `deterministic`."""
        if deterministic or not self.rate:
            return x
        first = lax.axis_index(self.axis_name) * len(x) if self.axis_name else 0
        rng_of = partial(jax.random.fold_in, self.make_rng('dropout'))
        rngs = jax.vmap(rng_of)(first + jnp.arange(len(x)))
        keep = jax.vmap(lambda rng: jax.random.bernoulli(rng, 1 - self.rate, x.shape[1:]))(rngs)
        return jnp.where(keep, x / (1 - self.rate), 0.0)


# ---- convolutions


def conv(dtype):
    """nn.Conv(features, kernel_size, strides, ...) of the backbones: padding SAME, He's init."""
    he_normal = nn.initializers.he_normal()
    return partial(nn.Conv, dtype=dtype, kernel_init=he_normal, conv_general_dilated=convolve)


def stem_7x7(x, conv, norm):
    """[B, H, W, C] -> [B, ~H/4, ~W/4, 64]: the stem of the ResNets and of DenseNet.

    A 7x7 convolution and 3x3 max pooling, both with stride 2 and a margin of zeros, which are the
    least that there is after a ReLU.
    """
    x = conv(64, (7, 7), 2, padding='VALID', name='stem_conv')(pad(x, 3))
    x = nn.relu(norm(name='stem_norm')(x))
    return max_pool(pad(x, 1), 3, 2)


def convolve(x, kernel, strides, padding, **options):
    """lax.conv_general_dilated, or one of the ways below where that is faster on CPU."""
    if not on_cpu() or not _is_dense(x, kernel, options):
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)
    size, (channels, features) = kernel.shape[:2], kernel.shape[2:]
    margins = _margins(x, kernel, strides, padding)
    plain = tuple(strides) == (1, 1) and not np.any(margins)
    if size == (1, 1) and not np.any(margins):
        return pointwise(x, kernel, strides)
    if plain and channels == 1:
        return from_one_channel(x, kernel)
    if plain and features <= 4 < channels:
        return by_taps(x, kernel)
    if tuple(strides) == (1, 1) and _gains_by_winograd(x, kernel, margins):
        return winograd(_with_margins(x, margins), kernel)
    if _pixels_out(x, kernel, strides, margins) <= TINY:
        return by_columns(_with_margins(x, margins), kernel, strides)
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


TINY = 9  # pixels of a result up to which XLA's convolution takes up to fifty times longer


def _is_dense(x, kernel, options):
    """Whether a convolution is of neighbours and of all channels, neither dilated nor in groups."""
    spread = [*(options.get('rhs_dilation') or ()), *(options.get('lhs_dilation') or ())]
    return kernel.shape[2] == x.shape[-1] and all(step == 1 for step in spread)


def _margins(x, kernel, strides, padding):
    """The zeros that a convolution puts around images: ((above, below), (left, right))."""
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    return tuple(map(tuple, padding))


def _with_margins(x, margins):
    """[B, H, W, C] with zeros around it."""
    return jnp.pad(x, ((0, 0), *margins, (0, 0)))


def _gains_by_winograd(x, kernel, margins):
    """Whether there is so much to compute that the sums around the products pay."""
    (*size, channels, features) = kernel.shape
    height, width = (side + sum(margin) for side, margin in zip(x.shape[1:3], margins))
    if size != [3, 3] or x.dtype != jnp.float32 or min(height, width) < 6:
        return False
    return channels >= 16 and features >= 32 and height * width * channels * features >= 2**19


def _pixels_out(x, kernel, strides, margins):
    """How many pixels a convolution makes of each image."""
    sides = zip(x.shape[1:3], kernel.shape[:2], strides, margins)
    height, width = ((n + sum(margin) - k) // step + 1 for n, k, step, margin in sides)
    return height * width


def pointwise(x, kernel, strides):
    """A 1x1 convolution [B, H, W, C], [1, 1, C, F] as a matrix product.

    Its weight gradient is two to five times faster on CPU.
    """
    x = x[:, :: strides[0], :: strides[1]]
    return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)


def from_one_channel(x, kernel):
    """A convolution of one channel, without padding, as one product with its shifted copies.

    [B, H, W, 1], [h, w, 1, F] -> [B, H - h + 1, W - w + 1, F]. On CPU its gradients are three to
    five times faster.
    """
    rows = _shifted(x[..., 0], kernel.shape[0], 1, 1)
    planes = jnp.stack([plane for row in rows for plane in _shifted(row, kernel.shape[1], 1, 2)])
    y = planes.reshape(len(planes), -1).T @ kernel.reshape(len(planes), -1)
    return y.reshape(*planes.shape[1:], -1)


def by_columns(x, kernel, strides):
    """A convolution without padding as one product with its shifted copies side by side.

    [B, H, W, C], [h, w, C, F] -> [B, (H - h) // strides[0] + 1, (W - w) // strides[1] + 1, F]. It
    copies each pixel as often as the kernel has taps, so that it is for small results.
    """
    (height, width), (down, right) = kernel.shape[:2], strides
    rows = _shifted(x, height, down, 1)
    columns = jnp.concatenate([part for row in rows for part in _shifted(row, width, right, 2)], -1)
    y = columns.reshape(-1, columns.shape[-1]) @ kernel.reshape(columns.shape[-1], -1)
    return y.reshape(*columns.shape[:3], kernel.shape[-1])


def by_taps(x, kernel):
    """A convolution to few channels, without padding, as one product and shifted sums.

    [B, H, W, C], [h, w, C, F] -> [B, H - h + 1, W - w + 1, F]. On CPU XLA's own takes some seventy
    times longer for one channel of 7x7, forward.
    """
    height, width, channels, features = kernel.shape
    planes = jnp.matmul(
        x.reshape(-1, channels),
        kernel.transpose(2, 0, 1, 3).reshape(channels, -1),
        preferred_element_type=jnp.float32,
    )
    planes = planes.reshape(*x.shape[:3], height, width, features)
    down, right = x.shape[1] - height + 1, x.shape[2] - width + 1
    taps = [(i, j) for i in range(height) for j in range(width)]
    return sum(planes[:, i : i + down, j : j + right, i, j] for i, j in taps).astype(x.dtype)


@jax.custom_vjp
@apart
def winograd(x, kernel):
    """A 3x3 convolution without padding, two by two outputs at a time from 16 products, not 36.

    F(2x2, 3x3) of Lavin & Gray 2016, arXiv 1509.09308, section 4.1. On CPU it is up to three times
    faster than XLA's convolution and its gradients, with the same rounding error. The transforms
    are written as sums along rows, then columns, which XLA fuses: nothing but their results is put
    into memory.

    Args:
        x: [B, H, W, C] float32.
        kernel: [3, 3, C, F].

    Returns:
        [B, H - 2, W - 2, F].
    """
    height, width = x.shape[1] - 2, x.shape[2] - 2
    products = [tile @ taps for tile, taps in zip(_tiles(_even(x)), _spread_kernel(kernel))]
    return _untile(products, len(x), -(-height // 2))[:, :height, :width]


def _winograd_forward(x, kernel):
    return winograd(x, kernel), (x, kernel)


@apart
def _winograd_backward(saved, g):
    """The gradients of image and kernel from that of the output: the steps above, transposed."""
    x, kernel = saved
    spread, tiles = _spread_output(_even(g)), _tiles(_even(x))
    products = [output @ taps.T for output, taps in zip(spread, _spread_kernel(kernel))]
    dx = _untile_input(products, len(x), -(-g.shape[1] // 2))[:, : x.shape[1], : x.shape[2]]
    return dx, _gathered_kernel([tile.T @ output for tile, output in zip(tiles, spread)])


winograd.defvjp(_winograd_forward, _winograd_backward)

G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
KERNEL = np.kron(G, G)  # along rows and columns: [16, 9]


def _spread_kernel(kernel):
    """[3, 3, C, F] -> [16, C, F], the kernel in the space of the products."""
    return (KERNEL @ kernel.reshape(9, -1)).reshape(16, *kernel.shape[2:])


def _gathered_kernel(products):
    """16 arrays [C, F] -> [3, 3, C, F]: _spread_kernel, transposed."""
    stacked = jnp.stack(products)
    return (KERNEL.T @ stacked.reshape(16, -1)).reshape(3, 3, *stacked.shape[1:])


def _tiles(x):
    """[B, H, W, C], H and W even -> of every 4x4 tile, one every two pixels, 16 sums [tiles, C]."""
    transform = lambda d: (d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3])
    return _split(transform, x, 4)


def _untile(products, batch, height):
    """16 arrays [tiles, F] -> the 2x2 outputs of every tile, [B, 2 height, W, F]."""
    transform = lambda m, axis: (m[0] + m[1] + m[2], m[1] - m[2] - m[3])
    return _both_sides(transform, products, batch, height)


def _untile_input(products, batch, height):
    """16 arrays [tiles, C] -> [B, 2 height + 2, W, C]: _tiles, transposed.

    Tiles overlap: a pair of rows is the first half of one and the second half of the one before.
    """

    def transform(t, axis):
        here = lambda x: jnp.pad(x, [(0, int(at == axis)) for at in range(4)])
        before = lambda x: jnp.pad(x, [(int(at == axis), 0) for at in range(4)])
        return (
            here(t[0]) + before(t[1] + t[2] - t[0]),
            here(t[1] - t[2] + t[3]) - before(t[3]),
        )

    return _both_sides(transform, products, batch, height)


def _both_sides(transform, products, batch, height):
    """Brings 4 x 4 arrays to 2 x 2 and lays these out as pixels.

    Args:
        transform: four arrays [B, h, w, F] and an axis -> a pair, the pixels that alternate there.
        products: 16 arrays [B * h * w, F], row by row.
        batch: B.
        height: h.

    Returns:
        [B, 2h, 2w, F], for h and w that the transform leaves.
    """
    grids = [product.reshape(batch, height, -1, product.shape[-1]) for product in products]
    columns = [transform(grids[column::4], 1) for column in range(4)]
    rows = [jnp.stack(transform(row, 2), 3) for row in zip(*columns)]
    y = jnp.stack(rows, 2)
    return y.reshape(batch, 2 * y.shape[1], -1, y.shape[-1])


def _spread_output(g):
    """[B, H, W, F], H and W even -> 16 arrays [tiles, F]: _untile, transposed."""
    return _split(lambda g: (g[0], g[0] + g[1], g[0] - g[1], -g[1]), g, 2)


def _split(transform, x, size):
    """[B, H, W, C] -> of every window of `size`, one every two pixels, 16 sums [windows, C].

    The transform brings `size` arrays to four, along rows and then along columns.
    """
    rows = transform(_shifted(x, size, 2, 1))
    sums = [column for row in rows for column in transform(_shifted(row, size, 2, 2))]
    return [array.reshape(-1, x.shape[-1]) for array in sums]


def _even(x):
    """[B, H, W, C] with a row and a column of zeros after the last where there is an odd number."""
    odd = x.shape[1] % 2, x.shape[2] % 2
    return jnp.pad(x, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0))) if any(odd) else x


# ---- pooling


def max_pool(x, size, stride):
    """Maximum of size x size windows, without padding.

    On CPU it is the maximum of shifted images, along rows and columns in turn, whose gradient is
    ten times faster. Where several pixels of a window share the maximum, the CPU spreads the
    gradient over them and other backends give it to one of them.
    """
    if not on_cpu():
        return nn.max_pool(x, (size, size), strides=(stride, stride))
    for axis in (1, 2):
        x = reduce(jnp.maximum, _shifted(x, size, stride, axis))
    return x


def avg_pool_3x3(x):
    """Mean of 3x3 windows with stride 1, of those of their pixels that are inside the image.

    On CPU it comes from sums of shifted images, along rows and columns in turn.
    """
    if not on_cpu():
        return nn.avg_pool(x, (3, 3), padding='SAME', count_include_pad=False)
    for axis in (1, 2):
        margin = [(int(at == axis),) * 2 for at in range(4)]
        sums = sum(_shifted(jnp.pad(x, margin), 3, 1, axis))
        counts = sum(_shifted(jnp.pad(jnp.ones_like(x[:1, :, :, :1]), margin), 3, 1, axis))
        x = sums / counts
    return x


def _shifted(x, size, stride, axis):
    """[array of the i-th pixel of every window of `size` along an axis, for each i]."""
    end = (x.shape[axis] - size) // stride * stride + 1
    return [lax.slice_in_dim(x, i, i + end, stride, axis) for i in range(size)]


# ---- the way up


class UpConv(nn.Module):
    """Doubles the size of maps, with a kernel [3, 3, C, features] and a bias.

    It is a transposed convolution with stride 2, that of PyTorch with padding=1 and
    output_padding=1: y[2i - 1 + k] += x[i] kernel[k]. With `resize` it is a convolution of doubled
    pixels, which leaves no checkerboard (Odena et al. 2016).
    """

    features: int
    resize: bool = False
    dtype: Any = jnp.float32
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        """[B, H, W, C] -> [B, 2H, 2W, features]."""
        kernel = self.param('kernel', self.kernel_init, (3, 3, x.shape[-1], self.features))
        bias = self.param('bias', nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if self.resize:
            y = doubled(x, kernel)
        elif on_cpu():
            y = transposed_by_taps(x, kernel)
        else:
            y = transposed_by_phases(x, kernel)
        return y + bias.reshape(1, 1, 1, -1)


def transposed(x, kernel):
    """The transposed convolution of UpConv as one of the image with zeros between its pixels.

    [B, H, W, C], [3, 3, C, F] -> [B, 2H, 2W, F]. This is the definition that the two ways below are
    compared with: XLA's gradients of it are slow on CPU and on GPU.
    """
    margin = ((1, 2), (1, 2))
    return lax.conv_general_dilated(
        x, kernel[::-1, ::-1], (1, 1), margin, lhs_dilation=(2, 2), dimension_numbers=NHWC
    )


def transposed_by_taps(x, kernel):
    """The transposed convolution of UpConv as one product and shifted sums.

    [B, H, W, C], [3, 3, C, F] -> [B, 2H, 2W, F]. Even outputs take tap 1 of x[i]; odd ones tap 2 of
    x[i] and tap 0 of x[i + 1]. On CPU the gradients of the dilated convolution in `transposed` take
    twenty times longer.
    """
    batch, height, width, channels = x.shape
    planes = x.reshape(-1, channels) @ kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    planes = planes.reshape(batch, height, width, 3, 3, -1)
    even_rows, odd_rows = planes[:, :, :, 1], planes[:, :, :, 2] + _next(planes[:, :, :, 0], 1)
    y = [_interleaved_columns(rows) for rows in (even_rows, odd_rows)]
    return jnp.stack(y, 2).reshape(batch, 2 * height, 2 * width, -1)


# By the offset of a pixel x[i + offset] and the phase of an output y[2i + phase]: the tap of the
# kernel between them. There is no tap 3; it stands for zero.
PHASE_TAPS = np.array([[1, 2], [3, 0]])


def transposed_by_phases(x, kernel):
    """The transposed convolution of UpConv as a 2x2 convolution to the four outputs of each pixel.

    [B, H, W, C], [3, 3, C, F] -> [B, 2H, 2W, F]. It does 16 products a pixel where 9 are needed.
    It is for GPUs, where cuDNN is slow at the gradients of `transposed`.
    """
    batch, height, width, channels = x.shape
    kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    rows, columns = PHASE_TAPS[:, :, None, None], PHASE_TAPS[None, None]
    # [offset, phase, offset, phase, C, F] -> [offset, offset, C, phase, phase, F]
    kernel = kernel[rows, columns].transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, channels, -1)
    margin = ((0, 1), (0, 1))
    y = lax.conv_general_dilated(x, kernel, (1, 1), margin, dimension_numbers=NHWC)
    y = y.reshape(batch, height, width, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(batch, 2 * height, 2 * width, -1)


def _interleaved_columns(taps):
    """[B, H, W, 3, F] -> [B, H, W, 2, F]: the even and the odd columns of the output."""
    return jnp.stack([taps[:, :, :, 1], taps[:, :, :, 2] + _next(taps[:, :, :, 0], 2)], 3)


def _next(x, axis):
    """x[i + 1] along an axis, and 0 after the last."""
    margin = [(0, int(at == axis)) for at in range(x.ndim)]
    return jnp.pad(lax.slice_in_dim(x, 1, None, 1, axis), margin)


def doubled(x, kernel):
    """Every pixel doubled, then a reflect-padded 3x3 convolution.

    [B, H, W, C], [3, 3, C, F] -> [B, 2H, 2W, F].
    """
    wide = reflect_pad(x.repeat(2, 1).repeat(2, 2), 1)
    return convolve(wide, kernel, (1, 1), 'VALID', dimension_numbers=NHWC)


class Doubled(nn.Module):
    """Doubles the size of maps by a transposed convolution of 2x2 with stride 2, and a bias.

    Its windows do not overlap, so it is one matrix product, whose four results a pixel are laid
    side by side: y[2i + a, 2j + b] = x[i, j] kernel[a, b]. The kernel is [2, 2, C, features].
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """[B, H, W, C] -> [B, 2H, 2W, features]."""
        he_normal = nn.initializers.he_normal()
        kernel = self.param('kernel', he_normal, (2, 2, x.shape[-1], self.features))
        bias = self.param('bias', nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        batch, height, width, channels = x.shape
        y = x.reshape(-1, channels) @ kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
        y = y.reshape(batch, height, width, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
        return y.reshape(batch, 2 * height, 2 * width, -1) + bias.reshape(1, 1, 1, -1)


def bilinear_twice(x, corners=True):
    """Maps interpolated to double size: [B, H, W, C] -> [B, 2H, 2W, C].

    It is PyTorch's Upsample(scale_factor=2, mode='bilinear', align_corners=corners), as one matrix
    product along each side.

    Args:
        x: [B, H, W, C].
        corners: whether corners stay on corners, otherwise edges on edges.
    """
    rows, columns = (_interpolation(n, x.dtype, corners) for n in x.shape[1:3])
    return jnp.einsum('ih,jw,bhwc->bijc', rows, columns, x)


def _interpolation(n, dtype, corners):
    """The matrix [2n, n] that interpolates n values to twice as many."""
    between = np.linspace(0, n - 1, 2 * n)
    places = between if corners else np.clip((np.arange(2 * n) + 0.5) / 2 - 0.5, 0, n - 1)
    weights = np.maximum(1 - np.abs(places[:, None] - np.arange(n)), 0)
    return jnp.asarray(weights, dtype)
