"""What the loop does with a Task, step by step, without logs, evaluations or checkpoints."""

import jax

from covjax.training import devices


def follow(task, steps):
    """(states before the first step and after each, scalars of each step) of a Task."""
    init_rng, run_rng = jax.random.split(jax.random.key(0))
    state = task.init(init_rng, {name: array[:1] for name, array in task.train_batch(0).items()})
    train_step, _ = devices.parallel(task)
    states, scalars = [jax.device_get(state)], []
    state = devices.replicated(state)
    for step in range(steps):
        batch = devices.my_share(task.train_batch(step))
        state, outputs = train_step(state, batch, run_rng)
        states.append(devices.on_host(state))
        scalars.append({name: float(value[0]) for name, value in outputs.items()})
    return states, scalars
