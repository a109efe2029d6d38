"""The only training loop: init or restore, step, log, evaluate, save. It knows no loss."""

import signal

import jax
import numpy as np
from flax import jax_utils
from jax.experimental import multihost_utils

from covjax import InputError, Stopped
from covjax.training import devices
from covjax.training.log import Log
from covjax.training.task import count_params
from covjax.weights import checkpoint

BLOCK_EVERY = 10  # steps in flight at most: virtual CPU devices can deadlock on long queues, and NaN is seen soon
PICTURES = 8  # examples of which evaluation keeps images


def fit(task, config, workdir):
    """Runs a Task to its last step and returns its final state (host arrays). Reads batch_size, log_every, eval_every, best, seed."""
    # Devices: state on every one, batches split over them.
    devices.check_devices(config.batch_size)
    train_step, eval_step = devices.parallel(task)
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
        state, unseen = devices.replicated(state), []

        # Step, log, evaluate, save.
        with Log(workdir, start, task.steps, writes=jax.process_index() == 0) as log:
            for step in range(start + 1, task.steps + 1):
                state, scalars = train_step(
                    state, devices.my_share(task.train_batch(step - 1)), run_rng
                )
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
                    raise Stopped(stopping)
    return host(state)


def evaluate(task, eval_step, state, step, log):
    """Every example of every split once -> {'val/<split>/<name>': value}, logged with the images. Each of several processes does it all."""
    values = {}
    for split, batches in task.eval_batches().items():
        parts, seen = [], 0
        for batch in batches:
            mask = batch.pop('mask')
            outputs = jax.device_get(eval_step(state, devices.on_devices(batch)))
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
