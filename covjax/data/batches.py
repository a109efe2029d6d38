"""Batches of arrays in memory: for training a function of the step, otherwise each example once."""

import jax
import numpy as np
from jax.tree_util import Partial
from tqdm import tqdm


def batch_indices(step, n, batch_size, seed, parts=None):
    """Which of n examples form the batch of a step: int [batch_size].

    Every epoch is a new permutation of all examples, and batches run on across epochs.

    Args:
        step, n, batch_size, seed: ints.
        parts: int [n], of which part of a spec each example is; then all parts are shown equally
            often, however many examples they have. None shows every example equally often.
    """
    if parts is not None:
        return _equal_parts(step, parts, batch_size, seed)
    position = step * batch_size + np.arange(batch_size)
    epochs = position // n
    parts = []
    for epoch in np.unique(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(n)
        parts.append(order[position[epochs == epoch] % n])
    return np.concatenate(parts)


def _equal_parts(step, parts, batch_size, seed):
    """The same where parts take turns, also across batches; each runs through its own epochs."""
    position = step * batch_size + np.arange(batch_size)
    turns, of = np.divmod(position, parts.max() + 1)
    chosen = np.empty(batch_size, int)
    for part in np.unique(of):
        members, places = np.flatnonzero(parts == part), of == part
        epochs, within = np.divmod(turns[places], len(members))
        orders = {
            epoch: np.random.default_rng([seed, epoch, part]).permutation(members)
            for epoch in np.unique(epochs)
        }
        chosen[places] = [orders[epoch][i] for epoch, i in zip(epochs, within)]
    return chosen


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


@jax.jit
def _called(apply, images):
    return apply(images)


def predict(apply, images, batch_size, progress=''):
    """Applies a function to every image once, batch by batch.

    Args:
        apply: uint8 [batch_size, H, W, C] -> array [batch_size, ...], can be jitted. Several
            jax.tree_util.Partial of one function, such as networks that differ in their weights
            alone, share one compiled program.
        images: uint8 [N, H, W, C].
        batch_size: images at a time.
        progress: caption of a bar with rate and time left, which only a screen shows; '' for none.

    Returns:
        NumPy array [N, ...].
    """
    apply = jax.device_put(apply if isinstance(apply, Partial) else Partial(apply))
    outputs = []
    hidden = None if progress else True  # None: unless it is a screen
    with tqdm(total=len(images), desc=progress, unit='image', disable=hidden) as bar:
        for batch in padded_batches({'images': images}, batch_size):
            outputs.append(np.asarray(_called(apply, batch['images']))[batch['mask']])
            bar.update(len(outputs[-1]))
    return np.concatenate(outputs)
