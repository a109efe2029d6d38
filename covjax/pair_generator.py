"""The generator of pairs: makes lesions and shams where a mask says so, in a slice.

run = trained.open_run('runs/pairs', 'pairs')
fill = jax.jit(pair_generator.of_run(run))
lesions = fill(images, gates, kinds, seeds)  # uint8 [B, S, S, 1], bit for bit the same outside
"""

from functools import partial

import jax
import jax.numpy as jnp

from covjax.data.augment import to_float, to_uint8
from covjax.data.gaps import KINDS
from covjax.models import compute_dtype
from covjax.models.cyclegan import Generator, check_size


def network(config):
    """The generator of a config (configs/pairs.py): one channel from 1 + len(KINDS).

    Raises:
        InputError: image_size or dtype is not valid.
    """
    check_size(config.image_size)
    return Generator(
        filters=config.gen_filters,
        blocks=config.gen_blocks,
        upsample='resize',
        dtype=compute_dtype(config),
        channels=1,
    )


def of_kind(gap):
    """The gate in the channel of its kind: float [B, S, S, kinds]."""
    kinds = jax.nn.one_hot(gap['kind'], len(KINDS))
    return gap['gate'] * kinds[:, None, None]


def fill(network, params, gap, noise):
    """What the generator makes of a gap, with the image around it.

    The network does not see what the gate covers, so that a sham is made anew as a lesion is.

    Args:
        network: of `network`.
        params: its parameters.
        gap: {'image': float [B, S, S, 1] in [-1, 1], 'gate': float [B, S, S, 1] in 0..1,
            'kind': int [B], an index in KINDS}.
        noise: float [B, S, S, 1], what the gap is filled with before.

    Returns:
        float [B, S, S, 1] in [-1, 1], the image itself where the gate is 0.
    """
    image, gate = gap['image'], gap['gate']
    hidden = jnp.where(gate > 0, noise, image)
    made = network.apply({'params': params}, jnp.concatenate([hidden, of_kind(gap)], -1))
    return (1 - gate) * image + gate * made


def of_run(run):
    """The function of a finished training (trained.Trained of the task `pairs`).

    Returns:
        (images uint8 [B, S, S, 1], gates uint8 of the same shape, kinds int [B], seeds int [B] of
        the noise) -> uint8 [B, S, S, 1], bit for bit the image where the gate is 0. An image that
        is made depends on its own row alone. It can be jitted.
    """
    return partial(_filled, network(run.config), run.variables['gen']['params'])


def _filled(generator, params, images, gates, kinds, seeds):
    gap = {'image': to_float(images), 'gate': gates / jnp.float32(255), 'kind': kinds}
    rngs = jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))(seeds)
    noise = jax.vmap(lambda rng: jax.random.normal(rng, images.shape[1:]))(rngs)
    made = to_uint8(fill(generator, params, gap, noise))
    return jnp.where(gates > 0, made, images)
