"""Random scale, flip, rotation and crop of images: pure functions of (rng, image), in the step.

Each random change is a 3x3 matrix that maps output to input positions (y, x, 1), in units in which
the image spans [-1, 1]. The matrices are multiplied, and the image is sampled once, bilinearly, so
four changes blur no more than one.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

OFF = {
    'scale': 0.0,  # limit of the zoom
    'flip': False,
    'rotate': 0.0,  # limit in degrees
    'crop': 0.0,  # share of each side
}


def to_float(images):
    """Images uint8 0..255 as float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(images):
    """Images float in [-1, 1] as uint8 0..255, rounded; values beyond are clipped."""
    return jnp.clip(jnp.round((images + 1) * 127.5), 0, 255).astype(jnp.uint8)


def scale(rng, limit):
    """The matrix [3, 3] of a zoom in [1 - limit, 1 + limit], uniform in its logarithm."""
    zoom = jnp.exp(jax.random.uniform(rng, (), minval=jnp.log1p(-limit), maxval=jnp.log1p(limit)))
    return jnp.diag(jnp.array([1 / zoom, 1 / zoom, 1.0]))


def flip(rng):
    """The matrix [3, 3] that mirrors left and right, or with probability 1/2 the identity."""
    sign = jnp.where(jax.random.bernoulli(rng), 1.0, -1.0)
    return jnp.diag(jnp.array([1.0, sign, 1.0]))


def rotate(rng, degrees):
    """The matrix [3, 3] of a rotation by a uniform angle in [-degrees, degrees]."""
    angle = jnp.deg2rad(jax.random.uniform(rng, (), minval=-degrees, maxval=degrees))
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def crop(rng, share, size):
    """The matrix [3, 3] of a random window, at whole pixels, brought back to full size.

    Args:
        rng: key.
        share: of each side that is cut away, in [0, 1).
        size: pixels of each side.
    """
    room = round(share * size)  # pixels by which the window can move
    shift = (2 * jax.random.randint(rng, (2,), 0, room + 1) - room) / size
    window = jnp.array([[1 - share, 0.0, 0.0], [0.0, 1 - share, 0.0], [0.0, 0.0, 1.0]])
    return window.at[:2, 2].set(shift)


def random_matrix(rng, settings, size):
    """The product [3, 3] of the changes that are on, for images of size x size.

    Args:
        rng: key.
        settings: {'scale': limit, 'flip': bool, 'rotate': degrees, 'crop': share}; 0 and False are
            off.
        size: pixels of each side.
    """
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


def is_mirror(matrix):
    """Whether a matrix [3, 3] exchanges left and right: a bool scalar."""
    return matrix[0, 0] * matrix[1, 1] < matrix[0, 1] * matrix[1, 0]


def _positions(matrix, shape, size):
    """Where the pixels of the output lie in an image [H, W, ...].

    Returns:
        ([rows, columns], each float [size, size]; bool [size, size], whether in the image).
    """
    axis = (jnp.arange(size) + 0.5) * 2 / size - 1
    y, x = jnp.meshgrid(axis, axis, indexing='ij')
    y, x, _ = jnp.tensordot(matrix, jnp.stack([y, x, jnp.ones_like(y)]), 1)
    positions = [(y + 1) * shape[0] / 2 - 0.5, (x + 1) * shape[1] / 2 - 0.5]
    return positions, (abs(y) <= 1) & (abs(x) <= 1)


def warp(image, matrix, size):
    """Samples an image at the positions that a matrix gives.

    Args:
        image: float [H, W, C].
        matrix: [3, 3], from output to input positions.
        size: pixels of each side of the output.

    Returns:
        float [size, size, C]; outside the image it is -1 (black, air).
    """
    positions, inside = _positions(matrix, image.shape, size)

    def sampled(channel):
        values = map_coordinates(image[..., channel], positions, order=1, mode='nearest')
        return jnp.where(inside, values, -1.0)

    return jnp.stack([sampled(channel) for channel in range(image.shape[-1])], -1)


def warp_classes(target, matrix, size, outside):
    """Samples classes, the nearest one, at the positions that a matrix gives.

    Args:
        target: uint8 [H, W].
        matrix: [3, 3], from output to input positions.
        size: pixels of each side of the output.
        outside: the class outside the image.

    Returns:
        uint8 [size, size].
    """
    (rows, columns), inside = _positions(matrix, target.shape, size)
    at = lambda places, n: jnp.clip(jnp.round(places).astype(int), 0, n - 1)
    height, width = target.shape
    return jnp.where(inside, target[at(rows, height), at(columns, width)], jnp.uint8(outside))


def recoloured(rng, image, settings):
    """An image with a random brightness and contrast, as of another scanner or window.

    Args:
        rng: key.
        image: float [...] in [-1, 1].
        settings: {'brightness': limit of what is added, 'contrast': limit of the logarithm of what
            is multiplied}; 0 is off.

    Returns:
        float of the same shape, in [-1, 1].
    """
    rngs = jax.random.split(rng)
    draw = lambda rng, limit: jax.random.uniform(rng, (), minval=-limit, maxval=limit)
    gain = jnp.exp(draw(rngs[0], settings['contrast']))
    return jnp.clip(gain * image + draw(rngs[1], settings['brightness']), -1.0, 1.0)


def recoloured_each(rng, images, settings, first=0):
    """Images [B, ...], each `recoloured` at random, alike on any number of devices.

    Image i draws from fold_in(rng, first + i).
    """
    rngs = jax.vmap(partial(jax.random.fold_in, rng))(first + jnp.arange(len(images)))
    return jax.vmap(partial(recoloured, settings=settings))(rngs, images)


def augment(rng, images, settings, size, first=0):
    """Changes each image of a batch at random, alike on any number of devices.

    Args:
        rng: key; image i draws from fold_in(rng, first + i).
        images: uint8 [B, H, W, C], H = W.
        settings: as for `random_matrix`.
        size: pixels of each side of the output.
        first: the index of the first image in the global batch.

    Returns:
        float32 [B, size, size, C] in [-1, 1].
    """
    rngs = jax.vmap(lambda i: jax.random.fold_in(rng, i))(first + jnp.arange(len(images)))

    def changed(rng, image):
        return warp(image, random_matrix(rng, settings, images.shape[1]), size)

    return jax.vmap(changed)(rngs, to_float(images))


# Differentiable augmentation of what a discriminator sees (Zhao et al. 2020, arXiv 2006.10738): the
# same random changes for real and made images, through which gradients reach the generator, so that
# a discriminator of few real images cannot learn them by heart. Images are float [H, W, C] whose
# first channel is grey; 0 is nothing, and what moves in from outside.

SHIFT, CUT = 1 / 8, 1 / 2  # shares of the side: by how much images move, and what is cut out
SHADE, STRETCH = 0.25, 0.5  # limits of what is added to grey levels, and of their stretching


def shaded(rng, image):
    """Brightness and contrast of what is not 0, at random."""
    rngs = jax.random.split(rng)
    grey, there = image[..., :1], image[..., :1] != 0
    mean = grey.sum() / jnp.maximum(there.sum(), 1)
    stretch = jax.random.uniform(rngs[0], (), minval=1 - STRETCH, maxval=1 + STRETCH)
    shade = jax.random.uniform(rngs[1], (), minval=-SHADE, maxval=SHADE)
    new = jnp.where(there, (grey - mean) * stretch + mean + shade, 0.0)
    return jnp.concatenate([new, image[..., 1:]], -1)


def shifted(rng, image):
    """An image moved by whole pixels, at most SHIFT of its side; what leaves it is lost."""
    room = max(round(SHIFT * image.shape[0]), 1)
    around = jnp.pad(image, ((room, room), (room, room), (0, 0)))
    corner = jax.random.randint(rng, (2,), 0, 2 * room + 1)
    return jax.lax.dynamic_slice(around, (*corner, 0), image.shape)


def cut_out(rng, image):
    """An image without a square of CUT of its side, at a random place or over an edge."""
    side = image.shape[0]
    middle = jax.random.randint(rng, (2, 1), 0, side)
    near = abs(jnp.arange(side)[None] - middle) < CUT * side / 2
    return jnp.where(near[0][:, None, None] & near[1][None, :, None], 0.0, image)


DIFFERENTIABLE = {'shade': shaded, 'shift': shifted, 'cut': cut_out}


def seen_by_discriminator(rng, images, changes, first):
    """Images as a discriminator sees them, each changed at random.

    Args:
        rng: key; image i draws from fold_in(rng, first + i).
        images: float [B, H, W, C].
        changes: some keys of DIFFERENTIABLE.
        first: the index of the first image in the global batch.
    """

    def changed(rng, image):
        for name, change_rng in zip(changes, jax.random.split(rng, len(changes))):
            image = DIFFERENTIABLE[name](change_rng, image)
        return image

    if not changes:
        return images
    rngs = jax.vmap(partial(jax.random.fold_in, rng))(first + jnp.arange(len(images)))
    return jax.vmap(changed)(rngs, images)
