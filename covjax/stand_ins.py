"""Stand-ins, which take the generator's place: simple changes of style, and traces of networks.

Classifiers trained on their images show how much of what the generator's images teach is explained
by less. Window and histogram carry over the brightness of COVID-19 images, which disease has a part
in, but no structure.

Every stand-in takes the same three arguments and returns a function from images uint8 [N, H, W, 1]
to images of the same shape and dtype:
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
    """The generator itself, from lung cancer to COVID-19, whose place the others take."""
    apply = generator.apply_uint8(generator.of_run(gan, 'to_covid'))
    return _network(apply, batch_size)


def nothing(gan, training, batch_size):
    """No change: the slices themselves."""
    return lambda images: images


def window(gan, training, batch_size):
    """Another window: grey levels scaled and shifted in all slices alike.

    Training slices get the mean and standard deviation of COVID-19 training images.
    """
    slices, goal = training('cancer'), training('covid')
    scale = max(slices.std(), 1e-6)

    def rewindow(images):
        grey = (images - slices.mean()) / scale * goal.std() + goal.mean()
        return np.clip(np.round(grey), 0, 255).astype(np.uint8)

    return rewindow


def histogram(gan, training, batch_size):
    """Grey levels of each slice mapped to the histogram of all COVID-19 images together."""
    levels = np.quantile(training('covid'), QUANTILES)

    def match(image):
        counts = np.bincount(image.ravel(), minlength=256)
        # The share of pixels below each grey level, half of those at it counted.
        below = (np.cumsum(counts) - counts / 2) / image.size
        return np.round(np.interp(below, QUANTILES, levels)).astype(np.uint8)[image]

    return lambda images: np.stack([match(image) for image in images])


def jpeg(gan, training, batch_size):
    """Slices saved as JPEG and read again, as half of the published COVID-CT pictures were."""

    def round_trip(image):
        file = io.BytesIO()
        Image.fromarray(image[..., 0]).save(file, 'JPEG', quality=JPEG_QUALITY)
        return np.asarray(Image.open(file))[..., None]

    return lambda images: np.stack([round_trip(image) for image in images])


def untrained(gan, training, batch_size):
    """A generator of the same architecture with the weights that training starts from.

    It leaves the traces of the network and has learned nothing.
    """
    network = generator.network(gan.config)
    image = jnp.zeros((1, gan.config.image_size, gan.config.image_size, 1))
    params = jax.jit(network.init)(jax.random.key(gan.config.seed), image)['params']
    return _network(generator.apply_uint8(generator.translator(network, params)), batch_size)


def reconstructed(gan, training, batch_size):
    """Slices sent to COVID-19 and back: traces of both generators, but the style of the source."""
    to_covid, to_cancer = (
        generator.apply_uint8(generator.of_run(gan, direction))
        for direction in generator.DIRECTIONS
    )
    return _network(lambda images: to_cancer(to_covid(images)), batch_size)


def _network(apply, batch_size):
    """A function of any number of images that applies a network to each batch of them."""
    return partial(batches.predict, apply, batch_size=batch_size, progress='translating')


# By name, in the order of the audit.
METHODS = {
    method.__name__: method
    for method in (translated, nothing, window, histogram, jpeg, untrained, reconstructed)
}
STAND_INS = tuple(name for name in METHODS if name != 'translated')
