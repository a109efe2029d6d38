"""The layers that covjax.models writes another way, beside XLA's own.

python benchmarks/layers.py

Prints milliseconds, forward and of all gradients, on the device at hand, at the shapes of a
CycleGAN on 128x128 images, of a U-Net on eight of 176x176 and of backbones on sixteen of 64x64 to
96x96. On a GPU covjax uses only transposed_by_phases, BatchNorm and grown.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from covjax.memory import keep_memory
from covjax.models import densenet, layers

DENSE_LAYERS = 12


def plain(x, kernel):
    """XLA's convolution without padding: [B, H, W, C], [h, w, C, F] -> [B, ., ., F]."""
    return lax.conv_general_dilated(x, kernel, (1, 1), 'VALID', dimension_numbers=layers.NHWC)


def by_columns(stride):
    """(ours, XLA's) convolution with a stride and a margin of one pixel."""
    strides, margin = (stride, stride), ((1, 1), (1, 1))
    return (
        lambda x, kernel: layers.by_columns(layers.pad(x, 1), kernel, strides),
        lambda x, kernel: lax.conv_general_dilated(
            x, kernel, strides, margin, dimension_numbers=layers.NHWC
        ),
    )


def max_pool(size, stride):
    """(ours, XLA's) maximum of windows."""
    return (
        lambda x: layers.max_pool(x, size, stride),
        lambda x: nn.max_pool(x, (size, size), strides=(stride, stride)),
    )


def normed(norm):
    """BatchNorm with the statistics of the batch: [B, H, W, C], scale [C], bias [C] -> the same."""
    module = norm(use_running_average=False, momentum=0.9)

    def function(x, scale, bias):
        stats = {'mean': jnp.zeros_like(bias), 'var': jnp.ones_like(scale)}
        variables = {'params': {'scale': scale, 'bias': bias}, 'batch_stats': stats}
        return module.apply(variables, x, mutable=['batch_stats'])[0]

    return function


def dense_block(grown):
    """A chain of layers that all read what those before have made: [B, H, W, C] -> more features.

    Args:
        grown: as densenet.grown.
    """

    def function(x, kernel):
        seen = kept = [x]
        for _ in range(DENSE_LAYERS):
            more = nn.relu(seen[0]) @ kernel[: seen[0].shape[-1]]
            seen, kept = grown(kept, [more])
        return seen[0]

    return function


def concatenated(old, more):
    """densenet.grown with the gradients that JAX finds."""
    return ([jnp.concatenate(pair, -1) for pair in zip(old, more)],) * 2


POINTWISE = (lambda x, kernel: layers.pointwise(x, kernel, (1, 1)), plain)
WINOGRAD = (layers.winograd, plain)
ONE_CHANNEL = (layers.from_one_channel, plain)
BY_TAPS = (layers.by_taps, plain)
BY_PLANES = (layers.transposed_by_taps, layers.transposed)
BY_PHASES = (layers.transposed_by_phases, layers.transposed)
MEANS = (
    layers.avg_pool_3x3,
    lambda x: nn.avg_pool(x, (3, 3), padding='SAME', count_include_pad=False),
)
NORMS = (normed(layers.BatchNorm), normed(nn.BatchNorm))
GROWN = (dense_block(densenet.grown), dense_block(concatenated))
CASES = {  # name: (ours, XLA's), shapes of what they take
    'pointwise, 256 to 64': (POINTWISE, (16, 24, 24, 256), (1, 1, 256, 64)),
    'winograd, 3x3 256 to 256': (WINOGRAD, (1, 34, 34, 256), (3, 3, 256, 256)),
    'winograd, 3x3 64 to 32': (WINOGRAD, (8, 90, 90, 64), (3, 3, 64, 32)),
    'from_one_channel, 3x3 1 to 16': (ONE_CHANNEL, (8, 178, 178, 1), (3, 3, 1, 16)),
    'from_one_channel, 7x7 1 to 64': (ONE_CHANNEL, (4, 134, 134, 1), (7, 7, 1, 64)),
    'by_taps, 7x7 64 to 1': (BY_TAPS, (1, 134, 134, 64), (7, 7, 64, 1)),
    'by_columns, 3x3 512 to 512': (by_columns(1), (16, 2, 2, 512), (3, 3, 512, 512)),
    'by_columns, stride 2': (by_columns(2), (16, 4, 4, 512), (3, 3, 512, 512)),
    'transposed_by_taps, 256 to 128': (BY_PLANES, (1, 32, 32, 256), (3, 3, 256, 128)),
    'transposed_by_taps, 128 to 64': (BY_PLANES, (1, 64, 64, 128), (3, 3, 128, 64)),
    'transposed_by_phases, 256 to 128': (BY_PHASES, (1, 32, 32, 256), (3, 3, 256, 128)),
    'transposed_by_phases, 128 to 64': (BY_PHASES, (1, 64, 64, 128), (3, 3, 128, 64)),
    'max_pool, 2x2': (max_pool(2, 2), (16, 96, 96, 16)),
    'max_pool, 3x3 stride 2': (max_pool(3, 2), (16, 49, 49, 64)),
    'avg_pool_3x3': (MEANS, (16, 12, 12, 256)),
    'BatchNorm': (NORMS, (16, 24, 24, 256), (256,), (256,)),
    f'grown, {DENSE_LAYERS} layers': (GROWN, (16, 12, 12, 128), (128 + 32 * DENSE_LAYERS, 32)),
}


def milliseconds(function, *arguments, rounds=9):
    """The median time of a call, compiled."""
    compiled, times = jax.jit(function), []
    jax.block_until_ready(compiled(*arguments))
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - began)
    return 1e3 * np.median(times)


def gradients(function):
    """The function (gradient of the output, *what it takes) -> gradients of what it takes."""
    return lambda g, *arguments: jax.vjp(function, *arguments)[1](g)


def main():
    """Prints a line a case."""
    keep_memory()
    rng = np.random.default_rng(0)
    print('ms: ours / XLA     forward          gradients')
    for name, (functions, *shapes) in CASES.items():
        arguments = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
        with jax.default_matmul_precision('highest'):  # GPUs round products otherwise
            g, expected = (function(*arguments) for function in functions)
        np.testing.assert_allclose(g, expected, rtol=1e-3, atol=1e-2)
        forward = [milliseconds(function, *arguments) for function in functions]
        backward = [milliseconds(gradients(function), g, *arguments) for function in functions]
        cells = (f'{a:6.2f} / {b:6.2f} ({b / a:.1f}x)' for a, b in (forward, backward))
        print(f'{name:32s} ' + '    '.join(cells), flush=True)


if __name__ == '__main__':
    main()
