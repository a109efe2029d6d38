"""Batches of arrays in memory: for training a function of the step, otherwise each example once."""

import jax
import numpy as np
from tqdm import tqdm


def batch_indices(step, n, batch_size, seed):
    """Which of n examples form the batch of a step: int [batch_size].

    Every epoch is a new permutation of all examples, and batches run on across epochs.
    """
    position = step * batch_size + np.arange(batch_size)
    epochs = position // n
    parts = []
    for epoch in np.unique(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(n)
        parts.append(order[position[epochs == epoch] % n])
    return np.concatenate(parts)


def padded_batches(arrays, batch_size):
    """Yields every example once, in batches of one size.

    Args:
        arrays: {name: array [N, ...]}.
        batch_size: of every batch; the last is filled up with copies of its first example.

    Yields:
        {name: array [batch_size, ...], 'mask': bool [batch_size]}; the mask is False on copies.
    """
    n = len(next(iter(arrays.values())))
    for start in range(0, n, batch_size):
        index = np.arange(start, start + batch_size)
        mask = index < n
        index = np.where(mask, index, start)
        yield {name: array[index] for name, array in arrays.items()} | {'mask': mask}


def predict(apply, images, batch_size, progress=''):
    """Applies a function to every image once, batch by batch.

    Args:
        apply: uint8 [batch_size, H, W, C] -> array [batch_size, ...], can be jitted.
        images: uint8 [N, H, W, C].
        batch_size: images at a time.
        progress: caption of a bar with rate and time left, which only a screen shows; '' for none.

    Returns:
        NumPy array [N, ...].
    """
    apply, outputs = jax.jit(apply), []
    hidden = None if progress else True  # None: unless it is a screen
    with tqdm(total=len(images), desc=progress, unit='image', disable=hidden) as bar:
        for batch in padded_batches({'images': images}, batch_size):
            outputs.append(np.asarray(apply(batch['images']))[batch['mask']])
            bar.update(len(outputs[-1]))
    return np.concatenate(outputs)
