"""Random scale, flip, rotation and crop of images, as pure functions of (rng, image), inside the jitted step.

Each random change is a 3x3 matrix that maps output to input positions, in units where the image spans [-1, 1]. They are multiplied, and the
image is sampled once, bilinearly, so four changes blur no more than one.
"""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

OFF = dict(scale=0.0, flip=False, rotate=0.0, crop=0.0)


def to_float(images):
    """uint8 0..255 -> float32 [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(images):
    """float [-1, 1] -> uint8 0..255, rounded."""
    return jnp.clip(jnp.round((images + 1) * 127.5), 0, 255).astype(jnp.uint8)


def scale(rng, limit):
    """Zoom by a factor in [1 - limit, 1 + limit], uniform in its logarithm."""
    zoom = jnp.exp(jax.random.uniform(rng, (), minval=jnp.log1p(-limit), maxval=jnp.log1p(limit)))
    return jnp.diag(jnp.array([1 / zoom, 1 / zoom, 1.0]))


def flip(rng):
    """Left to right, with probability 1/2."""
    sign = jnp.where(jax.random.bernoulli(rng), 1.0, -1.0)
    return jnp.diag(jnp.array([1.0, sign, 1.0]))


def rotate(rng, degrees):
    """By an angle in [-degrees, degrees]."""
    angle = jnp.deg2rad(jax.random.uniform(rng, (), minval=-degrees, maxval=degrees))
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def crop(rng, share, size):
    """A random window of 1 - share of each side of a size x size image, at whole pixels, brought back to full size."""
    room = round(share * size)  # pixels by which the window can move
    shift = (2 * jax.random.randint(rng, (2,), 0, room + 1) - room) / size
    return (
        jnp.array([[1 - share, 0.0, 0.0], [0.0, 1 - share, 0.0], [0.0, 0.0, 1.0]])
        .at[:2, 2]
        .set(shift)
    )


def random_matrix(rng, settings, size):
    """The product of the changes that are on, for images of size x size. settings: {'scale': limit, 'flip': bool, 'rotate': degrees, 'crop': share}, 0 or False = off."""
    rngs = jax.random.split(rng, 4)
    matrix = jnp.eye(3)
    if settings['scale']:
        matrix = matrix @ scale(rngs[0], settings['scale'])
    if settings['rotate']:
        matrix = matrix @ rotate(rngs[1], settings['rotate'])
    if settings['flip']:
        matrix = matrix @ flip(rngs[2])
    if settings['crop']:
        matrix = matrix @ crop(rngs[3], settings['crop'], size)
    return matrix


def warp(image, matrix, size):
    """Samples [H, W, C] at the positions a matrix gives -> [size, size, C]; outside the image it is -1 (black, air)."""
    height, width, _ = image.shape
    axis = (jnp.arange(size) + 0.5) * 2 / size - 1
    y, x = jnp.meshgrid(axis, axis, indexing='ij')
    y, x, _ = jnp.tensordot(matrix, jnp.stack([y, x, jnp.ones_like(y)]), 1)
    positions = [(y + 1) * height / 2 - 0.5, (x + 1) * width / 2 - 0.5]
    inside = (abs(y) <= 1) & (abs(x) <= 1)
    sample = lambda channel: jnp.where(
        inside, map_coordinates(channel, positions, order=1, mode='nearest'), -1.0
    )
    return jnp.stack([sample(image[..., c]) for c in range(image.shape[-1])], -1)


def augment(rng, images, settings, size, first=0):
    """uint8 [B, H, W, C] -> float32 [B, size, size, C] in [-1, 1]; image i draws from fold_in(rng, first + i).

    `first` is the index of the first image in the global batch, so what an image becomes does not depend on the number of devices.
    """
    rngs = jax.vmap(lambda i: jax.random.fold_in(rng, i))(first + jnp.arange(len(images)))
    return jax.vmap(
        lambda r, image: warp(image, random_matrix(r, settings, images.shape[1]), size)
    )(rngs, to_float(images))
