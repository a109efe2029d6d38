"""What runs on which device: pure steps under `jax.pmap`, states replicated, batches split.

The only file that knows `pmap`; one device is no special case.
"""

import jax
from flax import jax_utils

from covjax import InputError
from covjax.training.task import AXIS


def check_devices(batch_size):
    """Refuses a batch that the devices of all processes can not share evenly."""
    if batch_size % jax.device_count():
        raise InputError(
            f'config.batch_size={batch_size} can not be split over {jax.device_count()} devices; choose a multiple of {jax.device_count()}'
        )


def parallel(task):
    """(train_step on all devices of all processes, eval_step on the devices of this one)."""
    train_step = lambda state, batch, rng: task.train_step(
        state, batch, jax.random.fold_in(rng, state.step)
    )
    return (
        jax.pmap(train_step, axis_name=AXIS, in_axes=(0, 0, None), donate_argnums=0),
        jax.pmap(task.eval_step, axis_name=AXIS, devices=jax.local_devices()),
    )


def replicated(state):
    """A state on every device of this process, laid out as train_step leaves it: with another layout the second step would compile anew."""
    return jax.pmap(lambda state: state, axis_name=AXIS)(jax_utils.replicate(state))


def on_devices(batch):
    """A batch with one row a device of this process."""
    return {
        name: array.reshape(jax.local_device_count(), -1, *array.shape[1:])
        for name, array in batch.items()
    }


def my_share(batch):
    """What this process computes of a batch that all processes train on."""
    at, of = jax.process_index(), jax.process_count()
    return on_devices(
        {
            name: array[len(array) * at // of : len(array) * (at + 1) // of]
            for name, array in batch.items()
        }
    )
