"""Training speed of every backbone beside the same one in Keras on the JAX backend, in one process, step by step in turn.

python benchmarks/backbones.py [--size=96] [--batch=16] [--rounds=5] [--models=resnet50,vgg16]

Both do the same: forward in training mode, cross-entropy, gradient, AdamW, BatchNorm statistics; float32, no augmentation, images on the host. Prints
a Markdown table of medians; the ratio is Keras' time over ours, taken round by round.
"""

import argparse
import os
import time

os.environ['KERAS_BACKEND'] = 'jax'

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax

from covjax import models

KERAS = {
    'vgg16': 'VGG16',
    'resnet50': 'ResNet50',
    'inception_v3': 'InceptionV3',
    'inception_resnet_v2': 'InceptionResNetV2',
    'densenet169': 'DenseNet169',
}
RATE = 1e-3


def ours(name, images, labels):
    """A step () -> loss of our module."""
    model, tx = models.create(name, num_classes=2), optax.adamw(RATE)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *images.shape[1:])))
    state = {
        'params': variables['params'],
        'stats': variables.get('batch_stats', {}),
        'opt': tx.init(variables['params']),
    }

    def loss(params, stats, images, labels):
        logits, updated = model.apply(
            {'params': params, 'batch_stats': stats}, images, train=True, mutable=['batch_stats']
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated.get(
            'batch_stats', {}
        )

    @jax.jit
    def step(state, images, labels):
        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(
            state['params'], state['stats'], images, labels
        )
        updates, opt = tx.update(grads, state['opt'], state['params'])
        return {
            'params': optax.apply_updates(state['params'], updates),
            'stats': stats,
            'opt': opt,
        }, value

    def run():
        nonlocal state
        state, value = step(state, images, labels)
        return float(value)

    return run


def peer(name, images, labels):
    """The same of keras.applications, with a head of average pooling and a dense layer for all."""
    body = getattr(keras.applications, KERAS[name])(
        weights=None, include_top=False, pooling='avg', input_shape=images.shape[1:]
    )
    model = keras.Sequential([body, keras.layers.Dense(2)])
    model.compile(
        keras.optimizers.AdamW(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,
    )
    return lambda: float(model.train_on_batch(images, labels))


def timed(step):
    start = time.perf_counter()
    value = step()
    assert np.isfinite(value), value
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (('size', 96), ('batch', 16), ('rounds', 5)):
        parser.add_argument(f'--{name}', type=int, default=value)
    parser.add_argument('--models', default=','.join(models.MODELS))
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (args.batch, args.size, args.size, 3)).astype(np.float32)
    labels = rng.integers(0, 2, args.batch)
    print(
        f'{jax.devices()[0].device_kind}, {os.cpu_count()} cores, JAX {jax.__version__}, Keras {keras.__version__}, '
        f'{args.size}x{args.size}, batch {args.batch}, float32, {args.rounds} rounds\n'
    )
    print(
        '| backbone | ours, images/s | Keras, images/s | ratio (lowest to highest) | first step of ours, s | of Keras, s |\n|---|---|---|---|---|---|'
    )
    for name in args.models.split(','):
        steps = [ours(name, images, labels), peer(name, images, labels)]
        first = [timed(step) for step in steps]
        times = np.array([[timed(step) for step in steps] for _ in range(args.rounds)])
        ratios, (mine, theirs) = times[:, 1] / times[:, 0], args.batch / np.median(times, 0)
        print(
            f'| {name} | {mine:.1f} | {theirs:.1f} | {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}) | {first[0]:.0f} | {first[1]:.0f} |',
            flush=True,
        )


if __name__ == '__main__':
    main()
