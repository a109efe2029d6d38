"""How fast convolutions of volumes are on CPU, beside XLA's own and those of PyTorch.

python benchmarks/convolutions_3d.py

Prints a Markdown table of milliseconds, the least of several turns, of the convolution and of its
gradients. A row is input features, output features, side of the volume and side of the kernel.
"""

import time

import jax
import numpy as np
import torch
from jax import lax

from covjax.models import layers_3d

SHAPES = [
    (1, 16, 48, 3),
    (16, 16, 48, 3),
    (32, 32, 32, 3),
    (64, 64, 16, 3),
    (16, 16, 48, 5),
    (256, 256, 4, 5),
]
TURNS = 5


def plain(x, kernel):
    """XLA's own convolution."""
    return lax.conv_general_dilated(x, kernel, (1, 1, 1), 'SAME', dimension_numbers=layers_3d.NDHWC)


def of_jax(convolve, x, kernel):
    """(convolution, gradients) of a way to convolve, as functions without arguments."""
    squares = lambda x, kernel: (convolve(x, kernel) ** 2).sum()
    functions = jax.jit(convolve), jax.jit(jax.grad(squares, (0, 1)))
    return [lambda f=function: jax.block_until_ready(f(x, kernel)) for function in functions]


def of_torch(x, kernel):
    """The same in PyTorch."""
    x = torch.tensor(x).permute(0, 4, 1, 2, 3).contiguous().requires_grad_()
    kernel = torch.tensor(kernel).permute(4, 3, 0, 1, 2).contiguous().requires_grad_()
    convolve = lambda: torch.nn.functional.conv3d(x, kernel, padding=kernel.shape[-1] // 2)
    return [torch.no_grad()(convolve), lambda: (convolve() ** 2).sum().backward()]


def least(functions):
    """[milliseconds] of functions that are called in turns."""
    for function in functions:
        function()
    found = np.zeros((TURNS, len(functions)))
    for turn in found:
        for i, function in enumerate(functions):
            began = time.perf_counter()
            function()
            turn[i] = 1000 * (time.perf_counter() - began)
    return found.min(axis=0)


def main():
    """Prints the table."""
    print('| shape | ours | gradients | XLA | gradients | PyTorch | gradients |')
    print('|' + '---|' * 7)
    for channels, features, side, size in SHAPES:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(1, side, side, side, channels)).astype(np.float32)
        kernel = rng.normal(size=(size,) * 3 + (channels, features)).astype(np.float32)
        ours, xla = of_jax(layers_3d.convolve, x, kernel), of_jax(plain, x, kernel)
        numbers = least([*ours, *xla, *of_torch(x, kernel)])
        shown = ' | '.join(f'{number:.1f}' for number in numbers)
        print(f'| {channels} to {features}, {side}, {size} | {shown} |', flush=True)


if __name__ == '__main__':
    main()
