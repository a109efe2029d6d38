"""Batches of arrays in memory: for training a pure function of the step, for everything else each example once."""

import jax
import numpy as np
from tqdm import tqdm


def batch_indices(step, n, batch_size, seed):
    """Which of n examples form the batch of a step: int [batch_size]. Every epoch is a new permutation; batches run on across epochs."""
    position = step * batch_size + np.arange(batch_size)
    epochs = position // n
    return np.concatenate(
        [
            np.random.default_rng([seed, epoch]).permutation(n)[position[epochs == epoch] % n]
            for epoch in np.unique(epochs)
        ]
    )


def padded_batches(arrays, batch_size):
    """{name: [N, ...]} -> batches of exactly batch_size with a bool 'mask'; the last is filled up with copies of its first example."""
    n = len(next(iter(arrays.values())))
    for start in range(0, n, batch_size):
        index = np.arange(start, start + batch_size)
        mask = index < n
        yield {name: array[np.where(mask, index, start)] for name, array in arrays.items()} | {
            'mask': mask
        }


def predict(apply, images, batch_size, progress=''):
    """The one forward pass over a data set: apply (uint8 [B, H, W, C] -> array [B, ...], jittable) on every image once -> array [N, ...].

    `progress` captions a bar with rate and time left, on a screen only.
    """
    apply, outputs = jax.jit(apply), []
    with tqdm(
        total=len(images), desc=progress, unit='image', disable=None if progress else True
    ) as bar:
        for batch in padded_batches({'images': images}, batch_size):
            outputs.append(np.asarray(apply(batch['images']))[batch['mask']])
            bar.update(len(outputs[-1]))
    return np.concatenate(outputs)
