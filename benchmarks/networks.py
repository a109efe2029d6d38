"""Speed of the networks of slices beside the same ones in PyTorch and Keras.

python benchmarks/networks.py [--networks=vgg16,unet] [--size=96] [--batch=16] [--rounds=5]

Each has a process of its own, which keeps the memory that it frees, and they take turns. All do the
same: logits of a batch in evaluation, and a training step, which is forward in training mode,
cross-entropy, gradient, AdamW and BatchNorm statistics; float32, no augmentation, no dropout,
images in memory. PyTorch runs with channels last. Keras, on the JAX backend, trains only. Prints a
Markdown table of medians, a row as soon as it is there; a ratio is the time of the peer over ours,
taken round by round.
"""

import argparse
import contextlib
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

os.environ['KERAS_BACKEND'] = 'jax'  # read when keras is imported

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import torch
import torch_keras
import torch_resnet
from torch import nn
from torch_unet import UNet

from covjax import models
from covjax.memory import keep_memory
from covjax.training.optimizer import adamw

RATE, DECAY = 1e-3, 1e-4
WIDTHS = (16, 32, 64, 128, 256)  # of the U-Net, configs/segmentation.py:small
NETWORKS = (*models.PUBLISHED, 'resnet18', 'resnet50_torch', 'unet')
COLUMNS = (
    'network',
    'work',
    'covjax, images/s',
    'PyTorch, images/s',
    'ratio (lowest to highest)',
    'Keras, images/s',
    'ratio (lowest to highest)',
    'first call of covjax, s',
    'of PyTorch, s',
    'of Keras, s',
)


def ours(name, images, labels):
    """{'forward': (), 'step': ()}: functions that do one of them and return a number."""
    model = models.create(name, **({'widths': WIDTHS} if name == 'unet' else {'num_classes': 2}))
    tx = adamw(RATE, DECAY)
    variables = jax.jit(model.init)(jax.random.key(0), images[:1])
    state = variables['params'], variables.get('batch_stats', {}), tx.init(variables['params'])

    def loss(params, stats):
        variables = {'params': params, 'batch_stats': stats}
        logits, updated = model.apply(variables, images, train=True, mutable=['batch_stats'])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updated.get('batch_stats', {})

    def one_step(state):
        params, stats, opt = state
        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params, stats)
        updates, opt = tx.update(grads, opt, params)
        return (optax.apply_updates(params, updates), stats, opt), value

    step = jax.jit(one_step, donate_argnums=0)  # as the training loop does
    forward = jax.jit(lambda variables, images: model.apply(variables, images).sum())

    def train():
        nonlocal state
        state, value = step(state)
        return float(value)

    kept = jax.tree.map(jnp.copy, variables)
    return {'forward': lambda: float(forward(kept, images)), 'step': train}


def in_pytorch(name, images, labels):
    """The same in PyTorch."""
    network = pytorch_network(name, images.shape[1:]).to(memory_format=torch.channels_last)
    x, target = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels).long()
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)

    def forward():
        network.eval()
        with torch.no_grad():
            return float(network(x).sum())

    def train():
        network.train()
        loss = nn.functional.cross_entropy(network(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return {'forward': forward, 'step': train}


def pytorch_network(name, shape):
    """The network of a name in PyTorch, with two outputs, for images of a shape (H, W, 3)."""
    if name in models.PUBLISHED:
        return torch_keras.Network(keras_body(name, shape), 2)
    if name == 'unet':
        return UNet(WIDTHS, 2, channels=3)
    network = {'resnet18': torch_resnet.ResNet18, 'resnet50_torch': torch_resnet.ResNet50}[name]()
    network.fc = nn.Linear(network.fc.in_features, 2)
    return network


def keras_body(name, shape):
    """The keras.Model of a published backbone, up to the means of its channels."""
    build = getattr(keras.applications, models.create(name).reference.rpartition('.')[2])
    return build(weights=None, include_top=False, pooling='avg', input_shape=shape)


def in_keras(name, images, labels):
    """A training step of the network of keras.applications, with a dense layer as ours has it."""
    if name not in models.PUBLISHED:
        return {}
    model = keras.Sequential([keras_body(name, images.shape[1:]), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(RATE), loss, jit_compile=True)
    return {'step': lambda: float(model.train_on_batch(images, labels))}


MAKERS = (ours, in_pytorch, in_keras)
works = {}  # in the process of a library: what it can do


def begin(make, *args):
    """Makes what a library can do, in the process of that library."""
    keep_memory()
    works.update(make(*args))


def kinds():
    """What the library of this process can do, ['forward', 'step'] at most."""
    return list(works)


def timed(work):
    """Seconds that a kind of work takes."""
    start = time.perf_counter()
    value = works[work]()
    assert np.isfinite(value), value
    return time.perf_counter() - start


@contextlib.contextmanager
def libraries(*args):
    """Yields a process for each of MAKERS, which begins with its first work."""
    with contextlib.ExitStack() as stack:
        spawn = multiprocessing.get_context('spawn')
        yield [
            stack.enter_context(ProcessPoolExecutor(1, spawn, begin, (make, *args)))
            for make in MAKERS
        ]


def rows(name, images, labels, rounds):
    """Yields the cells of a network, in the order of COLUMNS, for each kind of work."""
    with libraries(name, images, labels) as processes:
        able = [process.submit(kinds).result() for process in processes]
        for work in able[0]:
            who = [process for process, can in zip(processes, able) if work in can]
            first, *times = [
                [process.submit(timed, work).result() for process in who] for _ in range(1 + rounds)
            ]
            yield cells(name, work, len(images), first, np.array(times))


def cells(name, work, images, first, times):
    """A row: first [libraries] and times [rounds, libraries] are seconds; ours come first."""
    ratios = times[:, 1:] / times[:, :1]
    speeds = [f'{images / seconds:.1f}' for seconds in np.median(times, 0)]
    ratios = [f'{np.median(r):.2f} ({r.min():.2f} to {r.max():.2f})' for r in ratios.T]
    beside = [cell for pair in zip(speeds[1:], ratios) for cell in pair]
    missing = [''] * (len(MAKERS) - len(first))
    seconds = [f'{each:.0f}' for each in first]
    return [name, work, speeds[0], *beside, *missing, *missing, *seconds, *missing]


def words():
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--networks', default=','.join(NETWORKS))
    for name, number in (('size', 96), ('batch', 16), ('rounds', 5)):
        parser.add_argument(f'--{name}', type=int, default=number)
    return parser.parse_args()


def main():
    """Prints what was measured on, then the table."""
    args = words()
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (args.batch, args.size, args.size, 3)).astype(np.float32)
    machine = f'{jax.devices()[0].device_kind}, {os.cpu_count()} cores'
    peers = f'PyTorch {torch.__version__}, Keras {keras.__version__}'
    work = f'{args.size}x{args.size}, batch {args.batch}, float32, {args.rounds} rounds'
    print(f'{machine}, JAX {jax.__version__}, {peers}, {work}\n')
    print(f'| {" | ".join(COLUMNS)} |\n{"|---" * len(COLUMNS)}|')
    for name in args.networks.split(','):
        shape = (args.batch, *((args.size,) * 2 if name == 'unet' else ()))
        labels = rng.integers(0, 2, shape)
        for row in rows(name, images, labels, args.rounds):
            print(f'| {" | ".join(row)} |', flush=True)


if __name__ == '__main__':
    main()
