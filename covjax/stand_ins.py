"""Stand-ins: what may take the generator's place. Nothing, simple changes of style, and the traces of networks.

A classifier trained on their images shows how much of the result of the generator's they explain. Window and
histogram carry over the brightness of COVID-19 images, which disease has a part in, but no structure.

Each function takes the same three arguments and returns a function from uint8 [N, H, W, 1] to the same shape:
    gan         trained.Trained of the CycleGAN whose place is taken
    training    function from 'cancer' or 'covid' to its training images, uint8 [M, H, W, 1]
    batch_size  of networks
"""

import io
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from covjax import generator
from covjax.data import batches

JPEG_QUALITY = 75
QUANTILES = np.linspace(0, 1, 1025)


def translated(gan, training, batch_size):
    """The generator itself, from lung cancer to COVID-19: what the others take the place of."""
    apply = generator.apply_uint8(generator.of_run(gan, 'to_covid'))
    return _network(apply, batch_size)


def nothing(gan, training, batch_size):
    """The slices unchanged."""
    return lambda images: images


def window(gan, training, batch_size):
    """Another window: grey levels scaled and shifted, the same for all, so that training slices get the mean and standard deviation of COVID-19 images."""
    slices, goal = training('cancer'), training('covid')
    scale = max(slices.std(), 1e-6)

    def rewindow(images):
        grey = (images - slices.mean()) / scale * goal.std() + goal.mean()
        return np.clip(np.round(grey), 0, 255).astype(np.uint8)

    return rewindow


def histogram(gan, training, batch_size):
    """Grey levels of every slice mapped so that its histogram is that of all COVID-19 images together."""
    levels = np.quantile(training('covid'), QUANTILES)

    def match(image):
        counts = np.bincount(image.ravel(), minlength=256)
        # The share of pixels below each grey level, half of those at it counted.
        below = (np.cumsum(counts) - counts / 2) / image.size
        return np.round(np.interp(below, QUANTILES, levels)).astype(np.uint8)[image]

    return lambda images: np.stack([match(image) for image in images])


def jpeg(gan, training, batch_size):
    """Saved as JPEG and read again, as half of the published COVID-CT pictures were."""

    def round_trip(image):
        file = io.BytesIO()
        Image.fromarray(image[..., 0]).save(file, 'JPEG', quality=JPEG_QUALITY)
        return np.asarray(Image.open(file))[..., None]

    return lambda images: np.stack([round_trip(image) for image in images])


def untrained(gan, training, batch_size):
    """A generator of the same architecture with weights as drawn: the traces of the network without anything learned."""
    network = generator.network(gan.config)
    image = jnp.zeros((1, gan.config.image_size, gan.config.image_size, 1))
    params = jax.jit(network.init)(jax.random.key(gan.config.seed), image)['params']
    return _network(generator.apply_uint8(generator.translator(network, params)), batch_size)


def reconstructed(gan, training, batch_size):
    """To COVID-19 and back: both generators have left their traces, and the style is that of the source."""
    to_covid, to_cancer = (
        generator.apply_uint8(generator.of_run(gan, direction))
        for direction in generator.DIRECTIONS
    )
    return _network(lambda images: to_cancer(to_covid(images)), batch_size)


def _network(apply, batch_size):
    return partial(batches.predict, apply, batch_size=batch_size, progress='translating')


METHODS = {
    method.__name__: method
    for method in (translated, nothing, window, histogram, jpeg, untrained, reconstructed)
}
STAND_INS = tuple(name for name in METHODS if name != 'translated')
