"""The convolutions that covjax.models.layers writes another way, beside XLA's own.

python benchmarks/convolutions.py

Prints milliseconds, forward and of both gradients, on the device at hand, at the shapes
of a CycleGAN on 128x128 images, of a U-Net on eight of 176x176 and of the last blocks of a ResNet
on sixteen of 64x64. On a GPU covjax uses only the last two.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from covjax.memory import keep_memory
from covjax.models import layers


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


WINOGRAD = (layers.winograd, plain)
ONE_CHANNEL = (layers.from_one_channel, plain)
BY_TAPS = (layers.by_taps, plain)
BY_PLANES = (layers.transposed_by_taps, layers.transposed)
BY_PHASES = (layers.transposed_by_phases, layers.transposed)
CASES = {  # name: (ours, XLA's), shape of the images, shape of the kernel
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
    """The function (x, kernel, gradient of the output) -> gradients of x and kernel."""
    return lambda x, kernel, g: jax.vjp(function, x, kernel)[1](g)


def main():
    """Prints a line a case."""
    keep_memory()
    rng = np.random.default_rng(0)
    print('ms: ours / XLA     forward          gradients of image and kernel')
    for name, (functions, *shapes) in CASES.items():
        x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
        g = functions[0](x, kernel)
        forward = [milliseconds(function, x, kernel) for function in functions]
        backward = [milliseconds(gradients(function), x, kernel, g) for function in functions]
        cells = (f'{a:6.2f} / {b:6.2f} ({b / a:.1f}x)' for a, b in (forward, backward))
        print(f'{name:32s} ' + '    '.join(cells), flush=True)


if __name__ == '__main__':
    main()
