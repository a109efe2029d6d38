"""The only training loop: init or restore, step, log, evaluate, save. It knows no loss."""

import signal
import sys

import jax
import numpy as np
from flax import jax_utils
from jax.experimental import multihost_utils

from covjax import InputError, checkpoint, classification, cyclegan, lineage
from covjax.log import Log
from covjax.task import AXIS, count_params
from covjax.workdir import read_json, write_json

MAKE = {'cyclegan': cyclegan.make, 'classification': classification.make}
BLOCK_EVERY = 10  # steps in flight at most: virtual CPU devices can deadlock on long queues, and NaN is seen soon
PICTURES = 8  # examples of which evaluation keeps images


def run(config, workdir):
    """Trains what config.task names, or goes on with the checkpoint in the workdir."""
    check_devices(config.batch_size)  # before anything is written
    task = MAKE[config.task](config)
    record, file = lineage.record(config, config.data_dir, task.sources), workdir / 'lineage.json'
    if checkpoint.exists(workdir) and read_json(file) != record:
        raise InputError(
            f'{workdir} was trained on other images than config.data_dir={config.data_dir} now holds; choose another --workdir'
        )
    if jax.process_index() == 0:
        write_json(file, record)
    fit(task, config, workdir)


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


def fit(task, config, workdir):
    """Runs a Task to its last step and returns its final state (host arrays). Reads batch_size, log_every, eval_every, best, seed."""
    # Devices: state on every one, batches split over them.
    check_devices(config.batch_size)
    train_step, eval_step = parallel(task)
    host = lambda state: jax.device_get(jax_utils.unreplicate(state))

    # Init or restore.
    init_rng, run_rng = jax.random.split(jax.random.key(config.seed))
    state = task.init(init_rng, {name: array[:1] for name, array in task.train_batch(0).items()})
    print(
        f'{count_params(checkpoint.split_state(state)[0]):,} parameters, {jax.device_count()} x {jax.devices()[0].device_kind}, batch {config.batch_size}',
        flush=True,
    )
    with checkpoint.manager(workdir, config.best) as checkpoints, Stop() as stop:
        restored = checkpoint.restore_latest(checkpoints, state)
        state = state if restored is None else restored
        start = int(state.step)
        if start:
            print(f'going on after step {start}')
        state, unseen = replicated(state), []

        # Step, log, evaluate, save.
        with Log(workdir, start, task.steps, writes=jax.process_index() == 0) as log:
            for step in range(start + 1, task.steps + 1):
                state, scalars = train_step(state, my_share(task.train_batch(step - 1)), run_rng)
                unseen.append((step, scalars))
                last, stopping = step == task.steps, stop.agreed(step)
                evaluating = step % config.eval_every == 0 or last
                if (
                    step % BLOCK_EVERY == 0
                    or step % config.log_every == 0
                    or evaluating
                    or stopping
                ):
                    values = check_finite(unseen)
                    unseen.clear()
                if step % config.log_every == 0 or last:
                    log.scalars(step, {f'train/{name}': value for name, value in values.items()})
                if evaluating:
                    values = evaluate(task, eval_step, state, step, log)
                    checkpoint.save(checkpoints, step, host(state), best_of(values, config.best))
                elif stopping:
                    checkpoint.save(checkpoints, step, host(state))
                if stopping:
                    checkpoints.wait_until_finished()
                    print(
                        f'stopped after step {step}; the same command goes on from there',
                        flush=True,
                    )
                    sys.exit(128 + stopping)
    return host(state)


def evaluate(task, eval_step, state, step, log):
    """Every example of every split once -> {'val/<split>/<name>': value}, logged with the images. Each of several processes does it all."""
    values = {}
    for split, batches in task.eval_batches().items():
        parts, seen = [], 0
        for batch in batches:
            mask = batch.pop('mask')
            outputs = jax.device_get(eval_step(state, on_devices(batch)))
            outputs = {
                name: array.reshape(-1, *array.shape[2:])[mask] for name, array in outputs.items()
            }
            # Arrays of rank 4 are images: a few are looked at, more would only fill memory.
            parts.append(
                {
                    name: array if array.ndim < 4 else array[: max(PICTURES - seen, 0)]
                    for name, array in outputs.items()
                }
            )
            seen += mask.sum()
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        scalars, images = task.summarize(outputs)
        prefix = f'val/{split}/' if split else 'val/'
        values |= {f'{prefix}{name}': float(value) for name, value in scalars.items()}
        for name, pictures in images.items():
            log.images(step, f'{prefix}{name}', pictures)
    if values:
        log.scalars(step, values)
    return values


def best_of(values, name):
    """The value of the scalar that picks the checkpoint (where a minus stands before its name, the lowest is best); None where the config names none."""
    scalar = name.removeprefix('-')
    if name and scalar not in values:
        raise InputError(f'config.best={name}: no such scalar; choose one of {", ".join(values)}')
    return None if not name else -values[scalar] if name.startswith('-') else values[scalar]


def check_finite(unseen):
    """[(step, scalars of every device)] -> those of the last step as floats; the first that is not finite stops the run. Every device has the same."""
    for step, scalars in jax.device_get(unseen):
        values = {name: float(value[0]) for name, value in scalars.items()}
        for name, value in values.items():
            if not np.isfinite(value):
                raise FloatingPointError(
                    f'{name} is {value} at step {step}; lower config.learning_rate or look at the data'
                )
    return values


class Stop:
    """While active, the first SIGTERM or Ctrl-C asks the loop to save and leave instead of killing it."""

    def __enter__(self):
        self.asked = 0
        self.old = {
            number: signal.signal(number, self.ask) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def ask(self, number, _):
        self.asked = number
        signal.signal(number, self.old[number])  # a second one does not wait

    def agreed(self, step):
        """The signal to stop at after this step, 0 for none. Several processes must leave together, so they ask one another now and then."""
        if jax.process_count() == 1:
            return self.asked
        return (
            int(multihost_utils.process_allgather(np.int32(self.asked)).max())
            if step % BLOCK_EVERY == 0
            else 0
        )

    def __exit__(self, *_):
        for number, handler in self.old.items():
            signal.signal(number, handler)
