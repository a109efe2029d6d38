"""A training step of COVNet on one scan, beside PyTorch or alone with its peak of memory.

python benchmarks/covnet.py [--slices=16] [--size=128] [--rounds=5] [--alone]

Both do the same in turn: forward of a bag of grey slices through ResNet-50 with frozen statistics,
the maximum over slices, cross-entropy of three classes, gradient, AdamW; float32, no augmentation,
PyTorch with channels last. Prints medians and the ratio, PyTorch's time over ours, taken round by
round. With --alone one step of ours, and the peak of memory of the whole process.
"""

import argparse
import os
import pathlib
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from covjax import scan_classifier
from covjax.memory import keep_memory, peak_of_process
from covjax.training.optimizer import adamw

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # where configs are
from configs import scans as config_file  # noqa: E402

CLASSES = ('normal', 'cap', 'covid')
PAUSE = 0.5  # seconds; the threads of the library that ran before wait for more work that long
RATE, DECAY = 1e-5, 1e-4
GIB = 2**30


def ours(images, label):
    """A function that does a step and returns the loss."""
    config = config_file.get_config('covnet')
    net, tx = scan_classifier.network(config, CLASSES), adamw(RATE, DECAY)
    valid = jnp.ones(images.shape[:2], bool)
    variables = jax.jit(net.init)(jax.random.key(0), images[:, :1], valid[:, :1])
    state = variables['params'], tx.init(variables['params'])

    @partial(jax.jit, donate_argnums=0)  # as the training loop does
    def step(state):
        params, opt = state

        def loss(params):
            found = net.apply({**variables, 'params': params}, images, valid, train=True)
            return -found.log_probabilities[0, label]

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = tx.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), value

    def train():
        nonlocal state
        state, value = step(state)
        return float(value)

    return train


def peer(images, label):
    """The same in PyTorch."""
    import torch
    from torch_resnet import ResNet50

    network, head = ResNet50(), torch.nn.Linear(2048, len(CLASSES))
    network.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    network.fc = torch.nn.Identity()
    network = network.to(memory_format=torch.channels_last).eval()
    x = torch.from_numpy(images[0]).permute(0, 3, 1, 2)
    parameters = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, RATE, weight_decay=DECAY)

    def train():
        logits = head(network(x).max(0, keepdim=True)[0])
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([label]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return train


def timed(function):
    """Seconds that a step takes, after a pause."""
    time.sleep(PAUSE)
    start = time.perf_counter()
    assert np.isfinite(function())
    return time.perf_counter() - start


def main():
    """Prints what was measured on, then the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, number in (('slices', 16), ('size', 128), ('rounds', 5)):
        parser.add_argument(f'--{name}', type=int, default=number)
    parser.add_argument('--alone', action='store_true')
    args = parser.parse_args()
    keep_memory()
    shape = (1, args.slices, args.size, args.size, 1)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    work = f'{args.slices} slices, {args.size}x{args.size}'
    print(f'{jax.devices()[0].device_kind}, {os.cpu_count()} cores, JAX {jax.__version__}, {work}')
    step = ours(images, 1)
    if args.alone:
        first, second = timed(step), timed(step)
        peak = peak_of_process() / GIB
        print(f'{second:.1f} s a step after {first:.1f} s, peak of memory {peak:.1f} GiB')
        return
    other = peer(images, 1)
    for function in (step, other):
        timed(function)
    times = np.array([[timed(step), timed(other)] for _ in range(args.rounds)])
    ratios, medians = times[:, 1] / times[:, 0], 1000 * np.median(times, 0)
    print(f'ours {medians[0]:.0f} ms, PyTorch {medians[1]:.0f} ms, ratio {np.median(ratios):.2f} '
          f'({ratios.min():.2f} to {ratios.max():.2f})')  # fmt: skip


if __name__ == '__main__':
    main()
