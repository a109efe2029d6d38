"""The generator of pairs: makes lesions and shams where a mask says so, in a slice.

run = trained.open_run('runs/pairs', 'pairs')
fill = jax.jit(pair_generator.of_run(run))
lesions = fill(images, gates, kinds, seeds)  # uint8 [B, S, S, 1], bit for bit the same outside
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from covjax import choice
from covjax.data.augment import to_float, to_uint8
from covjax.data.lesion_masks import KINDS
from covjax.models import compute_dtype
from covjax.models.unet import UPS, UNet, check_widths

# What the network sees inside the gate: deviations from the mean around, which are vessels, at most
# HINT, under noise. The mean, which tells a lesion, is lost.
REACH = 0.03  # standard deviation of what is around, as a share of the side
HINT, NOISE = 0.4, 0.15  # of the range -1..1
# What the network does not make: the finest texture, which is grain of the slice, at most GRAIN.
FINEST = 0.0075  # a share of the side
GRAIN = 0.06


def network(config):
    """The generator of a config (configs/pairs.py): logits of grey levels, [B, S, S, 1].

    Raises:
        InputError: gen_widths, gen_up or dtype is not valid.
    """
    up = choice(config, 'gen_up', UPS)
    check_widths(config.gen_widths, up, 'gen_widths')
    return UNet(
        num_classes=1,
        widths=tuple(config.gen_widths),
        up=up,
        norm='instance',
        dtype=compute_dtype(config),
        channels=(1 + len(KINDS),),
    )


def of_kind(gap):
    """The gate in the channel of its kind: float [B, S, S, kinds]."""
    kinds = jax.nn.one_hot(gap['kind'], len(KINDS))
    return gap['gate'] * kinds[:, None, None]


def smooth(image, gate, reach=FINEST):
    """The mean of an image around every pixel of a gate; nothing outside the gate counts.

    Args:
        image: float [B, S, S, 1].
        gate: float [B, S, S, 1] in 0..1.
        reach: standard deviation of what is around, as a share of S.

    Returns:
        float [B, S, S, 1]; it means nothing where the gate is 0.
    """
    return _blurred(gate * image, reach) / jnp.maximum(_blurred(gate, reach), 1e-3)


def vessels(image, gate):
    """By how much an image differs inside a gate from the local mean around each pixel.

    Args:
        image: float [B, S, S, 1] in [-1, 1].
        gate: float [B, S, S, 1] in 0..1.

    Returns:
        float [B, S, S, 1], at most HINT.
    """
    return jnp.clip(image - smooth(image, gate, REACH), -HINT, HINT)


def fill(network, params, gap, noise):
    """What the generator makes of a gap, with the image around it.

    All that the network sees of what the gate covers are `vessels` under noise, so that a sham is
    made anew as a lesion is. The grain of the slice lies over both, so that the finest texture,
    where networks leave traces, is the same.

    Args:
        network: of `network`.
        params: its parameters.
        gap: {'image': float [B, S, S, 1] in [-1, 1], 'gate': float [B, S, S, 1] in 0..1,
            'kind': int [B], an index in KINDS}.
        noise: float [B, S, S, 1], standard normal.

    Returns:
        float [B, S, S, 1] in [-1, 1], the image itself where the gate is 0.
    """
    image, gate = gap['image'], gap['gate']
    seen = jnp.where(gate > 0, vessels(image, gate) + NOISE * noise, image)
    logits = network.apply({'params': params}, jnp.concatenate([seen, of_kind(gap)], -1))
    grain = jnp.clip(image - smooth(image, gate), -GRAIN, GRAIN)
    made = jnp.clip(smooth(jnp.tanh(logits), gate) + grain, -1, 1)
    return (1 - gate) * image + gate * made


def of_run(run):
    """The function of a finished training (trained.Trained of the task `pairs`).

    Returns:
        (images uint8 [B, S, S, 1], gates uint8 of the same shape, kinds int [B], seeds int [B] of
        the noise) -> uint8 [B, S, S, 1], bit for bit the image where the gate is 0. An image that
        is made depends on its own row alone. It can be jitted.
    """
    params = run.variables['ema' if run.config.ema else 'gen']['params']
    return partial(_filled, network(run.config), params)


def _filled(generator, params, images, gates, kinds, seeds):
    gap = {'image': to_float(images), 'gate': gates / jnp.float32(255), 'kind': kinds}
    rngs = jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))(seeds)
    noise = jax.vmap(lambda rng: jax.random.normal(rng, images.shape[1:]))(rngs)
    made = to_uint8(fill(generator, params, gap, noise))
    return jnp.where(gates > 0, made, images)


def _blurred(x, reach):
    """[B, S, S, 1] under a Gaussian of so large a share of S, with nothing beyond the border."""
    sigma = reach * x.shape[1]
    width = max(round(3 * sigma), 1)
    places = np.arange(-width, width + 1)
    weights = np.exp(-0.5 * (places / sigma) ** 2)
    weights = jnp.asarray(weights / weights.sum(), x.dtype)
    convolve = partial(
        lax.conv_general_dilated,
        window_strides=(1, 1),
        padding='SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    down = convolve(x, weights[:, None, None, None])
    return convolve(down, weights[None, :, None, None])
