"""The convolutions that covjax.models.layers writes another way on CPU, beside XLA's own, at the shapes of a CycleGAN on 128x128 images.

python benchmarks/convolutions.py
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from covjax.models import layers


def plain(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), 'VALID', dimension_numbers=layers.NHWC)


CASES = {  # name: ours, XLA's, image, kernel
    'winograd, 3x3 256 to 256': (layers.winograd, plain, (1, 34, 34, 256), (3, 3, 256, 256)),
    'by_taps, 7x7 64 to 1': (layers.by_taps, plain, (1, 134, 134, 64), (7, 7, 64, 1)),
    'transposed_by_taps, 256 to 128': (
        layers.transposed_by_taps,
        layers.transposed,
        (1, 32, 32, 256),
        (3, 3, 256, 128),
    ),
    'transposed_by_taps, 128 to 64': (
        layers.transposed_by_taps,
        layers.transposed,
        (1, 64, 64, 128),
        (3, 3, 128, 64),
    ),
}


def milliseconds(function, *arguments, rounds=9):
    compiled, times = jax.jit(function), []
    jax.block_until_ready(compiled(*arguments))
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - began)
    return 1e3 * np.median(times)


def main():
    rng = np.random.default_rng(0)
    print('ms: ours / XLA     forward          gradients of image and kernel')
    for name, (ours, xla, *shapes) in CASES.items():
        x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
        g = ours(x, kernel)
        cells = [
            [
                milliseconds(f, x, kernel),
                milliseconds(lambda x, k, g: jax.vjp(f, x, k)[1](g), x, kernel, g),
            ]
            for f in (ours, xla)
        ]
        print(
            f'{name:32s} '
            + '    '.join(f'{a:6.2f} / {b:6.2f} ({b / a:.1f}x)' for a, b in zip(*cells)),
            flush=True,
        )


if __name__ == '__main__':
    main()
