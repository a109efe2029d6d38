"""The only training loop: init or restore, step, log, evaluate, save. It knows no loss."""

import os
import signal
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from covjax import InputError, Stopped, provenance
from covjax.training import devices
from covjax.training.log import Log
from covjax.training.task import count_params
from covjax.weights import checkpoint

# Steps in flight at most: virtual CPU devices can deadlock on long queues, and NaN is seen soon.
BLOCK_EVERY = 10
PICTURES = 8  # examples of which evaluation keeps images


def fit(task, config, workdir):
    """Runs a Task to its last step, or resumes it where the workdir has a checkpoint.

    Args:
        task: Task.
        config: with batch_size, log_every, eval_every, best and seed.
        workdir: pathlib.Path of the folder for checkpoints/, metrics.jsonl, images/, tensorboard/.

    Returns:
        The final state, as NumPy arrays.

    Raises:
        Stopped: a signal asked to stop; the state is saved.
        FloatingPointError: a scalar of a step, or a parameter that is to be saved, is not finite.
        InputError: the batch cannot be split over the devices, config.best names no scalar, or no
            checkpoint of the workdir can be restored.
    """
    # Devices: the state on every one, batches split over them.
    check(task, config)
    train_step, eval_step = devices.parallel(task)

    # Init or restore.
    init_rng, run_rng = jax.random.split(jax.random.key(config.seed))
    state = initial_state(task, config, init_rng)
    with checkpoint.manager(workdir, config.best) as checkpoints, Stop() as stop:
        unseen, beside = [], provenance.beside(config, workdir)
        state, start = restored(checkpoints, state, beside)
        state = devices.replicated(state)

        with Log(workdir, start, task.steps, writes=jax.process_index() == 0) as log:
            for step in range(start + 1, task.steps + 1):
                # Step.
                batch = devices.my_share(task.train_batch(step - 1))
                state, scalars = train_step(state, batch, run_rng)
                unseen.append((step, scalars))
                due = due_after(step, start, task.steps, config, stop.agreed(step))

                # Log.
                if due.look:
                    values = check_finite(unseen)
                if due.first:
                    log.first_step(step)
                if due.log:
                    log.scalars(step, {f'train/{name}': value for name, value in values.items()})

                # Evaluate and save.
                if due.evaluate:
                    best = best_of(evaluate(task, eval_step, state, step, log), config.best)
                    save(checkpoints, step, state, beside, best)
                if due.stop:
                    save_and_leave(checkpoints, step, state, beside, due.stop)
    return devices.on_host(state)


def check(task, config):
    """Refuses what would end a training after its beginning; see `fit`."""
    devices.check_devices(config.batch_size)
    check_best(config.best, task.scalars)


# Init or restore.


def initial_state(task, config, rng):
    """The state before the first step; prints its size and the devices."""
    example = {name: array[:1] for name, array in task.train_batch(0).items()}
    devices.check_state(jax.eval_shape(task.init, rng, example))
    state = task.init(rng, example)
    model, _ = checkpoint.split_state(state)
    kind = jax.devices()[0].device_kind
    print(
        f'{count_params(model):,} parameters, {jax.device_count()} x {kind}, '
        f'batch {config.batch_size}',
        flush=True,
    )
    return state


def restored(checkpoints, state, beside):
    """(state of the newest checkpoint, or `state` without one, number of steps that led to it)."""
    newest = checkpoint.restore_latest(checkpoints, state, beside)
    if newest is not None:
        state = newest
    start = int(state.step)
    if start:
        print(f'going on after step {start}')
    return state, start


# Step and log.


class Due(NamedTuple):
    """What follows a step."""

    first: bool  # of this session, which waited for the compiler
    look: bool  # at the scalars of all steps since the last look, which waits for the devices
    log: bool
    evaluate: bool  # and save
    stop: int  # the signal to stop at, or 0


def due_after(step, start, steps, config, stop):
    """What is Due after a step.

    Args:
        step: number of the step, from 1.
        start: the step that this session goes on from.
        steps: number of steps of the whole training.
        config: with log_every and eval_every.
        stop: a signal, or 0.
    """
    first, last = step == start + 1, step == steps
    log = last or step % config.log_every == 0
    evaluate = last or step % config.eval_every == 0
    look = first or log or evaluate or bool(stop) or step % BLOCK_EVERY == 0
    return Due(first, look, log, evaluate, stop)


def check_finite(unseen):
    """The scalars of the last of several steps; waits until the devices have computed them.

    Args:
        unseen: [(step, {name: array with one value a device})], which is emptied; the values are
            the same on each device.

    Returns:
        {name: float}.

    Raises:
        FloatingPointError: a scalar of any of the steps is not finite; names the first.
    """
    found = jax.device_get(unseen)
    unseen.clear()
    for step, scalars in found:
        values = {name: float(value[0]) for name, value in scalars.items()}
        for name, value in values.items():
            if not np.isfinite(value):
                raise FloatingPointError(
                    f'{name} is {value} at step {step}; '
                    'lower config.learning_rate or look at the data'
                )
    return values


# Evaluate.


def evaluate(task, eval_step, state, step, log):
    """Runs eval_step on every example of every split once, and logs scalars and images.

    Each of several processes evaluates everything.

    Returns:
        {'val/<split>/<name>': float}, or 'val/<name>' for the split '': of every task.scalars.
    """
    values = {}
    for split, batches in task.eval_batches().items():
        scalars, images = task.summarize(outputs_of(eval_step, state, batches))
        prefix = f'val/{split}/' if split else 'val/'
        values |= {f'{prefix}{name}': float(value) for name, value in scalars.items()}
        for name, array in images.items():
            log.images(step, f'{prefix}{name}', array)
    assert values.keys() == {*task.scalars}, 'a Task names what its evaluation logs'
    if values:
        log.scalars(step, values)
    return values


def outputs_of(eval_step, state, batches):
    """{name: NumPy array [N, ...]} of all examples in batches whose 'mask' is True.

    Arrays of rank 4 and more are images, of which the first PICTURES are kept: people look at a
    few, more would only fill memory.
    """
    parts, count = [], 0
    for batch in batches:
        mask = batch.pop('mask')
        room = max(PICTURES - count, 0)
        part = {}
        for name, array in jax.device_get(eval_step(state, devices.on_devices(batch))).items():
            array = array.reshape(-1, *array.shape[2:])[mask]
            part[name] = array[:room] if array.ndim >= 4 else array
        parts.append(part)
        count += mask.sum()
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def check_best(name, scalars):
    """Refuses a name in config.best that no evaluation will log, before hours of training.

    Args:
        name: of a scalar, with a minus before it where its lowest value is best; '' for none.
        scalars: names of those that there will be.

    Raises:
        InputError: there is no such scalar.
    """
    if name and name.removeprefix('-') not in scalars:
        valid = f'choose one of {", ".join(scalars)}, or' if scalars else 'name config.val, or'
        raise InputError(f"config.best={name}: no such scalar; {valid} set config.best=''")


def best_of(values, name):
    """The number by which checkpoints compete: the highest wins.

    Args:
        values: {scalar: float} of an evaluation.
        name: as `check_best` takes it.

    Returns:
        float, or None where there is no name.
    """
    if not name:
        return None
    scalar = name.removeprefix('-')
    return -values[scalar] if name.startswith('-') else values[scalar]


# Stop.


class Stop:
    """While active, the first SIGTERM or Ctrl-C asks the loop to save and leave, not to die.

    A second one of the same kind does what it always does.
    """

    def __enter__(self):
        self.signal = 0
        signals = (signal.SIGTERM, signal.SIGINT)
        self.handlers = {number: signal.signal(number, self._note) for number in signals}
        return self

    def _note(self, number, _):
        self.signal = number
        signal.signal(number, self.handlers[number])
        name = signal.Signals(number).name
        # Not by print: a signal may come while another line is being printed.
        os.write(1, f'{name}: saving after this step; once more stops at once\n'.encode())

    def agreed(self, step):
        """The signal to stop at after this step, or 0.

        Several processes must leave together, so they ask one another every BLOCK_EVERY steps.
        """
        if jax.process_count() == 1:
            return self.signal
        if step % BLOCK_EVERY:
            return 0
        return int(multihost_utils.process_allgather(np.int32(self.signal)).max())

    def __exit__(self, *_):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


def save(checkpoints, step, state, beside, best=None):
    """Writes a checkpoint of a state, unless this step has one; see `checkpoint.save`."""
    checkpoint.save(checkpoints, step, devices.on_host(state), best, beside)


def save_and_leave(checkpoints, step, state, beside, number):
    """Saves a state and raises Stopped; `number` is the signal that asked for it."""
    save(checkpoints, step, state, beside)
    checkpoints.wait_until_finished()
    print(f'stopped after step {step}; the same command resumes from there', flush=True)
    raise Stopped(number)
