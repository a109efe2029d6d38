"""What runs on which device: pure steps under `jax.pmap`, states replicated, batches split.

The only file that knows `pmap`; one device is no special case.
"""

import math
import os

import jax
from flax import jax_utils

from covjax import InputError
from covjax.training.task import AXIS

GIB = 2**30
FLOAT = 4  # bytes


def check_devices(batch_size):
    """Refuses a batch that the devices of all processes cannot share evenly.

    Raises:
        InputError: batch_size is not a multiple of the number of devices.
    """
    devices = jax.device_count()
    if batch_size % devices:
        raise InputError(
            f'config.batch_size={batch_size} cannot be split over {devices} devices; '
            f'choose a multiple of {devices}'
        )


def check_batch(config):
    """Refuses a batch that cannot fit, before it or anything else is allocated.

    Args:
        config: of a training, with batch_size, and image_size or patch.

    Raises:
        InputError: its images alone take more memory than a device has.
    """
    sides = config.get('patch') or (config.image_size, config.image_size)
    share = -(-config.batch_size // jax.device_count())
    _check(
        share * math.prod(sides) * FLOAT,
        f'config.batch_size={config.batch_size}: {share} images of {"x".join(map(str, sides))}',
        'choose fewer or smaller ones',
    )


def check_state(state):
    """Refuses a network that cannot fit, before it is allocated.

    Args:
        state: what jax.eval_shape says of a training state, parameters and optimizer.

    Raises:
        InputError: it takes more memory than a device has.
    """
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    _check(needed, 'the network and its optimizer', 'choose fewer filters or narrower levels')


def _check(needed, what, remedy):
    there = memory()
    if needed > there:
        raise InputError(
            f'{what} take {needed / GIB:,.1f} GiB, more than the {there / GIB:,.1f} GiB of this '
            f'{jax.devices()[0].platform}; {remedy}'
        )


def memory():
    """Bytes of a device; those of the machine where it has none of its own."""
    known = jax.local_devices()[0].memory_stats() or {}
    return known.get('bytes_limit') or os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def parallel(task):
    """The steps of a Task, compiled for many devices.

    Returns:
        (train_step, eval_step). train_step(state, batch, rng) runs on all devices of all processes
        with a rng of its own in every step, and takes over the memory of `state`; eval_step(state,
        batch) runs on the devices of this process. States and batches have a leading axis of
        devices.
    """

    def train_step(state, batch, rng):
        return task.train_step(state, batch, jax.random.fold_in(rng, state.step))

    return (
        jax.pmap(train_step, axis_name=AXIS, in_axes=(0, 0, None), donate_argnums=0),
        jax.pmap(task.eval_step, axis_name=AXIS, devices=jax.local_devices()),
    )


def replicated(state):
    """A state on every device of this process, with a leading axis of devices.

    It is laid out as train_step leaves it: with another layout the second step would compile anew.
    """
    same = jax.pmap(lambda state: state, axis_name=AXIS, donate_argnums=0)
    return same(jax_utils.replicate(state))


def on_host(state):
    """The inverse of `replicated`: the state of the first device as NumPy arrays."""
    return jax.device_get(jax_utils.unreplicate(state))


def on_devices(batch):
    """A batch {name: [B, ...]} divided among this process's devices: {name: [D, B / D, ...]}."""
    devices = jax.local_device_count()
    return {name: array.reshape(devices, -1, *array.shape[1:]) for name, array in batch.items()}


def my_share(batch):
    """This process's part of a global batch {name: [B, ...]}, divided as `on_devices` does."""
    process, processes = jax.process_index(), jax.process_count()

    def part(array):
        first, end = (len(array) * i // processes for i in (process, process + 1))
        return array[first:end]

    return on_devices({name: part(array) for name, array in batch.items()})
