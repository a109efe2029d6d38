"""Training speed of the backbones beside the same ones in Keras on the JAX backend.

python benchmarks/backbones.py [--size=96] [--batch=16] [--rounds=5] [--models=resnet50,vgg16]

Both are trained in one process, step by step in turn, and do the same: forward in training mode,
cross-entropy, gradient, AdamW, BatchNorm statistics; float32, no augmentation, images on the host.
Prints a Markdown table of medians; the ratio is Keras' time over ours, taken round by round.
"""

import argparse
import os
import time

os.environ['KERAS_BACKEND'] = 'jax'  # read when keras is imported

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax

from covjax import models

RATE = 1e-3
COLUMNS = (
    'backbone',
    'ours, images/s',
    'Keras, images/s',
    'ratio (lowest to highest)',
    'first step of ours, s',
    'of Keras, s',
)


def ours(name, images, labels):
    """A function () -> loss that does one training step of our network."""
    model, tx = models.create(name, num_classes=2), optax.adamw(RATE)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *images.shape[1:])))
    params, stats = variables['params'], variables.get('batch_stats', {})
    state = params, stats, tx.init(params)

    def loss(params, stats, images, labels):
        variables = {'params': params, 'batch_stats': stats}
        logits, updated = model.apply(variables, images, train=True, mutable=['batch_stats'])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updated.get('batch_stats', {})

    @jax.jit
    def step(state, images, labels):
        params, stats, opt = state
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, stats), grads = gradient(params, stats, images, labels)
        updates, opt = tx.update(grads, opt, params)
        return (optax.apply_updates(params, updates), stats, opt), value

    def run():
        nonlocal state
        state, value = step(state, images, labels)
        return float(value)

    return run


def peer(name, images, labels):
    """A function () -> loss that does one training step of the network of keras.applications.

    Every body gets a head of average pooling and a dense layer, as ours have.
    """
    build = getattr(keras.applications, models.create(name).reference.rpartition('.')[2])
    body = build(weights=None, include_top=False, pooling='avg', input_shape=images.shape[1:])
    model = keras.Sequential([body, keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(RATE), loss, jit_compile=True)
    return lambda: float(model.train_on_batch(images, labels))


def timed(step):
    """Seconds that one step takes."""
    start = time.perf_counter()
    value = step()
    assert np.isfinite(value), value
    return time.perf_counter() - start


def row(name, images, labels, rounds):
    """The cells of one backbone, in the order of COLUMNS."""
    steps = [ours(name, images, labels), peer(name, images, labels)]
    first = [timed(step) for step in steps]
    times = np.array([[timed(step) for step in steps] for _ in range(rounds)])
    ratios = times[:, 1] / times[:, 0]
    speeds = len(images) / np.median(times, 0)
    return [
        name,
        *(f'{speed:.1f}' for speed in speeds),
        f'{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})',
        *(f'{seconds:.0f}' for seconds in first),
    ]


def main():
    """Prints what was measured on, then the table, a row as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--size', type=int, default=96)
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--models', default=','.join(models.PUBLISHED))
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (args.batch, args.size, args.size, 3)).astype(np.float32)
    labels = rng.integers(0, 2, args.batch)
    machine = f'{jax.devices()[0].device_kind}, {os.cpu_count()} cores'
    versions = f'JAX {jax.__version__}, Keras {keras.__version__}'
    work = f'{args.size}x{args.size}, batch {args.batch}, float32, {args.rounds} rounds'
    print(f'{machine}, {versions}, {work}\n')
    print(f'| {" | ".join(COLUMNS)} |\n{"|---" * len(COLUMNS)}|')
    for name in args.models.split(','):
        print(f'| {" | ".join(row(name, images, labels, args.rounds))} |', flush=True)


if __name__ == '__main__':
    main()
