"""AdamW and the learning rate over a training run, for the tasks that train one network."""

import jax
import optax

from covjax import InputError, choice


def adamw(rate, weight_decay):
    """AdamW that decays only kernels, not biases or the scales of norms.

    Args:
        rate: learning rate, a float or a function of the step.
        weight_decay: share of a kernel that a step takes away, times the rate.

    Returns:
        optax.GradientTransformation.

    References:
        Loshchilov and Hutter 2019, arXiv 1711.05101.
    """
    kernels = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    return optax.adamw(rate, weight_decay=weight_decay, mask=kernels)


def schedule(config):
    """The learning rate of a config as a function of the step.

    Args:
        config: with schedule (a key of SCHEDULES), learning_rate, warmup_steps and steps.

    Raises:
        InputError: the schedule is unknown, or no steps are left for a part of it.
    """
    make = SCHEDULES[choice(config, 'schedule', SCHEDULES)]
    if config.schedule == 'step' and config.warmup_steps >= config.steps // 2:
        raise InputError(
            f'config.warmup_steps={config.warmup_steps}: the step schedule falls at half of '
            f'config.steps={config.steps}; choose fewer'
        )
    return make(config.learning_rate, min(config.warmup_steps, config.steps - 1), config.steps)


def cosine_schedule(rate, warmup, steps):
    """The learning rate by step: linearly up to `rate` in `warmup` steps, then a cosine to 0."""
    return optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps)


def step_schedule(rate, warmup, steps):
    """The learning rate by step: linearly up to `rate`, a tenth after 1/2 and again after 3/4."""
    falls = {steps // 2 - warmup: 0.1, steps * 3 // 4 - warmup: 0.1}
    rising = optax.linear_schedule(0.0, rate, warmup)
    falling = optax.piecewise_constant_schedule(rate, falls)
    return optax.join_schedules([rising, falling], [warmup])


SCHEDULES = {'cosine': cosine_schedule, 'step': step_schedule}
